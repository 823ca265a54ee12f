//! A circuit: leave a failing server alone, then try it with one request.
//!
//! # Problem
//!
//! A server that fails every request still costs each client the time of an attempt. It should be left
//! alone for a while, longer each time that it turns out to be still ill, and it should come back through
//! one request and not through a flood.
//!
//! # States
//!
//! ```text
//!             consecutive failures                    open time is over
//!   ┌────────┐ ───────────────────▶ ┌──────┐ ──────────────────────────▶ ┌───────────┐
//!   │ closed │                      │ open │                             │ half_open │
//!   └────────┘                      └──────┘ ◀────── the trial fails ─── └───────────┘
//!        ▲                                                                     │
//!        └─────────────────────────── the trial succeeds ──────────────────────┘
//! ```
//!
//! The first open time is `open_for`. Each failed trial doubles it, up to `max_open_for`; a trial that
//! succeeds starts it from the beginning. Each open time is spread by ±10 %, so that circuits that opened
//! together do not try together; it never exceeds `max_open_for`.
//!
//! # Invariants
//!
//! - At most one trial is outstanding. One that ends without a verdict, because the client left, makes
//!   room for the next one.
//! - A verdict counts only in the period in which its request was admitted. What comes late, from before
//!   the circuit opened, changes nothing, however often it has closed since. Each [`Pass`] carries the
//!   number of its period for that.
//! - While it is open, time alone ends it (or an operator).

use std::time::{Duration, Instant};

/// Added to an instant, this is certain not to overflow, and nobody will wait for it.
const FOR_EVER: Duration = Duration::from_hours(10 * 365 * 24);

/// The numbers of a circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitPolicy {
    /// Failures in a row that open the circuit; 0 counts as 1.
    pub consecutive_failures: u32,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// The longest that it stays open.
    pub max_open_for: Duration,
}

/// What a circuit is at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed,
    /// No request passes before `until`.
    Open {
        /// When the circuit becomes half open.
        until: Instant,
    },
    /// One request at a time passes, as a trial.
    HalfOpen,
}

impl State {
    /// The word for logs, metrics and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The answer to "may this server have one more request?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes: the circuit is closed.
    Yes(Pass),
    /// Yes, as the trial of a half-open circuit. It must be given back by `record` or `release`.
    Trial(Pass),
    /// No.
    No {
        /// When it is worth asking again. It is `now` while a trial is outstanding: that ends when it ends.
        until: Instant,
    },
}

impl Admission {
    /// The pass of an admitted request.
    #[must_use]
    pub const fn pass(self) -> Option<Pass> {
        match self {
            Self::Yes(pass) | Self::Trial(pass) => Some(pass),
            Self::No { .. } => None,
        }
    }
}

/// An admitted request's proof of when it was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    period: u64,
    trial: bool,
}

impl Pass {
    /// Whether the request is the trial of a half-open circuit.
    #[must_use]
    pub const fn is_trial(self) -> bool {
        self.trial
    }
}

/// How a request ended, as far as its server is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server did its part.
    Success,
    /// The server did not.
    Failure,
}

/// A change of state, for the caller to log and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What the circuit was.
    pub from: State,
    /// What it is now.
    pub to: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { trial_outstanding: bool },
}

/// The circuit of one server, or of one model on one server.
#[derive(Clone, Debug)]
pub struct Circuit {
    policy: CircuitPolicy,
    phase: Phase,
    /// Goes up whenever the passes handed out so far lose their say.
    period: u64,
    /// How often it opened since it was last closed.
    openings: u32,
}

impl Circuit {
    /// A closed circuit.
    #[must_use]
    pub const fn new(policy: CircuitPolicy) -> Self {
        Self { policy, phase: Phase::Closed { failures: 0 }, period: 0, openings: 0 }
    }

    /// Takes new numbers and keeps the state: an open circuit stays open as long as it was going to.
    pub fn set_policy(&mut self, policy: CircuitPolicy) {
        self.policy = policy;
    }

    /// What the circuit is at `now`.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Closed { .. } => State::Closed,
            Phase::Open { until } if now < until => State::Open { until },
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Whether [`admit`](Self::admit) would say yes. Takes nothing, so it may be asked of every candidate.
    #[must_use]
    pub fn would_admit(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed { .. } => true,
            Phase::Open { until } => now >= until,
            Phase::HalfOpen { trial_outstanding } => !trial_outstanding,
        }
    }

    /// How many failures in a row the closed circuit has seen; 0 if it is not closed.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        match self.phase {
            Phase::Closed { failures } => failures,
            Phase::Open { .. } | Phase::HalfOpen { .. } => 0,
        }
    }

    /// Asks for one request. A trial is handed out to one caller at a time.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.phase {
            Phase::Closed { .. } => Admission::Yes(Pass { period: self.period, trial: false }),
            Phase::Open { until } if now < until => Admission::No { until },
            Phase::HalfOpen { trial_outstanding: true } => Admission::No { until: now },
            Phase::Open { .. } | Phase::HalfOpen { trial_outstanding: false } => {
                self.enter(Phase::HalfOpen { trial_outstanding: true });
                Admission::Trial(Pass { period: self.period, trial: true })
            }
        }
    }

    /// Takes the verdict of an admitted request. `random` is any number; it spreads the open time.
    pub fn record(&mut self, pass: Pass, outcome: Outcome, now: Instant, random: u64) -> Option<Transition> {
        if pass.period != self.period {
            return None;
        }
        match (self.phase, outcome) {
            (Phase::Closed { .. }, Outcome::Success) => {
                self.phase = Phase::Closed { failures: 0 };
                None
            }
            (Phase::Closed { failures }, Outcome::Failure) => {
                let failures = failures.saturating_add(1);
                if failures >= self.policy.consecutive_failures.max(1) {
                    return Some(self.open(now, random));
                }
                self.phase = Phase::Closed { failures };
                None
            }
            (Phase::HalfOpen { trial_outstanding: true }, Outcome::Success) => self.force_close(now),
            (Phase::HalfOpen { trial_outstanding: true }, Outcome::Failure) => Some(self.open(now, random)),
            (Phase::Open { .. } | Phase::HalfOpen { trial_outstanding: false }, _) => None,
        }
    }

    /// Ends an admitted request that proved nothing: its client left, or the request was at fault. A trial
    /// makes room for the next one.
    pub fn release(&mut self, pass: Pass) {
        if pass.trial && pass.period == self.period && self.phase == (Phase::HalfOpen { trial_outstanding: true }) {
            self.enter(Phase::HalfOpen { trial_outstanding: false });
        }
    }

    /// Opens it by hand until `until`; then it is half open, so that nothing stays away because it was forgotten.
    pub fn force_open(&mut self, until: Instant, now: Instant) -> Option<Transition> {
        self.force(Phase::Open { until }, now)
    }

    /// Makes it half open by hand: the next request is a trial.
    pub fn force_half_open(&mut self, now: Instant) -> Option<Transition> {
        self.force(Phase::HalfOpen { trial_outstanding: false }, now)
    }

    /// Closes it by hand. Requests that are running now have no say any more, and the open time starts from
    /// the beginning. This is also what `reset` means.
    pub fn force_close(&mut self, now: Instant) -> Option<Transition> {
        self.openings = 0;
        self.force(Phase::Closed { failures: 0 }, now)
    }

    fn open(&mut self, now: Instant, random: u64) -> Transition {
        let from = self.state(now);
        let until = now + self.open_time(random);
        self.openings = self.openings.saturating_add(1);
        self.enter(Phase::Open { until });
        Transition { from, to: State::Open { until } }
    }

    fn force(&mut self, phase: Phase, now: Instant) -> Option<Transition> {
        let from = self.state(now);
        self.enter(phase);
        let to = self.state(now);
        (from != to).then_some(Transition { from, to })
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.period = self.period.wrapping_add(1);
    }

    fn open_time(&self, random: u64) -> Duration {
        let longest = self.policy.max_open_for.min(FOR_EVER);
        let doublings = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
        let time = self.policy.open_for.saturating_mul(doublings).min(longest);
        // From 900 to 1100 thousandths.
        let thousandths = 900 + u32::try_from(random % 201).unwrap_or(100);
        time.saturating_mul(thousandths).checked_div(1000).unwrap_or(time).min(longest)
    }
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
