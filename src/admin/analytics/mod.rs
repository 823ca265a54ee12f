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

use axum::Router;
use axum::extract::State as Extract;
use axum::routing::get;
use serde::Deserialize;

use super::State;
use super::problem::Problem;
use super::request::one_of;
use super::requests::server_of;
use super::store::{ask, now};
use crate::history::sums::{Among, Line, RANGES, Range, Totals, Window};
use crate::ollama::name::canonical;
use words::Time;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/analytics/summary", get(performance::summary))
        .route("/analytics/server-performance", get(performance::servers))
        .route("/analytics/top-models", get(performance::models))
        .route("/analytics/errors", get(errors::errors))
        .route("/analytics/capacity", get(capacity::capacity))
        .route("/analytics/trends/{metric}", get(timeline::trend))
        .route("/analytics/requests", get(timeline::requests))
        .route("/analytics/decisions", get(decisions::decisions))
}

/// Which time, and which requests of it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Wish {
    time_range: Option<String>,
    server_id: Option<String>,
    upstream: Option<String>,
    model: Option<String>,
    limit: Option<usize>,
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
