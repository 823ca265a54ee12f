//! Recovery: when a server that is ill is tested again, and what its tests add up to.
//!
//! # Problem
//!
//! A server is down, or its circuit is open, so no request goes there; nobody learns that it is well again until a
//! client is risked. Tests in the background find out, but a server that stays ill must not be tested as often as one
//! that just fell ill, and an operator wants to know what kind of illness it is.
//!
//! # States
//!
//! ```text
//!           down, or circuit not closed
//!   well ──────────────────────────────▶ ill: tested after interval, 2 × interval, 4 × interval, ...
//!        ◀────────────────────────────── up to max_interval, ± 10 %
//!           up, and circuit closed
//! ```
//!
//! Each test makes the next one later, whether it went well or not: a server whose tests go well and whose requests
//! still fail is not brought back again and again. A server that flaps begins its next illness where the last one
//! ended.
//!
//! # Steps of a test
//!
//! Liveness, then the inventory, then one token of a model that is in memory. The first that fails ends the test; its
//! [`Class`] says how. A step that cannot be made (no model in memory, say) is left out, and the test says why.
//!
//! # Invariants
//!
//! - History and changes are bounded; the counts beside them are not lost with what falls out.
//! - A pattern always comes with what it is based on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Tests that are remembered of a server.
const HISTORY: usize = 64;
/// Changes that are remembered of a server.
const CHANGES: usize = 32;
/// How far back changes count.
pub const WINDOW: Duration = Duration::from_mins(10);
/// Changes within the window from which on a server flaps: twice ill, twice well.
const FLAPPING: usize = 4;
/// Failed tests in a row from which on an illness is persistent.
const PERSISTENT: u32 = 5;
/// Tests below which nothing can be said about a trend.
const TREND: usize = 8;

/// The numbers of the tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPolicy {
    /// From the beginning of an illness to the first test; doubles with each test.
    pub interval: Duration,
    /// The longest time between two tests.
    pub max_interval: Duration,
    /// Whether tests ask for a token.
    pub probe: bool,
    /// How long no request may have run on the server before a test asks for a token.
    pub quiet: Duration,
    /// How long a model may take to give a token.
    pub timeout: Duration,
}

/// A step of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The server answers.
    Liveness,
    /// It tells its models.
    Inventory,
    /// A model in memory gives a token.
    Model,
}

impl Step {
    /// The word for logs and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Inventory => "inventory",
            Self::Model => "model",
        }
    }
}

/// How a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// No TLS.
    Tls,
    /// The answer broke off or was not what the protocol says.
    Protocol,
    /// The answer had a status that says no.
    Status,
    /// The model answered with an error.
    Model,
    /// The model gave no token in time.
    Stalled,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Timeout, Self::Tls, Self::Protocol, Self::Status, Self::Model, Self::Stalled];

    /// The word for logs, metrics and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::Model => "model",
            Self::Stalled => "stalled",
        }
    }
}

/// Why a test failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub step: Step,
    /// How.
    pub class: Class,
    /// What was seen.
    pub detail: String,
}

/// A test that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// When it began.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// Whether an operator asked for it.
    pub ordered: bool,
    /// The model that gave a token, or should have.
    pub model: Option<String>,
    /// Why no token was asked for.
    pub left_out: Option<&'static str>,
    /// Why it failed; `None` when every step that was made went well.
    pub failure: Option<Failure>,
}

/// How a server's illnesses look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Nothing stands out.
    Stable,
    /// Its newer tests are worse than its older ones.
    Degrading,
    /// It falls ill and gets well again and again.
    Flapping,
    /// It does not get well.
    Persistent,
}

impl Pattern {
    /// The word for the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Degrading => "degrading",
            Self::Flapping => "flapping",
            Self::Persistent => "persistent",
        }
    }
}

/// What the tests of a server add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Analysis {
    /// How its illnesses look.
    pub pattern: Pattern,
    /// What that is based on.
    pub basis: String,
    /// How often it fell ill or got well within [`WINDOW`].
    pub changes: usize,
}

/// A turn of a server's health, for the caller to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It fell ill.
    Ill,
    /// It got well.
    Well,
}

/// The illness of one server, and what is remembered of its tests.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    ill_since: Option<Instant>,
    /// Tests since it fell ill, or since the first of several illnesses while it flaps.
    rounds: u32,
    due: Option<Instant>,
    changes: VecDeque<Instant>,
    history: VecDeque<Test>,
    tests: u64,
    failures: [u64; Class::ALL.len()],
    failures_in_a_row: u32,
}

impl Recovery {
    /// Takes what is seen of the server now. `random` is any number; it spreads the tests.
    pub fn observe(&mut self, ill: bool, policy: &RecoveryPolicy, now: Instant, random: u64) -> Option<Turn> {
        if ill == self.ill_since.is_some() {
            return None;
        }
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(now);
        if !ill {
            (self.ill_since, self.due) = (None, None);
            return Some(Turn::Well);
        }
        self.ill_since = Some(now);
        if !self.is_flapping(now) {
            self.rounds = 0;
        }
        self.due = now.checked_add(delay(policy, self.rounds, random));
        Some(Turn::Ill)
    }

    /// Since when it is ill.
    #[must_use]
    pub const fn ill_since(&self) -> Option<Instant> {
        self.ill_since
    }

    /// When the next test is due; `None` while the server is well.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes a test that was made.
    pub fn record(&mut self, test: Test, policy: &RecoveryPolicy, now: Instant, random: u64) {
        self.tests += 1;
        match &test.failure {
            Some(failure) => {
                self.failures[failure.class as usize] += 1;
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
            }
            None => self.failures_in_a_row = 0,
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let ordered = test.ordered;
        self.history.push_back(test);
        // An operator who asks again and again does not put the next test off.
        if self.ill_since.is_some() && !ordered {
            self.rounds = self.rounds.saturating_add(1);
            self.due = now.checked_add(delay(policy, self.rounds, random));
        }
    }

    /// Forgets all tests and changes; an illness goes on.
    pub fn reset(&mut self) {
        let (ill_since, due) = (self.ill_since, self.due);
        *self = Self { ill_since, due, ..Self::default() };
    }

    /// The tests that are remembered, the oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Test> {
        self.history.iter()
    }

    /// All tests ever made.
    #[must_use]
    pub const fn tests(&self) -> u64 {
        self.tests
    }

    /// All tests that ever failed in this way.
    #[must_use]
    pub const fn failures(&self, class: Class) -> u64 {
        self.failures[class as usize]
    }

    /// Tests that failed since the last good one.
    #[must_use]
    pub const fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Whether it falls ill and gets well again and again.
    #[must_use]
    pub fn is_flapping(&self, now: Instant) -> bool {
        self.changes_within(now) >= FLAPPING
    }

    /// What it all adds up to.
    #[must_use]
    pub fn analysis(&self, now: Instant) -> Analysis {
        let changes = self.changes_within(now);
        let (pattern, basis) = if changes >= FLAPPING {
            let minutes = WINDOW.as_secs() / 60;
            (Pattern::Flapping, format!("it fell ill or got well {changes} times within {minutes} minutes"))
        } else if self.failures_in_a_row >= PERSISTENT {
            let last = self.history.back().and_then(|test| test.failure.as_ref());
            let how = last.map_or("", |failure| failure.class.as_str());
            (
                Pattern::Persistent,
                format!("the last {} tests failed, the last of them by {how}", self.failures_in_a_row),
            )
        } else if let Some(basis) = self.trend() {
            (Pattern::Degrading, basis)
        } else {
            let failed = self.history.iter().filter(|test| test.failure.is_some()).count();
            (Pattern::Stable, format!("{failed} of the last {} tests failed", self.history.len()))
        };
        Analysis { pattern, basis, changes }
    }

    fn changes_within(&self, now: Instant) -> usize {
        self.changes.iter().filter(|at| now.saturating_duration_since(**at) < WINDOW).count()
    }

    /// How the newer half of the tests is worse than the older one, if it is.
    fn trend(&self) -> Option<String> {
        if self.history.len() < TREND {
            return None;
        }
        let half = self.history.len() / 2;
        let (older, newer) = (self.history.iter().take(half), self.history.iter().skip(half));
        let failed = |tests: &mut dyn Iterator<Item = &Test>| {
            let (mut all, mut failed) = (0, 0);
            tests.for_each(|test| {
                all += 1;
                failed += usize::from(test.failure.is_some());
            });
            (failed, all)
        };
        let ((before, of_older), (after, of_newer)) = (failed(&mut older.clone()), failed(&mut newer.clone()));
        // At least a quarter of all more, without fractions.
        if after * of_older * 4 >= before * of_newer * 4 + of_older * of_newer {
            return Some(format!("{before} of the older {of_older} tests failed, {after} of the newer {of_newer}"));
        }
        let (slow_before, slow_after) = (median(older)?, median(newer)?);
        let twice = slow_before.checked_mul(2)?;
        (slow_after >= twice && slow_after >= Duration::from_millis(100))
            .then(|| format!("good tests took {slow_before:.1?} before and take {slow_after:.1?} now"))
    }
}

/// The time that a good test takes, if there are enough of them.
fn median<'t>(tests: impl Iterator<Item = &'t Test>) -> Option<Duration> {
    let mut times: Vec<Duration> = tests.filter(|test| test.failure.is_none()).map(|test| test.took).collect();
    times.sort_unstable();
    if times.len() < TREND / 2 { None } else { times.get(times.len() / 2).copied() }
}

/// From one test to the next, after so many of them.
fn delay(policy: &RecoveryPolicy, rounds: u32, random: u64) -> Duration {
    let doublings = 1_u32.checked_shl(rounds).unwrap_or(u32::MAX);
    let time = policy.interval.saturating_mul(doublings).min(policy.max_interval);
    // From 900 to 1100 thousandths.
    let thousandths = 900 + u32::try_from(random % 201).unwrap_or(100);
    time.checked_mul(thousandths).map_or(time, |time| time / 1000).min(policy.max_interval)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
