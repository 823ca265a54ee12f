//! What a request asks for, as far as the cache is concerned.

use http::{HeaderMap, HeaderValue, Method, header};

use crate::fleet::snapshot::{Cache, Cookies, HashOn, Upstream};
use crate::policy::http_cache::directives::Wish;
use crate::policy::http_cache::key;
use crate::policy::http_cache::storing::Credentials;
use crate::policy::http_cache::validation::CONDITIONS;
use crate::proxy::context::Exchange;
use crate::proxy::exchange::request_length;
use crate::proxy::framing::Length;
use crate::routing::Scheme;
use crate::telemetry::response_cache_metrics::Passed;

/// Fields with credentials beside `Authorization`. Those in which a key of ours stood are not there any more.
const KEYS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

/// A request that the cache may have something to do with.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Where clients find the answer.
    pub uri: String,
    /// Its key, before anything varies.
    pub base: String,
    /// What it has that makes its answer its own.
    pub credentials: Credentials,
    /// Whether its key is that of one client alone, so that other instances have no use for its answer.
    pub is_own: bool,
    /// What the client wants of caches.
    pub wish: Wish,
    /// Whether it is a GET.
    pub is_get: bool,
    /// Whether it is one for all of the answer, without conditions.
    pub is_plain: bool,
}

/// The URI of a request as clients know it.
pub(super) fn uri(exchange: &Exchange<'_>, cache: &Cache) -> String {
    let host = exchange.ctx.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let uri = &exchange.head.uri;
    let query = uri.query().and_then(|query| cache.query.part(query));
    key::uri(Scheme::of(exchange.ctx.client_tls).as_str(), host, uri.path(), query.as_deref())
}

impl Asked {
    /// Of the head of a GET or HEAD.
    ///
    /// # Errors
    /// Why the cache has nothing to do with it.
    pub fn of(exchange: &Exchange<'_>, upstream: &Upstream, cache: &Cache) -> Result<Self, Passed> {
        let headers = &exchange.head.headers;
        let wish = if cache.respect_client { Wish::of(headers) } else { Wish::default() };
        if wish.no_store && !wish.only_if_cached {
            return Err(Passed::Client);
        }
        let has_body = request_length(exchange) != Length::None;
        let preconditions = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE];
        if has_body || exchange.ctx.wants_upgrade || preconditions.iter().any(|name| headers.contains_key(name)) {
            return Err(Passed::Unfit);
        }
        let key = exchange.ctx.key.as_deref();
        let secrets = secrets(headers);
        let is_authorized = key.is_some() || !secrets.is_empty();
        let mut is_own = is_authorized && !cache.shared;
        let mut apart: Vec<Vec<u8>> = Vec::new();
        let mut credentials = Credentials::default();
        if cache.shared {
            credentials.authorized = is_authorized && !cache.authorized;
            apart.extend([Vec::new(), Vec::new()]);
        } else {
            apart.push(key.map(|key| format!("key {}", key.id).into_bytes()).unwrap_or_default());
            apart.push(secrets);
        }
        match &cache.cookies {
            Cookies::Refused => credentials.cookies = has_cookies(headers, upstream),
            Cookies::Ignored => {}
            Cookies::Named(names) => {
                for name in names {
                    let value = cookie(headers, name);
                    is_own |= !value.is_empty();
                    apart.push(value);
                }
            }
        }
        for name in &cache.headers {
            let mut values = Vec::new();
            for value in headers.get_all(name) {
                values.push(b',');
                values.extend_from_slice(value.as_bytes());
            }
            apart.push(values);
        }
        let uri = uri(exchange, cache);
        let is_get = exchange.head.method == Method::GET;
        Ok(Self {
            base: key::base(&uri, &apart),
            uri,
            credentials,
            is_own,
            wish,
            is_get,
            is_plain: is_get && !CONDITIONS.iter().any(|name| headers.contains_key(name)),
        })
    }
}

/// The credentials in fields that a server is sent.
fn secrets(headers: &HeaderMap) -> Vec<u8> {
    let mut all = Vec::new();
    for name in std::iter::once("authorization").chain(KEYS) {
        for value in headers.get_all(name) {
            all.extend(key::secret(name, value.as_bytes()));
        }
    }
    all
}

/// The cookies of a request: name and value.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let fields = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    fields.flat_map(|field| field.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii).filter_map(|pair| {
        let middle = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = middle.map_or((pair, &[][..]), |at| (&pair[..at], &pair[at + 1..]));
        (!name.is_empty()).then_some((name, value))
    })
}

/// Whether there are any but that by which we know the client.
fn has_cookies(headers: &HeaderMap, upstream: &Upstream) -> bool {
    let ours = match &upstream.balance.hash_on {
        HashOn::Cookie(name) if upstream.balance.sticky.is_some() => name.as_bytes(),
        _ => &[],
    };
    cookies(headers).any(|(name, _)| name != ours)
}

/// The values of a cookie; one that is absent is none that is empty.
fn cookie(headers: &HeaderMap, wanted: &str) -> Vec<u8> {
    let values: Vec<&[u8]> =
        cookies(headers).filter(|(name, _)| *name == wanted.as_bytes()).map(|(_, value)| value).collect();
    if values.is_empty() { Vec::new() } else { key::secret("cookie", &values.join(&b';')) }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn credentials_differ_by_field_and_value() {
        let of = |fields: &[(&'static str, &'static str)]| {
            let named = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
            let headers: HeaderMap = fields.iter().copied().map(named).collect();
            secrets(&headers)
        };
        assert_eq!(of(&[("x-key", "a")]), Vec::<u8>::new());
        // What was kept before these fields counted stays where it is.
        assert_eq!(of(&[("authorization", "a")]), key::secret("authorization", b"a"));
        let all = [
            of(&[("authorization", "a")]),
            of(&[("x-api-key", "a")]),
            of(&[("x-api-key", "b")]),
            of(&[("api-key", "a")]),
            of(&[("x-goog-api-key", "")]),
            of(&[("authorization", "a"), ("x-api-key", "a")]),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!one.is_empty() && !all[..place].contains(one), "{place}");
        }
    }

    #[test]
    fn cookies_are_found_by_their_names() {
        let headers: HeaderMap = ["a=1; session=x; b", " session=y ;;c=", "d=\"q;r\""]
            .map(|text| (header::COOKIE, HeaderValue::from_static(text)))
            .into_iter()
            .collect();
        let names: Vec<&[u8]> = cookies(&headers).map(|(name, _)| name).collect();
        assert_eq!(names, [&b"a"[..], b"session", b"b", b"session", b"c", b"d", b"r\""]);
        assert_ne!(cookie(&headers, "session"), cookie(&headers, "a"));
        assert_eq!(cookie(&headers, "ession"), Vec::<u8>::new());
        assert_ne!(cookie(&headers, "c"), Vec::<u8>::new());
        assert!(!String::from_utf8_lossy(&cookie(&headers, "session")).contains('x'));
    }
}
