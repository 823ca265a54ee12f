//! Why servers were chosen: the last choices from memory, or those of a time from the history.

use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::words::rounded;
use super::{Shared, Wish, range};
use crate::admin::State;
use crate::admin::problem::Problem;
use crate::admin::request::{Asked, limit};
use crate::admin::requests::server_of;
use crate::admin::store::{ask, now};
use crate::history::decisions::{Decided, Which};
use crate::ollama::name::canonical;
use crate::telemetry::access_log::moment;

/// Choices of an answer, unless another number is wanted, and the most that can be.
const DECISIONS: (usize, usize) = (100, 1000);

/// Why servers were chosen.
#[derive(Serialize, JsonSchema)]
pub struct Decisions {
    /// Always true.
    success: bool,
    /// How many these are.
    count: usize,
    /// The choices, the latest first.
    decisions: Vec<Decision>,
}

/// A choice.
#[derive(Debug, Serialize, JsonSchema)]
struct Decision {
    /// When, RFC 3339.
    at: String,
    /// The same as seconds ago.
    age: f64,
    /// For which upstream.
    upstream: String,
    /// For which model.
    model: String,
    /// Who was chosen; null when nobody could be.
    chosen: Option<String>,
    /// Who has the model, the best first.
    candidates: Vec<Candidate>,
}

/// A server that has the model; times are in seconds.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Candidate {
    /// Its name.
    server: String,
    /// `cold`, `loading` or `ready`.
    model_is: String,
    /// What the choice went by: the sum of the terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// For a slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<f64>,
    /// For the model to come into memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<f64>,
    /// For the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefill: Option<f64>,
    /// What others lose whose model is thrown out.
    #[serde(skip_serializing_if = "Option::is_none")]
    eviction: Option<f64>,
    /// What others lose who share the card.
    #[serde(skip_serializing_if = "Option::is_none")]
    crowding: Option<f64>,
    /// Because it is a bad moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    penalty: Option<f64>,
    /// Why it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    excluded: Option<String>,
}

pub(super) async fn decisions(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Decisions>, Problem> {
    let (upstream, server) = server_of(&state, wish.server_id.as_deref());
    let which = Which {
        limit: limit(wish.limit, DECISIONS)?,
        since: 0.0,
        upstream: upstream.or(wish.upstream),
        server,
        model: wish.model.as_deref().map(|model| canonical(model).into_owned()),
    };
    let present = now();
    let decided = match wish.time_range.as_deref() {
        None => remembered(&state, &which, present),
        Some(word) => {
            let which = Which { since: present - f64::from(range(word)?.seconds), ..which };
            ask(&state, move |history| history.decisions(&which)).await?
        }
    };
    let decisions: Vec<Decision> = decided.into_iter().map(|one| shown(one, present)).collect();
    Ok(Json(Decisions { success: true, count: decisions.len(), decisions }))
}

/// The choices that the schedulers remember themselves.
fn remembered(state: &State, which: &Which, present: f64) -> Vec<Decided> {
    let mut all = Vec::new();
    for upstream in &state.store.pin().upstreams {
        all.extend(upstream.dispatcher.decisions().into_iter().map(|one| Decided {
            at: present - one.age,
            upstream: upstream.name.clone(),
            model: one.model,
            server: one.chosen.unwrap_or_default(),
            candidates: json!(one.candidates),
        }));
    }
    let is = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
    all.retain(|one| {
        is(&which.upstream, &one.upstream) && is(&which.server, &one.server) && is(&which.model, &one.model)
    });
    all.sort_by(|one, other| other.at.total_cmp(&one.at));
    all.truncate(which.limit);
    all
}

fn shown(decided: Decided, present: f64) -> Decision {
    Decision {
        at: moment(decided.at),
        age: rounded(present - decided.at),
        upstream: decided.upstream,
        model: decided.model,
        chosen: Some(decided.server).filter(|name| !name.is_empty()),
        // Another Arriero may have told it in other words; then it is left out.
        candidates: serde_json::from_value(decided.candidates).unwrap_or_default(),
    }
}
