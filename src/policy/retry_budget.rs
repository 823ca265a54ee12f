//! The retry budget: how many requests of an upstream may be on a second attempt at a time.
//!
//! # Problem
//!
//! A retry helps when one server of many is in trouble and harms when all are: then each client's request becomes two,
//! just when the servers cannot do with one. Requests to models last from a tenth of a second to minutes, so a budget per
//! second means nothing; what counts is how many run.
//!
//! # Rule
//!
//! Of `active` requests at most a tenth may be retries, but always one. None at all when more than a tenth of the requests of
//! the last 10 to 20 seconds were shed: answered 503 because nobody had room.
//!
//! # Invariants
//!
//! - Without a request that was shed, one retry is always possible.
//! - What was shed is forgotten after 20 seconds.

use std::time::{Duration, Instant};

/// Of so many requests that run, one may be a retry; of so many requests, one may be shed.
const OF: u64 = 10;
/// How long one half of the window lasts.
const HALF: Duration = Duration::from_secs(10);

/// What was shed lately.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    /// When the younger half began; `None` before anything was asked or shed.
    since: Option<Instant>,
    /// The younger half, then the older one.
    halves: [Half; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Half {
    /// How many requests there had been when it began.
    began_at: u64,
    shed: u64,
}

impl RetryBudget {
    /// A request was shed; `requests` is the number of all so far.
    pub fn shed(&mut self, requests: u64, now: Instant) {
        self.turn(requests, now);
        self.halves[0].shed += 1;
    }

    /// Whether another request may be tried again. `active` requests run, `retries` of them are retries, and there were
    /// `requests` so far.
    pub fn allows(&mut self, active: u64, retries: u64, requests: u64, now: Instant) -> bool {
        self.turn(requests, now);
        let shed: u64 = self.halves.iter().map(|half| half.shed).sum();
        let of = requests.saturating_sub(self.halves[1].began_at);
        retries < (active / OF).max(1) && shed * OF <= of
    }

    fn turn(&mut self, requests: u64, now: Instant) {
        let age = self.since.map(|since| now.saturating_duration_since(since));
        if age.is_some_and(|age| age < HALF) {
            return;
        }
        let fresh = Half { began_at: requests, shed: 0 };
        self.halves = [fresh, if age.is_some_and(|age| age < HALF * 2) { self.halves[0] } else { fresh }];
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    #[test]
    fn a_tenth_of_what_runs_and_always_one() {
        let (now, mut budget) = (clock::now(), RetryBudget::default());
        for (active, retries, allowed) in
            [(0, 0, true), (1, 0, true), (1, 1, false), (19, 1, false), (20, 1, true), (100, 9, true), (100, 10, false)]
        {
            assert_eq!(budget.allows(active, retries, 1000, now), allowed, "{retries} of {active}");
        }
    }

    #[test]
    fn none_while_more_than_a_tenth_is_shed_and_again_when_that_is_over() {
        let (now, mut budget) = (clock::now(), RetryBudget::default());
        assert!(budget.allows(0, 0, 0, now));
        for number in 1..=10 {
            budget.shed(100, now);
            assert!(budget.allows(100, 0, 100, now), "{number} of a hundred");
        }
        budget.shed(100, now);
        assert!(!budget.allows(100, 0, 100, now));
        assert!(budget.allows(100, 0, 110, now), "eleven of 110");
        let later = now + Duration::from_secs(11);
        assert!(!budget.allows(100, 0, 105, later), "still in the older half");
        assert!(budget.allows(100, 0, 105, later + HALF));
    }

    proptest! {
        #[test]
        fn when_everything_is_shed_hardly_anything_is_tried_again(
            gaps in prop::collection::vec(0..3000_u64, 100..400),
        ) {
            let (mut now, mut budget, mut retried) = (clock::now(), RetryBudget::default(), 0_u64);
            for (requests, gap) in (1_u64..).zip(&gaps) {
                now += Duration::from_millis(*gap);
                retried += u64::from(budget.allows(1, 0, requests, now));
                budget.shed(requests, now);
            }
            // The first of all, and at most the first after each silence.
            let silences = gaps.iter().sum::<u64>() / 10_000;
            prop_assert!(retried <= 2 + silences, "{} of {}", retried, gaps.len());
        }
    }
}
