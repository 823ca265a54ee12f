//! Schemes, paths and header values, as the user writes them.

use http::{HeaderMap, HeaderName};

use super::glob::Glob;

/// Whether a client spoke TLS, to us or to a proxy that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// No.
    Http,
    /// Yes.
    Https,
}

impl Scheme {
    /// The scheme of a client that spoke TLS, or did not.
    #[must_use]
    pub const fn of(tls: bool) -> Self {
        if tls { Self::Https } else { Self::Http }
    }

    /// The word at the front of a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A path, or everything below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// This path.
    Exact(Box<str>),
    /// Every path that begins with this, which ends in `/`.
    Prefix(Box<str>),
}

impl PathPattern {
    /// Reads a pattern: one that ends in `/` is a prefix.
    #[must_use]
    pub fn new(text: &str) -> Self {
        if text.ends_with('/') { Self::Prefix(text.into()) } else { Self::Exact(text.into()) }
    }

    /// Whether it covers a path (without the query).
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => *path == **exact,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
        }
    }
}

/// A header field and what its value must look like.
#[derive(Clone, Debug)]
pub struct HeaderPattern {
    name: HeaderName,
    value: Glob,
}

impl HeaderPattern {
    /// A field whose value matches a pattern with `*`.
    #[must_use]
    pub fn new(name: HeaderName, value: &str) -> Self {
        Self { name, value: Glob::new(value) }
    }

    /// Whether one of the fields of that name has such a value. If there is none, `*` does not match either.
    #[must_use]
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        headers.get_all(&self.name).iter().any(|value| self.value.matches(value.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_path_that_ends_in_a_slash_covers_everything_below() {
        assert!(PathPattern::new("/").matches("/"));
        assert!(PathPattern::new("/api/").matches("/api/chat"));
        assert!(PathPattern::new("/api/").matches("/api/"));
        assert!(!PathPattern::new("/api/").matches("/api"));
        assert!(PathPattern::new("/api").matches("/api"));
        assert!(!PathPattern::new("/api").matches("/api/"));
        assert!(!PathPattern::new("/api/").matches("/API/chat"));
    }

    #[test]
    fn one_of_several_fields_is_enough() {
        let mut headers = HeaderMap::new();
        headers.append("x-tier", HeaderValue::from_static("free"));
        headers.append("x-tier", HeaderValue::from_static("gold-1"));
        let pattern = |name: &'static str, value| HeaderPattern::new(HeaderName::from_static(name), value);
        assert!(pattern("x-tier", "gold*").matches(&headers));
        assert!(!pattern("x-tier", "gold").matches(&headers));
        assert!(!pattern("x-other", "*").matches(&headers));
    }
}
