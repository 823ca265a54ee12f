//! Rates and percentiles of the last minute, for people who look at the process now.
//!
//! # Shape
//! A request adds to a few process-wide counters when it ends ([`Totals`]). Once a second somebody reads them
//! ([`Window::tick`]); the last minute is the difference between then and now. The metrics that Prometheus reads cannot
//! serve for this: their buckets are few, so that a percentile would be a guess, and they cannot be read one by one.
//!
//! # Invariants
//! - The buckets grow by an eighth of a power of two: a percentile is at most 7 % off.
//! - Where nothing was observed there is no number.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a window is, in seconds.
const LENGTH: usize = 60;

/// Over how many seconds rates are taken.
const RATE: usize = 10;

/// Buckets of each power of two.
const STEPS: usize = 8;

/// Powers of two, beginning with 64 µs; the last bucket begins beyond an hour.
const POWERS: usize = 26;

/// Microseconds at which the first bucket ends.
const FIRST: u64 = 64;

const BUCKETS: usize = POWERS * STEPS + 1;

/// The bucket of a time.
fn bucket(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    if micros < FIRST {
        return 0;
    }
    let power = (micros / FIRST).ilog2();
    let step = (micros >> power) * STEPS as u64 / FIRST - STEPS as u64;
    (1 + power as usize * STEPS + usize::try_from(step).unwrap_or(0)).min(BUCKETS - 1)
}

/// The middle of a bucket, in milliseconds.
#[allow(clippy::cast_precision_loss, reason = "bounds are below 2^53")]
fn middle(bucket: usize) -> f64 {
    let Some(place) = bucket.checked_sub(1) else { return FIRST as f64 / 2000.0 };
    let low = (FIRST << (place / STEPS)) as f64;
    low * (1.0 + ((place % STEPS) as f64 + 0.5) / STEPS as f64) / 1000.0
}

/// How often times of each length were observed since the process began.
pub struct Times([AtomicU64; BUCKETS]);

impl Default for Times {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Times {
    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        self.0[bucket(time)].fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Box<[u64; BUCKETS]> {
        Box::new(std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed)))
    }
}

/// What requests add up to since the process began.
#[derive(Default)]
pub struct Totals {
    requests: AtomicU64,
    errors: AtomicU64,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
    /// From the head of a request to the first byte of a server's answer; counted when that byte comes.
    pub first_byte: Times,
    duration: Times,
}

impl Totals {
    /// Counts a request that ended. Tokens are those that the server told.
    pub fn ended(&self, duration: Duration, failed: bool, prompt_tokens: u64, output_tokens: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.prompt_tokens.fetch_add(prompt_tokens, Ordering::Relaxed);
        self.output_tokens.fetch_add(output_tokens, Ordering::Relaxed);
        self.duration.observe(duration);
    }

    fn read(&self, at: Instant) -> Reading {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            at,
            requests: count(&self.requests),
            errors: count(&self.errors),
            prompt_tokens: count(&self.prompt_tokens),
            output_tokens: count(&self.output_tokens),
            first_byte: self.first_byte.read(),
            duration: self.duration.read(),
        }
    }
}

/// The totals at a moment.
struct Reading {
    at: Instant,
    requests: u64,
    errors: u64,
    prompt_tokens: u64,
    output_tokens: u64,
    first_byte: Box<[u64; BUCKETS]>,
    duration: Box<[u64; BUCKETS]>,
}

/// Times that half, 95 and 99 of a hundred requests stayed below, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Half of them.
    pub p50: f64,
    /// 95 of a hundred.
    pub p95: f64,
    /// 99 of a hundred.
    pub p99: f64,
}

/// What happened lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    /// Requests that ended, each second of the last ten.
    pub requests_per_second: f64,
    /// Those of them that failed.
    pub errors_per_second: f64,
    /// Tokens of prompts that servers told, each second of the last ten.
    pub prompt_tokens_per_second: f64,
    /// Tokens of answers.
    pub output_tokens_per_second: f64,
    /// Times to the first byte in the last minute; `None` when there was none.
    pub first_byte: Option<Percentiles>,
    /// Durations of the requests that ended in the last minute; `None` when none did.
    pub duration: Option<Percentiles>,
}

/// The totals of the last minute, second by second.
#[derive(Default)]
pub struct Window {
    readings: VecDeque<Reading>,
}

impl Window {
    /// Takes a reading; to be called about once a second.
    pub fn tick(&mut self, totals: &Totals, now: Instant) {
        if self.readings.len() > LENGTH {
            self.readings.pop_front();
        }
        self.readings.push_back(totals.read(now));
    }

    /// What happened until the last reading.
    pub fn recent(&self) -> Recent {
        let (Some(first), Some(last)) = (self.readings.front(), self.readings.back()) else {
            return Recent::default();
        };
        let before = self.readings.len().saturating_sub(1 + RATE);
        let before = self.readings.get(before).unwrap_or(first);
        let seconds = (last.at - before.at).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "counts of ten seconds")]
        let rate = |count: fn(&Reading) -> u64| {
            if seconds > 0.0 { (count(last) - count(before)) as f64 / seconds } else { 0.0 }
        };
        Recent {
            requests_per_second: rate(|reading| reading.requests),
            errors_per_second: rate(|reading| reading.errors),
            prompt_tokens_per_second: rate(|reading| reading.prompt_tokens),
            output_tokens_per_second: rate(|reading| reading.output_tokens),
            first_byte: percentiles(&first.first_byte, &last.first_byte),
            duration: percentiles(&first.duration, &last.duration),
        }
    }
}

fn percentiles(before: &[u64; BUCKETS], now: &[u64; BUCKETS]) -> Option<Percentiles> {
    let counts: Vec<u64> = now.iter().zip(before).map(|(now, before)| now - before).collect();
    let all: u64 = counts.iter().sum();
    let below = |hundredths: u64| {
        let wanted = (all * hundredths).div_ceil(100);
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        middle(found.unwrap_or(BUCKETS - 1))
    };
    (all > 0).then(|| Percentiles { p50: below(50), p95: below(95), p99: below(99) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_bucket_holds_times_that_are_alike() {
        let mut last = 0;
        for micros in (0..200).chain((200..4_000_000).step_by(997)).chain([3_600_000_000, u64::MAX]) {
            let at = bucket(Duration::from_micros(micros));
            assert!(at >= last, "{micros} µs");
            last = at;
            #[allow(clippy::cast_precision_loss, reason = "small")]
            let exact = micros as f64 / 1000.0;
            if (64..=3_600_000_000).contains(&micros) {
                assert!((middle(at) - exact).abs() <= 0.07 * exact, "{exact} ms is told as {} ms", middle(at));
            }
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn without_requests_there_are_no_percentiles() {
        let mut window = Window::default();
        assert_eq!(window.recent(), Recent::default());
        window.tick(&Totals::default(), clock::now());
        assert_eq!(window.recent(), Recent::default());
    }

    #[test]
    fn what_is_older_than_a_minute_does_not_count() {
        let (totals, mut window, start) = (Totals::default(), Window::default(), clock::now());
        window.tick(&totals, start);
        for _ in 0..10 {
            totals.ended(Duration::from_secs(20), true, 0, 0);
        }
        for second in 1..=61 {
            totals.ended(Duration::from_millis(10), false, 3, 5);
            window.tick(&totals, start + Duration::from_secs(second));
            let Recent { duration, .. } = window.recent();
            let p99 = duration.unwrap().p99;
            assert_eq!(p99 > 10_000.0, second <= 60, "second {second}: {p99} ms");
        }
        let recent = window.recent();
        assert!((recent.requests_per_second - 1.0).abs() < 1e-9, "{recent:?}");
        assert!((recent.output_tokens_per_second - 5.0).abs() < 1e-9, "{recent:?}");
        assert!((recent.prompt_tokens_per_second - 3.0).abs() < 1e-9, "{recent:?}");
        assert_eq!((recent.errors_per_second, recent.first_byte), (0.0, None));
    }

    #[test]
    fn rates_go_by_the_time_that_has_passed() {
        let (totals, mut window, start) = (Totals::default(), Window::default(), clock::now());
        window.tick(&totals, start);
        (0..6).for_each(|_| totals.ended(Duration::from_millis(1), true, 0, 0));
        window.tick(&totals, start + Duration::from_secs(3));
        assert!((window.recent().errors_per_second - 2.0).abs() < 1e-9);
    }
}
