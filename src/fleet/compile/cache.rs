//! Compiles what a route keeps. What the route of the same name has kept so far goes on being kept.

use std::sync::Arc;

use http::HeaderName;

use super::{CompileError, Surroundings, error};
use crate::config::types::{self, OneOrMany};
use crate::fleet::embeddings_cache::EmbeddingsCache;
use crate::fleet::response_cache::ResponseCache;
use crate::fleet::shared_answers::{Share, Tier};
use crate::fleet::snapshot::{Cache, Cookies, Embeddings, Route, Snapshot};
use crate::policy::http_cache::key::Query;
use crate::policy::http_cache::storing::Rules;

/// The route of this name in the snapshot before.
fn known<'s>(route: &types::Route, before: Option<&'s Snapshot>) -> Option<&'s Route> {
    before?.routes.iter().find(|known| known.name == route.name).map(|route| &**route)
}

pub(super) fn embeddings(
    route: &types::Route,
    around: &Surroundings<'_>,
    before: Option<&Snapshot>,
) -> Option<Embeddings> {
    let wanted = route.embeddings_cache.as_ref()?;
    let known = known(route, before).and_then(|known| Some(Arc::clone(&known.embeddings.as_ref()?.store)));
    let new = || EmbeddingsCache::new(wanted.max_size.0, around.metrics.caches.of(&route.name), around.now);
    Some(Embeddings {
        store: known.unwrap_or_else(new),
        max_size: wanted.max_size.0,
        ttl: wanted.ttl.0,
        shared: wanted.scope == types::CacheScope::Shared,
        max_body: wanted.max_body.0,
    })
}

pub(super) fn answers(
    path: &str,
    route: &types::Route,
    around: &Surroundings<'_>,
    before: Option<&Snapshot>,
    tier: Option<&Arc<Tier>>,
) -> Result<Option<Cache>, CompileError> {
    let Some(wanted) = &route.cache else { return Ok(None) };
    let name = |key: &str, text: &String| {
        HeaderName::try_from(text.as_str()).map_err(|bad| error(format!("{path}.cache.{key}"), bad))
    };
    let max_object = wanted.max_object.0.min(ResponseCache::longest(wanted.max_size.0));
    // What was kept under other rules about who shares it, or came from elsewhere, is of no use.
    let kind = format!(
        "{:?}",
        (
            (&route.upstream, &route.rewrite, &route.headers.request),
            (wanted.scope, wanted.authorized, &wanted.cookies, &wanted.key, &wanted.tag_header)
        )
    );
    let known = known(route, before).and_then(|known| known.cache.as_ref()).filter(|known| known.kind == kind);
    let known = known.map(|known| Arc::clone(&known.store));
    let counters = || around.metrics.response_caches.of(&route.name);
    let cookies = match &wanted.cookies {
        OneOrMany::One(word) if word == "refuse" => Cookies::Refused,
        OneOrMany::One(word) if word == "ignore" => Cookies::Ignored,
        names => Cookies::Named(names.as_slice().to_vec()),
    };
    let query = match &wanted.key.query {
        OneOrMany::One(word) if word == "all" => Query::All,
        OneOrMany::One(word) if word == "none" => Query::None,
        names => Query::Named(names.as_slice().to_vec()),
    };
    let headers = wanted.key.headers.as_slice().iter().map(|text| name("key.headers", text));
    Ok(Some(Cache {
        store: known.unwrap_or_else(|| ResponseCache::new(wanted.max_size.0, max_object, counters())),
        max_size: wanted.max_size.0,
        max_object,
        rules: Rules {
            default_ttl: wanted.default_ttl.0,
            while_revalidate: wanted.stale_while_revalidate.0,
            if_error: wanted.stale_if_error.0,
            ignores_cookies: cookies == Cookies::Ignored,
            knows_cookies: cookies != Cookies::Refused,
        },
        shared: wanted.scope == types::CacheScope::Shared,
        authorized: wanted.authorized,
        cookies,
        query,
        headers: headers.collect::<Result<_, _>>()?,
        tag_header: name("tag_header", &wanted.tag_header)?,
        respect_client: wanted.respect_client,
        share: tier.filter(|_| wanted.cluster).map(|tier| Arc::new(Share::new(tier, &route.name, &kind))),
        kind,
    }))
}
