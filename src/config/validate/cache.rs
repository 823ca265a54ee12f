//! Rules about what a route keeps of the answers of its servers.

use super::Rules;
use super::routes::is_token;
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Cache, CacheScope, EmbeddingsCache, OneOrMany, Route};
use crate::units::ByteSize;

/// Checks one route.
pub(super) fn check(path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    if let Some(cache) = &route.embeddings_cache {
        embeddings(&path.key("embeddings_cache"), cache, rules);
    }
    let Some(cache) = &route.cache else { return };
    let methods = route.matches.method.as_slice();
    if !methods.is_empty() && !methods.iter().any(|method| matches!(method.as_str(), "GET" | "HEAD")) {
        let message = "`cache` has no effect here: only answers to GET are kept, and the route takes none";
        rules.key(codes::NOT_HERE, &path.key("cache"), message, "remove it, or add GET to `match.method`");
    }
    answers(&path.key("cache"), cache, rules);
}

fn size(path: &Path<'_>, size: ByteSize, least: u64, most: u64, rules: &mut Rules<'_, '_, '_>) {
    let (least, most) = (ByteSize(least), ByteSize(most));
    if size < least || size > most {
        let shown = rules.shown(path, &size.to_string());
        let message = format!("{shown} is not from {least} to {most}");
        rules.value(codes::RANGE, path, message, format!("write a size such as `{}`", ByteSize(16 << 20).min(most)));
    }
}

fn embeddings(path: &Path<'_>, cache: &EmbeddingsCache, rules: &mut Rules<'_, '_, '_>) {
    rules.not_zero(&path.key("ttl"), cache.ttl, "leave out `embeddings_cache` to keep nothing");
    size(&path.key("max_size"), cache.max_size, 1 << 20, 1 << 40, rules);
    size(&path.key("max_body"), cache.max_body, 1, 1 << 40, rules);
}

fn answers(path: &Path<'_>, cache: &Cache, rules: &mut Rules<'_, '_, '_>) {
    size(&path.key("max_size"), cache.max_size, 1 << 20, 1 << 40, rules);
    let object = path.key("max_object");
    if rules.given(&object) {
        size(&object, cache.max_object, 1, cache.max_size.0, rules);
    }
    if cache.authorized && cache.scope == CacheScope::Key {
        let message = "`authorized` has no effect with `scope: key`: answers are apart by whose they are";
        rules.key(codes::NOT_HERE, &path.key("authorized"), message, "remove it, or write `scope: shared`");
    }
    names(&path.key("cookies"), &cache.cookies, "cookie", codes::COOKIE, rules);
    let key = path.key("key");
    names(&key.key("query"), &cache.key.query, "parameter", codes::INVALID_VALUE, rules);
    names(&key.key("headers"), &cache.key.headers, "header field", codes::FIELD, rules);
    let tag_header = path.key("tag_header");
    name(&tag_header, &cache.tag_header, "header field", codes::FIELD, rules);
}

/// A list that was given has members, and each is a name.
fn names(path: &Path<'_>, all: &OneOrMany<String>, what: &str, code: codes::Code, rules: &mut Rules<'_, '_, '_>) {
    match all {
        OneOrMany::One(one) => name(path, one, what, code, rules),
        OneOrMany::Many(many) if many.is_empty() && rules.given(path) => {
            rules.key(codes::EMPTY_LIST, path, "the list is empty", "leave it out for its default");
        }
        OneOrMany::Many(many) => {
            many.iter().enumerate().for_each(|(index, one)| name(&path.index(index), one, what, code, rules));
        }
    }
}

fn name(path: &Path<'_>, text: &str, what: &str, code: codes::Code, rules: &mut Rules<'_, '_, '_>) {
    // A parameter may be called anything that stands in a query as it is.
    let fits = if code == codes::INVALID_VALUE {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'=' | b'#'))
    } else {
        is_token(text)
    };
    if !fits {
        let shown = rules.shown(path, text);
        let message = format!("{shown} is not the name of a {what}");
        rules.value(code, path, message, "write it as it stands in requests");
    }
}
