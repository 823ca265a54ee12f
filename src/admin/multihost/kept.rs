//! Answers that are kept of an application's artifacts: views on the response cache by a part of their path.
//!
//! Any route may have them, below any prefix, so what counts are two segments in a row: `artifacts/ID`, or `conversations/ID` with
//! `artifacts` behind it.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::Shared;
use crate::admin::State;
use crate::admin::caches::{EntryView, answers, entry};
use crate::admin::openapi::{Done, about};
use crate::admin::problem::Problem;
use crate::admin::request::Named;
use crate::fleet::response_cache::{ResponseCache, View, uri_of};
use crate::policy::http_cache::key::Purge;

pub(super) fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route(
            "/artifacts/{id}/cache",
            get_with(artifact, about("getKeptArtifact", "What is kept of an artifact"))
                .delete_with(forget_artifact, about("forgetKeptArtifact", "Throw that away at all instances")),
        )
        .api_route(
            "/conversations/{id}/artifacts/cache",
            get_with(conversation, about("getKeptArtifacts", "What is kept of the artifacts of a conversation"))
                .delete_with(forget_conversation, about("forgetKeptArtifacts", "Throw that away at all instances")),
        )
}

/// What is wanted.
#[derive(Clone, Debug)]
enum Of {
    /// An artifact by its id.
    Artifact(String),
    /// The artifacts of a conversation.
    Conversation(String),
}

impl Of {
    /// Whether a URI is one of these.
    fn means(&self, uri: &str) -> bool {
        let path = uri.find("://").map_or(uri, |at| &uri[at + 3..]);
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match self {
            Self::Artifact(id) => segments.windows(2).any(|two| two == ["artifacts", id.as_str()]),
            Self::Conversation(id) => {
                let at = segments.windows(2).position(|two| two == ["conversations", id.as_str()]);
                at.is_some_and(|at| segments[at + 2..].contains(&"artifacts"))
            }
        }
    }
}

/// What is kept.
#[derive(Serialize, JsonSchema)]
struct KeptView {
    /// How many answers that are.
    count: usize,
    /// Each of them.
    data: Vec<EntryView>,
}

/// What was thrown away.
#[derive(Serialize, JsonSchema)]
struct ForgottenView {
    message: String,
    /// How many answers that were here; at other instances it is thrown away too.
    purged: usize,
}

async fn artifact(state: Extract<Arc<State>>, Named(id): Named<String>) -> Result<Done<KeptView>, Problem> {
    kept(state, Of::Artifact(id)).await
}

async fn conversation(state: Extract<Arc<State>>, Named(id): Named<String>) -> Result<Done<KeptView>, Problem> {
    kept(state, Of::Conversation(id)).await
}

async fn forget_artifact(state: Extract<Arc<State>>, Named(id): Named<String>) -> Result<Done<ForgottenView>, Problem> {
    forget(state, Of::Artifact(id)).await
}

async fn forget_conversation(
    state: Extract<Arc<State>>,
    Named(id): Named<String>,
) -> Result<Done<ForgottenView>, Problem> {
    forget(state, Of::Conversation(id)).await
}

type Found = Vec<(String, Arc<ResponseCache>, View)>;

/// All of it. It looks at everything that is kept, so it waits for no thread that serves requests.
fn find(stores: &[(String, Arc<ResponseCache>)], of: &Of) -> Found {
    let all = stores.iter().flat_map(|(route, store)| {
        let views = store.answers(&Purge::All).into_iter();
        views.map(move |view| (route.clone(), Arc::clone(store), view))
    });
    all.filter(|(_, _, view)| of.means(uri_of(&view.key))).collect()
}

fn stores(state: &State) -> Vec<(String, Arc<ResponseCache>)> {
    let snapshot = state.store.pin();
    answers(&snapshot.routes).map(|(route, cache)| (route.name.clone(), Arc::clone(&cache.store))).collect()
}

async fn kept(Extract(state): Shared, of: Of) -> Result<Done<KeptView>, Problem> {
    let stores = stores(&state);
    let looking = tokio::task::spawn_blocking(move || {
        find(&stores, &of).into_iter().filter_map(|(route, _, view)| entry(route, &view)).collect::<Vec<_>>()
    });
    let data = looking.await.map_err(Problem::internal)?;
    if data.is_empty() {
        return Err(Problem::not_found("nothing is kept of that: see `GET /api/orchestrator/caches/entries`"));
    }
    Ok(Done(KeptView { count: data.len(), data }))
}

async fn forget(Extract(state): Shared, of: Of) -> Result<Done<ForgottenView>, Problem> {
    let stores = stores(&state);
    let forgetting = tokio::task::spawn_blocking(move || {
        let mut purged = 0;
        for (_, store, view) in find(&stores, &of) {
            purged += store.purge(&Purge::Key(uri_of(&view.key).to_owned()));
        }
        purged
    });
    let purged = forgetting.await.map_err(Problem::internal)?;
    let message = format!("{purged} kept answers were thrown away");
    Ok(Done(ForgottenView { message, purged }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_found_by_their_place_in_the_path() {
        let one = Of::Artifact("a1".to_owned());
        assert!(one.means("http://a.test/api/artifacts/a1"));
        assert!(one.means("http://a.test/artifacts/a1/optimized?x=1"));
        for other in [
            "http://a.test/artifacts/a12",
            "http://a.test/artifacts",
            "http://a.test/x?artifacts/a1",
            "http://artifacts/a1",
        ] {
            assert!(!one.means(other), "{other}");
        }
        let all = Of::Conversation("c1".to_owned());
        assert!(all.means("http://a.test/api/conversations/c1/artifacts"));
        assert!(all.means("http://a.test/api/conversations/c1/artifacts/optimized"));
        assert!(!all.means("http://a.test/api/conversations/c1"));
        assert!(!all.means("http://a.test/api/conversations/c2/artifacts"));
    }
}
