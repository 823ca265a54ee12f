//! How a signal is entered and left, and how long a state is held.
//!
//! # Problem
//!
//! A value that swings about its limit would take a server out and bring it back with every sample. So each signal is
//! entered by one rule and left by another ([`Latch`]), and the state that follows from them is held for a while
//! ([`Held`]).
//!
//! # Invariants
//!
//! - A signal is entered and left only by samples, never by time alone; without samples for too long it is forgotten.
//! - A state that came back lately is held longer than one that came for the first time, so that swings of any period
//!   end in the worse state instead of in a swinging one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::verdict::State;

/// How long a state is held before it becomes better, or worse by a signal that takes several samples.
pub const DWELL: Duration = Duration::from_mins(1);
/// How far back it counts that a state came back.
const MEMORY: Duration = Duration::from_mins(10);
/// Moments of that kind that are remembered.
const RISES: usize = 8;

/// What one sample says about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    /// It is there.
    Bad,
    /// Better than what enters it, worse than what leaves it.
    Between,
    /// It is gone.
    Good,
}

impl Sample {
    /// Bad or good, with nothing between.
    pub(super) const fn bad(bad: bool) -> Self {
        if bad { Self::Bad } else { Self::Good }
    }
}

/// When a signal is entered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Enter {
    /// So many of the last so many samples are bad.
    Of(u32, u32),
    /// All samples were bad for so long.
    For(Duration),
}

/// When it is left.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leave {
    /// So many good samples in a row.
    Samples(u32),
    /// All samples were good for so long.
    For(Duration),
    /// The same, and two health checks of the server went well since then.
    ForAndProbes(Duration),
    /// At most so many of the last so many samples are bad.
    AtMost(u32, u32),
}

/// Both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) enter: Enter,
    pub(super) leave: Leave,
}

/// The moment of a sample, and what else counts at that moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// How long samples may stay away before they are forgotten.
    pub(super) gap: Duration,
    /// When the last but one of the health checks was that went well in a row.
    pub(super) probed: Option<Instant>,
}

impl Moment {
    /// Whether two health checks in a row went well since then.
    pub(super) fn probed_since(&self, since: Instant) -> bool {
        self.probed.is_some_and(|at| at >= since)
    }

    /// How long that is ago.
    pub(super) fn age(&self, of: Instant) -> Duration {
        self.now.saturating_duration_since(of)
    }
}

/// One signal: off, or on.
#[derive(Clone, Debug, Default)]
pub(super) struct Latch {
    on: bool,
    /// The last samples, the newest in the lowest bit; set where it was bad.
    bits: u32,
    seen: u32,
    good_in_a_row: u32,
    bad_since: Option<Instant>,
    good_since: Option<Instant>,
    last: Option<Instant>,
}

impl Latch {
    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    /// Takes a sample, and says whether that turned it on or off.
    pub(super) fn sample(&mut self, rule: &Rule, sample: Sample, at: &Moment) -> bool {
        let before = self.on;
        self.last = Some(at.now);
        self.bits = (self.bits << 1) | u32::from(sample == Sample::Bad);
        self.seen = self.seen.saturating_add(1);
        self.bad_since = (sample == Sample::Bad).then(|| self.bad_since.unwrap_or(at.now));
        self.good_since = (sample == Sample::Good).then(|| self.good_since.unwrap_or(at.now));
        self.good_in_a_row = if sample == Sample::Good { self.good_in_a_row.saturating_add(1) } else { 0 };
        if self.on {
            if self.leaves(rule.leave, at) {
                (self.on, self.bits, self.seen) = (false, 0, 0);
            }
        } else {
            self.on = match rule.enter {
                Enter::Of(bad, of) => self.bad_of(of) >= bad,
                Enter::For(time) => self.bad_since.is_some_and(|since| at.age(since) >= time),
            };
        }
        self.on != before
    }

    fn leaves(&self, leave: Leave, at: &Moment) -> bool {
        let good_for = |time| self.good_since.filter(|since| at.age(*since) >= time);
        match leave {
            Leave::Samples(count) => self.good_in_a_row >= count,
            Leave::For(time) => good_for(time).is_some(),
            Leave::ForAndProbes(time) => good_for(time).is_some_and(|since| at.probed_since(since)),
            Leave::AtMost(bad, of) => self.seen >= of && self.bad_of(of) <= bad,
        }
    }

    fn bad_of(&self, last: u32) -> u32 {
        let mask = 1_u32.checked_shl(last).map_or(u32::MAX, |bit| bit - 1);
        (self.bits & mask).count_ones()
    }

    /// Forgets everything when its samples stay away: what is not known speaks against nobody.
    pub(super) fn expire(&mut self, at: &Moment) {
        if self.last.is_some_and(|last| at.age(last) > at.gap) {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A state, held long enough. `R` is what it is due to.
#[derive(Clone, Debug)]
pub(super) struct Held<R> {
    state: State,
    since: Option<Instant>,
    /// What is asked for, as it was the last time.
    asked: State,
    /// Since when something better is asked for.
    better_since: Option<Instant>,
    /// When something worse was asked for after something better had been.
    rises: VecDeque<Instant>,
    /// Whether something better was asked for since the last of them.
    fell: bool,
    /// What the state was due to when it was last asked for.
    due_to: Vec<R>,
}

impl<R> Default for Held<R> {
    fn default() -> Self {
        Self {
            state: State::Healthy,
            since: None,
            asked: State::Healthy,
            better_since: None,
            rises: VecDeque::new(),
            fell: true,
            due_to: Vec::new(),
        }
    }
}

impl<R> Held<R> {
    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// What the state is due to while something better is asked for already; empty otherwise.
    pub(super) fn due_to(&self) -> &[R] {
        if self.asked < self.state { &self.due_to } else { &[] }
    }

    /// Takes the state that is asked for; `at_once` where a single sample is enough for it. `due_to` gives the reasons.
    pub(super) fn ask(&mut self, asked: State, at_once: bool, now: Instant, due_to: impl FnOnce() -> Vec<R>) {
        while self.rises.front().is_some_and(|at| now.saturating_duration_since(*at) >= MEMORY) {
            self.rises.pop_front();
        }
        if asked > self.asked && self.fell {
            self.fell = false;
            if self.rises.len() == RISES {
                self.rises.pop_front();
            }
            self.rises.push_back(now);
        }
        self.fell |= asked < self.asked;
        self.asked = asked;
        self.better_since = (asked < self.state).then(|| self.better_since.unwrap_or(now));
        let dwelt = self.since.is_none_or(|since| now.saturating_duration_since(since) >= DWELL);
        let calm = self.better_since.is_some_and(|since| now.saturating_duration_since(since) >= self.calm());
        if (asked > self.state && (dwelt || at_once)) || (dwelt && calm) {
            (self.state, self.since, self.better_since) = (asked, Some(now), None);
        }
        if asked >= self.state {
            self.due_to = due_to();
        }
    }

    /// How long something better must be asked for: the first time not at all, then longer and longer.
    fn calm(&self) -> Duration {
        match u32::try_from(self.rises.len()).unwrap_or(u32::MAX) {
            0 | 1 => Duration::ZERO,
            rises => DWELL.saturating_mul(1 << (rises - 1).min(4)).min(MEMORY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn moment(now: Instant) -> Moment {
        Moment { now, gap: Duration::from_secs(30), probed: None }
    }

    #[test]
    fn a_state_is_held_and_longer_when_it_came_back() {
        let (start, mut held) = (clock::now(), Held::<u8>::default());
        let mut ask = |state, at_once, seconds| {
            held.ask(state, at_once, start + Duration::from_secs(seconds), || vec![1]);
            (held.state(), held.due_to().len())
        };
        assert_eq!(ask(State::Degraded, false, 0), (State::Degraded, 0));
        assert_eq!(ask(State::Healthy, false, 59), (State::Degraded, 1), "it says why it is still held");
        assert_eq!(ask(State::Draining, false, 59), (State::Degraded, 0), "not yet");
        assert_eq!(ask(State::Failed, true, 59), (State::Failed, 0), "at once");
        assert_eq!(ask(State::Healthy, false, 119), (State::Failed, 1));
        assert_eq!(ask(State::Healthy, false, 119 + 119), (State::Failed, 1), "it came back once: two minutes");
        assert_eq!(ask(State::Healthy, false, 119 + 120), (State::Healthy, 0));
        assert_eq!(ask(State::Degraded, false, 119 + 179), (State::Healthy, 0));
        assert_eq!(ask(State::Degraded, false, 119 + 180), (State::Degraded, 0));
    }

    #[test]
    fn what_is_not_sampled_any_more_is_forgotten() {
        let (start, mut latch) = (clock::now(), Latch::default());
        let rule = Rule { enter: Enter::For(Duration::from_secs(40)), leave: Leave::Samples(1) };
        for seconds in [0, 20] {
            assert!(!latch.sample(&rule, Sample::Bad, &moment(start + Duration::from_secs(seconds))));
        }
        latch.expire(&moment(start + Duration::from_secs(51)));
        assert!(!latch.sample(&rule, Sample::Bad, &moment(start + Duration::from_secs(52))));
        assert!(!latch.sample(&rule, Sample::Bad, &moment(start + Duration::from_secs(91))));
        assert!(latch.sample(&rule, Sample::Bad, &moment(start + Duration::from_secs(92))));
    }

    #[test]
    fn a_window_is_as_long_as_it_says() {
        let (start, mut latch) = (clock::now(), Latch::default());
        let rule = Rule { enter: Enter::Of(6, 10), leave: Leave::AtMost(1, 10) };
        let at = moment(start);
        for _ in 0..5 {
            assert!(!latch.sample(&rule, Sample::Bad, &at));
        }
        for _ in 0..5 {
            assert!(!latch.sample(&rule, Sample::Good, &at));
        }
        assert!(!latch.sample(&rule, Sample::Bad, &at), "the first one is out of sight");
        for _ in 0..4 {
            latch.sample(&rule, Sample::Bad, &at);
        }
        assert!(!latch.is_on());
        assert!(latch.sample(&rule, Sample::Bad, &at), "six in a row");
        for good in 1..=8 {
            assert!(!latch.sample(&rule, Sample::Good, &at), "{good}");
        }
        assert!(latch.sample(&rule, Sample::Good, &at), "one of ten");
        assert_eq!(latch.bad_of(40), 0);
    }
}
