use proptest::prelude::*;

use super::*;
use crate::clock;

/// In the middle of the spread.
const EVEN: u64 = 100;

fn policy() -> ActionPolicy {
    ActionPolicy {
        after: 3,
        max_attempts: 3,
        backoff: Duration::from_secs(10),
        max_backoff: Duration::from_secs(15),
        verify: Duration::from_secs(60),
        retry_after: Duration::from_mins(30),
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// One that is about to run for the first time.
fn ill(now: Instant) -> RecoveryAction {
    let mut action = RecoveryAction::default();
    (0..3).for_each(|_| assert_eq!(action.checked(false, now), None));
    action
}

#[test]
fn it_waits_for_so_many_failed_checks_in_a_row_and_for_the_server_to_be_down() {
    let (mut action, now) = (RecoveryAction::default(), clock::now());
    for good in [false, false, true, false, false] {
        action.checked(good, now);
        assert_eq!(action.next(true, &policy(), now), Next::Nothing);
    }
    action.checked(false, now);
    assert_eq!(action.next(false, &policy(), now), Next::Nothing, "it has only just been started");
    assert_eq!(action.next(true, &policy(), now), Next::Run);
    assert_eq!((action.failed_checks(), action.failing_since()), (3, Some(now)));
}

#[test]
fn an_action_that_helps_is_verified_by_a_check() {
    let now = clock::now();
    let mut action = ill(now);
    assert_eq!(action.begin(), 1);
    assert_eq!(action.next(true, &policy(), now), Next::Nothing, "it runs");
    assert_eq!(action.checked(true, now), None, "perhaps the last answer before the restart");
    assert_eq!(action.ran(true, &policy(), now, EVEN), None);
    assert_eq!(action.state(), State::Verifying { until: now + seconds(60) });
    assert_eq!(action.next(true, &policy(), now), Next::Nothing);
    assert_eq!(action.checked(false, now + seconds(5)), None);
    assert_eq!(action.checked(true, now + seconds(6)), Some(Ended::Well { attempts: 1, how: How::Verified }));
    assert_eq!((action.state(), action.attempts()), (State::Watching, 0));
}

#[test]
fn it_backs_off_longer_each_time_gives_up_and_begins_anew_later() {
    let mut now = clock::now();
    let mut action = ill(now);
    let round = |action: &mut RecoveryAction, now: &mut Instant| {
        let mut waits = Vec::new();
        loop {
            action.begin();
            match action.ran(false, &policy(), *now, EVEN) {
                Some(Ended::Again { at }) => {
                    waits.push((at - *now).as_secs());
                    assert_eq!(action.next(true, &policy(), *now), Next::At(at));
                    *now = at;
                    assert_eq!(action.next(true, &policy(), *now), Next::Run);
                }
                Some(Ended::GaveUp { attempts, until }) => return (waits, attempts, until),
                other => panic!("{other:?}"),
            }
        }
    };
    let (waits, attempts, until) = round(&mut action, &mut now);
    assert_eq!((waits, attempts, until), (vec![10, 15], 3, now + policy().retry_after));
    assert_eq!(action.next(true, &policy(), now + seconds(1)), Next::At(until));
    assert_eq!(action.next(true, &policy(), until), Next::Run);
    now = until;
    let (waits, attempts, _) = round(&mut action, &mut now);
    assert_eq!((waits, attempts), (vec![10, 15], 3), "counting anew");
    assert_eq!(action.checked(true, now), Some(Ended::Well { attempts: 3, how: How::ByItself }));
}

#[test]
fn an_action_after_which_no_check_passes_has_failed() {
    let now = clock::now();
    let mut action = ill(now);
    action.begin();
    action.ran(true, &policy(), now, EVEN);
    let end = now + seconds(60);
    assert_eq!(action.not_verified(&policy(), end, EVEN), Some(Ended::Again { at: end + seconds(10) }));
    assert_eq!(action.not_verified(&policy(), end, EVEN), None, "once");
    assert_eq!(action.checked(true, end), Some(Ended::Well { attempts: 1, how: How::Late }), "late is not too late");
}

#[test]
fn one_whose_task_is_gone_has_failed() {
    let now = clock::now();
    let mut action = ill(now);
    assert_eq!(action.interrupted(&policy(), now, EVEN), None);
    action.begin();
    assert_eq!(action.interrupted(&policy(), now, EVEN), Some(Ended::Again { at: now + seconds(10) }));
    assert_eq!(action.ran(true, &policy(), now, EVEN), None, "nobody carries it out any more");
}

#[test]
fn the_network_is_suspected_when_all_servers_fall_silent_together() {
    let now = clock::now();
    let since = |ago: u64| now.checked_sub(seconds(ago));
    assert_eq!(suspects_network(&[], now), None);
    assert_eq!(suspects_network(&[since(5)], now), None, "one server says nothing about a network");
    assert_eq!(suspects_network(&[since(5), None], now), None, "one answers");
    assert_eq!(suspects_network(&[since(15), since(5)], now), Some(now + seconds(115)));
    assert_eq!(suspects_network(&[since(36), since(5)], now), None, "one after the other");
    assert_eq!(suspects_network(&[since(140), since(120)], now), None, "it does not hold for ever");
}

proptest! {
    #[test]
    fn whatever_happens_attempts_are_bounded_and_apart(
        steps in prop::collection::vec((0..5_u8, 0..100_u64, any::<u64>()), 0..300),
        max_attempts in 0..5_u32,
        after in 0..4_u32,
    ) {
        let policy = ActionPolicy { after, max_attempts, ..policy() };
        let (mut action, mut now) = (RecoveryAction::default(), clock::now());
        let (mut in_round, mut running, mut row) = (0, false, 0);
        let mut rest_until: Option<Instant> = None;
        for (what, pause, random) in steps {
            now += seconds(pause);
            let ended = match what {
                0 | 1 => {
                    let good = what == 1;
                    row = if good { 0 } else { row + 1 };
                    action.checked(good, now)
                }
                2 if action.next(true, &policy, now) == Next::Run => {
                    prop_assert!(!running, "twice at a time");
                    prop_assert!(rest_until.is_none_or(|rest| now >= rest), "before its time");
                    if action.state() == State::Watching {
                        prop_assert!(row >= after.max(1));
                    }
                    if !matches!(action.state(), State::BackingOff { .. }) {
                        in_round = 0;
                    }
                    in_round += 1;
                    prop_assert_eq!(action.begin(), in_round);
                    prop_assert!(in_round <= max_attempts.max(1));
                    running = true;
                    None
                }
                3 if running => {
                    running = false;
                    action.ran(random % 2 == 0, &policy, now, random)
                }
                4 => match action.state() {
                    State::Verifying { until } if now >= until => action.not_verified(&policy, now, random),
                    _ => None,
                },
                _ => None,
            };
            match ended {
                Some(Ended::Again { at }) => {
                    let shortest = policy.backoff * 9 / 10;
                    prop_assert!(at - now >= shortest && at - now <= policy.max_backoff);
                    rest_until = Some(at);
                }
                Some(Ended::GaveUp { attempts, until }) => {
                    prop_assert_eq!((attempts, until - now), (max_attempts.max(1), policy.retry_after));
                    rest_until = Some(until);
                }
                Some(Ended::Well { .. }) => {
                    prop_assert_eq!((row, action.state()), (0, State::Watching));
                    rest_until = None;
                }
                None => {}
            }
        }
    }
}
