use proptest::prelude::*;
use time::format_description::well_known::Rfc3339;

use super::*;

fn at(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).expect("a time").unix_timestamp()
}

fn period(window: Window, now: &str) -> (String, String) {
    let text = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap().format(&Rfc3339).unwrap();
    let period = window.period(at(now));
    (text(period.starts), text(period.ends))
}

#[test]
fn windows_are_those_of_the_calendar() {
    for (window, now, starts, ends) in [
        (Window::Minute, "2026-02-03T04:05:59Z", "2026-02-03T04:05:00Z", "2026-02-03T04:06:00Z"),
        (Window::Minute, "2026-02-03T04:06:00Z", "2026-02-03T04:06:00Z", "2026-02-03T04:07:00Z"),
        (Window::Hour, "2026-02-03T04:59:59Z", "2026-02-03T04:00:00Z", "2026-02-03T05:00:00Z"),
        (Window::Day, "2026-02-03T23:59:59Z", "2026-02-03T00:00:00Z", "2026-02-04T00:00:00Z"),
        // Whatever the clock of the reader says.
        (Window::Day, "2026-02-03T23:30:00-03:00", "2026-02-04T00:00:00Z", "2026-02-05T00:00:00Z"),
        (Window::Day, "2028-02-29T12:00:00Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Window::Month, "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
        (Window::Month, "2027-02-28T23:59:59Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"),
        (Window::Month, "2027-03-01T00:00:00Z", "2027-03-01T00:00:00Z", "2027-04-01T00:00:00Z"),
        (Window::Month, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        (Window::Month, "2100-02-28T00:00:00Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(period(window, now), (starts.to_owned(), ends.to_owned()), "{window:?} {now}");
    }
}

#[test]
fn a_clock_that_goes_back_gives_nothing_back_and_one_that_was_wrong_is_forgotten() {
    let midnight = at("2026-03-01T00:00:00Z");
    for window in Window::ALL {
        let after = window.period(midnight);
        assert_eq!(window.next(after, midnight - 1), after, "{window:?}: a second back over the border");
        assert_eq!(window.next(after, midnight), after);
        let before = window.period(midnight - 1);
        assert_eq!(window.next(before, midnight), after, "{window:?}: on");
        // A clock that was years ahead: nobody is to wait until then.
        let wrong = window.period(at("2036-03-01T00:00:00Z"));
        assert_eq!(window.next(wrong, midnight), after, "{window:?}");
        assert_eq!(window.next(Period::default(), midnight), after, "{window:?}: none yet");
    }
}

#[test]
fn a_request_is_let_in_until_the_limit_is_used_and_warned_before() {
    let day = Window::Day.period(at("2026-02-03T12:00:00Z"));
    let allowance = Allowance { limit: 1000, warn_at: 80, only_warns: false };
    let decide = |used| allowance.decide(used, day, at("2026-02-03T23:00:00Z"));
    assert_eq!(decide(0), Decision::Allowed { left: 1000, warn: false });
    assert_eq!(decide(799), Decision::Allowed { left: 201, warn: false });
    assert_eq!(decide(800), Decision::Allowed { left: 200, warn: true });
    assert_eq!(decide(999), Decision::Allowed { left: 1, warn: true });
    let refused = Decision::Refused { retry_after: Duration::from_hours(1) };
    assert_eq!((decide(1000), decide(u64::MAX)), (refused, refused));
    let softly = Allowance { only_warns: true, ..allowance };
    assert_eq!(softly.decide(5000, day, day.starts), Decision::Allowed { left: 0, warn: true });
    let never_early = Allowance { warn_at: 100, ..allowance };
    assert_eq!((never_early.level(999), never_early.level(1000)), (Level::Within, Level::Exceeded));
    // A clock that went back is no reason to wait for nothing, and one that is late none to wait no time at all.
    assert_eq!(day.left(day.ends + 5), Duration::from_secs(1));
}

#[test]
fn a_quota_counts_what_it_says() {
    let tokens = Tokens { prompt: 3, output: 4 };
    assert_eq!([Counted::Total, Counted::Prompt, Counted::Output].map(|counted| counted.of(tokens)), [7, 3, 4]);
    assert_eq!(Counted::Total.of(Tokens { prompt: u64::MAX, output: 1 }), u64::MAX);
    for window in Window::ALL {
        assert_eq!(Window::of_word(window.as_str()), Some(window));
    }
    assert_eq!(Window::of_word("week"), None);
}

/// Seconds from 1970 to 2400.
fn moments() -> impl Strategy<Value = i64> {
    0_i64..13_569_465_600
}

proptest! {
    #[test]
    fn each_moment_is_in_its_window_and_windows_follow_each_other(now in moments()) {
        for window in Window::ALL {
            let period = window.period(now);
            prop_assert!(period.contains(now));
            prop_assert_eq!(window.period(period.starts), period);
            prop_assert_eq!(window.period(period.ends - 1), period);
            prop_assert_eq!(window.period(period.ends).starts, period.ends);
            prop_assert!(period.left(now) <= Duration::from_secs(31 * 86_400));
        }
    }

    /// A clock that goes back into the window before, and on again, finds the sums that it left.
    #[test]
    fn a_step_back_is_outlasted(now in moments(), back in 0_i64..3_000_000) {
        for window in Window::ALL {
            let (known, then) = (window.period(now + 3_000_000), now + 3_000_000 - back);
            let next = window.next(known, then);
            let is_near = then >= window.period(known.starts - 1).starts;
            prop_assert_eq!(next, if is_near { known } else { window.period(then) });
            prop_assert!(next.left(then) <= Duration::from_secs(62 * 86_400));
        }
    }

    #[test]
    fn sums_are_never_negative_and_never_wrap(charges in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50)) {
        let mut sum = Tokens::default();
        for (prompt, output) in charges {
            let before = sum;
            sum = sum.plus(Tokens { prompt, output });
            prop_assert!(sum.prompt >= before.prompt && sum.output >= before.output);
            prop_assert!(Counted::Total.of(sum) >= Counted::Prompt.of(sum));
            let rest = before.minus(sum);
            prop_assert!(rest.is_none());
        }
    }

    #[test]
    fn who_uses_more_is_never_better_off(limit in 1_u64..1_000_000, warn_at in 0_u8..=100, used in 0_u64..2_000_000) {
        let allowance = Allowance { limit, warn_at, only_warns: false };
        prop_assert!(allowance.level(used) <= allowance.level(used + 1));
        let day = Window::Day.period(0);
        let refused = matches!(allowance.decide(used, day, 0), Decision::Refused { .. });
        prop_assert_eq!(refused, used >= limit);
    }
}
