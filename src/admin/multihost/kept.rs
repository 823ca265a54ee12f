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
use crate::fleet::response_cache::ResponseCache;
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

/// The answers whose path has an artifact.
fn of_artifact(id: String) -> Purge {
    Purge::Segments(vec![vec!["artifacts".to_owned(), id]])
}

/// The answers whose path has the artifacts of a conversation.
fn of_conversation(id: String) -> Purge {
    Purge::Segments(vec![vec!["conversations".to_owned(), id], vec!["artifacts".to_owned()]])
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
    kept(state, of_artifact(id)).await
}

async fn conversation(state: Extract<Arc<State>>, Named(id): Named<String>) -> Result<Done<KeptView>, Problem> {
    kept(state, of_conversation(id)).await
}

async fn forget_artifact(state: Extract<Arc<State>>, Named(id): Named<String>) -> Result<Done<ForgottenView>, Problem> {
    forget(state, of_artifact(id)).await
}

async fn forget_conversation(
    state: Extract<Arc<State>>,
    Named(id): Named<String>,
) -> Result<Done<ForgottenView>, Problem> {
    forget(state, of_conversation(id)).await
}

fn stores(state: &State) -> Vec<(String, Arc<ResponseCache>)> {
    let snapshot = state.store.pin();
    answers(&snapshot.routes).map(|(route, cache)| (route.name.clone(), Arc::clone(&cache.store))).collect()
}

/// All of it. It looks at everything that is kept, so it waits for no thread that serves requests.
async fn kept(Extract(state): Shared, of: Purge) -> Result<Done<KeptView>, Problem> {
    let stores = stores(&state);
    let looking = tokio::task::spawn_blocking(move || {
        let all =
            stores.iter().flat_map(|(route, store)| store.answers(&of).into_iter().map(move |view| (route, view)));
        all.filter_map(|(route, view)| entry(route.clone(), &view)).collect::<Vec<_>>()
    });
    let data = looking.await.map_err(Problem::internal)?;
    if data.is_empty() {
        return Err(Problem::not_found("nothing is kept of that: see `GET /api/orchestrator/caches/entries`"));
    }
    Ok(Done(KeptView { count: data.len(), data }))
}

/// Throws it away, whether any of it is here or at other instances only.
async fn forget(Extract(state): Shared, of: Purge) -> Result<Done<ForgottenView>, Problem> {
    let stores = stores(&state);
    let forgetting =
        tokio::task::spawn_blocking(move || stores.iter().map(|(_, store)| store.purge(&of)).sum::<usize>());
    let purged = forgetting.await.map_err(Problem::internal)?;
    let message = format!("{purged} kept answers were thrown away");
    Ok(Done(ForgottenView { message, purged }))
}
