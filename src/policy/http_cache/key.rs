//! Which requests share an answer, and which answers a purge means (RFC 9111, 2 and 4.1).
//!
//! A key is a text: the URI as clients know it, `#`, and a hash of what keeps answers for it apart (whose they are, fields and
//! cookies that the configuration names); behind it, where the answer varies by fields of the request, `.` and a hash of those. So
//! it says what it is of, tells nothing of what a client sent, and is the same in each process.

use http::{HeaderMap, HeaderName, header};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Letters of a hash in a key: 128 bits.
const LETTERS: usize = 32;

/// Which parameters of a query tell answers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// All of them, as they are written.
    All,
    /// None.
    None,
    /// These, in the order of the request.
    Named(Vec<String>),
}

impl Query {
    /// What of a query belongs to a key, as it is written; `None` where that is as if there were none.
    #[must_use]
    pub fn part(&self, query: &str) -> Option<String> {
        match self {
            Self::All => Some(query.to_owned()),
            Self::None => None,
            Self::Named(names) => {
                let pairs: Vec<&str> =
                    query.split('&').filter(|pair| names.iter().any(|name| is_named(pair, name))).collect();
                (!pairs.is_empty()).then(|| pairs.join("&"))
            }
        }
    }
}

/// Whether a parameter has this name, as it is written or as servers read it.
fn is_named(pair: &str, name: &str) -> bool {
    let written = pair.split_once('=').map_or(pair, |(written, _)| written);
    // A space may be written as a plus, and a plus as `%2B`.
    written == name || percent_decode_str(&written.replace('+', " ")).eq(name.bytes())
}

impl Query {
    /// A URI with what of its query belongs to a key.
    #[must_use]
    pub fn of_uri(&self, uri: &str) -> String {
        let Some((before, query)) = uri.split_once('?') else { return uri.to_owned() };
        self.part(query).map_or_else(|| before.to_owned(), |part| format!("{before}?{part}"))
    }
}

/// A URI as clients know it. `host` may have a port; that of the scheme says nothing. A query that is empty is not the same as
/// none.
#[must_use]
pub fn uri(scheme: &str, host: &str, path: &str, query: Option<&str>) -> String {
    let port = if scheme == "https" { ":443" } else { ":80" };
    let host = host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
    let (mark, query) = query.map_or(("", ""), |query| ("?", query));
    format!("{scheme}://{host}{path}{mark}{query}")
}

/// A hash of parts, each with its length, so that no two lists of them are the same bytes.
fn hash<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut text = String::with_capacity(LETTERS);
    for byte in &hash.finalize()[..LETTERS / 2] {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    text
}

/// The key of a URI, and of what keeps answers for it apart.
#[must_use]
pub fn base(uri: &str, apart: &[Vec<u8>]) -> String {
    if apart.iter().all(Vec::is_empty) {
        return format!("{uri}#-");
    }
    format!("{uri}#{}", hash(apart.iter().map(Vec::as_slice)))
}

/// The key of the answer that fits a request, where answers vary by these fields.
#[must_use]
pub fn variant(base: &str, names: &[HeaderName], request: &HeaderMap) -> String {
    let mut parts: Vec<Vec<u8>> = Vec::with_capacity(2 * names.len());
    for name in names {
        parts.push(name.as_str().as_bytes().to_vec());
        parts.push(selecting(name, request));
    }
    format!("{base}.{}", hash(parts.iter().map(Vec::as_slice)))
}

/// The value of a field in one form for requests that mean the same (RFC 9111, 4.1). A field that is absent is none that is
/// empty.
fn selecting(name: &HeaderName, request: &HeaderMap) -> Vec<u8> {
    let mut all = Vec::new();
    for value in request.get_all(name) {
        all.push(b',');
        // Codings mean the same in any letter case and with any spaces (RFC 9110, 12.5.3).
        if *name == header::ACCEPT_ENCODING {
            all.extend(
                value.as_bytes().iter().filter(|byte| !matches!(byte, b' ' | b'\t')).map(u8::to_ascii_lowercase),
            );
        } else {
            all.extend_from_slice(value.as_bytes().trim_ascii());
        }
    }
    all
}

/// A hash for what must not stand in a key, such as a password.
#[must_use]
pub fn secret(kind: &str, value: &[u8]) -> Vec<u8> {
    format!("{kind} {}", hash([value])).into_bytes()
}

/// Which answers are thrown away. It is a plain value, so that it can be told to other instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purge {
    /// All.
    All,
    /// Those of a URI, whoever's they are and however they vary. One that begins with `/` means each host.
    Key(String),
    /// Those of URIs that begin like this, likewise.
    Prefix(String),
    /// Those that their server gave this tag.
    Tag(String),
    /// Those whose path has these segments: each list of them in a row, below any prefix, and one list behind the other.
    Segments(Vec<Vec<String>>),
}

impl Purge {
    /// Whether an answer is meant, by its URI and its tags.
    pub fn means<'t>(&self, uri: &str, mut tags: impl Iterator<Item = &'t str>) -> bool {
        match self {
            Self::All => true,
            Self::Key(wanted) => comparable(uri, wanted) == wanted,
            Self::Prefix(wanted) => comparable(uri, wanted).starts_with(wanted.as_str()),
            Self::Tag(wanted) => tags.any(|tag| tag == wanted),
            Self::Segments(wanted) => has_segments(uri, wanted),
        }
    }
}

/// The URI, or what stands behind its host where the other one begins with that.
fn comparable<'u>(uri: &'u str, other: &str) -> &'u str {
    if !other.starts_with('/') {
        return uri;
    }
    let behind = uri.find("://").map_or(0, |at| at + 3);
    uri.get(behind..).and_then(|rest| rest.get(rest.find('/')?..)).unwrap_or(uri)
}

/// Whether the path of a URI has all these rows of segments, one behind the other.
fn has_segments(uri: &str, rows: &[Vec<String>]) -> bool {
    let path = comparable(uri.split('?').next().unwrap_or_default(), "/");
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut rest = segments.as_slice();
    rows.iter().all(|row| {
        let stands_at = |at: &usize| rest.get(*at..*at + row.len()).is_some_and(|there| there == row.as_slice());
        match (0..rest.len()).find(stands_at) {
            Some(at) => {
                rest = &rest[at + row.len()..];
                true
            }
            None => false,
        }
    })
}

/// The tags of an answer: its field with that name, parted by spaces or commas.
#[must_use]
pub fn tags(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split([',', ' ', '\t'])).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Where the same cache has other answers, of a URI that an answer names (RFC 9111, 4.4): `place` as it stands in `Location` or
/// `Content-Location`, if it is of the same origin.
#[must_use]
pub fn same_origin(uri: &str, place: &str) -> Option<String> {
    let after = uri.find("://")? + 3;
    let origin = &uri[..after + uri[after..].find('/').unwrap_or(uri.len() - after)];
    let place = place.split('#').next().unwrap_or_default();
    if place.starts_with('/') && !place.starts_with("//") {
        return Some(format!("{origin}{place}"));
    }
    let behind = place.strip_prefix(origin)?;
    (behind.is_empty() || behind.starts_with(['/', '?'])).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_uri_is_written_in_one_way() {
        assert_eq!(uri("http", "A.test:80", "/x", None), "http://a.test/x");
        assert_eq!(uri("https", "a.test:80", "/x", Some("b=C")), "https://a.test:80/x?b=C");
        assert_eq!(uri("http", "a.test", "/x", Some("")), "http://a.test/x?");
        let named = Query::Named(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(named.part("b=2&c=3&a=1&ab=4&a").as_deref(), Some("b=2&a=1&a"));
        assert_eq!((named.of_uri("/x?c=1&b=2").as_str(), named.of_uri("/x?c").as_str()), ("/x?b=2", "/x"));
        assert_eq!((Query::All.part("b=2&a").as_deref(), Query::None.part("b=2")), (Some("b=2&a"), None));
    }

    #[test]
    fn an_empty_query_counts_only_where_all_of_it_does() {
        let named = Query::Named(vec!["a".to_owned()]);
        assert_eq!((Query::All.part("").as_deref(), Query::None.part(""), named.part("")), (Some(""), None, None));
        for (query, empty) in [(Query::All, "/x?"), (Query::None, "/x"), (named, "/x")] {
            assert_eq!((query.of_uri("/x?").as_str(), query.of_uri("/x").as_str()), (empty, "/x"), "{query:?}");
        }
    }

    #[test]
    fn a_parameter_is_known_however_its_name_is_written() {
        let named = Query::Named(["id", "a b", "c+d", "e%f"].map(str::to_owned).to_vec());
        // What is in the key is what the server gets.
        for query in ["id=1&%69d=2", "%69%64=1", "a+b=1&a%20b=2", "c%2Bd=1&c%2bd", "e%25f=1&e%f=2"] {
            assert_eq!(named.part(query).as_deref(), Some(query));
        }
        for query in ["ID=1", "%2569d=1", "a=1&b", "id%3D1", "%69", "%", "=id"] {
            assert_eq!(named.part(query), None, "{query}");
        }
    }

    #[test]
    fn keys_differ_where_a_part_ends_elsewhere_and_are_always_the_same() {
        let of =
            |parts: &[&str]| base("http://a/x", &parts.iter().map(|part| part.as_bytes().to_vec()).collect::<Vec<_>>());
        assert_eq!(of(&[]), "http://a/x#-");
        // What another instance keeps under it must be found.
        assert_eq!(of(&["key 1", ""]), "http://a/x#42df43fd5d9c72745b48ec2014c43a59");
        let all = [of(&["a", "b"]), of(&["ab", ""]), of(&["", "ab"]), of(&["a", "bc"]), of(&["a"])];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one), "{place}");
        }
    }

    #[test]
    fn requests_that_mean_the_same_share_a_variant() {
        let names = [header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE];
        let of = |fields: &[(HeaderName, &'static str)]| {
            let headers = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            variant("b", &names, &headers)
        };
        let (coding, language) = (header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE);
        assert_eq!(of(&[(coding.clone(), "gzip, BR")]), of(&[(coding.clone(), "gzip,br")]));
        assert_eq!(of(&[(coding.clone(), "gzip"), (header::ACCEPT, "x")]), of(&[(coding.clone(), "gzip")]));
        assert_ne!(of(&[(coding.clone(), "gzip")]), of(&[(coding.clone(), "br")]));
        assert_ne!(of(&[(coding.clone(), "")]), of(&[]));
        assert_ne!(of(&[(coding.clone(), "gzip")]), of(&[(language, "gzip")]));
        assert_ne!(variant("b", &names[..1], &HeaderMap::new()), variant("b", &names[1..], &HeaderMap::new()));
    }

    #[test]
    fn a_purge_means_what_it_says() {
        let uri = "https://a.test/x/y?z";
        let of = |purge: Purge| purge.means(uri, ["red", "blue"].into_iter());
        let text = str::to_owned;
        assert!(of(Purge::All) && of(Purge::Key(text(uri))) && of(Purge::Key(text("/x/y?z"))));
        assert!(
            of(Purge::Prefix(text("https://a.test/x"))) && of(Purge::Prefix(text("/"))) && of(Purge::Tag(text("blue")))
        );
        for other in [
            Purge::Key(text("/x/y")),
            Purge::Key(text("/a.test/x/y?z")),
            Purge::Key(text("http://a.test/x/y?z")),
            Purge::Prefix(text("/y")),
            Purge::Prefix(text("https://b")),
            Purge::Tag(text("Red")),
            Purge::Tag(text("re")),
        ] {
            assert!(!of(other.clone()), "{other:?}");
        }
        let headers = HeaderMap::from_iter([(header::VIA, HeaderValue::from_static("a, b c,,d"))]);
        assert_eq!(tags(&headers, &header::VIA), ["a", "b", "c", "d"]);
    }

    #[test]
    fn segments_are_meant_by_their_place_in_the_path() {
        let of = |rows: &[&[&str]], uri: &str| {
            let rows = rows.iter().map(|row| row.iter().copied().map(str::to_owned).collect()).collect();
            Purge::Segments(rows).means(uri, std::iter::empty())
        };
        let one: &[&[&str]] = &[&["artifacts", "a1"]];
        assert!(of(one, "http://a.test/api/artifacts/a1") && of(one, "http://a.test/artifacts/a1/optimized?x=1"));
        for other in [
            "http://a.test/artifacts/a12",
            "http://a.test/artifacts",
            "http://a.test/artifacts/x/a1",
            "http://a.test/x?artifacts/a1",
            "http://a.test/x?y=/artifacts/a1",
            "http://artifacts/a1",
        ] {
            assert!(!of(one, other), "{other}");
        }
        let all: &[&[&str]] = &[&["conversations", "c1"], &["artifacts"]];
        assert!(of(all, "http://a.test/api/conversations/c1/artifacts"));
        assert!(of(all, "http://a.test/api/conversations/c1/x/artifacts/optimized"));
        for other in ["/api/conversations/c1", "/api/conversations/c2/artifacts", "/artifacts/conversations/c1"] {
            assert!(!of(all, &format!("http://a.test{other}")), "{other}");
        }
        // Each instance reads what another one wrote.
        let purge = Purge::Segments(vec![vec!["artifacts".to_owned(), "a1".to_owned()]]);
        let text = serde_json::to_string(&purge).unwrap();
        assert_eq!(text, r#"{"segments":[["artifacts","a1"]]}"#);
        assert_eq!(serde_json::from_str::<Purge>(&text).unwrap(), purge);
    }

    #[test]
    fn only_places_of_the_same_origin_are_thrown_away() {
        let of = |place| same_origin("https://a.test/x?y", place);
        assert_eq!(of("/z?q#f").as_deref(), Some("https://a.test/z?q"));
        assert_eq!(of("https://a.test/z").as_deref(), Some("https://a.test/z"));
        for other in ["https://a.test.evil/z", "http://a.test/z", "//b.test/z", "https://b.test/", "z", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
