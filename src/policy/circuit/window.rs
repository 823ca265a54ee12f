//! How many of the last requests failed.
//!
//! # Problem
//!
//! The share of failures means something only over a time in which many requests begin and end. Requests to models last
//! seconds to minutes: over ten seconds, a server whose calls last a minute shows nothing, or one unlucky call as
//! "100 %".
//!
//! # How
//!
//! Ten buckets that are counted in and forgotten one after the other. When a call took more than half of the time that
//! they cover, they cover twice as much from then on, so the window is always longer than the calls.

use std::time::{Duration, Instant};

const BUCKETS: u32 = 10;
/// Widest that a bucket becomes: the window then covers a day and more.
const WIDEST: Duration = Duration::from_hours(3);

/// Verdicts of the last while.
#[derive(Clone, Debug)]
pub(super) struct Window {
    width: Duration,
    /// When the youngest bucket began; `None` while nothing is counted.
    since: Option<Instant>,
    /// The youngest first.
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    good: u32,
    bad: u32,
}

impl Window {
    /// An empty window of this length.
    pub(super) fn new(length: Duration) -> Self {
        let width = (length / BUCKETS).clamp(Duration::from_millis(1), WIDEST);
        Self { width, since: None, buckets: [Bucket::default(); BUCKETS as usize] }
    }

    /// Counts the verdict of a call that took `took`.
    pub(super) fn count(&mut self, good: bool, took: Duration, now: Instant) {
        self.turn(now);
        while took > self.width * (BUCKETS / 2) && self.width < WIDEST {
            self.widen();
        }
        let youngest = &mut self.buckets[0];
        let counter = if good { &mut youngest.good } else { &mut youngest.bad };
        *counter = counter.saturating_add(1);
    }

    /// Whether at least `percent` of at least `least` calls failed, and not fewer than `failures`.
    pub(super) fn is_bad(&mut self, percent: u8, least: u32, failures: u32, now: Instant) -> bool {
        self.turn(now);
        let sum = |pick: fn(&Bucket) -> u32| self.buckets.iter().map(|bucket| u64::from(pick(bucket))).sum::<u64>();
        let (good, bad) = (sum(|bucket| bucket.good), sum(|bucket| bucket.bad));
        let all = good + bad;
        bad >= u64::from(failures.max(1)) && all >= u64::from(least) && bad * 100 >= all * u64::from(percent)
    }

    /// Forgets the buckets whose time is over.
    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let over = now.saturating_duration_since(since).as_nanos() / self.width.as_nanos().max(1);
        let over = u32::try_from(over).unwrap_or(u32::MAX);
        if over == 0 {
            return;
        }
        let shift = over.min(BUCKETS) as usize;
        self.buckets.rotate_right(shift);
        self.buckets[..shift].fill(Bucket::default());
        self.since = Some(if over >= BUCKETS { now } else { since + self.width * over });
    }

    /// Doubles the width: two buckets become one each.
    fn widen(&mut self) {
        let mut wider = [Bucket::default(); BUCKETS as usize];
        for (index, bucket) in self.buckets.iter().enumerate() {
            let into = &mut wider[index / 2];
            into.good = into.good.saturating_add(bucket.good);
            into.bad = into.bad.saturating_add(bucket.bad);
        }
        self.buckets = wider;
        self.width *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SHORT: Duration = Duration::from_millis(10);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn half_of_enough_is_bad_and_a_little_less_is_not() {
        let now = clock::now();
        let mut window = Window::new(seconds(300));
        for number in 0..9 {
            window.count(number % 2 == 0, SHORT, now);
            assert!(!window.is_bad(50, 10, 5, now), "too few: {number}");
        }
        window.count(false, SHORT, now);
        assert!(window.is_bad(50, 10, 5, now));
        assert!(!window.is_bad(50, 10, 6, now), "fewer than must fail");
        window.count(true, SHORT, now);
        assert!(!window.is_bad(50, 10, 5, now));
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let now = clock::now();
        let mut window = Window::new(seconds(300));
        for _ in 0..20 {
            window.count(false, SHORT, now);
        }
        assert!(window.is_bad(50, 10, 5, now + seconds(269)));
        assert!(!window.is_bad(50, 10, 5, now + seconds(301)));
    }

    #[test]
    fn the_window_is_longer_than_the_calls() {
        let now = clock::now();
        let mut window = Window::new(seconds(10));
        // Calls of a minute, one in half a minute: in ten seconds there is never more than one.
        for number in 0..10 {
            window.count(false, seconds(60), now + seconds(30 * number));
        }
        let end = now + seconds(30 * 9);
        assert!(!window.is_bad(50, 10, 5, end), "a window of two calls does not hold ten");
        assert!(window.is_bad(50, 3, 1, end), "it holds some");
        assert!(window.width * BUCKETS >= seconds(120));
    }

    #[test]
    fn absurd_times_neither_panic_nor_grow_for_ever() {
        let now = clock::now();
        let mut window = Window::new(Duration::ZERO);
        window.count(false, Duration::MAX, now + Duration::from_hours(1_000_000));
        window.count(false, Duration::ZERO, now);
        assert!(window.width <= WIDEST * 2);
        assert!(window.is_bad(1, 0, 0, now));
    }
}
