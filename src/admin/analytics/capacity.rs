//! How full it is, now and over a time. What will be is not told: nobody has counted that.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::words::{Time, mean, rounded};
use super::{Shared, Wish, sums};
use crate::admin::problem::Problem;
use crate::admin::request::Asked;
use crate::fleet::snapshot::Upstream;
use crate::history::sums::{Line, Totals};
use crate::policy::failure::Reason;

/// Requests that had to go because there was no room for them.
const NO_ROOM: [Reason; 4] = [Reason::ServerBusy, Reason::QueueFull, Reason::QueueTimeout, Reason::NotLoaded];
/// Steps that a time is looked at in.
const STEPS: u32 = 60;

/// How full it is.
#[derive(Serialize, JsonSchema)]
pub struct Capacity {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    time: Time,
    /// The upstreams in the order of the file.
    upstreams: Vec<OfUpstream>,
}

/// How full an upstream is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OfUpstream {
    /// Its name.
    upstream: String,
    /// Its servers.
    servers: usize,
    /// Those of them that are up.
    healthy: usize,
    /// Now.
    current: Now,
    /// Over the time.
    used: Used,
}

/// How full it is now.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Now {
    /// Requests that run.
    in_flight: u64,
    /// Requests that may run at a time; null where a server has no such number.
    max_in_flight: Option<u64>,
    /// Requests that wait for a slot.
    queued: usize,
    /// Requests that may wait for one model.
    max_pending_per_model: usize,
    /// How much of `maxInFlight` is used, from 0 to 1; null where that is not known.
    utilization: Option<f64>,
}

/// How full it was.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Used {
    /// Requests that ran at a time on average.
    avg_in_flight: f64,
    /// The same in the fullest of the steps that the time is cut into; requests count in the step in which they ended.
    peak_in_flight: f64,
    /// Seconds of a step.
    step_seconds: i64,
    /// How much of `maxInFlight` was used on average, from 0 to 1; null where that is not known.
    utilization: Option<f64>,
    /// Milliseconds that a request waited for a slot on average; null without requests.
    avg_queue_ms: Option<f64>,
    /// Requests that were refused because there was no room.
    refused: u64,
}

pub(super) async fn capacity(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Capacity>, Problem> {
    let asked = sums(&state, &wish, "1h").await?;
    let (seconds, step) = (asked.seconds(), asked.window.step(STEPS));
    let snapshot = state.store.pin();
    let wanted = snapshot
        .upstreams
        .iter()
        .filter(|upstream| asked.among.upstream.as_ref().is_none_or(|wanted| *wanted == upstream.name));
    let upstreams = wanted
        .map(|upstream| {
            let lines: Vec<&Line> = asked.lines.iter().filter(|line| line.upstream == upstream.name).collect();
            of_upstream(upstream, &lines, seconds, step)
        })
        .collect();
    Ok(Json(Capacity { success: true, time: asked.time, upstreams }))
}

fn of_upstream(upstream: &Upstream, lines: &[&Line], seconds: f64, step_seconds: i64) -> OfUpstream {
    let limits = upstream.servers.iter().map(|member| member.max_in_flight);
    let max_in_flight =
        limits.map(|most| (most != u32::MAX).then(|| u64::from(most))).sum::<Option<u64>>().filter(|most| *most > 0);
    let part = |used: f64| {
        #[expect(clippy::cast_precision_loss, reason = "a few servers")]
        max_in_flight.map(|most| rounded(used / most as f64))
    };
    let in_flight = upstream.in_flight();
    let mut total = Totals::default();
    let mut steps: HashMap<i64, f64> = HashMap::new();
    for line in lines {
        total.add(&line.totals);
        *steps.entry(line.start.div_euclid(step_seconds)).or_default() += line.totals.duration_ms;
    }
    let refused = lines.iter().filter(|line| NO_ROOM.iter().any(|reason| reason.as_str() == line.reason));
    let average = total.duration_ms / 1000.0 / seconds;
    #[expect(clippy::cast_precision_loss, reason = "at most a month")]
    let peak = steps.values().fold(0.0, |most: f64, took| most.max(took / 1000.0 / step_seconds as f64));
    OfUpstream {
        upstream: upstream.name.clone(),
        servers: upstream.servers.len(),
        healthy: upstream.servers.iter().filter(|member| member.state.is_up()).count(),
        current: Now {
            in_flight,
            max_in_flight,
            queued: upstream.waiting(),
            max_pending_per_model: upstream.schedule.max_pending,
            utilization: part(super::words::real(in_flight)),
        },
        used: Used {
            avg_in_flight: rounded(average),
            peak_in_flight: rounded(peak),
            step_seconds,
            utilization: part(average),
            avg_queue_ms: mean(total.queue_ms, total.requests),
            refused: refused.map(|line| line.totals.requests).sum(),
        },
    }
}
