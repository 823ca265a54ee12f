//! Sticky cookies: a client keeps its server by a cookie that it was given.
//!
//! # Problem
//!
//! A client's address is a poor key: a whole office has one, and a phone has many. A cookie is the client's own, but it
//! must exist before the first choice, and it must not tell which servers there are.
//!
//! # How
//!
//! The cookie holds a random number and nothing else; [`super::consistent_hash`] turns it into a server. So a cookie
//! stays good when servers come and go, each instance of a cluster reads it alike, and there is no table.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::consistent_hash::hash_key;

/// How a cookie is issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name.
    pub name: String,
    /// How long the client keeps it; zero until its browser is closed.
    pub ttl: Duration,
    /// Whether it is sent over TLS only.
    pub secure: bool,
    /// Below which path it is sent.
    pub path: String,
}

/// The value of the cookie `name`, without quotes; `None` when the request has none, or an empty one.
#[must_use]
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.into_iter().find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        let value = value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value);
        (key == name.as_bytes() && !value.is_empty()).then_some(value)
    })
}

/// The key of a request for [`super::consistent_hash::ConsistentHash::pick`], if it has the cookie.
#[must_use]
pub fn cookie_key(headers: &HeaderMap, name: &str) -> Option<u64> {
    cookie(headers, name).map(hash_key)
}

impl StickyCookie {
    /// A new cookie out of 128 random bits: the key of this request, which is that of those to come, and the value
    /// for `Set-Cookie`.
    #[must_use]
    pub fn issue(&self, random: u128) -> (u64, Option<HeaderValue>) {
        let id = format!("{random:032x}");
        let mut text = format!("{}={id}; Path={}", self.name, self.path);
        if !self.ttl.is_zero() {
            // Writing to a String cannot fail.
            let _ = write!(text, "; Max-Age={}", self.ttl.as_secs().max(1));
        }
        text.push_str("; HttpOnly; SameSite=Lax");
        if self.secure {
            text.push_str("; Secure");
        }
        (hash_key(id.as_bytes()), HeaderValue::from_str(&text).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[&'static str]) -> HeaderMap {
        fields.iter().map(|field| (header::COOKIE, HeaderValue::from_static(field))).collect()
    }

    fn sample() -> StickyCookie {
        StickyCookie {
            name: "arriero".to_owned(),
            ttl: Duration::from_secs(3600),
            secure: true,
            path: "/app".to_owned(),
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let sent = headers(&["a=1; arriero=abc;b=2", "arriero=later"]);
        assert_eq!(cookie(&sent, "arriero"), Some(b"abc".as_slice()));
        assert_eq!(cookie(&headers(&["arriero=\"q\""]), "arriero"), Some(b"q".as_slice()));
        for none in ["xarriero=1", "arrierox=1", "arriero=", "arriero", "Arriero=1", "a=arriero=1"] {
            assert_eq!(cookie(&headers(&[none]), "arriero"), None, "{none}");
        }
        assert_eq!(cookie(&HeaderMap::new(), "arriero"), None);
    }

    #[test]
    fn what_was_issued_is_the_key_of_the_next_request() {
        let (key, value) = sample().issue(7);
        let value = value.unwrap();
        let expected =
            "arriero=00000000000000000000000000000007; Path=/app; Max-Age=3600; HttpOnly; SameSite=Lax; Secure";
        assert_eq!(value, expected);
        let pair = value.to_str().unwrap().split(';').next().unwrap().to_owned();
        let next = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(&pair).unwrap())]);
        assert_eq!(cookie_key(&next, "arriero"), Some(key));
        assert_ne!(sample().issue(8).0, key);
    }

    #[test]
    fn without_a_lifetime_it_ends_with_the_browser() {
        let cookie = StickyCookie { ttl: Duration::ZERO, secure: false, ..sample() };
        let value = cookie.issue(1).1.unwrap();
        assert!(!value.to_str().unwrap().contains("Max-Age") && !value.to_str().unwrap().contains("Secure"));
    }
}
