//! What web pages of other origins may do.
//!
//! # Problem
//!
//! A browser sends any page's requests to any address, with the reader's network position and sometimes with
//! the reader's credentials. It asks first (a preflight) only where a request is not "simple", and a POST with
//! `text/plain` is simple: whoever visits a page could be made to run prompts on the fleet inside their network.
//!
//! # Rules
//!
//! - A request without `Origin` comes from no foreign page. One whose `Origin` names the host that it was sent to
//!   comes from our own page; schemes are not compared, for TLS may end in front of us.
//! - Every other origin, `null` too, is foreign unless [`Cors`] lists it.
//! - From a foreign origin, where [`Cors`] is set or the servers are asked for models: whatever changes
//!   something or opens a WebSocket is refused, and so is every preflight. Plain reads pass without the fields that
//!   would let the page see the answer.
//! - Where [`Cors`] is set, its fields replace those of the server: two of a kind are an error to browsers.
//!
//! A page that points its own name at our address has the same host as we; `listeners[].hosts` is against that.

use std::collections::HashSet;
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, InvalidHeaderValue, ORIGIN, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Fields of a server's answer that give way to ours.
pub const REPLACED: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// Longest list of fields that a preflight may ask for, in bytes.
const LONGEST_ASKED: usize = 1024;

/// Fields of an answer.
pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// Which foreign origins may use a route, and how.
#[derive(Clone, Debug)]
pub struct Cors {
    /// `None` for every origin.
    origins: Option<HashSet<Box<[u8]>>>,
    methods: HeaderValue,
    /// `None` for every field that is asked for.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
    credentials: bool,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Pass,
    /// It is a preflight: answer it 204 with these fields, without asking for a key.
    Preflight(Fields),
    /// Refuse it, with reason `origin_denied`.
    Denied,
}

/// A request as far as these rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Its `Host` field or authority, with its port if it has one.
    pub host: Option<&'r str>,
    /// Its fields.
    pub fields: &'r HeaderMap,
}

impl Cors {
    /// Takes lists as people write them: `*` among the origins stands for every one, no `headers` for every field.
    ///
    /// # Errors
    /// A text that cannot stand in a field.
    pub fn new<T: AsRef<str>>(
        origins: &[T],
        methods: &[T],
        headers: &[T],
        expose: &[T],
        max_age: Duration,
        credentials: bool,
    ) -> Result<Self, InvalidHeaderValue> {
        let all = origins.iter().any(|origin| origin.as_ref() == "*");
        let list = |values: &[T]| {
            let joined = values.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
            HeaderValue::try_from(joined)
        };
        let unless_empty = |values: &[T]| if values.is_empty() { Ok(None) } else { list(values).map(Some) };
        Ok(Self {
            origins: (!all).then(|| origins.iter().map(|origin| origin.as_ref().as_bytes().into()).collect()),
            methods: list(methods)?,
            headers: unless_empty(headers)?,
            expose: unless_empty(expose)?,
            max_age: HeaderValue::from(max_age.as_secs()),
            credentials,
        })
    }

    /// The fields for an answer to a request with these fields, ours or the server's, whatever its status. They are
    /// set after [`REPLACED`] were removed; only `Vary` is added to what is there.
    #[must_use]
    pub fn fields(&self, request: &HeaderMap) -> Fields {
        let mut fields = vec![(VARY, HeaderValue::from_static("Origin"))];
        if let Some(origin) = the_origin(request).filter(|origin| self.lists(origin)) {
            self.allow(origin, &mut fields);
            fields.extend(self.expose.clone().map(|expose| (ACCESS_CONTROL_EXPOSE_HEADERS, expose)));
        }
        fields
    }

    /// Puts [`Cors::fields`] into an answer.
    pub fn apply(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        for name in REPLACED {
            answer.remove(name);
        }
        for (name, value) in self.fields(request) {
            answer.append(name, value);
        }
    }

    fn lists(&self, origin: &HeaderValue) -> bool {
        self.origins.as_ref().is_none_or(|known| known.contains(origin.as_bytes()))
    }

    fn allow(&self, origin: &HeaderValue, fields: &mut Fields) {
        let origin = if self.origins.is_none() { HeaderValue::from_static("*") } else { origin.clone() };
        fields.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        if self.credentials {
            fields.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
    }

    fn preflight(&self, origin: &HeaderValue, request: &HeaderMap) -> Fields {
        let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        let mut fields = vec![(VARY, HeaderValue::from_static(vary))];
        self.allow(origin, &mut fields);
        fields.push((ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()));
        let asked = || request.get(ACCESS_CONTROL_REQUEST_HEADERS).filter(|value| is_list(value)).cloned();
        fields.extend(self.headers.clone().or_else(asked).map(|headers| (ACCESS_CONTROL_ALLOW_HEADERS, headers)));
        fields.push((ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        fields
    }
}

/// The method that a preflight asks about: its route is the one that a request with this method would take.
#[must_use]
pub fn preflight_method(method: &Method, fields: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !fields.contains_key(ORIGIN) {
        return None;
    }
    fields.get(ACCESS_CONTROL_REQUEST_METHOD).and_then(|asked| Method::from_bytes(asked.as_bytes()).ok())
}

/// Decides about a request. `guarded` says that foreign pages may not use the route even without [`Cors`], as with
/// servers that are asked for models.
#[must_use]
pub fn judge(cors: Option<&Cors>, guarded: bool, request: &Asked<'_>) -> Verdict {
    if !request.fields.contains_key(ORIGIN) {
        return Verdict::Pass;
    }
    let origin = the_origin(request.fields);
    let own = is_own_page(request);
    let listed = cors.zip(origin).filter(|(cors, origin)| cors.lists(origin));
    let preflight = preflight_method(request.method, request.fields).is_some();
    match listed {
        Some((cors, origin)) if preflight => Verdict::Preflight(cors.preflight(origin, request.fields)),
        Some(_) => Verdict::Pass,
        None if own || (cors.is_none() && !guarded) => Verdict::Pass,
        None if preflight || !is_read(request) => Verdict::Denied,
        None => Verdict::Pass,
    }
}

/// Whether a request comes from a page of the host that it was sent to.
#[must_use]
pub fn is_own_page(request: &Asked<'_>) -> bool {
    the_origin(request.fields).is_some_and(|origin| is_own(origin.as_bytes(), request.host))
}

/// Whether a request changes nothing and is over with its answer.
fn is_read(request: &Asked<'_>) -> bool {
    request.method.is_safe() && !request.fields.contains_key(UPGRADE)
}

/// The one origin of a request; with two of them there is none.
fn the_origin(fields: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = fields.get_all(ORIGIN).iter();
    let origin = origins.next()?;
    origins.next().is_none().then_some(origin)
}

/// Whether an origin is on the host that the request was sent to.
fn is_own(origin: &[u8], host: Option<&str>) -> bool {
    let parts = || {
        let (scheme, authority) = std::str::from_utf8(origin).ok()?.split_once("://")?;
        let default_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        let host = host.filter(|host| !host.is_empty())?;
        let bare = |text: &'_ str| text.strip_suffix(default_port).unwrap_or(text).to_ascii_lowercase();
        Some(bare(authority) == bare(host))
    };
    parts().unwrap_or(false)
}

/// Whether a value is a short list of names of fields.
fn is_list(value: &HeaderValue) -> bool {
    value.len() <= LONGEST_ASKED
        && value.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, ".contains(byte))
}

/// Checks an origin as people write it in the configuration.
///
/// # Errors
/// What is wrong with it, in one sentence.
pub fn check_origin(text: &str) -> Result<(), String> {
    if text == "*" {
        return Ok(());
    }
    if text == "null" {
        return Err("every sandboxed page has the origin `null`: it cannot be told apart from a hostile one".to_owned());
    }
    let Some((scheme, authority)) = text.split_once("://") else {
        return Err("an origin has a scheme, such as `https://app.example.com`".to_owned());
    };
    let mut letters = scheme.bytes();
    let named = letters.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && letters.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    if !named || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("browsers write origins in small letters: `{}`", text.to_ascii_lowercase()));
    }
    if let Some((host, _)) = authority.split_once('/') {
        return Err(format!("an origin ends after host and port: `{scheme}://{host}`"));
    }
    if authority.contains('*') {
        return Err("an origin is listed as a whole; only `*` alone stands for every one".to_owned());
    }
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    if let Some(host) = authority.strip_suffix(default_port).filter(|_| !default_port.is_empty()) {
        return Err(format!("browsers leave the usual port out: `{scheme}://{host}`"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(plain) {
        return Err("an origin is a scheme, a host, and a port where it is not the usual one".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
