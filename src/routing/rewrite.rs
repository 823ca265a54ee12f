//! Prefix rewrite: another path for the server than the client asked for; the query stays as it is.
//!
//! A prefix ends where a segment ends: `/app` is a prefix of `/app` and `/app/x`, not of `/apple`. A path that does not
//! have the prefix keeps all of itself. What comes out begins with one `/`, so that no server takes its beginning for
//! a host.

use http::uri::PathAndQuery;

/// Which prefix goes and which comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    strip: String,
    add: String,
}

impl Rewrite {
    /// Takes the prefixes as they were written; a `/` at their end does not matter.
    #[must_use]
    pub fn new(strip: &str, add: &str) -> Self {
        Self { strip: strip.trim_end_matches('/').to_owned(), add: add.trim_end_matches('/').to_owned() }
    }

    /// The path for the server.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        let stripped = path.strip_prefix(self.strip.as_str());
        let rest = stripped.filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
        let mut new = String::with_capacity(self.add.len() + rest.len() + 1);
        new.push_str(&self.add);
        let doubled = rest.len() - rest.trim_start_matches('/').len();
        new.push_str(&rest[doubled.saturating_sub(1)..]);
        if !new.starts_with('/') {
            new.insert(0, '/');
        }
        new
    }

    /// The target for the server, the query kept; `None` when it would not be a valid one.
    #[must_use]
    pub fn target(&self, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
        let mut target = self.path(path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_go_and_come_at_segments() {
        let cases = [
            ("/app", "", "/app", "/"),
            ("/app", "", "/app/", "/"),
            ("/app/", "", "/app/x", "/x"),
            ("/app", "", "/apple", "/apple"),
            ("/app", "/v2", "/app/x", "/v2/x"),
            ("/app", "/v2/", "/app", "/v2"),
            ("/app", "/v2", "/app/", "/v2/"),
            ("", "/v2", "/x", "/v2/x"),
            ("", "/v2", "/", "/v2/"),
            ("/a", "", "/a//b", "/b"),
            ("/health/models", "/api/stats", "/health/models", "/api/stats"),
        ];
        for (strip, add, path, expected) in cases {
            assert_eq!(Rewrite::new(strip, add).path(path), expected, "{strip} {add} {path}");
        }
        let target = Rewrite::new("/app", "/v2").target("/app/x", Some("q=/app/y")).unwrap();
        assert_eq!(target.as_str(), "/v2/x?q=/app/y");
    }

    proptest! {
        #[test]
        fn the_result_is_an_origin_form_target(
            strip in "(/[a-c]{1,2}){0,2}/?",
            add in "(/[a-c]{1,2}){0,2}/?",
            path in "/([a-c]{0,2}/){0,3}[a-c]{0,2}",
            query in proptest::option::of("[a-c=&/?]{0,6}"),
        ) {
            let target = Rewrite::new(&strip, &add).target(&path, query.as_deref()).expect("a target");
            prop_assert!(target.path().starts_with('/') && !target.path().starts_with("//"), "{target}");
            prop_assert_eq!(target.query(), query.as_deref());
        }
    }
}
