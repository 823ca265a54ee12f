use proptest::prelude::*;

use super::open_time::FOR_EVER;
use super::*;
use crate::clock;

/// With this "random" number the open time is neither longer nor shorter.
const EVEN: u64 = 100;

fn policy() -> CircuitPolicy {
    CircuitPolicy { consecutive_failures: 3, min_requests: 1000, ..CircuitPolicy::default() }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn pass(circuit: &mut Circuit, now: Instant) -> Pass {
    circuit.admit(now).pass().expect("admitted")
}

fn fail(circuit: &mut Circuit, now: Instant) -> Option<Transition> {
    let pass = pass(circuit, now);
    circuit.record(pass, Outcome::Failure, now, EVEN)
}

fn opened(now: Instant) -> Circuit {
    let mut circuit = Circuit::new(policy());
    for _ in 0..3 {
        fail(&mut circuit, now);
    }
    assert_eq!(circuit.state(now), State::Open { until: now + seconds(30) });
    circuit
}

#[test]
fn it_opens_at_the_given_number_of_failures_in_a_row() {
    let now = clock::now();
    let mut circuit = Circuit::new(policy());
    assert_eq!(fail(&mut circuit, now), None);
    assert_eq!(fail(&mut circuit, now), None);
    let until = now + seconds(30);
    assert_eq!(fail(&mut circuit, now), Some(Transition { from: State::Closed, to: State::Open { until } }));
    assert_eq!(circuit.admit(now), Admission::No { until });
    assert!(!circuit.would_admit(now));
}

#[test]
fn a_success_in_between_starts_the_count_again() {
    let now = clock::now();
    let mut circuit = Circuit::new(policy());
    for _ in 0..10 {
        fail(&mut circuit, now);
        fail(&mut circuit, now);
        let pass = pass(&mut circuit, now);
        circuit.record(pass, Outcome::Success, now, EVEN);
    }
    assert_eq!(circuit.state(now), State::Closed);
    assert_eq!(circuit.failures(), 0);
}

#[test]
fn when_the_open_time_is_over_exactly_one_request_passes() {
    let now = clock::now();
    let mut circuit = opened(now);
    let later = now + seconds(30);
    assert_eq!(circuit.state(later), State::HalfOpen);
    assert!(matches!(circuit.admit(later), Admission::Trial(_)));
    assert_eq!(circuit.admit(later), Admission::No { until: later });
    assert!(!circuit.would_admit(later + seconds(1000)));
}

#[test]
fn a_trial_that_succeeds_closes_it_and_takes_no_doubling_back() {
    let now = clock::now();
    let mut circuit = opened(now);
    fail(&mut circuit, now + seconds(30));
    let later = now + seconds(90);
    let trial = pass(&mut circuit, later);
    assert!(trial.is_trial());
    let transition = circuit.record(trial, Outcome::Success, later, EVEN);
    assert_eq!(transition, Some(Transition { from: State::HalfOpen, to: State::Closed }));
    let mut long_after = circuit.clone();
    for _ in 0..3 {
        fail(&mut circuit, later);
    }
    assert_eq!(circuit.state(later), State::Open { until: later + seconds(120) });
    let later = later + seconds(90);
    for _ in 0..3 {
        fail(&mut long_after, later);
    }
    assert_eq!(long_after.state(later), State::Open { until: later + seconds(30) });
}

#[test]
fn each_failed_trial_doubles_the_open_time_up_to_the_longest() {
    let mut now = clock::now();
    let mut circuit = opened(now);
    now += seconds(30);
    for expected in [60, 120, 240, 300, 300, 300] {
        let transition = fail(&mut circuit, now).expect("opens");
        assert_eq!(transition.from, State::HalfOpen);
        assert_eq!(transition.to, State::Open { until: now + seconds(expected) });
        now += seconds(expected);
    }
}

#[test]
fn a_trial_without_a_verdict_makes_room_for_the_next() {
    let now = clock::now();
    let mut circuit = opened(now);
    let later = now + seconds(30);
    let gone = pass(&mut circuit, later);
    circuit.release(gone);
    assert_eq!(circuit.state(later), State::HalfOpen);
    let trial = pass(&mut circuit, later);
    assert!(trial.is_trial());
    // Neither a second release nor a verdict of the first one touches the second.
    circuit.release(gone);
    assert_eq!(circuit.record(gone, Outcome::Success, later, EVEN), None);
    assert!(!circuit.would_admit(later));
}

#[test]
fn a_late_verdict_from_before_it_opened_changes_nothing() {
    let now = clock::now();
    let mut circuit = Circuit::new(policy());
    let old: Vec<Pass> = (0..20).map(|_| pass(&mut circuit, now)).collect();
    for _ in 0..3 {
        fail(&mut circuit, now);
    }
    let open = circuit.state(now);
    assert_eq!(circuit.record(old[0], Outcome::Success, now, EVEN), None);
    assert_eq!(circuit.record(old[1], Outcome::Failure, now, EVEN), None);
    assert_eq!(circuit.state(now), open);
    let later = now + seconds(30);
    let trial = pass(&mut circuit, later);
    assert_eq!(circuit.record(old[2], Outcome::Success, later, EVEN), None);
    assert_eq!(circuit.record(old[3], Outcome::Failure, later, EVEN), None);
    assert_eq!(circuit.state(later), State::HalfOpen);
    circuit.record(trial, Outcome::Success, later, EVEN);
    for pass in &old[4..] {
        assert_eq!(circuit.record(*pass, Outcome::Failure, later, EVEN), None);
    }
    assert_eq!(circuit.state(later), State::Closed);
}

#[test]
fn an_operator_may_open_half_open_and_close_it() {
    let now = clock::now();
    let mut circuit = Circuit::new(policy());
    let running = pass(&mut circuit, now);
    let until = now + seconds(3600);
    assert_eq!(circuit.force_open(until, now), Some(Transition { from: State::Closed, to: State::Open { until } }));
    assert_eq!(circuit.record(running, Outcome::Success, now, EVEN), None);
    assert_eq!(circuit.state(now), State::Open { until });
    assert_eq!(circuit.state(until), State::HalfOpen);
    circuit.force_half_open(now);
    let trial = pass(&mut circuit, now);
    assert!(trial.is_trial());
    circuit.force_close(now);
    assert_eq!(circuit.record(trial, Outcome::Failure, now, EVEN), None);
    assert_eq!(circuit.force_close(now), None);
}

#[test]
fn closing_keeps_the_doublings_and_a_reset_forgets_them() {
    let now = clock::now();
    let mut circuit = opened(now);
    circuit.force_close(now);
    assert_eq!(circuit.openings(now), 1);
    assert_eq!(circuit.reset(now), None);
    assert_eq!(circuit.openings(now), 0);
    let mut circuit = opened(now);
    assert!(circuit.reset(now).is_some());
    assert_eq!((circuit.state(now), circuit.openings(now)), (State::Closed, 0));
}

#[test]
fn a_request_from_before_the_first_failure_counts_until_the_circuit_has_opened() {
    let now = clock::now();
    let mut circuit = Circuit::new(policy());
    let early = Pass::before_the_first_failure(now);
    for _ in 0..2 {
        assert_eq!(circuit.record(early, Outcome::Failure, now, EVEN), None);
    }
    assert!(circuit.record(early, Outcome::Failure, now, EVEN).is_some());
    let trial = pass(&mut circuit, now + seconds(30));
    assert_eq!(circuit.record(early, Outcome::Success, now + seconds(30), EVEN), None);
    assert!(circuit.record(trial, Outcome::Success, now + seconds(30), EVEN).is_some());
}

#[test]
fn a_reload_while_it_is_open_keeps_it_open_as_long() {
    let now = clock::now();
    let mut circuit = opened(now);
    circuit.set_policy(CircuitPolicy { open_for: seconds(1), ..policy() });
    assert_eq!(circuit.state(now), State::Open { until: now + seconds(30) });
    // The new numbers hold from the next time on: once more doubled.
    let later = now + seconds(30);
    fail(&mut circuit, later);
    assert_eq!(circuit.state(later), State::Open { until: later + seconds(2) });
}

#[test]
fn absurd_numbers_neither_panic_nor_last_for_ever() {
    let now = clock::now();
    let mut circuit = Circuit::new(CircuitPolicy {
        consecutive_failures: 0,
        open_for: Duration::MAX,
        max_open_for: Duration::MAX,
        window: Duration::MAX,
        slow_start: Duration::MAX,
        ..CircuitPolicy::default()
    });
    assert!(fail(&mut circuit, now).is_some());
    assert_eq!(circuit.state(now + FOR_EVER), State::HalfOpen);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Wait(u64),
    Ask,
    Verdict { which: usize, outcome: Outcome },
    Leave { which: usize },
    Reload { consecutive_failures: u32 },
    ForceOpen,
    ForceHalfOpen,
    ForceClose,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![3 => Just(Outcome::Success), 1 => failure()]
}

fn failure() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Failure), Just(Outcome::NotReached), Just(Outcome::Crash)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..400_u64).prop_map(Event::Wait),
        6 => Just(Event::Ask),
        8 => (any::<usize>(), outcome()).prop_map(|(which, outcome)| Event::Verdict { which, outcome }),
        2 => any::<usize>().prop_map(|which| Event::Leave { which }),
        1 => (0..5_u32).prop_map(|consecutive_failures| Event::Reload { consecutive_failures }),
        1 => Just(Event::ForceOpen),
        1 => Just(Event::ForceHalfOpen),
        1 => Just(Event::ForceClose),
    ]
}

/// Whether the diagram has an arrow between the two states, taken by a verdict.
fn is_arrow(transition: Transition, success: bool) -> bool {
    match (transition.from, transition.to) {
        (State::Closed | State::HalfOpen, State::Open { .. }) => !success,
        (State::HalfOpen, State::Closed) => success,
        _ => false,
    }
}

proptest! {
    #[test]
    fn it_obeys_the_diagram_under_any_sequence_of_events(
        events in prop::collection::vec(event(), 1..200),
        random in any::<u64>(),
    ) {
        let mut now = clock::now();
        let mut circuit = Circuit::new(policy());
        let mut running: Vec<Pass> = Vec::new();
        let mut trial: Option<Pass> = None;
        for event in events {
            let before = circuit.state(now);
            match event {
                Event::Wait(time) => {
                    now += seconds(time);
                    let after = circuit.state(now);
                    let was_open = matches!(before, State::Open { .. });
                    prop_assert!(after == before || was_open && after == State::HalfOpen);
                }
                Event::Ask => {
                    let would = circuit.would_admit(now);
                    let admission = circuit.admit(now);
                    prop_assert_eq!(would, admission.pass().is_some());
                    prop_assert_eq!(circuit.state(now), before);
                    match admission {
                        Admission::Yes(pass) => {
                            prop_assert_eq!(before, State::Closed);
                            running.push(pass);
                        }
                        Admission::Trial(pass) => {
                            prop_assert_eq!(before, State::HalfOpen);
                            prop_assert!(trial.is_none(), "two trials at a time");
                            trial = Some(pass);
                            running.push(pass);
                        }
                        Admission::No { until } => prop_assert!(until >= now && before != State::Closed),
                    }
                }
                Event::Verdict { which, outcome } if !running.is_empty() => {
                    let pass = running.swap_remove(which % running.len());
                    let transition = circuit.record(pass, outcome, now, random);
                    if let Some(transition) = transition {
                        prop_assert_eq!(transition.from, before);
                        prop_assert_eq!(transition.to, circuit.state(now));
                        prop_assert!(is_arrow(transition, outcome == Outcome::Success), "{:?}", transition);
                        prop_assert_eq!(pass.is_trial(), before == State::HalfOpen);
                    } else {
                        prop_assert_eq!(circuit.state(now), before);
                    }
                    if trial == Some(pass) {
                        prop_assert!(transition.is_some(), "a trial decides");
                        trial = None;
                    }
                }
                Event::Leave { which } if !running.is_empty() => {
                    let pass = running.swap_remove(which % running.len());
                    circuit.release(pass);
                    prop_assert_eq!(circuit.state(now), before);
                    if trial == Some(pass) {
                        trial = None;
                        prop_assert!(circuit.would_admit(now));
                    }
                }
                Event::Verdict { .. } | Event::Leave { .. } => {}
                Event::Reload { consecutive_failures } => {
                    circuit.set_policy(CircuitPolicy { consecutive_failures, ..policy() });
                    prop_assert_eq!(circuit.state(now), before);
                }
                Event::ForceOpen => {
                    circuit.force_open(now + seconds(50), now);
                    trial = None;
                }
                Event::ForceHalfOpen => {
                    circuit.force_half_open(now);
                    trial = None;
                }
                Event::ForceClose => {
                    circuit.force_close(now);
                    prop_assert_eq!(circuit.state(now), State::Closed);
                    trial = None;
                }
            }
        }
    }

    #[test]
    fn the_open_time_grows_never_passes_the_longest_and_stays_within_a_tenth(
        random in any::<u64>(),
        open_for in 1..100_u64,
        longest in 1..1000_u64,
    ) {
        let mut now = clock::now();
        let (open_for, longest) = (seconds(open_for), seconds(longest));
        let mut circuit =
            Circuit::new(CircuitPolicy { consecutive_failures: 1, open_for, max_open_for: longest, ..CircuitPolicy::default() });
        let mut previous = Duration::ZERO;
        for opening in 0..12_u32 {
            let pass = pass(&mut circuit, now);
            circuit.record(pass, Outcome::Failure, now, random);
            let State::Open { until } = circuit.state(now) else { panic!("open") };
            let time = until - now;
            let exact = (open_for * 2_u32.pow(opening)).min(longest);
            prop_assert!(time >= previous && time <= longest);
            prop_assert!(time >= exact * 9 / 10 && time <= exact * 11 / 10);
            previous = time;
            now = until;
        }
    }
    #[test]
    fn of_two_that_see_the_same_calls_the_one_that_fails_more_is_open_no_later(
        calls in prop::collection::vec((outcome(), any::<bool>(), failure(), 0..40_u64), 1..120),
        consecutive_failures in 1..6_u32,
        min_requests in 1..20_u32,
        failure_rate in 1..=100_u8,
    ) {
        let policy = CircuitPolicy { consecutive_failures, min_requests, failure_rate, ..CircuitPolicy::default() };
        let (mut better, mut worse) = (Circuit::new(policy.clone()), Circuit::new(policy));
        let mut now = clock::now();
        for (outcome, spoilt, instead, wait) in calls {
            now += seconds(wait);
            let spoilt_outcome = if spoilt && outcome == Outcome::Success { instead } else { outcome };
            let (one, other) = (pass(&mut better, now), pass(&mut worse, now));
            better.record(one, outcome, now, EVEN);
            worse.record(other, spoilt_outcome, now, EVEN);
            if worse.state(now) != State::Closed {
                return Ok(());
            }
            prop_assert_eq!(better.state(now), State::Closed, "it fails less and is open");
        }
    }
}
