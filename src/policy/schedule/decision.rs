//! The last choices with their terms, for whoever asks why.
//!
//! A ring whose entries are used again: noting a choice allocates nothing once the ring is full.

use super::residency::Residency;
use super::score::Terms;
use super::words::{ModelId, ServerId};

/// Choices that are remembered.
const KEPT: usize = 256;

/// A server that was looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which.
    pub server: ServerId,
    /// What the model was there.
    pub residency: Residency,
    /// What it would have cost; `None` where it was excluded.
    pub terms: Option<Terms>,
    /// Why it was excluded.
    pub excluded: Option<&'static str>,
}

/// A choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// When.
    pub at: f64,
    /// For which model.
    pub model: ModelId,
    /// Those that were looked at.
    pub candidates: Vec<Candidate>,
    /// Why those were not that have the model and are not among them: it is not in their memory.
    pub passed_over: Option<&'static str>,
    /// Who was chosen.
    pub chosen: Option<ServerId>,
}

impl Decision {
    /// Begins anew.
    pub(super) fn begin(&mut self, at: f64, model: ModelId) {
        self.at = at;
        self.model = model;
        self.candidates.clear();
        self.passed_over = None;
        self.chosen = None;
    }

    /// What a server would have cost.
    pub(super) fn total(&self, server: ServerId) -> Option<f64> {
        let candidate = self.candidates.iter().find(|candidate| candidate.server == server)?;
        candidate.terms.map(|terms| terms.total())
    }
}

/// The last choices.
#[derive(Debug, Default)]
pub struct Decisions {
    ring: Vec<Decision>,
    next: usize,
}

impl Decisions {
    /// Begins to note a choice.
    pub(super) fn begin(&mut self, at: f64, model: ModelId) -> &mut Decision {
        if self.ring.len() < KEPT {
            self.ring.push(Decision::default());
        }
        let place = self.next % KEPT;
        self.next = place + 1;
        let decision = &mut self.ring[place];
        decision.begin(at, model);
        decision
    }

    /// Notes a choice that was made already.
    pub(super) fn note(&mut self, decision: &Decision) {
        self.begin(decision.at, decision.model).clone_from(decision);
    }

    /// The last choice.
    #[must_use]
    pub fn last(&self) -> Option<&Decision> {
        self.ring.get(self.next.checked_sub(1)?)
    }

    /// All that are remembered, the last one first.
    pub fn iter(&self) -> impl Iterator<Item = &Decision> {
        let (later, earlier) = self.ring.split_at(self.next.min(self.ring.len()));
        later.iter().rev().chain(earlier.iter().rev())
    }
}
