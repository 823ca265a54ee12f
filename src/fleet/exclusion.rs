//! Why a server may not have a request, in one word.
//!
//! # Problem
//! A server is passed over for many reasons, and whoever looks at a refused request wants to know which. All of them
//! are asked here, in one order, by every way to a server.
//!
//! # Order
//! What is certain comes first: the server is down, an operator took it out, it is banned, its driver gave up a card. Then
//! what is a judgement: its circuit, or that of the model on it, or what its GPU looks like. Judgements are soft: when too many servers fall under them they are not
//! followed ([`super::ejection`]).
//!
//! # Cost
//! For a server that is well, one atomic load for each reason; no lock, no allocation.

use std::time::Instant;

use super::operation::Standing;
use super::server::ServerState;
use crate::policy::gpu::verdict as gpu;

/// Why a server may not have a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exclusion {
    /// Its probes fail.
    Down,
    /// It finishes what it has.
    Draining,
    /// An operator works on it.
    Maintenance,
    /// It, the model, or the model on it is banned.
    Banned,
    /// An operator holds its circuit open.
    CircuitHeld,
    /// Its GPU cannot work.
    GpuFailed,
    /// Its circuit lets nothing pass.
    CircuitOpen,
    /// The circuit of the model on it lets nothing pass.
    ModelCircuitOpen,
    /// Its GPU is too ill for new requests.
    GpuDraining,
}

impl Exclusion {
    /// Every reason, in the order in which they are asked.
    pub const ALL: [Self; 9] = [
        Self::Down,
        Self::Draining,
        Self::Maintenance,
        Self::Banned,
        Self::CircuitHeld,
        Self::GpuFailed,
        Self::CircuitOpen,
        Self::ModelCircuitOpen,
        Self::GpuDraining,
    ];

    /// The word for logs, metrics and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Banned => "banned",
            Self::CircuitHeld => "circuit_held_open",
            Self::GpuFailed => "gpu_failed",
            Self::CircuitOpen => "circuit_open",
            Self::ModelCircuitOpen => "model_circuit_open",
            Self::GpuDraining => "gpu_draining",
        }
    }

    /// Whether it is a judgement that is not followed when it falls on too many.
    #[must_use]
    pub const fn is_soft(self) -> bool {
        matches!(self, Self::CircuitOpen | Self::ModelCircuitOpen | Self::GpuDraining)
    }
}

impl ServerState {
    /// Why it may not have a request, for `model` where it names one; `None` when it may.
    pub fn exclusion(&self, model: Option<&str>, now: Instant) -> Option<Exclusion> {
        match self.standing(now) {
            Standing::Active => {}
            Standing::Draining => return Some(Exclusion::Draining),
            Standing::Maintenance => return Some(Exclusion::Maintenance),
        }
        if !self.is_up() {
            Some(Exclusion::Down)
        } else if self.circuit_is_held(now) {
            Some(Exclusion::CircuitHeld)
        } else if self.bans.forbids(self.name(), model, now) {
            Some(Exclusion::Banned)
        } else {
            let gpu = self.gpu.state();
            if gpu == gpu::State::Failed {
                return Some(Exclusion::GpuFailed);
            }
            let circuits = self.circuits.exclusion(model, now);
            circuits.or_else(|| (gpu == gpu::State::Draining).then_some(Exclusion::GpuDraining))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_distinct_and_only_judgements_are_soft() {
        let words: std::collections::BTreeSet<&str> = Exclusion::ALL.iter().map(|one| one.as_str()).collect();
        assert_eq!(words.len(), Exclusion::ALL.len());
        for one in Exclusion::ALL {
            let judgement = ["circuit_open", "gpu_draining"].iter().any(|word| one.as_str().contains(word));
            assert_eq!(one.is_soft(), judgement);
        }
    }
}
