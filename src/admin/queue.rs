//! Who waits for a slot, and a pause for all of them.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::problem::Problem;
use super::request::Wanted;
use crate::fleet::snapshot::Upstream;

type Shared = Extract<Arc<State>>;
type Answer = Result<Json<Value>, Problem>;

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new().route("/queue", get(show)).route("/queue/pause", post(pause)).route("/queue/resume", post(resume))
}

/// Which upstream, all by default; why and who.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    upstream: Option<String>,
    reason: Option<String>,
    who: Option<String>,
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
    order(&state, &words, true)
}

async fn resume(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Answer {
    order(&state, &words, false)
}

fn order(state: &State, words: &Words, pause: bool) -> Answer {
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
    picture(state).map(Json)
}
