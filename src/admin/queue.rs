//! Who waits for a slot, a pause for all of them, and why servers were chosen.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::problem::Problem;
use super::request::{Asked, Wanted};
use crate::fleet::snapshot::Upstream;
use crate::ollama::name::canonical;

type Shared = Extract<Arc<State>>;
type Answer = Result<Json<Value>, Problem>;

/// Choices that are told unless more or fewer are wanted.
const DECISIONS: usize = 100;

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/queue", get(show))
        .route("/queue/pause", post(pause))
        .route("/queue/resume", post(resume))
        .route("/analytics/decisions", get(decisions))
}

/// Which upstream, all by default; why and who.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    upstream: Option<String>,
    reason: Option<String>,
    who: Option<String>,
}

/// What is wanted of the choices.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wish {
    limit: Option<usize>,
    model: Option<String>,
}

fn upstreams(state: &State, name: Option<&str>) -> Result<Vec<Arc<Upstream>>, Problem> {
    let all = state.store.pin();
    let wanted: Vec<_> =
        all.upstreams.iter().filter(|upstream| name.is_none_or(|name| upstream.name == name)).cloned().collect();
    match name {
        Some(name) if wanted.is_empty() => Err(Problem::not_found(format!("there is no upstream `{name}`"))),
        _ => Ok(wanted),
    }
}

fn picture(state: &State) -> Result<Value, Problem> {
    let mut waiting = 0;
    let mut paused = false;
    let mut shown = Vec::new();
    for upstream in upstreams(state, None)? {
        let models = upstream.queues();
        let here: usize = models.values().sum();
        waiting += here;
        paused |= upstream.dispatcher.is_paused();
        shown.push(json!({
            "upstream": upstream.name,
            "paused": upstream.dispatcher.is_paused(),
            "size": here,
            "maxPendingPerModel": upstream.schedule.max_pending,
            "timeoutSeconds": upstream.queue_timeout.as_secs_f64(),
            "byModel": models,
        }));
    }
    Ok(json!({ "success": true, "queue": waiting, "paused": paused, "upstreams": shown }))
}

async fn show(Extract(state): Shared) -> Answer {
    picture(&state).map(Json)
}

async fn pause(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Answer {
    order(&state, &words, true).await
}

async fn resume(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Answer {
    order(&state, &words, false).await
}

async fn order(state: &Arc<State>, words: &Words, pause: bool) -> Answer {
    for upstream in upstreams(state, words.upstream.as_deref())? {
        if upstream.dispatcher.is_paused() == pause {
            continue;
        }
        if pause {
            upstream.dispatcher.pause();
        } else {
            upstream.dispatcher.resume();
        }
        let (reason, who) = (words.reason.as_deref(), words.who.as_deref());
        tracing::info!(upstream = upstream.name, paused = pause, reason, who, "queue ordered");
    }
    let kept = state.keep().await;
    let mut picture = picture(state)?;
    picture["kept"] = json!(kept.kept);
    picture["warning"] = json!(kept.warning);
    Ok(Json(picture))
}

async fn decisions(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Answer {
    let model = wish.model.as_deref().map(canonical);
    let mut all = Vec::new();
    for upstream in upstreams(&state, None)? {
        let wanted = upstream.dispatcher.decisions().into_iter();
        let wanted = wanted.filter(|one| model.as_ref().is_none_or(|model| one.model == *model));
        all.extend(wanted.map(|one| (upstream.name.clone(), one)));
    }
    all.sort_by(|one, other| one.1.age.total_cmp(&other.1.age));
    all.truncate(wish.limit.unwrap_or(DECISIONS));
    let shown: Vec<Value> = all
        .into_iter()
        .map(|(upstream, one)| {
            let mut value = json!(one);
            value["upstream"] = upstream.into();
            value
        })
        .collect();
    Ok(Json(json!({ "success": true, "count": shown.len(), "decisions": shown })))
}
