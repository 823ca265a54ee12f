//! What the numbers of a time say: which server is how good, what fails, who is asked for most, how full it is.
//!
//! Every number is counted or measured, none is a guess. All are made of the history's sums, so every request counts,
//! however many there were; each answer says from when to when it is. Percentiles are at most 4.5 % off.

mod capacity;
mod decisions;
mod errors;
mod performance;
mod timeline;
mod words;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Deserialize;

use super::State;
use super::openapi::about;
use super::problem::Problem;
use super::request::one_of;
use super::requests::server_of;
use super::store::{ask, now};
use crate::history::sums::{Among, Line, RANGES, Range, Totals, Window};
use crate::ollama::name::canonical;
use words::Time;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route(
            "/analytics/summary",
            get_with(performance::summary, about("getSummary", "What happened, in a few numbers")),
        )
        .api_route(
            "/analytics/server-performance",
            get_with(performance::servers, about("getServerPerformance", "How each server did")),
        )
        .api_route(
            "/analytics/top-models",
            get_with(performance::models, about("getTopModels", "Which models were asked for most")),
        )
        .api_route("/analytics/errors", get_with(errors::errors, about("getErrors", "What failed, and where")))
        .api_route("/analytics/capacity", get_with(capacity::capacity, about("getCapacity", "How much room there is")))
        .api_route(
            "/analytics/trends/{metric}",
            get_with(timeline::trend, about("getTrend", "Where latency, errors or throughput are going")),
        )
        .api_route("/analytics/requests", get_with(timeline::requests, about("getTimeline", "Requests over time")))
        .api_route(
            "/analytics/decisions",
            get_with(decisions::decisions, about("listDecisions", "Why servers were chosen")),
        )
}

/// Which time, and which requests of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Wish {
    /// How far back: `1m`, `5m`, `15m`, `1h`, `6h`, `24h`, `7d` or `30d`.
    time_range: Option<String>,
    /// Only requests whose last attempt was at this server, by its name or as `UPSTREAM/NAME`.
    server_id: Option<String>,
    /// Only requests to this upstream.
    upstream: Option<String>,
    /// Only requests for this model.
    model: Option<String>,
    /// Most entries of a list, where there is one; 1,000 at most.
    limit: Option<usize>,
    /// With the latest single requests, where there is such a list.
    include_recent: Option<bool>,
}

/// The sums of a time.
struct Asked {
    time: Time,
    window: Window,
    among: Among,
    lines: Vec<Line>,
}

fn range(word: &str) -> Result<Range, Problem> {
    one_of("timeRange", word, &RANGES.map(|range| (range.word, range)))
}

/// Asks for the sums that are wanted, of `usual` when no time is named.
async fn sums(state: &State, wish: &Wish, usual: &str) -> Result<Asked, Problem> {
    if state.history.settings().aggregates.is_zero() {
        return Err(Problem::conflict("no sums are kept: `history.aggregates` is `0s`"));
    }
    let range = range(wish.time_range.as_deref().unwrap_or(usual))?;
    let window = range.window(now(), &state.history.settings());
    let (upstream, server) = server_of(state, wish.server_id.as_deref());
    let among = Among {
        upstream: upstream.or_else(|| wish.upstream.clone()),
        server,
        model: wish.model.as_deref().map(|model| canonical(model).into_owned()),
    };
    let asked = among.clone();
    let lines = ask(state, move |history| history.sums(&window, &asked)).await?;
    Ok(Asked { time: Time::of(range, &window), window, among, lines })
}

impl Asked {
    /// All of them together.
    fn total(&self) -> Totals {
        let mut total = Totals::default();
        self.lines.iter().for_each(|line| total.add(&line.totals));
        total
    }

    /// Those that have something in common, together.
    fn group<K: Eq + Hash>(&self, of: impl Fn(&Line) -> Option<K>) -> HashMap<K, Totals> {
        let mut groups: HashMap<K, Totals> = HashMap::new();
        for line in &self.lines {
            if let Some(key) = of(line) {
                groups.entry(key).or_default().add(&line.totals);
            }
        }
        groups
    }

    fn seconds(&self) -> f64 {
        self.window.seconds()
    }
}
