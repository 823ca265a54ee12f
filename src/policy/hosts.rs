//! Which host names a listener answers to.
//!
//! A web page can point its own name at our address (DNS rebinding); its requests then count as coming
//! from "the same host", and only the name that they ask for gives them away.

use std::collections::HashSet;

/// The host names of a listener; without any, every name is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    exact: HashSet<Box<str>>,
    /// What stands behind `*`, with the dot: `.example.com`.
    endings: Box<[Box<str>]>,
}

impl Hosts {
    /// Takes names such as `example.com`, and `*.example.com` for one or more labels in front; in any letter case.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut exact, mut endings) = (HashSet::new(), Vec::new());
        for pattern in patterns {
            let pattern = pattern.to_ascii_lowercase();
            let pattern = pattern.strip_suffix('.').unwrap_or(&pattern);
            match pattern.strip_prefix('*') {
                Some(ending) => endings.push(ending.into()),
                None => drop(exact.insert(pattern.into())),
            }
        }
        Self { exact, endings: endings.into() }
    }

    /// Whether `host` is answered: the canonical host of a request, in small letters, without port and last dot,
    /// an IPv6 address in brackets. A request without a host is known only where every host is.
    #[must_use]
    pub fn know(&self, host: &str) -> bool {
        (self.exact.is_empty() && self.endings.is_empty())
            || self.exact.contains(host)
            || self.endings.iter().any(|ending| host.len() > ending.len() && host.ends_with(&**ending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_names_every_host_is_known() {
        assert!(Hosts::default().know("evil.test") && Hosts::default().know(""));
    }

    #[test]
    fn only_listed_hosts_are_known() {
        let hosts = Hosts::new(["A.test", "*.example.com", "[::1]", "b.test."]);
        for known in ["a.test", "b.test", "x.example.com", "x.y.example.com", "[::1]"] {
            assert!(hosts.know(known), "{known}");
        }
        for foreign in [
            "",
            "a.test.evil",
            "xa.test",
            "example.com",
            ".example.com",
            "xexample.com",
            "127.0.0.1.nip.io",
            "localhost",
            "::1",
        ] {
            assert!(!hosts.know(foreign), "{foreign}");
        }
    }
}
