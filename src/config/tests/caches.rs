//! Rules about what routes keep.

use super::rules::{ROUTE, add};

/// Keeps answers on the good route, and holds what is found at it, as `CODE COLUMN KEY`.
#[track_caller]
fn cache(keys: &str, expected: &[&str]) {
    let at = |found: &&str| {
        let (code, rest) = found.split_once(' ').expect("a code");
        let (column, key) = rest.split_once(' ').expect("a column");
        format!("{code} 7:{column} routes[0].cache{key}")
    };
    let expected: Vec<String> = expected.iter().map(at).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    add(ROUTE, &format!("    cache: {{ {keys} }}"), &expected);
}

#[test]
fn keys_of_a_cache_are_checked() {
    for good in [
        "",
        "max_size: 1MiB",
        "max_size: 64MiB, max_object: 64MiB",
        "scope: shared, authorized: true",
        "authorized: false",
        "cookies: refuse",
        "cookies: ignore",
        "cookies: [session, theme]",
        "key: { query: none, headers: x-a }",
        "key: { query: [\"a[b]\", q], headers: [x-a, x-b] }",
        "tag_header: Surrogate-Key",
        "default_ttl: 0s, stale_while_revalidate: 1m, stale_if_error: 1d",
    ] {
        cache(good, &[]);
    }
    cache("max_size: 1KiB", &["E034 24 .max_size"]);
    cache("max_size: 2TiB", &["E034 24 .max_size"]);
    cache("max_size: 2MiB, max_object: 3MiB", &["E034 42 .max_object"]);
    cache("max_object: 0", &["E034 26 .max_object"]);
    cache("authorized: true", &["E036 14 .authorized"]);
    cache("cookies: [\"a b\"]", &["E085 24 .cookies[0]"]);
    cache("cookies: []", &["E021 14 .cookies"]);
    cache("key: { query: [\"a=b\"] }", &["E013 29 .key.query[0]"]);
    cache("key: { headers: \"a b\" }", &["E083 30 .key.headers"]);
    cache("tag_header: \"a:\"", &["E083 26 .tag_header"]);
}

#[test]
fn a_cache_stands_where_something_can_be_kept() {
    add(ROUTE, "    cache: {}\n    match: { method: [GET, POST] }", &[]);
    add(ROUTE, "    cache: {}\n    match: { method: POST }", &["E036 7:5 routes[0].cache"]);
    add(ROUTE, "    embeddings_cache: {}\n    cache: {}", &[]);
}
