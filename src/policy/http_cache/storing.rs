//! Whether an answer may be kept, and how long it is fresh (RFC 9111, 3 and 4.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_cache_semantics::{CacheOptions, CachePolicy};

use super::directives::Directives;
use super::{Life, Marks};

/// Fields by which an answer may vary, at most: each has a part in a key.
pub const MOST_VARY: usize = 16;

/// Statuses of answers that may be kept when they say nothing about it (RFC 9110, 15.1), without 206, and without those that
/// say something about the request rather than about what it asks for: anybody could send one that is answered so.
const BY_DEFAULT: [u16; 8] = [200, 203, 204, 300, 301, 308, 404, 410];

/// Fields that concern a connection or the way to a proxy (RFC 9111, 3.1), and those that a cache writes itself.
const NOT_KEPT: [HeaderName; 9] = [
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::TE,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::AGE,
    header::WARNING,
];

/// What a route says about keeping.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// How long an answer is fresh that says nothing; zero for not at all.
    pub default_ttl: Duration,
    /// How long one is given stale while it is asked for anew, where it does not say.
    pub while_revalidate: Duration,
    /// How long one is given in the place of an error, where it does not say.
    pub if_error: Duration,
    /// Cookies mean nothing: what an answer sets is left out of what is kept.
    pub ignores_cookies: bool,
    /// It is known which cookies keep answers apart, if any: that one varies by them says nothing more.
    pub knows_cookies: bool,
}

/// What a request has that makes its answer its client's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// An API key or `Authorization`, where these do not keep answers apart.
    pub authorized: bool,
    /// Cookies, where these do not.
    pub cookies: bool,
}

impl Credentials {
    /// Whether it has any.
    #[must_use]
    pub fn any(self) -> bool {
        self.authorized || self.cookies
    }

    /// Whether an answer with these marks may be given to it, or kept from it. For `Authorization` that is RFC 9111, 3.5;
    /// cookies are no matter of that document, and only what is said to be for everybody is taken for that.
    #[must_use]
    pub fn allow(self, marks: Marks) -> bool {
        (!self.authorized || marks.has(Marks::FOR_AUTHORIZED)) && (!self.cookies || marks.has(Marks::OPEN))
    }
}

/// An answer, and how it came.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What the request has.
    pub credentials: Credentials,
    /// Whether the request forbids keeping.
    pub no_store: bool,
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// When it came, in milliseconds since 1970.
    pub received: u64,
    /// Milliseconds from the request to it.
    pub waited: u64,
}

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The client or the server said so: `no-store`.
    NoStore,
    /// It is for one client: `private`.
    Private,
    /// Its status is not one that is kept.
    Status,
    /// The request had credentials, and it is not said to be for all.
    Credentials,
    /// It sets a cookie.
    SetCookie,
    /// It varies by everything, or by too much.
    Vary,
    /// It has no lifetime, and nothing by which its server could confirm it.
    Lifetime,
    /// It has no end, or not one that would be noticed if it were missing.
    Endless,
    /// It is longer than what is kept, or the process holds too much already.
    TooLong,
}

impl Unfit {
    /// The word in `Cache-Status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoStore => "no_store",
            Self::Private => "private",
            Self::Status => "status",
            Self::Credentials => "credentials",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
            Self::Lifetime => "lifetime",
            Self::Endless => "endless",
            Self::TooLong => "too_long",
        }
    }
}

impl Rules {
    /// How long an answer may be used.
    ///
    /// # Errors
    /// Why it is not kept.
    pub fn judge(&self, answer: &Answer<'_>) -> Result<Life, Unfit> {
        let directives = Directives::of(answer.headers);
        if answer.no_store || directives.has("no-store") {
            return Err(Unfit::NoStore);
        }
        if directives.has("private") {
            return Err(Unfit::Private);
        }
        if is_stream(answer.headers) {
            return Err(Unfit::Endless);
        }
        if answer.headers.contains_key(header::SET_COOKIE) && !self.ignores_cookies {
            return Err(Unfit::SetCookie);
        }
        let marks = marks(&directives);
        if !answer.credentials.allow(marks) {
            return Err(Unfit::Credentials);
        }
        vary(answer.headers, false)?;
        let policy = self.policy(answer, &directives).ok_or(Unfit::Lifetime)?;
        if !policy.is_storable() {
            return Err(Unfit::Status);
        }
        let lifetime = policy.time_to_live(at(answer.received));
        let age = initial_age(answer);
        let told = |name, otherwise: Duration| match directives.seconds_if_told(name) {
            Some(told) => told,
            // What the server said of shared caches goes before what the file says of all answers.
            None if marks.has(Marks::NOT_BY_CLIENT) => Duration::ZERO,
            None => otherwise,
        };
        let stale = |name, otherwise| {
            if marks.has(Marks::NEVER_STALE) { 0 } else { millis(told(name, otherwise)) }
        };
        let life = Life {
            received: answer.received,
            age,
            fresh: millis(lifetime).saturating_sub(age),
            while_revalidate: stale("stale-while-revalidate", self.while_revalidate),
            if_error: stale("stale-if-error", self.if_error),
            marks,
        };
        let is_of_use =
            life.fresh > 0 || life.while_revalidate > 0 || life.if_error > 0 || has_validator(answer.headers);
        if is_of_use { Ok(life) } else { Err(Unfit::Lifetime) }
    }

    /// The answer as the crate reads it; `None` where it says nothing about its lifetime, and nor does the file.
    fn policy(&self, answer: &Answer<'_>, directives: &Directives) -> Option<CachePolicy> {
        let mut response = Response::new(());
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        // `proxy-revalidate` is about what is stale; `no-cache` goes on as it is, with and without names of fields.
        headers.extend(directives.canonical(&["proxy-revalidate"]).map(|value| (header::CACHE_CONTROL, value)));
        for name in [header::EXPIRES, header::DATE] {
            if let Some(value) = answer.headers.get(&name) {
                let date = httpdate::parse_http_date(value.to_str().unwrap_or_default()).ok();
                // What is no date is one of the past (RFC 9111, 5.3).
                let text = httpdate::fmt_http_date(date.unwrap_or(UNIX_EPOCH));
                headers.extend(HeaderValue::try_from(text).ok().map(|value| (name, value)));
            }
        }
        let pragma =
            answer.headers.get(header::PRAGMA).is_some_and(|value| value == "no-cache") && directives.is_empty();
        let says = pragma
            || ["max-age", "s-maxage", "no-cache"].iter().any(|name| directives.has(name))
            || headers.contains_key(header::EXPIRES);
        if pragma {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        } else if !says {
            if self.default_ttl.is_zero() || !BY_DEFAULT.contains(&answer.status.as_u16()) {
                return None;
            }
            let seconds = self.default_ttl.as_secs().max(1);
            let value = HeaderValue::try_from(format!("max-age={seconds}")).ok()?;
            headers.append(header::CACHE_CONTROL, value);
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::GET;
        if answer.credentials.authorized {
            request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::from_static("yes"));
        }
        // Nothing is guessed from when something was changed last.
        let options = CacheOptions {
            shared: true,
            cache_heuristic: 0.0,
            immutable_min_time_to_live: Duration::ZERO,
            ignore_cargo_cult: false,
        };
        Some(CachePolicy::new_options(&request, &response, at(answer.received), options))
    }
}

fn at(unix_millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(unix_millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn marks(directives: &Directives) -> Marks {
    let (public, shared) = (directives.has("public"), directives.has("s-maxage"));
    let must = directives.has("must-revalidate");
    let never = must || directives.has("proxy-revalidate") || directives.has("no-cache");
    Marks::default()
        .with(Marks::OPEN, public || shared)
        .with(Marks::NEVER_STALE, never)
        .with(Marks::NOT_BY_CLIENT, shared)
        .with(Marks::FOR_AUTHORIZED, public || shared || must)
}

/// How old an answer was when it came (RFC 9111, 4.2.3): by its date, or by what caches on its way say and how long it took,
/// whichever is more. A date is cut to whole seconds, so the first second of a difference says nothing.
fn initial_age(answer: &Answer<'_>) -> u64 {
    let field = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let date = field(header::DATE).and_then(|text| httpdate::parse_http_date(text).ok());
    let date = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()).map(millis);
    let apparent = date.map_or(0, |date| answer.received.saturating_sub(date.saturating_add(1000)));
    // Of a list the first; what is no number is not there (RFC 9111, 5.1).
    let told = field(header::AGE).and_then(|text| text.split(',').next()?.trim().parse::<u32>().ok());
    let corrected = told.map_or(0, |seconds| u64::from(seconds) * 1000 + answer.waited);
    apparent.max(corrected)
}

/// Whether a server can be asked whether the answer still holds.
#[must_use]
pub fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// The fields of the request by which an answer was chosen (RFC 9111, 4.1), in one order; without `Cookie` where the
/// configuration says what cookies mean.
///
/// # Errors
/// When nobody can tell.
pub fn vary(headers: &HeaderMap, knows_cookies: bool) -> Result<Vec<HeaderName>, Unfit> {
    let mut names = Vec::new();
    for value in headers.get_all(header::VARY) {
        for name in value.to_str().map_err(|_| Unfit::Vary)?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "*" {
                return Err(Unfit::Vary);
            }
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unfit::Vary)?;
            if !(knows_cookies && name == header::COOKIE) {
                names.push(name);
            }
        }
    }
    // It was chosen by what its client takes, whether it says so or not (RFC 9110, 12.5.3).
    if headers.contains_key(header::CONTENT_ENCODING) {
        names.push(header::ACCEPT_ENCODING);
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    if names.len() > MOST_VARY { Err(Unfit::Vary) } else { Ok(names) }
}

/// Whether an answer is made to go on, whatever it says of its lifetime.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(
        kind.as_str(),
        "text/event-stream" | "application/x-ndjson" | "application/jsonl" | "multipart/x-mixed-replace"
    ) || kind.starts_with("application/grpc")
}

/// The fields that are kept of an answer, those that concern a connection being gone already.
#[must_use]
pub fn fields(headers: &HeaderMap, received: u64) -> HeaderMap {
    let mut kept = headers.clone();
    for name in NOT_KEPT {
        kept.remove(name);
    }
    // Its cookies are its first client's.
    kept.remove(header::SET_COOKIE);
    if !kept.contains_key(header::DATE) {
        kept.extend(date(received).map(|date| (header::DATE, date)));
    }
    kept
}

/// The date of an answer that came without one: when it came, in milliseconds since 1970 (RFC 9110, 6.6.1).
#[must_use]
pub fn date(received: u64) -> Option<HeaderValue> {
    HeaderValue::try_from(httpdate::fmt_http_date(at(received))).ok()
}

#[cfg(test)]
#[path = "storing_tests.rs"]
mod tests;
