//! Why a server was chosen, in words for people and tools.

use schemars::JsonSchema;
use serde::Serialize;

use crate::policy::schedule::decision::Decision;
use crate::policy::schedule::residency::Residency;
use crate::policy::schedule::{Scheduler, ServerId};

/// A choice. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// How long ago it was.
    pub age: f64,
    /// For which model.
    pub model: String,
    /// Who was chosen; `None` when nobody could be.
    pub chosen: Option<String>,
    /// Who has the model, the best first.
    pub candidates: Vec<Considered>,
}

/// A server that has the model.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Considered {
    /// Its name.
    pub server: String,
    /// `cold`, `loading` or `ready`.
    pub model_is: &'static str,
    /// What the choice went by: the sum of the terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// For a slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<f64>,
    /// For the model to come into memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// For the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill: Option<f64>,
    /// What others lose whose model is thrown out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction: Option<f64>,
    /// What others lose who share the card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crowding: Option<f64>,
    /// Because it is a bad moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// Why it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded: Option<&'static str>,
}

impl Considered {
    /// A server that need not be looked at: it does not have the model in memory.
    fn passed_over(server: String, why: &'static str) -> Self {
        Self {
            server,
            model_is: Residency::Cold.as_str(),
            score: None,
            wait: None,
            load: None,
            prefill: None,
            eviction: None,
            crowding: None,
            penalty: None,
            excluded: Some(why),
        }
    }
}

/// Puts a decision into words.
#[must_use]
pub fn explain(scheduler: &Scheduler, decision: &Decision, now: f64) -> Explanation {
    let short = |seconds: f64| (seconds * 1e4).round() / 1e4;
    // The scheduler's name of a server has its URL behind it.
    let name = |server| scheduler.server_name(server).split(' ').next().unwrap_or_default().to_owned();
    let mut candidates: Vec<Considered> = decision
        .candidates
        .iter()
        .map(|candidate| {
            let terms = candidate.terms;
            Considered {
                server: name(candidate.server),
                model_is: candidate.residency.as_str(),
                score: terms.map(|terms| short(terms.total())),
                wait: terms.map(|terms| short(terms.wait)),
                load: terms.map(|terms| short(terms.load)),
                prefill: terms.map(|terms| short(terms.prefill)),
                eviction: terms.map(|terms| short(terms.eviction)),
                crowding: terms.map(|terms| short(terms.crowding)),
                penalty: terms.map(|terms| short(terms.penalty)),
                excluded: candidate.excluded,
            }
        })
        .collect();
    if let Some(why) = decision.passed_over {
        let looked_at = |server: &ServerId| decision.candidates.iter().any(|one| one.server == *server);
        let rest = scheduler.holders(decision.model).filter(|server| !looked_at(server));
        candidates.extend(rest.map(|server| Considered::passed_over(name(server), why)));
    }
    candidates.sort_by(|one, other| {
        let score = |candidate: &Considered| candidate.score.unwrap_or(f64::INFINITY);
        score(one).total_cmp(&score(other))
    });
    Explanation {
        age: short(now - decision.at),
        model: scheduler.model_name(decision.model).to_owned(),
        chosen: decision.chosen.map(name),
        candidates,
    }
}
