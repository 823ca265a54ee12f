use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A key, and what becomes of its requests.
struct Key {
    limit: RateLimit,
    due: Due,
}

impl Key {
    fn of(count: u32, period: Duration, burst: u32, delayed: u32) -> Self {
        Self { limit: RateLimit::new(count, period, burst, delayed), due: Due::default() }
    }

    fn at(&mut self, now: u64) -> Decision {
        let (decision, due) = self.limit.decide(self.due, now);
        self.due = due;
        decision
    }

    /// `None` when refused, else how many milliseconds it waits.
    fn wait_ms(&mut self, now_ms: u64) -> Option<u64> {
        match self.at(START + now_ms * MS) {
            Decision::Pass(_) => Some(0),
            Decision::Delay { wait, .. } => Some(u64::try_from(wait.as_nanos().div_ceil(MS.into())).unwrap()),
            Decision::Reject { .. } => None,
        }
    }

    fn passes(&mut self, now: u64) -> bool {
        !matches!(self.at(now), Decision::Reject { .. })
    }
}

const START: u64 = 3_600_000 * MS;

#[test]
fn as_the_old_tier_had_it_21_pass_at_once_and_then_one_each_600_ms() {
    let mut key = Key::of(100, MINUTE, 20, 0);
    assert_eq!((0..30).filter(|_| key.wait_ms(0) == Some(0)).count(), 21);
    for step in 1..50 {
        assert_eq!(key.wait_ms(step * 600 - 1), None, "{step}");
        assert_eq!(key.wait_ms(step * 600), Some(0), "{step}");
        assert_eq!(key.wait_ms(step * 600), None, "{step}");
    }
    // After 21 intervals of silence it is as it was in the beginning.
    assert_eq!((0..30).filter(|_| key.wait_ms(49 * 600 + 21 * 600) == Some(0)).count(), 21);
}

/// nginx's `limit_req` as its documentation has it, in its own units: thousandths of a request and
/// milliseconds. `excess` is how far the bucket is filled above one request.
struct Nginx {
    rate: i64,
    burst: i64,
    delay: i64,
    last: Option<(i64, i64)>,
}

impl Nginx {
    fn wait_ms(&mut self, now: i64) -> Option<u64> {
        let excess = match self.last {
            None => 0,
            Some((excess, last)) => (excess - self.rate * (now - last) / 1000 + 1000).max(0),
        };
        if excess > self.burst * 1000 {
            return None;
        }
        self.last = Some((excess, now));
        let late = (excess - self.delay * 1000).max(0);
        Some(u64::try_from((late * 1000 + self.rate - 1) / self.rate).unwrap())
    }
}

/// Nginx gives no `delay` for `nodelay`, and a `delay` of 0 for neither.
fn compare(per_second: u32, burst: u32, delay: Option<u32>, times: &[u64]) -> Result<(), TestCaseError> {
    let undelayed = delay.unwrap_or(burst).min(burst);
    let mut nginx =
        Nginx { rate: i64::from(per_second) * 1000, burst: i64::from(burst), delay: i64::from(undelayed), last: None };
    let mut key = Key::of(per_second, SECOND, burst, burst - undelayed);
    for now in times {
        let (theirs, ours) = (nginx.wait_ms(i64::try_from(*now).unwrap()), key.wait_ms(*now));
        prop_assert_eq!(theirs, ours, "at {} ms of {:?}", now, times);
    }
    Ok(())
}

proptest! {
    /// With these rates and whole milliseconds nginx has nothing to round.
    #[test]
    fn it_decides_as_nginx_does(
        per_second in prop::sample::select(vec![1u32, 2, 5, 10, 20, 100]),
        burst in 0u32..25,
        delay in prop::option::of(0u32..25),
        gaps in prop::collection::vec(prop_oneof![Just(0u64), 0u64..30, 0u64..3000], 1..120),
    ) {
        let times: Vec<u64> = gaps.iter().scan(0, |now, gap| { *now += gap; Some(*now) }).collect();
        compare(per_second, burst, delay, &times)?;
    }

    #[test]
    fn in_any_window_no_more_than_the_rate_and_the_burst_pass(
        count in 1u32..2000,
        period in prop::sample::select(vec![1u64, 60, 3600, 86_400]),
        burst in 0u32..30,
        delayed in 0u32..40,
        gaps in prop::collection::vec(prop_oneof![Just(0u64), 0u64..1000, 0u64..3_000_000_000, any::<u32>().prop_map(u64::from)], 1..200),
    ) {
        let mut key = Key::of(count, Duration::from_secs(period), burst, delayed);
        let mut now = START;
        let mut passed: Vec<u64> = Vec::new();
        for gap in gaps {
            now += gap;
            if key.passes(now) {
                passed.push(now);
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (last, to) in passed.iter().enumerate().skip(first) {
                let most = u128::from(to - from) * u128::from(count) / (u128::from(period) * 1_000_000_000);
                let most = most + u128::from(burst) + 1;
                prop_assert!((last - first + 1) as u128 <= most, "{} in {} ns", last - first + 1, to - from);
            }
        }
    }

    #[test]
    fn whoever_stays_at_the_rate_is_never_refused_and_never_delayed(
        count in 1u32..5000,
        period in prop::sample::select(vec![1u64, 60, 3600, 86_400]),
        burst in 0u32..30,
        delayed in 0u32..30,
        lateness in prop::collection::vec(0u64..50_000_000, 1..200),
    ) {
        let period = Duration::from_secs(period);
        let mut key = Key::of(count, period, burst, delayed);
        let interval = u64::try_from(period.as_nanos().div_ceil(u128::from(count))).unwrap();
        let mut now = START;
        for (number, late) in lateness.into_iter().enumerate() {
            now += interval + late;
            prop_assert!(matches!(key.at(now), Decision::Pass(_)), "request {}", number);
        }
    }

    #[test]
    fn what_is_delayed_leaves_at_the_rate(count in 1u32..500, burst in 1u32..30, gaps in prop::collection::vec(0u64..2_000_000_000, 1..80)) {
        let mut key = Key::of(count, SECOND, burst, burst);
        let (mut now, mut last) = (START, None);
        for gap in gaps {
            now += gap;
            let leaves = match key.at(now) {
                Decision::Pass(_) => now,
                Decision::Delay { wait, .. } => now + u64::try_from(wait.as_nanos()).unwrap(),
                Decision::Reject { .. } => continue,
            };
            // Times are rounded up to a nanosecond, so two may be nearer by less than one.
            prop_assert!(last.is_none_or(|last| leaves + 1 >= last + key.limit.interval()), "{} after {:?}", leaves, last);
            last = Some(leaves);
        }
    }

    #[test]
    fn who_comes_again_when_told_passes_and_not_before(count in 1u32..5000, burst in 0u32..20, before in 0u64..5_000_000_000) {
        let mut key = Key::of(count, SECOND, burst, 0);
        let refused = (0..=burst + 1).find_map(|_| match key.at(START) {
            Decision::Reject { retry_after, quota } => Some((retry_after, quota)),
            _ => None,
        });
        let (retry_after, quota) = refused.expect("one more than the burst is refused");
        prop_assert_eq!(quota.remaining, 0);
        let retry_at = START + u64::try_from(retry_after.as_nanos()).unwrap();
        let early = START + before.min(retry_at - START - 1);
        prop_assert!(!key.passes(early));
        prop_assert!(key.passes(retry_at));
    }

    #[test]
    fn no_number_overflows(count: u32, period: u64, burst: u32, delayed: u32, nanos: u64, part: u32, now: u64) {
        let limit = RateLimit::new(count, Duration::from_nanos(period), burst, delayed);
        let (_, due) = limit.decide(Due { nanos, part: part % count.max(1) }, now);
        let _ = limit.decide(due, now);
        let _ = limit.decide(due, u64::MAX);
    }
}

#[test]
fn a_third_of_the_burst_waits_when_told_so() {
    // nginx: rate=5r/s burst=12 delay=8, the example of its documentation.
    let mut key = Key::of(5, SECOND, 12, 4);
    let waits: Vec<_> = (0..14).map(|_| key.wait_ms(0)).collect();
    let mut expected = vec![Some(0); 9];
    expected.extend([Some(200), Some(400), Some(600), Some(800), None]);
    assert_eq!(waits, expected);
}

#[test]
fn the_quota_counts_down_and_comes_back() {
    let mut key = Key::of(100, MINUTE, 20, 0);
    let quota = |decision| match decision {
        Decision::Pass(quota) | Decision::Delay { quota, .. } | Decision::Reject { quota, .. } => quota,
    };
    for left in (0..=20).rev() {
        let told = quota(key.at(START));
        assert_eq!((told.limit, told.remaining), (21, left));
        assert_eq!(told.reset, Duration::from_millis(600) * (21 - left));
    }
    let refused = quota(key.at(START));
    assert_eq!((refused.remaining, refused.reset), (0, Duration::from_millis(12_600)));
    assert_eq!(quota(key.at(START + 1200 * MS)).remaining, 1);
}

#[test]
fn intervals_that_are_no_whole_nanoseconds_do_not_drift() {
    let mut key = Key::of(7, SECOND, 1, 0);
    assert!(key.passes(START) && key.passes(START));
    for number in 1..=7u64 {
        // A seventh of a second is 142,857,142 and six sevenths of a nanosecond.
        let on_time = START + (number * 1_000_000_000).div_ceil(7);
        assert!(!key.passes(on_time - 1), "{number}");
        assert!(key.passes(on_time), "{number}");
    }
    assert_eq!(key.due, Due { nanos: START + 9_000_000_000 / 7, part: 5 });
}

#[test]
fn the_stricter_of_two_quotas_has_less_left_or_takes_longer() {
    let quota = |remaining, seconds| Quota { limit: 9, remaining, reset: Duration::from_secs(seconds) };
    assert_eq!(quota(3, 1).stricter(quota(2, 1)).remaining, 2);
    assert_eq!(quota(2, 1).stricter(quota(2, 5)).reset, Duration::from_secs(5));
}
