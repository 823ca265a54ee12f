use proptest::prelude::*;

use super::*;
use crate::clock;

fn policy() -> RecoveryPolicy {
    RecoveryPolicy {
        interval: Duration::from_secs(10),
        max_interval: Duration::from_mins(5),
        probe: true,
        quiet: Duration::from_mins(1),
        timeout: Duration::from_secs(30),
    }
}

/// In the middle of the spread.
const EVEN: u64 = 100;

fn test(at: Instant, class: Option<Class>) -> Test {
    let failure = class.map(|class| Failure { step: Step::Liveness, class, detail: String::new() });
    Test { at, took: Duration::from_millis(10), ordered: false, model: None, left_out: None, failure }
}

#[test]
fn tests_become_rarer_until_the_longest_interval() {
    let (mut recovery, mut now) = (Recovery::default(), clock::now());
    assert_eq!(recovery.observe(true, &policy(), now, EVEN), Some(Turn::Ill));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let due = recovery.due().unwrap();
        waits.push((due - now).as_secs());
        now = due;
        recovery.record(test(now, Some(Class::Connect)), &policy(), now, EVEN);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(recovery.observe(false, &policy(), now, EVEN), Some(Turn::Well));
    assert_eq!(recovery.due(), None);
    assert_eq!((recovery.tests(), recovery.failures(Class::Connect), recovery.failures(Class::Model)), (8, 8, 0));
}

#[test]
fn a_good_test_of_a_server_that_stays_ill_does_not_bring_the_next_one_forward() {
    let (mut recovery, now) = (Recovery::default(), clock::now());
    recovery.observe(true, &policy(), now, EVEN);
    recovery.record(test(now, None), &policy(), now, EVEN);
    recovery.record(test(now, None), &policy(), now, EVEN);
    assert_eq!(recovery.due(), Some(now + Duration::from_secs(40)));
    // What an operator asks for is beside the plan.
    recovery.record(Test { ordered: true, ..test(now, None) }, &policy(), now, EVEN);
    assert_eq!(recovery.due(), Some(now + Duration::from_secs(40)));
}

#[test]
fn a_new_illness_is_tested_soon_unless_the_server_flaps() {
    let (mut recovery, mut now) = (Recovery::default(), clock::now());
    let ill = |recovery: &mut Recovery, now: Instant| {
        recovery.observe(true, &policy(), now, EVEN);
        let wait = recovery.due().unwrap() - now;
        recovery.record(test(now, Some(Class::Model)), &policy(), now, EVEN);
        recovery.record(test(now, Some(Class::Model)), &policy(), now, EVEN);
        recovery.observe(false, &policy(), now + Duration::from_secs(30), EVEN);
        wait.as_secs()
    };
    let mut waits = Vec::new();
    for _ in 0..3 {
        waits.push(ill(&mut recovery, now));
        now += Duration::from_mins(1);
    }
    assert_eq!(waits, [10, 10, 40], "the third is the fifth change within ten minutes");
    now += WINDOW;
    assert_eq!(ill(&mut recovery, now), 10);
}

#[test]
fn a_server_flaps_by_its_changes_within_the_window() {
    let (mut recovery, now) = (Recovery::default(), clock::now());
    for number in 0..4 {
        assert_ne!(recovery.analysis(now).pattern, Pattern::Flapping, "after {number}");
        recovery.observe(number % 2 == 0, &policy(), now + Duration::from_mins(number), EVEN);
    }
    let then = now + Duration::from_mins(4);
    let analysis = recovery.analysis(then);
    assert_eq!((analysis.pattern, analysis.changes), (Pattern::Flapping, 4));
    assert!(analysis.basis.contains("4 times"), "{}", analysis.basis);
    assert!(recovery.is_flapping(then));
    assert!(!recovery.is_flapping(now + WINDOW), "the first change is too old");
}

#[test]
fn an_illness_is_persistent_after_five_failed_tests_in_a_row() {
    let (mut recovery, now) = (Recovery::default(), clock::now());
    recovery.observe(true, &policy(), now, EVEN);
    for _ in 0..4 {
        recovery.record(test(now, Some(Class::Timeout)), &policy(), now, EVEN);
    }
    assert_eq!(recovery.analysis(now).pattern, Pattern::Stable);
    recovery.record(test(now, Some(Class::Stalled)), &policy(), now, EVEN);
    let analysis = recovery.analysis(now);
    assert_eq!(analysis.pattern, Pattern::Persistent);
    assert!(analysis.basis.contains("5 tests") && analysis.basis.contains("stalled"), "{}", analysis.basis);
    recovery.record(test(now, None), &policy(), now, EVEN);
    assert_eq!(recovery.failures_in_a_row(), 0);
    assert_ne!(recovery.analysis(now).pattern, Pattern::Persistent);
}

#[test]
fn a_server_degrades_when_newer_tests_fail_more_often_or_take_twice_as_long() {
    let now = clock::now();
    let history = |tests: &[(bool, u64)]| {
        let mut recovery = Recovery::default();
        for (good, milliseconds) in tests {
            let class = if *good { None } else { Some(Class::Status) };
            let took = Duration::from_millis(*milliseconds);
            recovery.record(Test { took, ..test(now, class) }, &policy(), now, EVEN);
        }
        recovery.analysis(now).pattern
    };
    let good = [(true, 100); 4];
    assert_eq!(history(&[good, good].concat()), Pattern::Stable);
    assert_eq!(history(&[good, [(true, 100), (false, 1), (true, 100), (true, 100)]].concat()), Pattern::Degrading);
    assert_eq!(history(&[[(false, 1), (true, 100), (true, 100), (true, 100)], good].concat()), Pattern::Stable);
    assert_eq!(history(&[good, [(true, 250); 4]].concat()), Pattern::Degrading);
    assert_eq!(history(&[[(true, 250); 4], good].concat()), Pattern::Stable);
}

#[test]
fn a_reset_forgets_tests_and_not_the_illness() {
    let (mut recovery, now) = (Recovery::default(), clock::now());
    recovery.observe(true, &policy(), now, EVEN);
    recovery.record(test(now, Some(Class::Tls)), &policy(), now, EVEN);
    let due = recovery.due();
    recovery.reset();
    assert_eq!((recovery.tests(), recovery.failures(Class::Tls), recovery.history().count()), (0, 0, 0));
    assert_eq!((recovery.ill_since(), recovery.due(), recovery.analysis(now).changes), (Some(now), due, 0));
}

proptest! {
    #[test]
    fn whatever_happens_it_is_bounded_and_a_test_is_due_exactly_while_it_is_ill(
        events in prop::collection::vec((any::<bool>(), any::<bool>(), 0..600_u64, any::<u64>()), 0..300),
    ) {
        let (mut recovery, mut now) = (Recovery::default(), clock::now());
        let mut ill = false;
        for (is_test, good, seconds, random) in events {
            now += Duration::from_secs(seconds);
            if is_test {
                recovery.record(test(now, (!good).then_some(Class::Connect)), &policy(), now, random);
            } else {
                let turn = recovery.observe(!good, &policy(), now, random);
                prop_assert_eq!(turn.is_some(), ill == good);
                ill = !good;
            }
            prop_assert_eq!((recovery.due().is_some(), recovery.ill_since().is_some()), (ill, ill));
            if let Some(due) = recovery.due().filter(|due| *due > now) {
                prop_assert!(due - now <= policy().max_interval);
            }
            prop_assert!(recovery.history().count() <= HISTORY && recovery.changes.len() <= CHANGES);
            prop_assert!(!recovery.analysis(now).basis.is_empty());
        }
    }

    #[test]
    fn the_spread_is_a_tenth_and_never_above_the_longest(rounds in any::<u32>(), random in any::<u64>()) {
        let (even, spread) = (delay(&policy(), rounds, EVEN), delay(&policy(), rounds, random));
        prop_assert!(spread <= policy().max_interval);
        prop_assert!(spread >= even * 9 / 10 && spread <= even * 11 / 10);
    }
}
