//! What a request holds of its server's circuits, from the choice to the verdict.
//!
//! # Invariants
//! - A permit that is dropped without a verdict makes room for the next trial: a client that leaves at any moment leaks
//!   nothing.
//! - A verdict reaches each circuit at most once, and only those that it is about.

use std::sync::Arc;
use std::time::Instant;

use super::circuits::{CircuitOrder, CircuitView, Guarded};
use super::server::ServerState;
use crate::policy::circuit::{Outcome, Pass, State, Transition};
use crate::policy::failure::Blame;
use crate::policy::notification::Kind;

/// Permission to send one request to a server.
pub struct Permit {
    server: Arc<ServerState>,
    /// `None` when the circuit was not asked.
    own: Option<Pass>,
    model: Option<(Arc<Guarded>, Pass)>,
    since: Instant,
}

/// How a request ended, as far as circuits are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// Good or bad.
    pub outcome: Outcome,
    /// Whose doing.
    pub blame: Blame,
    /// The model, where its server has a circuit for each.
    pub model: Option<&'a str>,
    /// Why, for the log.
    pub reason: &'static str,
    /// The present.
    pub now: Instant,
    /// Any number; it spreads open times.
    pub random: u64,
}

impl Permit {
    /// Whether the request is the trial of a half-open circuit.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.own.is_some_and(Pass::is_trial) || self.model.as_ref().is_some_and(|(_, pass)| pass.is_trial())
    }

    /// Tells the circuits.
    pub fn record(mut self, verdict: Verdict<'_>) {
        if (verdict.blame.server() || verdict.model.is_none())
            && let Some(pass) = self.own.take()
        {
            let circuits = &self.server.circuits;
            let transition = circuits.own().record(pass, verdict.outcome, verdict.now, verdict.random);
            if transition.is_some() {
                circuits.note_slow_start();
            }
            self.server.tell(transition, None, verdict.reason);
        }
        if let Some(model) = verdict.model.filter(|_| verdict.blame.model()) {
            self.record_model(model, verdict);
        }
    }

    fn record_model(&mut self, model: &str, verdict: Verdict<'_>) {
        let circuits = &self.server.circuits;
        let good = verdict.outcome == Outcome::Success;
        let known = self.model.take().or_else(|| {
            // It may have got a circuit since this request began.
            let guarded = if good { circuits.of_model(model)? } else { circuits.of_failed_model(model)? };
            Some((guarded, Pass::before_the_first_failure(self.since)))
        });
        let rule = self.server.bans.rule();
        if good && rule.is_some() {
            circuits.prove(model);
        }
        let Some((guarded, pass)) = known else { return };
        let failures = guarded.count(verdict.outcome, circuits.age(verdict.now));
        let transition = guarded.record(pass, verdict.outcome, verdict.now, verdict.random);
        self.server.tell(transition, Some(model), verdict.reason);
        if let Some(rule) = rule.filter(|_| !good && !circuits.is_proven(model))
            && let Some(ban) = rule.judge(self.server.name(), model, failures, verdict.now)
            && !self.server.bans.forbids(self.server.name(), Some(model), verdict.now)
        {
            self.server.bans.ban(ban, verdict.now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pass) = self.own.take() {
            self.server.circuits.own().release(pass);
        }
        if let Some((guarded, pass)) = self.model.take() {
            guarded.release(pass);
        }
    }
}

impl ServerState {
    /// Asks its circuits to let a request pass, for `model` where it names one.
    pub fn admit(self: &Arc<Self>, model: Option<&str>, now: Instant) -> Option<Permit> {
        let mut permit = self.admit_anyway(now);
        permit.own = Some(self.circuits.own().admit(now)?);
        if let Some(guarded) = model.and_then(|model| self.circuits.of_model(model)) {
            let pass = guarded.admit(now)?;
            permit.model = Some((guarded, pass));
        }
        Some(permit)
    }

    /// Lets a request pass whatever its circuits say, because nobody better is left. Its end teaches them nothing.
    pub fn admit_anyway(self: &Arc<Self>, now: Instant) -> Permit {
        Permit { server: Arc::clone(self), own: None, model: None, since: now }
    }

    /// The state of its own circuit.
    pub fn circuit_state(&self, now: Instant) -> State {
        self.circuits.state(now)
    }

    /// Its own circuit, then those of models that failed, by name.
    pub fn circuit_views(&self, now: Instant) -> Vec<CircuitView> {
        self.circuits.views(now)
    }

    /// Does to its circuit, or to that of a model on it, what an operator wants. A model's circuit that does not exist is
    /// closed already.
    pub fn force_circuit(&self, order: CircuitOrder, model: Option<&str>, now: Instant) -> Option<Transition> {
        let transition = self.circuits.force(order, model, now);
        self.tell(transition, model, "order");
        transition
    }

    /// The share of the requests that it should have now, from 0.025 to 1: less than all while it has just come back, and
    /// while its GPU is degraded.
    pub fn share(&self, now: Instant) -> f32 {
        self.circuits.share(now) * self.gpu.share()
    }

    /// The same for a model, part of which may not be on its cards.
    pub fn share_of(&self, model: &str, now: Instant) -> f32 {
        self.circuits.share(now) * self.gpu.share_of(model)
    }

    /// Logs and counts a change of a circuit.
    fn tell(&self, transition: Option<Transition>, model: Option<&str>, reason: &'static str) {
        let Some(change) = transition else { return };
        self.recovery.stir();
        self.metrics.circuit(if model.is_some() { "model" } else { "server" }, change.to.as_str());
        tracing::warn!(
            server = self.name(),
            upstream = self.identity.upstream,
            model,
            from = change.from.as_str(),
            to = change.to.as_str(),
            reason,
            "circuit changed"
        );
        let kind = match change.to {
            State::Open { .. } => Kind::CircuitOpen,
            State::Closed => Kind::CircuitClosed,
            State::HalfOpen => return,
        };
        let (subject, of) = match model {
            None => (self.subject(), String::new()),
            Some(model) => (format!("{} {model}", self.subject()), format!(" of `{model}` on it")),
        };
        let (url, state) = (&self.identity.url, change.to.as_str());
        let message = format!("server `{}` ({url}): the circuit{of} is {state}: {reason}", self.name());
        self.events.tell(kind, subject, &message);
    }
}
