//! What routes keep of the answers of their servers: how full it is, how often it helps, what there is, and how to throw it
//! away.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::{Asked, Wanted, limit, one_of};
use crate::clock;
use crate::fleet::embeddings_cache::EmbeddingsCache;
use crate::fleet::response_cache::{ResponseCache, View, uri_of};
use crate::fleet::snapshot::{Cache, Embeddings, Route};
use crate::ollama::name::canonical;
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::key::Purge;

type Shared = Extract<Arc<State>>;

/// Answers that are told, usually and at most.
const TOLD: (usize, usize) = (100, 10_000);

/// What caches keep, as the API says it.
const KINDS: [&str; 2] = [EMBEDDINGS, ANSWERS];
const EMBEDDINGS: &str = "embeddings";
const ANSWERS: &str = "answers";

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route(
            "/caches",
            get_with(list, about("listCaches", "What routes keep of answers, and how often it helps")),
        )
        .api_route("/caches/entries", get_with(entries, about("listCacheEntries", "Answers that routes keep")))
        .api_route("/caches/purge", post_with(purge, about("purgeCaches", "Throw away what routes keep of answers")))
}

/// A cache of a route.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CacheView {
    /// Name of its route.
    route: String,
    /// What it keeps: `embeddings` or `answers`.
    kind: &'static str,
    /// How many of them.
    entries: usize,
    /// Bytes that they take.
    bytes: u64,
    /// Bytes that they may take.
    max_bytes: u64,
    /// How long an embedding is kept; how long an answer is that says nothing of it.
    ttl_seconds: f64,
    /// `key` or `shared`.
    scope: &'static str,
    /// Inputs, or requests, that were known, or that another request was asking for, since the start.
    hits: u64,
    /// Those that a server was asked for.
    misses: u64,
    /// Hits as a share of all; null before the first.
    hit_rate: Option<f64>,
    /// Requests that went past it, since the start.
    bypassed: u64,
}

/// All of them.
#[derive(Serialize, JsonSchema)]
struct CacheList {
    count: usize,
    caches: Vec<CacheView>,
}

/// What is thrown away: everything, or what is kept by a route, of a model, or of answers by one of their names.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PurgeOrder")]
struct Words {
    /// Name of a route.
    route: Option<String>,
    /// What is kept: `embeddings` or `answers`; both by default.
    kind: Option<String>,
    /// A model, by any of its names: embeddings of it.
    model: Option<String>,
    /// A URI such as `https://example.com/a?b`: answers to it. One that begins with `/` means each host.
    key: Option<String>,
    /// How URIs begin: answers to them.
    prefix: Option<String>,
    /// What servers call answers in the field `tag_header`.
    tag: Option<String>,
    who: Option<String>,
}

/// Which answers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "CacheEntriesQuery")]
struct Which {
    /// Name of a route.
    route: Option<String>,
    /// A URI, as in a purge.
    key: Option<String>,
    /// How URIs begin.
    prefix: Option<String>,
    /// What servers call them.
    tag: Option<String>,
    /// How many are told, 100 by default and 10000 at most: those that were given most often.
    limit: Option<usize>,
}

/// What was thrown away.
#[derive(Serialize, JsonSchema)]
struct PurgedView {
    /// How many embeddings and answers.
    purged: usize,
    caches: Vec<PurgedCache>,
}

/// What was thrown away of a route.
#[derive(Serialize, JsonSchema)]
struct PurgedCache {
    route: String,
    /// `embeddings` or `answers`.
    kind: &'static str,
    purged: usize,
}

/// An answer that is kept.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntryView {
    /// Name of its route.
    route: String,
    /// Under which it is kept.
    key: String,
    /// Where clients find it.
    uri: String,
    status: u16,
    content_type: Option<String>,
    /// Bytes of its body as it is sent.
    length: u64,
    /// Bytes that it takes.
    bytes: usize,
    /// How old it is.
    age_seconds: u64,
    /// For how long it is fresh; how long it has not been, as a negative number.
    ttl_seconds: i64,
    tags: Vec<String>,
    /// Fields of requests by which it varies.
    vary: Vec<String>,
    etag: Option<String>,
    /// How often it was given.
    hits: u64,
}

/// Answers that are kept.
#[derive(Serialize, JsonSchema)]
struct EntryList {
    /// How many there are, told or not.
    count: usize,
    entries: Vec<EntryView>,
}

/// Hits as a share of all; `None` before the first.
pub(super) fn share(hits: u64, misses: u64) -> Option<f64> {
    let all = hits + misses;
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = |part: u64| part as f64 / all as f64;
    (all > 0).then(|| share(hits))
}

fn scope(shared: bool) -> &'static str {
    if shared { "shared" } else { "key" }
}

fn of_embeddings((route, cache): (&Route, &Embeddings)) -> CacheView {
    let figures = cache.store.figures();
    CacheView {
        route: route.name.clone(),
        kind: EMBEDDINGS,
        entries: figures.entries,
        bytes: figures.bytes,
        max_bytes: figures.max_bytes,
        ttl_seconds: cache.ttl.as_secs_f64(),
        scope: scope(cache.shared),
        hits: figures.hits,
        misses: figures.misses,
        hit_rate: share(figures.hits, figures.misses),
        bypassed: figures.bypassed,
    }
}

fn of_answers((route, cache): (&Route, &Cache)) -> CacheView {
    let figures = cache.store.figures();
    CacheView {
        route: route.name.clone(),
        kind: ANSWERS,
        entries: figures.entries,
        bytes: figures.bytes,
        max_bytes: figures.max_bytes,
        ttl_seconds: cache.rules.default_ttl.as_secs_f64(),
        scope: scope(cache.shared),
        hits: figures.hits,
        misses: figures.misses,
        hit_rate: share(figures.hits, figures.misses),
        bypassed: figures.bypassed,
    }
}

pub(super) fn embeddings(routes: &[Arc<Route>]) -> impl Iterator<Item = (&Route, &Embeddings)> {
    routes.iter().filter_map(|route| Some((&**route, route.embeddings.as_ref()?)))
}

pub(super) fn answers(routes: &[Arc<Route>]) -> impl Iterator<Item = (&Route, &Cache)> {
    routes.iter().filter_map(|route| Some((&**route, route.cache.as_ref()?)))
}

async fn list(Extract(state): Shared) -> Done<CacheList> {
    let routes = &state.store.pin().routes;
    let caches: Vec<CacheView> = embeddings(routes).map(of_embeddings).chain(answers(routes).map(of_answers)).collect();
    Done(CacheList { count: caches.len(), caches })
}

/// Which answers are meant; all where none is named.
fn meant(key: Option<&str>, prefix: Option<&str>, tag: Option<&str>) -> Result<Purge, Problem> {
    let named = [key.map(|key| Purge::Key(key.to_owned())), prefix.map(|prefix| Purge::Prefix(prefix.to_owned()))];
    let mut named = named.into_iter().chain([tag.map(|tag| Purge::Tag(tag.to_owned()))]).flatten();
    match (named.next(), named.next()) {
        (None, _) => Ok(Purge::All),
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Problem::bad_request("give one of `key`, `prefix` and `tag`")),
    }
}

/// A cache that is purged, and of what.
enum Purging {
    Embeddings(Arc<EmbeddingsCache>, Option<String>),
    Answers(Arc<ResponseCache>, Purge),
}

impl Purging {
    fn run(&self) -> (&'static str, usize) {
        match self {
            Self::Embeddings(store, model) => (EMBEDDINGS, store.purge(model.as_deref())),
            Self::Answers(store, purge) => (ANSWERS, store.purge(purge)),
        }
    }
}

async fn purge(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Result<Done<PurgedView>, Problem> {
    let snapshot = state.store.pin();
    let model = words.model.as_deref().map(|model| canonical(model).into_owned());
    let purge = meant(words.key.as_deref(), words.prefix.as_deref(), words.tag.as_deref())?;
    let kind = words.kind.as_deref().map(|word| one_of("kind", word, &KINDS.map(|kind| (kind, kind)))).transpose()?;
    let embeddings_alone = model.is_some() || kind == Some(EMBEDDINGS);
    let answers_alone = purge != Purge::All || kind == Some(ANSWERS);
    if embeddings_alone && answers_alone {
        return Err(Problem::bad_request(
            "`model` is about embeddings, and `key`, `prefix` and `tag` are about answers",
        ));
    }
    let is_meant = |route: &Route| words.route.as_ref().is_none_or(|name| route.name == *name);
    let mut all: Vec<(String, Purging)> = Vec::new();
    if !answers_alone {
        let stores = embeddings(&snapshot.routes).filter(|(route, _)| is_meant(route));
        all.extend(
            stores.map(|(route, cache)| {
                (route.name.clone(), Purging::Embeddings(Arc::clone(&cache.store), model.clone()))
            }),
        );
    }
    if !embeddings_alone {
        let stores = answers(&snapshot.routes).filter(|(route, _)| is_meant(route));
        all.extend(
            stores
                .map(|(route, cache)| (route.name.clone(), Purging::Answers(Arc::clone(&cache.store), purge.clone()))),
        );
    }
    if let Some(route) = words.route.as_ref().filter(|_| all.is_empty()) {
        return Err(Problem::not_found(format!("there is no route `{route}` that keeps answers")));
    }
    // It looks at everything that is kept.
    let purging = tokio::task::spawn_blocking(move || {
        let purge = |(route, store): (String, Purging)| {
            let (kind, purged) = store.run();
            PurgedCache { route, kind, purged }
        };
        all.into_iter().map(purge).collect::<Vec<_>>()
    });
    let caches = purging.await.map_err(Problem::internal)?;
    let purged = caches.iter().map(|cache| cache.purged).sum();
    let (route, who) = (words.route.as_deref(), words.who.as_deref());
    let (key, prefix, tag) = (words.key.as_deref(), words.prefix.as_deref(), words.tag.as_deref());
    tracing::info!(route, kind, model, key, prefix, tag, who, purged, "caches purged");
    Ok(Done(PurgedView { purged, caches }))
}

async fn entries(Extract(state): Shared, Asked(which): Asked<Which>) -> Result<Done<EntryList>, Problem> {
    let most = limit(which.limit, TOLD)?;
    let of = meant(which.key.as_deref(), which.prefix.as_deref(), which.tag.as_deref())?;
    let snapshot = state.store.pin();
    let stores: Vec<(String, Arc<ResponseCache>)> = answers(&snapshot.routes)
        .filter(|(route, _)| which.route.as_ref().is_none_or(|name| route.name == *name))
        .map(|(route, cache)| (route.name.clone(), Arc::clone(&cache.store)))
        .collect();
    if let Some(route) = which.route.as_ref().filter(|_| stores.is_empty()) {
        return Err(Problem::not_found(format!("there is no route `{route}` with `cache`")));
    }
    let looking = tokio::task::spawn_blocking(move || {
        let mut all: Vec<(String, View)> = Vec::new();
        for (route, store) in &stores {
            all.extend(store.answers(&of).into_iter().map(|view| (route.clone(), view)));
        }
        let count = all.len();
        all.sort_by(|(_, a), (_, b)| b.stored.uses().cmp(&a.stored.uses()).then_with(|| a.key.cmp(&b.key)));
        let entries = all.into_iter().take(most).filter_map(|(route, view)| entry(route, &view)).collect();
        EntryList { count, entries }
    });
    Ok(Done(looking.await.map_err(Problem::internal)?))
}

/// An answer; `None` where its bytes are damaged.
pub(super) fn entry(route: String, view: &View) -> Option<EntryView> {
    let kept = Kept::decode(&view.stored.bytes).ok()?;
    let now = u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX);
    let field =
        |name| kept.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).map(str::to_owned);
    Some(EntryView {
        route,
        uri: uri_of(&view.key).to_owned(),
        key: view.key.clone(),
        status: kept.status.as_u16(),
        content_type: field(http::header::CONTENT_TYPE),
        length: kept.length,
        bytes: view.stored.bytes.len(),
        age_seconds: kept.life.age(now) / 1000,
        ttl_seconds: kept.life.ttl(now),
        vary: kept.vary.iter().map(|name| name.as_str().to_owned()).collect(),
        etag: field(http::header::ETAG),
        tags: kept.tags,
        hits: view.stored.uses(),
    })
}
