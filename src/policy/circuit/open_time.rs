//! How long a circuit stays open: longer each time, and shorter again only after it stayed closed.
//!
//! The first time is `open_for`; each opening doubles it, up to `max_open_for`. A success alone takes nothing back: a
//! server that fails again after a few good answers would be back at the shortest time for ever. One doubling is
//! forgotten when the circuit has stayed closed as long as it was last open, the next when it has stayed closed for
//! half of that, and so on. Each time is spread by ±10 %, so that circuits that opened together do not try together.

use std::time::{Duration, Instant};

/// Added to an instant, this is certain not to overflow, and nobody will wait for it.
pub(super) const FOR_EVER: Duration = Duration::from_hours(10 * 365 * 24);

/// How often a circuit opened, less what is forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenTime {
    openings: u32,
    /// How long it was last open, before spreading.
    last: Duration,
    /// Since when it is closed.
    closed: Option<Instant>,
}

impl OpenTime {
    /// The circuit opens; for how long. `random` is any number.
    pub(super) fn open(&mut self, first: Duration, longest: Duration, now: Instant, random: u64) -> Duration {
        self.forget(now);
        self.closed = None;
        let longest = longest.min(FOR_EVER);
        let doublings = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
        let time = first.saturating_mul(doublings).min(longest);
        self.openings = self.openings.saturating_add(1);
        self.last = time;
        // From 900 to 1100 thousandths.
        let thousandths = 900 + u32::try_from(random % 201).unwrap_or(100);
        time.saturating_mul(thousandths).checked_div(1000).unwrap_or(time).min(longest)
    }

    /// The circuit closes.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed = Some(now);
    }

    /// How often it opened, less what is forgotten by now.
    pub(super) fn openings(&self, now: Instant) -> u32 {
        let mut copy = self.clone();
        copy.forget(now);
        copy.openings
    }

    fn forget(&mut self, now: Instant) {
        let Some(closed) = self.closed else { return };
        let mut left = now.saturating_duration_since(closed);
        while self.openings > 0 && left >= self.last {
            left -= self.last;
            self.openings -= 1;
            self.last /= 2;
        }
        self.closed = now.checked_sub(left).or(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// With this "random" number the time is neither longer nor shorter.
    const EVEN: u64 = 100;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn open(time: &mut OpenTime, now: Instant) -> u64 {
        time.open(seconds(30), seconds(300), now, EVEN).as_secs()
    }

    #[test]
    fn each_opening_doubles_it() {
        let (mut time, now) = (OpenTime::default(), clock::now());
        let times: Vec<u64> = (0..6).map(|_| open(&mut time, now)).collect();
        assert_eq!(times, [30, 60, 120, 240, 300, 300]);
    }

    #[test]
    fn a_moment_of_being_closed_takes_nothing_back() {
        let (mut time, mut now) = (OpenTime::default(), clock::now());
        for expected in [30, 60, 120, 240] {
            assert_eq!(open(&mut time, now), expected);
            now += seconds(expected);
            time.close(now);
            now += seconds(expected - 1);
            assert_eq!(time.openings(now), time.openings, "not even nearly as long as it was open");
        }
    }

    #[test]
    fn closed_for_as_long_as_it_was_open_forgets_one_doubling_then_the_next() {
        let (mut time, now) = (OpenTime::default(), clock::now());
        for _ in 0..3 {
            open(&mut time, now);
        }
        time.close(now);
        for (after, openings) in [(119, 3), (120, 2), (179, 2), (180, 1), (209, 1), (210, 0), (9999, 0)] {
            assert_eq!(time.openings(now + seconds(after)), openings, "{after} s");
        }
        assert_eq!(open(&mut time, now + seconds(180)), 60);
        assert_eq!(time.openings(now + seconds(9999)), 2, "while it is open nothing is forgotten");
    }

    #[test]
    fn nothing_is_forgotten_twice() {
        let (mut time, now) = (OpenTime::default(), clock::now());
        for _ in 0..3 {
            open(&mut time, now);
        }
        time.close(now);
        for second in 0..=150 {
            time.forget(now + seconds(second));
        }
        assert_eq!(time.openings, 2);
    }
}
