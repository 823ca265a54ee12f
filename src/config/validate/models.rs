//! Rules about what a route allows requests for models: only where there are models, and numbers that mean something.

use super::Rules;
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Config, Kind, Route};

/// Checks one route.
pub(super) fn check(config: &Config, path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    match &route.upstream {
        Some(name) => {
            if let Some(upstream) = config.upstreams.get(name) {
                only_for_models(path, upstream.kind, rules);
            }
        }
        None if rules.is_whole(path) => only_for_models(path, Kind::Http, rules),
        None => {}
    }
    let caps = path.key("caps");
    if let Some(keep_alive) = route.caps.keep_alive {
        rules.not_zero(&caps.key("keep_alive"), keep_alive, "leave it out for no cap");
    }
    for (key, cap) in [("num_ctx", route.caps.num_ctx), ("num_predict", route.caps.num_predict)] {
        if let Some(cap) = cap {
            rules.range(&caps.key(key), cap, 1, u32::MAX);
        }
    }
}

/// Keys that would have no effect: somebody believes to be protected by them.
fn only_for_models(path: &Path<'_>, kind: Kind, rules: &mut Rules<'_, '_, '_>) {
    for (key, has_effect) in [
        ("management", kind == Kind::Ollama),
        ("cloud_models", kind == Kind::Ollama),
        ("caps", kind != Kind::Http),
        ("embeddings_cache", kind == Kind::Ollama),
    ] {
        let path = path.key(key);
        if !has_effect && rules.given(&path) {
            let kinds = if key == "caps" { "`kind: ollama` and `kind: openai`" } else { "`kind: ollama`" };
            let message = format!("`{key}` has an effect only on routes to servers of {kinds}");
            rules.key(codes::NOT_HERE, &path, message, "remove it, or change the `upstream` of the route");
        }
    }
}
