//! What the configuration says about models and servers, as the scheduler wants it.

use std::sync::Arc;

use super::snapshot::{Member, Upstream};
use crate::ollama::ModelPattern;
use crate::policy::queue::Class;
use crate::policy::schedule::rules::{RuleBook, Rules};
use crate::policy::schedule::{ServerFacts, ServerId};

/// A rule for the models that match; servers by their index in the upstream.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Which models.
    pub models: ModelPattern,
    /// See [`Rules`].
    pub pinned: Vec<usize>,
    /// See [`Rules`].
    pub warm: Vec<usize>,
    /// See [`Rules`].
    pub only: Option<Vec<usize>>,
    /// See [`Rules`].
    pub never: Vec<usize>,
    /// See [`Rules`].
    pub min_warm: Option<u32>,
    /// See [`Rules`].
    pub max_warm: Option<u32>,
    /// See [`Rules`]; seconds.
    pub min_residency: Option<f64>,
    /// See [`Rules`]; seconds.
    pub idle_unload: Option<f64>,
    /// See [`Rules`].
    pub priority: Option<Class>,
}

/// The rules of an upstream.
pub struct Book {
    placements: Arc<[Placement]>,
    ids: Vec<ServerId>,
}

impl Book {
    /// The rules of an upstream whose servers have these ids.
    #[must_use]
    pub fn new(upstream: &Upstream, ids: &[ServerId]) -> Self {
        Self { placements: Arc::clone(&upstream.placements), ids: ids.to_vec() }
    }

    fn ids(&self, members: &[usize]) -> impl Iterator<Item = ServerId> {
        members.iter().filter_map(|member| self.ids.get(*member).copied())
    }
}

impl RuleBook for Book {
    /// Of several rules that match, the first one that says something about a point holds; lists add up.
    fn rules(&self, model: &str) -> Rules {
        let mut rules = Rules::default();
        let mut priority = None;
        let mut min_warm = None;
        for placement in self.placements.iter().filter(|placement| placement.models.matches(model)) {
            rules.pinned.extend(self.ids(&placement.pinned));
            rules.warm.extend(self.ids(&placement.warm));
            rules.never.extend(self.ids(&placement.never));
            if let (None, Some(only)) = (&rules.only, &placement.only) {
                rules.only = Some(self.ids(only).collect());
            }
            min_warm = min_warm.or(placement.min_warm);
            rules.max_warm = rules.max_warm.or(placement.max_warm);
            rules.min_residency = rules.min_residency.or(placement.min_residency);
            rules.idle_unload = rules.idle_unload.or(placement.idle_unload);
            priority = priority.or(placement.priority);
        }
        rules.min_warm = min_warm.unwrap_or(0);
        rules.priority = priority.unwrap_or_default();
        rules
    }
}

/// What the scheduler is told about a server.
#[must_use]
pub fn facts(member: &Member) -> ServerFacts {
    ServerFacts {
        name: format!("{} {}", member.state.name(), member.state.identity.url),
        max_in_flight: member.max_in_flight,
        max_in_flight_per_model: member.max_in_flight_per_model,
        max_loaded: member.max_loaded,
        memory: member.memory,
        weight: member.weight,
    }
}
