//! What happened lately, from counters that only grow.
//!
//! # Problem
//!
//! A counter says how often something happened since the start. Whoever asks whether a process is well wants to know
//! about the last minutes. So the counters are noted now and then, and the present is held against the oldest note
//! that is not too old.
//!
//! # Invariants
//!
//! - Notes are bounded: one each `step`, over `window`.
//! - Before the first note everything happened lately.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Notes of counters.
#[derive(Clone, Debug)]
pub struct Recent<const N: usize> {
    began: Instant,
    window: Duration,
    step: Duration,
    notes: VecDeque<(Instant, [u64; N])>,
}

/// How much counters grew, and in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth<const N: usize> {
    /// In which time.
    pub over: Duration,
    /// How much each grew.
    pub by: [u64; N],
}

impl<const N: usize> Recent<N> {
    /// Begins with counters at zero.
    #[must_use]
    pub const fn new(window: Duration, step: Duration, began: Instant) -> Self {
        Self { began, window, step, notes: VecDeque::new() }
    }

    /// Takes a note, unless the last one is not old enough.
    pub fn note(&mut self, counts: [u64; N], now: Instant) {
        let is_due = self.notes.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= self.step);
        if is_due {
            self.notes.push_back((now, counts));
        }
        // One note at the far end of the window, or beyond it, is what the present is held against.
        while self.notes.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.window) {
            self.notes.pop_front();
        }
    }

    /// How much they grew within the window.
    #[must_use]
    pub fn growth(&self, counts: [u64; N], now: Instant) -> Growth<N> {
        let is_young = now.saturating_duration_since(self.began) <= self.window;
        let (at, before) = match self.notes.front() {
            Some(oldest) if !is_young => *oldest,
            _ => (self.began, [0; N]),
        };
        let mut by = counts;
        by.iter_mut().zip(before).for_each(|(count, before)| *count = count.saturating_sub(before));
        Growth { over: now.saturating_duration_since(at), by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn the_last_minutes_are_told_apart_from_what_was_before() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::<2>::new(Duration::from_mins(5), Duration::from_secs(5), start);
        for second in 0..1000 {
            // The first grows once a second, the second only in the beginning.
            recent.note([second, second.min(10)], at(second));
        }
        let lately = recent.growth([1000, 10], at(1000));
        assert!((300..=310).contains(&lately.over.as_secs()), "{lately:?}");
        assert_eq!(lately.by, [lately.over.as_secs(), 0]);
        assert!(recent.notes.len() <= 62, "{}", recent.notes.len());
    }

    #[test]
    fn a_young_process_tells_all_that_it_did() {
        let start = clock::now();
        let mut recent = Recent::<1>::new(Duration::from_mins(5), Duration::from_secs(5), start);
        recent.note([3], start + Duration::from_secs(1));
        let lately = recent.growth([7], start + Duration::from_secs(10));
        assert_eq!(lately, Growth { over: Duration::from_secs(10), by: [7] });
    }
}
