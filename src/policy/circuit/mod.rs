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
//!             it failed too often                     open time is over
//!   ┌────────┐ ───────────────────▶ ┌──────┐ ──────────────────────────▶ ┌───────────┐
//!   │ closed │                      │ open │                             │ half_open │
//!   └────────┘                      └──────┘ ◀────── the trial fails ─── └───────────┘
//!        ▲                                                                     │
//!        └─────────────────────────── the trial succeeds ──────────────────────┘
//! ```
//!
//! "Too often" is any of these:
//!
//! - so many failures in a row, whatever their kind;
//! - so many failures in a row to reach the server at all;
//! - so great a share of failures among enough calls of the last while ([`window`]), and as many as would do in a row:
//!   what fails every second time never fails five times in a row;
//! - two crashes of a runner within five minutes, whatever went well in between.
//!
//! How long it stays open, and when it forgets that it was open before, is told in [`open_time`]. A circuit that a trial
//! closed begins with a tenth of its share of the requests and has all of it after `slow_start`: a server whose
//! caches are cold is not given at once what felled it.
//!
//! # Invariants
//!
//! - At most one trial is outstanding. One that ends without a verdict, because the client left, makes
//!   room for the next one.
//! - A verdict counts only in the period in which its request was admitted. What comes late, from before
//!   the circuit opened, changes nothing, however often it has closed since. Each [`Pass`] carries the
//!   number of its period for that.
//! - While it is open, time alone ends it (or an operator). Nothing but the verdict of an admitted request closes it: a
//!   check that is not a request has no pass.
//! - Of two circuits that see the same calls, the one whose calls fail more often is never open later.

mod open_time;
mod window;

#[cfg(test)]
mod flapping;
#[cfg(test)]
mod tests;

use open_time::OpenTime;
use window::Window;

use std::time::{Duration, Instant};

/// Crashes of a runner further apart than this have nothing to do with each other.
const CRASHES_TOGETHER: Duration = Duration::from_mins(5);
/// The share of the requests with which a slow start begins.
const FIRST_SHARE: f32 = 0.1;

/// The numbers of a circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitPolicy {
    /// Failures in a row that open the circuit; 0 counts as 1.
    pub consecutive_failures: u32,
    /// Failures in a row to reach the server that open it; 0 counts as 1.
    pub connect_failures: u32,
    /// Share of failures that opens it, in hundredths.
    pub failure_rate: u8,
    /// The time over which that share is measured; longer by itself where calls are long.
    pub window: Duration,
    /// Calls below which a share says nothing.
    pub min_requests: u32,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// The longest that it stays open.
    pub max_open_for: Duration,
    /// How long it takes until a server that came back has its whole share.
    pub slow_start: Duration,
}

impl Default for CircuitPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            connect_failures: 3,
            failure_rate: 50,
            window: Duration::from_mins(5),
            min_requests: 10,
            open_for: Duration::from_secs(30),
            max_open_for: Duration::from_mins(5),
            slow_start: Duration::from_secs(30),
        }
    }
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
    /// The words of all states.
    pub const WORDS: [&str; 3] = ["closed", "open", "half_open"];

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
    since: Instant,
}

impl Pass {
    /// The pass of a request that was admitted at `since`, when its circuit did not exist yet: closed, in its first period.
    #[must_use]
    pub const fn before_the_first_failure(since: Instant) -> Self {
        Self { period: 0, trial: false, since }
    }

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
    /// The server could not be reached at all.
    NotReached,
    /// The process that ran the model died.
    Crash,
}

/// Why a circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Requests failed.
    Failures,
    /// The server could not be reached.
    Unreachable,
    /// An operator said so.
    Order,
}

impl Cause {
    /// The word for logs and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Unreachable => "unreachable",
            Self::Order => "order",
        }
    }
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
    Closed,
    Open { until: Instant, cause: Cause },
    HalfOpen { trial_outstanding: bool },
}

/// What a closed circuit has seen.
#[derive(Clone, Debug)]
struct Evidence {
    in_a_row: u32,
    not_reached_in_a_row: u32,
    window: Window,
    crashed: Option<Instant>,
}

impl Evidence {
    fn none(policy: &CircuitPolicy) -> Self {
        Self { in_a_row: 0, not_reached_in_a_row: 0, window: Window::new(policy.window), crashed: None }
    }

    /// Notes a verdict; why the circuit opens, if it does.
    fn note(&mut self, outcome: Outcome, took: Duration, now: Instant, policy: &CircuitPolicy) -> Option<Cause> {
        self.window.count(outcome == Outcome::Success, took, now);
        self.not_reached_in_a_row =
            if outcome == Outcome::NotReached { self.not_reached_in_a_row.saturating_add(1) } else { 0 };
        if outcome == Outcome::Success {
            self.in_a_row = 0;
            return None;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.not_reached_in_a_row >= policy.connect_failures.max(1).min(policy.consecutive_failures.max(1)) {
            return Some(Cause::Unreachable);
        }
        let crashed_again = outcome == Outcome::Crash
            && self
                .crashed
                .replace(now)
                .is_some_and(|before| now.saturating_duration_since(before) <= CRASHES_TOGETHER);
        let too_often = self.in_a_row >= policy.consecutive_failures.max(1)
            || crashed_again
            || self.window.is_bad(policy.failure_rate, policy.min_requests, policy.consecutive_failures, now);
        too_often.then_some(Cause::Failures)
    }
}

/// The circuit of one server, or of one model on one server.
#[derive(Clone, Debug)]
pub struct Circuit {
    policy: CircuitPolicy,
    phase: Phase,
    /// Goes up whenever the passes handed out so far lose their say.
    period: u64,
    evidence: Evidence,
    open_time: OpenTime,
    /// When a trial closed it.
    came_back: Option<Instant>,
}

impl Circuit {
    /// A closed circuit.
    #[must_use]
    pub fn new(policy: CircuitPolicy) -> Self {
        let evidence = Evidence::none(&policy);
        Self { policy, phase: Phase::Closed, period: 0, evidence, open_time: OpenTime::default(), came_back: None }
    }

    /// Takes new numbers and keeps the state: an open circuit stays open as long as it was going to.
    pub fn set_policy(&mut self, policy: CircuitPolicy) {
        if policy.window != self.policy.window {
            self.evidence.window = Window::new(policy.window);
        }
        self.policy = policy;
    }

    /// What the circuit is at `now`.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { until, .. } if now < until => State::Open { until },
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Why it is open; `None` when it is not.
    #[must_use]
    pub fn cause(&self, now: Instant) -> Option<Cause> {
        match self.phase {
            Phase::Open { until, cause } if now < until => Some(cause),
            _ => None,
        }
    }

    /// Whether [`admit`](Self::admit) would say yes. Takes nothing, so it may be asked of every candidate.
    #[must_use]
    pub fn would_admit(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed => true,
            Phase::Open { until, .. } => now >= until,
            Phase::HalfOpen { trial_outstanding } => !trial_outstanding,
        }
    }

    /// How many failures in a row the closed circuit has seen; 0 if it is not closed.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        match self.phase {
            Phase::Closed => self.evidence.in_a_row,
            Phase::Open { .. } | Phase::HalfOpen { .. } => 0,
        }
    }

    /// How often it opened, less what is forgotten by now.
    #[must_use]
    pub fn openings(&self, now: Instant) -> u32 {
        self.open_time.openings(now)
    }

    /// Until when it has less than its whole share.
    #[must_use]
    pub fn slow_until(&self) -> Option<Instant> {
        let came_back = self.came_back.filter(|_| self.phase == Phase::Closed)?;
        came_back.checked_add(self.policy.slow_start)
    }

    /// Asks for one request. A trial is handed out to one caller at a time.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.phase {
            Phase::Closed => Admission::Yes(Pass { period: self.period, trial: false, since: now }),
            Phase::Open { until, .. } if now < until => Admission::No { until },
            Phase::HalfOpen { trial_outstanding: true } => Admission::No { until: now },
            Phase::Open { .. } | Phase::HalfOpen { trial_outstanding: false } => {
                self.enter(Phase::HalfOpen { trial_outstanding: true });
                Admission::Trial(Pass { period: self.period, trial: true, since: now })
            }
        }
    }

    /// Takes the verdict of an admitted request. `random` is any number; it spreads the open time.
    pub fn record(&mut self, pass: Pass, outcome: Outcome, now: Instant, random: u64) -> Option<Transition> {
        if pass.period != self.period {
            return None;
        }
        match (self.phase, outcome) {
            (Phase::Closed, _) => {
                let took = now.saturating_duration_since(pass.since);
                let cause = self.evidence.note(outcome, took, now, &self.policy)?;
                Some(self.open(cause, now, random))
            }
            (Phase::HalfOpen { trial_outstanding: true }, Outcome::Success) => {
                self.open_time.close(now);
                self.came_back = Some(now);
                self.force(Phase::Closed, now)
            }
            (Phase::HalfOpen { trial_outstanding: true }, Outcome::NotReached) => {
                Some(self.open(Cause::Unreachable, now, random))
            }
            (Phase::HalfOpen { trial_outstanding: true }, _) => Some(self.open(Cause::Failures, now, random)),
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
        self.force(Phase::Open { until, cause: Cause::Order }, now)
    }

    /// Makes it half open by hand: the next request is a trial.
    pub fn force_half_open(&mut self, now: Instant) -> Option<Transition> {
        self.force(Phase::HalfOpen { trial_outstanding: false }, now)
    }

    /// Closes it by hand, with its whole share at once. Requests that are running now have no say any more. How often it
    /// opened before stays known.
    pub fn force_close(&mut self, now: Instant) -> Option<Transition> {
        self.came_back = None;
        self.open_time.close(now);
        self.force(Phase::Closed, now)
    }

    /// Closes it by hand and forgets all that was before: the open time starts from the beginning.
    pub fn reset(&mut self, now: Instant) -> Option<Transition> {
        let transition = self.force_close(now);
        self.open_time = OpenTime::default();
        transition
    }

    fn open(&mut self, cause: Cause, now: Instant, random: u64) -> Transition {
        let from = self.state(now);
        let until = now + self.open_time.open(self.policy.open_for, self.policy.max_open_for, now, random);
        self.enter(Phase::Open { until, cause });
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
        self.evidence = Evidence::none(&self.policy);
    }
}

/// The share of the requests, from 0.1 to 1, of a server that will have all of it in `left` and is given it over `whole`.
#[must_use]
pub fn share(left: Duration, whole: Duration) -> f32 {
    if left.is_zero() || whole.is_zero() {
        return 1.0;
    }
    let missing = (left.as_secs_f32() / whole.as_secs_f32()).min(1.0);
    1.0 - (1.0 - FIRST_SHARE) * missing
}
