//! Health: what the background checks of a server add up to.
//!
//! # Problem
//!
//! One bad check may be chance; one good check after many bad ones may be chance too. And a server that has
//! just been started is not ill because it does not answer yet.
//!
//! # States
//!
//! - `unknown`: just appeared; may be chosen, for nothing speaks against it. One good check makes it `up`.
//! - `up`: may be chosen. `unhealthy` bad checks in a row make it `down`.
//! - `down`: may not be chosen. `healthy` good checks in a row make it `up`.
//!
//! # Invariants
//!
//! - Within `start_period` after it appeared, bad checks are not counted, unless a check was good before:
//!   a server that has once answered has started.
//! - A check never counts twice: each change starts both rows again.

use std::time::{Duration, Instant};

/// The numbers of the checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Good checks in a row that make a server that is down up again; 0 counts as 1.
    pub healthy: u32,
    /// Bad checks in a row that make a server down; 0 counts as 1.
    pub unhealthy: u32,
    /// After a server appears, how long bad checks are not counted unless a check was good before.
    pub start_period: Duration,
}

/// What the checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No verdict yet; may be chosen.
    Unknown,
    /// Answers.
    Up,
    /// Does not answer.
    Down,
}

impl Status {
    /// The word for logs, metrics and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A change of status, for the caller to log and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the server was.
    pub from: Status,
    /// What it is now.
    pub to: Status,
}

/// The health of one server.
#[derive(Clone, Debug)]
pub struct Health {
    policy: HealthPolicy,
    born: Instant,
    status: Status,
    good_in_a_row: u32,
    bad_in_a_row: u32,
    was_ever_good: bool,
}

impl Health {
    /// The health of a server that appeared at `born`: unknown.
    #[must_use]
    pub const fn new(policy: HealthPolicy, born: Instant) -> Self {
        Self { policy, born, status: Status::Unknown, good_in_a_row: 0, bad_in_a_row: 0, was_ever_good: false }
    }

    /// Takes new numbers and keeps the status and the rows; they are weighed at the next check.
    pub fn set_policy(&mut self, policy: HealthPolicy) {
        self.policy = policy;
    }

    /// What the checks say so far.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Whether the server may be chosen: it is not known to be down.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        !matches!(self.status, Status::Down)
    }

    /// Takes the result of one check.
    pub fn record(&mut self, good: bool, now: Instant) -> Option<Change> {
        if good {
            self.was_ever_good = true;
            self.bad_in_a_row = 0;
            self.good_in_a_row = self.good_in_a_row.saturating_add(1);
            let needed = match self.status {
                Status::Up => return None,
                Status::Unknown => 1,
                Status::Down => self.policy.healthy.max(1),
            };
            return (self.good_in_a_row >= needed).then(|| self.change_to(Status::Up));
        }
        self.good_in_a_row = 0;
        if self.status == Status::Down || self.is_starting(now) {
            return None;
        }
        self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
        (self.bad_in_a_row >= self.policy.unhealthy.max(1)).then(|| self.change_to(Status::Down))
    }

    fn is_starting(&self, now: Instant) -> bool {
        !self.was_ever_good && now.saturating_duration_since(self.born) < self.policy.start_period
    }

    fn change_to(&mut self, status: Status) -> Change {
        let change = Change { from: self.status, to: status };
        self.status = status;
        self.good_in_a_row = 0;
        self.bad_in_a_row = 0;
        change
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn policy() -> HealthPolicy {
        HealthPolicy { healthy: 2, unhealthy: 3, start_period: Duration::ZERO }
    }

    fn feed(health: &mut Health, checks: &[bool]) -> Vec<Status> {
        let now = clock::now();
        checks
            .iter()
            .map(|good| {
                health.record(*good, now);
                health.status()
            })
            .collect()
    }

    #[test]
    fn a_new_server_is_unknown_and_may_be_chosen() {
        let health = Health::new(policy(), clock::now());
        assert_eq!(health.status(), Status::Unknown);
        assert!(health.is_up());
    }

    #[test]
    fn one_good_check_makes_a_new_server_up() {
        let mut health = Health::new(policy(), clock::now());
        assert_eq!(health.record(true, clock::now()), Some(Change { from: Status::Unknown, to: Status::Up }));
        assert_eq!(health.record(true, clock::now()), None);
    }

    #[test]
    fn bad_checks_in_a_row_make_it_down_and_good_ones_in_a_row_up_again() {
        use Status::{Down, Unknown, Up};
        let mut health = Health::new(policy(), clock::now());
        let checks = [true, false, false, true, false, false, false, true, false, true, true, false];
        let expected = [Up, Up, Up, Up, Up, Up, Down, Down, Down, Down, Up, Up];
        assert_eq!(feed(&mut health, &checks), expected);
        let mut never_good = Health::new(policy(), clock::now());
        assert_eq!(feed(&mut never_good, &[false; 3]), [Unknown, Unknown, Down]);
        assert!(!never_good.is_up());
    }

    #[test]
    fn bad_checks_in_the_start_period_do_not_count() {
        let born = clock::now();
        let mut health = Health::new(HealthPolicy { start_period: Duration::from_mins(1), ..policy() }, born);
        for second in 0..60 {
            assert_eq!(health.record(false, born + Duration::from_secs(second)), None);
        }
        let after = born + Duration::from_mins(1);
        assert_eq!(health.record(false, after), None);
        assert_eq!(health.record(false, after), None);
        assert_eq!(health.record(false, after), Some(Change { from: Status::Unknown, to: Status::Down }));
    }

    #[test]
    fn after_a_good_check_the_start_period_is_over() {
        let born = clock::now();
        let mut health = Health::new(HealthPolicy { start_period: Duration::from_mins(1), ..policy() }, born);
        health.record(true, born);
        health.record(false, born);
        health.record(false, born);
        assert!(health.record(false, born).is_some());
    }

    #[test]
    fn a_reload_keeps_what_is_known() {
        let now = clock::now();
        let mut health = Health::new(policy(), now);
        feed(&mut health, &[true, false, false, false, true]);
        health.set_policy(HealthPolicy { healthy: 3, ..policy() });
        assert_eq!(health.status(), Status::Down);
        assert_eq!(feed(&mut health, &[true, true]), [Status::Down, Status::Up]);
    }

    proptest! {
        #[test]
        fn it_changes_only_at_the_end_of_a_long_enough_row(
            checks in prop::collection::vec(any::<bool>(), 0..100),
            healthy in 0..5_u32,
            unhealthy in 0..5_u32,
        ) {
            let now = clock::now();
            let mut health = Health::new(HealthPolicy { healthy, unhealthy, start_period: Duration::ZERO }, now);
            for index in 0..checks.len() {
                let (before, good) = (health.status(), checks[index]);
                let row = checks[..=index].iter().rev().take_while(|check| **check == good).count();
                let needed = match (good, before) {
                    (true, Status::Up) | (false, Status::Down) => usize::MAX,
                    (true, Status::Unknown) => 1,
                    (true, Status::Down) => healthy.max(1) as usize,
                    (false, Status::Unknown | Status::Up) => unhealthy.max(1) as usize,
                };
                let change = health.record(good, now);
                prop_assert_eq!(change.is_some(), row >= needed);
                if let Some(change) = change {
                    prop_assert_eq!((change.from, change.to), (before, health.status()));
                    prop_assert_eq!(good, change.to == Status::Up);
                }
            }
        }
    }
}
