//! Peak EWMA: the server whose answers begin soonest, by what was seen of it lately, times what it has to do.
//!
//! The cost of a server is a moving average of the times to its first byte, times its requests in flight and the new one,
//! over its weight. A time above the average is believed at once, one below it only bit by bit: so a server that becomes
//! slow is left alone soon and comes back slowly (Finagle's `PeakEwma`, linkerd). A failure counts as a long time, or a
//! server that fails quickly would attract everything.

use std::time::{Duration, Instant};

/// How long it takes until what was seen counts for a third.
const DECAY: Duration = Duration::from_secs(60);
/// What nothing is known about is thought to take so long, s.
const UNKNOWN: f64 = 0.05;
/// What a failure counts as, at least, s.
const FAILURE: f64 = 5.0;

/// The average of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeakEwma {
    seconds: Option<(f64, Instant)>,
}

impl PeakEwma {
    /// An answer began after this time.
    pub fn observe(&mut self, time: Duration, now: Instant) {
        let seen = time.as_secs_f64();
        let next = match self.seconds {
            Some((known, _)) if seen >= known => seen,
            None => seen,
            Some((known, at)) => {
                let kept = decay(at, now);
                known * kept + seen * (1.0 - kept)
            }
        };
        self.seconds = Some((next, now));
    }

    /// A request failed.
    pub fn failed(&mut self, now: Instant) {
        let known = self.seconds.map_or(0.0, |(known, _)| known);
        self.seconds = Some(((known * 2.0).clamp(FAILURE, 600.0), now));
    }

    /// What a request would cost here now: an old average fades, so that the server is tried again.
    #[must_use]
    pub fn cost(&self, in_flight: u32, weight: u32, now: Instant) -> f64 {
        let seconds = self.seconds.map_or(UNKNOWN, |(known, at)| known * decay(at, now));
        seconds.max(1e-6) * (f64::from(in_flight) + 1.0) / f64::from(weight.max(1))
    }
}

fn decay(since: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(since).as_secs_f64() / DECAY.as_secs_f64()).exp()
}

/// Picks the candidate of the least cost; of equals one by `random`. `cost` answers `None` for a server that is excluded.
#[must_use]
pub fn pick(
    candidates: impl Iterator<Item = usize> + Clone,
    cost: impl Fn(usize) -> Option<f64>,
    random: u64,
) -> Option<usize> {
    let scored = || candidates.clone().filter_map(|index| Some((index, cost(index)?)));
    let least = scored().map(|(_, cost)| cost).min_by(f64::total_cmp)?;
    let equal = || scored().filter(|(_, cost)| *cost <= least * 1.001);
    let lot = usize::try_from(super::scramble(random) % equal().count().max(1) as u64).unwrap_or(0);
    equal().map(|(index, _)| index).nth(lot).or_else(|| scored().map(|(index, _)| index).next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_peak_is_believed_at_once_and_forgotten_slowly() {
        let start = clock::now();
        let mut ewma = PeakEwma::default();
        ewma.observe(Duration::from_millis(100), start);
        ewma.observe(Duration::from_secs(2), start);
        assert!((ewma.cost(0, 1, start) - 2.0).abs() < 1e-9);
        ewma.observe(Duration::from_millis(100), start + Duration::from_secs(6));
        let cost = ewma.cost(0, 1, start + Duration::from_secs(6));
        assert!((1.7..1.9).contains(&cost), "{cost}");
        assert!(ewma.cost(0, 1, start + Duration::from_secs(600)) < 0.01);
    }

    #[test]
    fn a_server_that_fails_quickly_attracts_nothing() {
        let now = clock::now();
        let (mut quick, mut slow) = (PeakEwma::default(), PeakEwma::default());
        slow.observe(Duration::from_secs(1), now);
        quick.observe(Duration::from_millis(1), now);
        quick.failed(now);
        let both = [quick, slow];
        assert_eq!(pick(0..2, |index| Some(both[index].cost(0, 1, now)), 3), Some(1));
        assert_eq!(pick(0..2, |index| (index == 0).then(|| both[0].cost(0, 1, now)), 3), Some(0));
    }

    #[test]
    fn load_and_weight_count() {
        let now = clock::now();
        let mut ewma = PeakEwma::default();
        ewma.observe(Duration::from_secs(1), now);
        assert!((ewma.cost(3, 2, now) - 2.0).abs() < 1e-9);
    }
}
