//! Is a server slower with a model than it usually is?
//!
//! # Problem
//!
//! A card that is ill in a way that no driver reports still shows it: it writes more slowly than it did. How fast a model
//! should be on a card nobody knows in advance, so each server is compared with itself: the median of the last 24 hours.
//!
//! # Rule
//!
//! The day is kept as 24 hours, each with a few values that stand for all of its samples. Nothing is said before there
//! are [`FLOOR`] of them. While the server is slow its samples are not kept, or what is slow would soon be usual.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples below which nothing is usual yet.
pub(super) const FLOOR: u64 = 20;
/// Answers with fewer tokens say little about speed.
pub(super) const SHORT: u32 = 32;
const HOUR: Duration = Duration::from_hours(1);
const HOURS: usize = 24;
/// Values that are kept of one hour.
const KEPT: usize = 32;

/// One hour of samples.
#[derive(Clone, Debug)]
struct Hour {
    began: Instant,
    came: u64,
    /// Values, sorted, each with how many samples it stands for.
    kept: Vec<(f32, u32)>,
}

impl Hour {
    /// Takes a sample. When there are too many, the two neighbours that stand for the fewest become one: so all samples are
    /// in it, whatever the order in which they come.
    fn record(&mut self, value: f32) {
        self.came += 1;
        let place = self.kept.partition_point(|(kept, _)| *kept < value);
        self.kept.insert(place, (value, 1));
        if self.kept.len() <= KEPT {
            return;
        }
        let weight = |pair: &[(f32, u32)]| pair.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        let lightest = self.kept.windows(2).enumerate().min_by_key(|(_, pair)| weight(pair));
        if let Some((at, [one, other])) = lightest.map(|(at, pair)| (at, [pair[0], pair[1]])) {
            let count = one.1.saturating_add(other.1);
            let sum = f64::from(one.0) * f64::from(one.1) + f64::from(other.0) * f64::from(other.1);
            #[expect(clippy::cast_possible_truncation, reason = "seven digits are more than enough")]
            let mean = (sum / f64::from(count)) as f32;
            self.kept[at] = (mean.clamp(one.0, other.0), count);
            self.kept.remove(at + 1);
        }
    }
}

/// The median of a day.
#[derive(Clone, Debug, Default)]
pub(super) struct Usual {
    hours: VecDeque<Hour>,
    median: Option<f64>,
    /// Samples that came since the median was found.
    fresh: u64,
}

impl Usual {
    /// Takes a sample; what is not a positive number is none.
    pub(super) fn record(&mut self, value: f64, now: Instant) {
        if !(value.is_finite() && value > 0.0) {
            return;
        }
        let past = |hour: &Hour| now.saturating_duration_since(hour.began);
        if self.hours.back().is_none_or(|hour| past(hour) >= HOUR) {
            self.hours.push_back(Hour { began: now, came: 0, kept: Vec::new() });
            while self.hours.len() > HOURS {
                self.hours.pop_front();
            }
        }
        if let Some(hour) = self.hours.back_mut() {
            #[expect(clippy::cast_possible_truncation, reason = "seven digits are more than enough")]
            hour.record((value as f32).min(f32::MAX));
        }
        self.fresh += 1;
    }

    /// The median of the last 24 hours, if there are enough samples. It may lag a little behind the newest ones.
    pub(super) fn median(&mut self, now: Instant) -> Option<f64> {
        let before = self.hours.len();
        // An hour leaves as a whole, when its first sample is a day old.
        let day = HOUR * 24;
        self.hours.retain(|hour| now.saturating_duration_since(hour.began) < day);
        let count: u64 = self.hours.iter().map(|hour| hour.came).sum();
        if count < FLOOR {
            return None;
        }
        // Sorting again is worth it only when there is something new to speak of.
        if self.median.is_none() || self.fresh * 16 >= count || before != self.hours.len() {
            self.fresh = 0;
            self.median = self.weigh();
        }
        self.median
    }

    fn weigh(&self) -> Option<f64> {
        let mut all: Vec<(f32, u32)> = self.hours.iter().flat_map(|hour| hour.kept.iter().copied()).collect();
        all.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let half = all.iter().map(|(_, count)| u64::from(*count)).sum::<u64>().div_ceil(2);
        let mut sum = 0;
        let middle = all.iter().find(|(_, count)| {
            sum += u64::from(*count);
            sum >= half
        });
        middle.map(|(value, _)| f64::from(*value))
    }
}

/// The last comparisons with what is usual, and when each was made.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately(VecDeque<(Instant, f32)>);

impl Lately {
    const MOST: usize = 10;

    /// Takes how many times what is usual the last value was.
    pub(super) fn record(&mut self, share: f64, now: Instant) {
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "a share")]
        self.0.push_back((now, share as f32));
    }

    /// The middle one of those within this time, if there are three.
    pub(super) fn middle(&self, within: Duration, now: Instant) -> Option<f64> {
        let recent = self.0.iter().filter(|(at, _)| now.saturating_duration_since(*at) < within);
        let mut shares: Vec<f32> = recent.map(|(_, share)| *share).collect();
        shares.sort_unstable_by(f32::total_cmp);
        let middle = shares.get(shares.len() / 2).copied().filter(|_| shares.len() >= 3);
        middle.map(f64::from)
    }

    /// When the last one was taken.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.back().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    #[test]
    fn nothing_is_usual_before_there_are_enough_samples() {
        let (now, mut usual) = (clock::now(), Usual::default());
        for _ in 0..FLOOR - 1 {
            usual.record(50.0, now);
        }
        for wrong in [f64::NAN, -1.0, 0.0, f64::INFINITY] {
            usual.record(wrong, now);
        }
        assert_eq!(usual.median(now), None);
        usual.record(50.0, now);
        assert_eq!(usual.median(now), Some(50.0));
    }

    #[test]
    fn a_day_later_nothing_is_left_of_a_day() {
        let (now, mut usual) = (clock::now(), Usual::default());
        for _ in 0..100 {
            usual.record(50.0, now);
        }
        assert_eq!(usual.median(now + HOUR * 23 + Duration::from_mins(59)), Some(50.0));
        for _ in 0..100 {
            usual.record(20.0, now + HOUR * 23);
        }
        assert_eq!(usual.median(now + HOUR * 24), Some(20.0));
        assert_eq!(usual.median(now + HOUR * 47), None);
    }

    #[test]
    fn a_busy_hour_counts_for_all_of_its_samples_and_keeps_few() {
        let (now, mut usual) = (clock::now(), Usual::default());
        for _ in 0..10_000 {
            usual.record(100.0, now);
        }
        for hour in 1..24 {
            for _ in 0..30 {
                usual.record(10.0, now + HOUR * hour);
            }
        }
        assert_eq!(usual.median(now + HOUR * 23), Some(100.0));
        assert!(usual.hours.iter().all(|hour| hour.kept.len() <= KEPT));
        assert_eq!(usual.hours.len(), 24);
    }

    proptest! {
        #[test]
        fn the_median_is_near_the_true_one(
            mut values in prop::collection::vec(1.0_f64..100.0, 20..400), order in 0..4_u8,
        ) {
            match order {
                0 => values.sort_unstable_by(f64::total_cmp),
                1 => values.sort_unstable_by(|one, other| other.total_cmp(one)),
                // Small and large ones by turns.
                2 => values.iter_mut().step_by(2).for_each(|value| *value += 1000.0),
                _ => {}
            }
            let (now, mut usual) = (clock::now(), Usual::default());
            for value in &values {
                usual.record(*value, now);
            }
            let found = usual.median(now).unwrap();
            let below = values.iter().filter(|value| **value < found - 1e-3).count() * 100;
            let upto = values.iter().filter(|value| **value <= found + 1e-3).count() * 100;
            prop_assert!(below <= values.len() * 60 && upto >= values.len() * 40, "{found}: {below} to {upto}");
        }
    }
}
