//! Who waits for a slot, and a pause for all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::Wanted;
use super::{Kept, State};
use crate::fleet::snapshot::Upstream;

type Shared = Extract<Arc<State>>;
type Ordered = Result<Done<OrderedQueue>, Problem>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/queue", get_with(show, about("getQueue", "Who waits for a slot")))
        .api_route("/queue/pause", post_with(pause, about("pauseQueue", "Let nobody begin")))
        .api_route("/queue/resume", post_with(resume, about("resumeQueue", "Let requests begin again")))
}

/// Which upstream, all by default; why and who.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "QueueOrder")]
struct Words {
    /// Its queues only; those of all upstreams by default.
    upstream: Option<String>,
    /// Why; 200 characters are kept.
    reason: Option<String>,
    /// Who decided it.
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

/// The queues of one upstream.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UpstreamQueue {
    upstream: String,
    paused: bool,
    /// Who waits, all models together.
    size: usize,
    /// How many may wait for one model.
    max_pending_per_model: usize,
    /// How long they may.
    timeout_seconds: f64,
    by_model: BTreeMap<String, usize>,
}

/// All queues.
#[derive(Serialize, JsonSchema)]
struct QueueView {
    /// Who waits, all together.
    queue: usize,
    /// One of them is paused.
    paused: bool,
    upstreams: Vec<UpstreamQueue>,
}

/// All queues, after an order.
#[derive(Serialize, JsonSchema)]
struct OrderedQueue {
    #[serde(flatten)]
    queue: QueueView,
    #[serde(flatten)]
    kept: Kept,
}

fn picture(state: &State) -> Result<QueueView, Problem> {
    let queues = upstreams(state, None)?.into_iter().map(|upstream| {
        let by_model = upstream.queues();
        UpstreamQueue {
            upstream: upstream.name.clone(),
            paused: upstream.dispatcher.is_paused(),
            size: by_model.values().sum(),
            max_pending_per_model: upstream.schedule.max_pending,
            timeout_seconds: upstream.queue_timeout.as_secs_f64(),
            by_model,
        }
    });
    let upstreams: Vec<UpstreamQueue> = queues.collect();
    Ok(QueueView {
        queue: upstreams.iter().map(|queue| queue.size).sum(),
        paused: upstreams.iter().any(|queue| queue.paused),
        upstreams,
    })
}

async fn show(Extract(state): Shared) -> Result<Done<QueueView>, Problem> {
    picture(&state).map(Done)
}

async fn pause(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Ordered {
    order(&state, &words, true).await
}

async fn resume(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Ordered {
    order(&state, &words, false).await
}

async fn order(state: &Arc<State>, words: &Words, pause: bool) -> Ordered {
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
    Ok(Done(OrderedQueue { queue: picture(state)?, kept }))
}
