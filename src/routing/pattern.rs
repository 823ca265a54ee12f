//! Schemes, hosts, paths and header values, as the user writes them.

use http::{HeaderMap, HeaderName};

use super::glob::Glob;

/// Longest host name that a pattern is compared with. DNS ends at 253; a longer one matches no pattern.
pub const LONGEST_HOST: usize = 255;

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

/// The name in a `Host` field or an authority: without the port and without the dot of the root. The brackets of
/// an IPv6 address stay.
#[must_use]
pub fn host_name(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && is_one_host(name) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Tells `name:80` and `[::1]:80` from the `::1:80` of someone who forgot the brackets.
fn is_one_host(name: &str) -> bool {
    !name.contains(':') || name.ends_with(']')
}

/// A host name or `*.` and a host name, in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This name.
    Exact(Box<str>),
    /// One or more labels in front of this name, which stands here without `*.`.
    Below(Box<str>),
    /// Any name, also none: `*`.
    Any,
}

impl HostPattern {
    /// Reads a pattern; `None` if it is empty, too long, or has a `*` that is not its first label.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_below = name.len() < text.len();
        let name = host_name(name);
        if name.is_empty() || name.contains('*') || name.len() > LONGEST_HOST {
            return None;
        }
        let name = name.to_ascii_lowercase().into_boxed_str();
        Some(if is_below { Self::Below(name) } else { Self::Exact(name) })
    }

    /// Whether it covers a host, of which only the name counts, in any letter case. `None` is a request without a
    /// host.
    #[must_use]
    pub fn matches(&self, host: Option<&str>) -> bool {
        let Some(host) = host.map(host_name).filter(|host| host.len() <= LONGEST_HOST) else {
            return matches!(self, Self::Any);
        };
        match self {
            Self::Any => true,
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
            Self::Below(name) => {
                let Some(front) = host.len().checked_sub(name.len() + 1) else { return false };
                let (front, end) = host.as_bytes().split_at(front);
                !front.is_empty() && end[0] == b'.' && end[1..].eq_ignore_ascii_case(name.as_bytes())
            }
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
    fn the_name_of_a_host_has_no_port_and_no_dot_of_the_root() {
        for (host, name) in [
            ("a.test", "a.test"),
            ("a.test:8080", "a.test"),
            ("a.test:", "a.test"),
            ("a.test.", "a.test"),
            ("a.test.:80", "a.test"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a.test:http", "a.test:http"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(host_name(host), name, "{host}");
        }
    }

    fn covers(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern).is_some_and(|pattern| pattern.matches(Some(host)))
    }

    #[test]
    fn hosts_match_in_any_letter_case_and_with_any_port() {
        assert!(covers("Example.com", "eXample.COM:8080"));
        assert!(covers("example.com.", "example.com"));
        assert!(covers("[::1]", "[::1]:80"));
        assert!(!covers("example.com", "www.example.com"));
    }

    #[test]
    fn an_asterisk_stands_for_one_or_more_labels() {
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.EXAMPLE.com."));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", ".example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
        assert!(covers("*", "anything"));
    }

    #[test]
    fn an_asterisk_elsewhere_is_no_pattern() {
        for text in ["", "a.*.com", "*.*.com", "*a.com", "*.", "a*"] {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_request_without_a_host_matches_only_any() {
        assert!(HostPattern::Any.matches(None));
        assert!(!HostPattern::Exact("a".into()).matches(None));
        assert!(!HostPattern::Below("a".into()).matches(None));
    }

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
