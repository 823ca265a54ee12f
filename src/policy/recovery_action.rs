//! Recovery actions: when what may make a server well again is run, and when that is given up.
//!
//! # Problem
//!
//! A container that hangs needs a restart, and nobody is there at night. But a restart ends what runs there, a command may
//! hang, a restart that does not help must not be repeated for ever, and a network that is gone looks like many servers
//! that are ill: restarting all of them would turn a short disturbance into a long one.
//!
//! # States
//!
//! ```text
//!            so many failed checks in a row      the action ends well
//!   watching ─────────────────────────▶ running ─────────────────────▶ verifying ─── a check passes ──▶ watching
//!                                          ▲ └── it fails ──┐             │ none does in time
//!                                          │                ▼             ▼
//!                                          ├───────────── backing off ◀───┘   backoff, 2 × backoff, ... max_backoff
//!                                          │                │ after max_attempts instead
//!                                          └── given up ◀───┘
//!                                 after retry_after, counting anew
//! ```
//!
//! A good check ends it from anywhere but `running`: while the action runs, an answer may be the last one of what is
//! being stopped.
//!
//! # Invariants
//!
//! - An action that is not known to have ended is never begun a second time.
//! - Of one round no more than `max_attempts` are made; between two rounds lies `retry_after`.
//! - The caller asks whether it may run (operator, network, other servers) before it calls [`RecoveryAction::begin`].

use std::time::{Duration, Instant};

/// Servers that stop answering within this time of each other did so at the same moment.
const SAME_MOMENT: Duration = Duration::from_secs(30);
/// How long actions are held when the network is suspected.
const HOLD: Duration = Duration::from_mins(2);

/// The numbers of a server's recovery action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionPolicy {
    /// Failed checks in a row before the first attempt; 0 counts as 1.
    pub after: u32,
    /// Attempts before it is given up; 0 counts as 1.
    pub max_attempts: u32,
    /// From a failed attempt to the next one; doubles with each.
    pub backoff: Duration,
    /// The longest such time.
    pub max_backoff: Duration,
    /// How long after the action a check may take to pass.
    pub verify: Duration,
    /// How long after giving up it begins anew.
    pub retry_after: Duration,
}

/// What goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Checks are counted.
    #[default]
    Watching,
    /// The action runs.
    Running,
    /// The action has ended well; a check must pass.
    Verifying {
        /// Until when.
        until: Instant,
    },
    /// The last attempt failed.
    BackingOff {
        /// When the next one is due.
        until: Instant,
    },
    /// As many attempts failed as may be made.
    GivenUp {
        /// When it begins anew.
        until: Instant,
    },
}

impl State {
    /// The word for logs and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Running => "running",
            Self::Verifying { .. } => "verifying",
            Self::BackingOff { .. } => "backing_off",
            Self::GivenUp { .. } => "given_up",
        }
    }

    /// When it ends by itself.
    #[must_use]
    pub const fn until(self) -> Option<Instant> {
        match self {
            Self::Watching | Self::Running => None,
            Self::Verifying { until } | Self::BackingOff { until } | Self::GivenUp { until } => Some(until),
        }
    }
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing before something happens.
    Nothing,
    /// Nothing before then.
    At(Instant),
    /// The action may run.
    Run,
}

/// How a server got well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A check passed in the time for it.
    Verified,
    /// A check passed only when the attempt had failed already.
    Late,
    /// By itself, when its recovery had been given up.
    ByItself,
}

/// How an attempt, or all of them, ended; for the caller to log, count and tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server is well.
    Well {
        /// Attempts of this round.
        attempts: u32,
        /// How it got well.
        how: How,
    },
    /// There will be another attempt.
    Again {
        /// When.
        at: Instant,
    },
    /// There will be none for a while.
    GaveUp {
        /// Attempts that were made.
        attempts: u32,
        /// When it begins anew.
        until: Instant,
    },
}

/// The recovery action of one server.
#[derive(Clone, Debug, Default)]
pub struct RecoveryAction {
    state: State,
    failed_checks: u32,
    failing_since: Option<Instant>,
    attempts: u32,
}

impl RecoveryAction {
    /// What goes on.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Attempts of this round.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether an attempt runs or is being verified.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        matches!(self.state, State::Running | State::Verifying { .. })
    }

    /// Failed checks in a row.
    #[must_use]
    pub const fn failed_checks(&self) -> u32 {
        self.failed_checks
    }

    /// When the first of them failed.
    #[must_use]
    pub const fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    /// Takes the result of a check of liveness.
    pub fn checked(&mut self, good: bool, now: Instant) -> Option<Ended> {
        if !good {
            self.failed_checks = self.failed_checks.saturating_add(1);
            self.failing_since.get_or_insert(now);
            return None;
        }
        (self.failed_checks, self.failing_since) = (0, None);
        match self.state {
            State::Watching | State::Running => None,
            State::Verifying { .. } => Some(self.well(How::Verified)),
            State::BackingOff { .. } => Some(self.well(How::Late)),
            State::GivenUp { .. } => Some(self.well(How::ByItself)),
        }
    }

    /// What there is to do. `down` is what the checks add up to: within `start_period`, say, a server is not down.
    #[must_use]
    pub fn next(&self, down: bool, policy: &ActionPolicy, now: Instant) -> Next {
        match self.state {
            State::Watching if down && self.failed_checks >= policy.after.max(1) => Next::Run,
            State::Watching | State::Running | State::Verifying { .. } => Next::Nothing,
            State::BackingOff { until } | State::GivenUp { until } if now >= until => Next::Run,
            State::BackingOff { until } | State::GivenUp { until } => Next::At(until),
        }
    }

    /// The action begins; which attempt of its round that is.
    pub fn begin(&mut self) -> u32 {
        self.attempts = match self.state {
            State::BackingOff { .. } => self.attempts.saturating_add(1),
            _ => 1,
        };
        self.state = State::Running;
        self.attempts
    }

    /// The action has ended; `None` while it is to be verified.
    pub fn ran(&mut self, good: bool, policy: &ActionPolicy, now: Instant, random: u64) -> Option<Ended> {
        if self.state != State::Running {
            return None;
        }
        if good && let Some(until) = now.checked_add(policy.verify) {
            self.state = State::Verifying { until };
            return None;
        }
        Some(self.failed(policy, now, random))
    }

    /// The time to verify is over and no check has passed.
    pub fn not_verified(&mut self, policy: &ActionPolicy, now: Instant, random: u64) -> Option<Ended> {
        matches!(self.state, State::Verifying { .. }).then(|| self.failed(policy, now, random))
    }

    /// Whoever carried it out is gone, so an attempt that was under way has failed.
    pub fn interrupted(&mut self, policy: &ActionPolicy, now: Instant, random: u64) -> Option<Ended> {
        self.is_under_way().then(|| self.failed(policy, now, random))
    }

    /// Forgets all attempts; checks go on being counted.
    pub fn forget(&mut self) {
        (self.state, self.attempts) = (State::Watching, 0);
    }

    fn well(&mut self, how: How) -> Ended {
        let attempts = self.attempts;
        self.forget();
        Ended::Well { attempts, how }
    }

    fn failed(&mut self, policy: &ActionPolicy, now: Instant, random: u64) -> Ended {
        if self.attempts >= policy.max_attempts.max(1) {
            let until = later(now, policy.retry_after);
            self.state = State::GivenUp { until };
            return Ended::GaveUp { attempts: self.attempts, until };
        }
        let doublings = 1_u32.checked_shl(self.attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let time = policy.backoff.saturating_mul(doublings).min(policy.max_backoff);
        let at = later(now, spread(time, random).min(policy.max_backoff));
        self.state = State::BackingOff { until: at };
        Ended::Again { at }
    }
}

/// Until when the network is rather suspected than the servers, if it is: when none of the servers that are checked, two
/// or more, has answered for a while, and all of them fell silent at the same moment. For each, since when it fails.
#[must_use]
pub fn suspects_network(failing: &[Option<Instant>], now: Instant) -> Option<Instant> {
    if failing.len() < 2 {
        return None;
    }
    let since: Vec<Instant> = failing.iter().copied().collect::<Option<_>>()?;
    let (first, last) = (since.iter().min()?, since.iter().max()?);
    if last.saturating_duration_since(*first) > SAME_MOMENT {
        return None;
    }
    last.checked_add(HOLD).filter(|until| *until > now)
}

/// The time, up to a tenth shorter or longer.
fn spread(time: Duration, random: u64) -> Duration {
    // From 900 to 1100 thousandths.
    let thousandths = 900 + u32::try_from(random % 201).unwrap_or(100);
    time.checked_mul(thousandths).map_or(time, |time| time / 1000)
}

/// That much later; a time that no clock can hold is as good as never, so a long one stands for it.
fn later(now: Instant, time: Duration) -> Instant {
    let longest = Duration::from_hours(10 * 365 * 24);
    now.checked_add(time.min(longest)).unwrap_or(now)
}

#[cfg(test)]
#[path = "recovery_action_tests.rs"]
mod tests;
