//! Scenes over minutes, with time in the test's hands.

use super::*;
use crate::clock;
use crate::policy::balance::scramble;

const MINUTES: u64 = 10;
/// Requests a second.
const RATE: u64 = 10;

/// What became of a server that is up and down in turn.
#[derive(Debug, Default)]
struct Scene {
    ejections: u32,
    sent: u32,
    failed: u32,
}

/// Ten minutes of requests, each tried at the server if its circuit lets it pass.
fn play(period: u64, random: u64) -> Scene {
    let (start, mut scene) = (clock::now(), Scene::default());
    let mut circuit = Circuit::new(CircuitPolicy::default());
    for tick in 0..MINUTES * 60 * RATE {
        let elapsed = Duration::from_millis(tick * 1000 / RATE);
        let now = start + elapsed;
        let Some(pass) = circuit.admit(now).pass() else { continue };
        let up = (elapsed.as_secs() / period).is_multiple_of(2);
        let outcome = if up { Outcome::Success } else { Outcome::NotReached };
        scene.sent += 1;
        scene.failed += u32::from(!up);
        let transition = circuit.record(pass, outcome, now, scramble(random ^ tick));
        scene.ejections += u32::from(transition.is_some_and(|change| matches!(change.to, State::Open { .. })));
    }
    scene
}

#[test]
fn a_server_that_flaps_is_ejected_a_few_times_and_not_every_time() {
    for random in 0..200 {
        let scene = play(10, random);
        assert!((2..=6).contains(&scene.ejections), "{random}: {scene:?}");
        assert!(scene.failed <= 3 * scene.ejections, "{random}: {scene:?}");
        assert!(u64::from(scene.failed) * 100 <= MINUTES * 60 * RATE, "{random}: {scene:?}");
    }
}

#[test]
fn other_rhythms_are_borne_too() {
    for period in [1, 3, 5, 20, 30, 60, 120] {
        for random in 0..20 {
            let scene = play(period, random);
            assert!(scene.ejections <= 8, "{period} s: {scene:?}");
        }
    }
}

#[test]
fn a_server_that_fails_every_second_request_is_ejected() {
    let (now, mut circuit) = (clock::now(), Circuit::new(CircuitPolicy::default()));
    for number in 0..10 {
        let pass = circuit.admit(now).pass().expect("closed");
        let outcome = if number % 2 == 0 { Outcome::Success } else { Outcome::Failure };
        circuit.record(pass, outcome, now, 0);
    }
    assert_eq!(circuit.cause(now), Some(Cause::Failures));
}

#[test]
fn two_crashes_within_five_minutes_eject_whatever_went_well_between() {
    for (minutes, opens) in [(4, true), (6, false)] {
        let (now, mut circuit) = (clock::now(), Circuit::new(CircuitPolicy::default()));
        let mut ask = |at: Instant, outcome| {
            let pass = circuit.admit(at).pass().expect("closed");
            circuit.record(pass, outcome, at, 0).is_some()
        };
        assert!(!ask(now, Outcome::Crash));
        for second in 1..20 {
            assert!(!ask(now + Duration::from_secs(second), Outcome::Success));
        }
        assert_eq!(ask(now + Duration::from_mins(minutes), Outcome::Crash), opens, "{minutes} minutes");
    }
}

#[test]
fn three_failures_to_connect_are_enough_and_a_failure_of_another_kind_shows_that_it_is_there() {
    let (now, mut circuit) = (clock::now(), Circuit::new(CircuitPolicy::default()));
    let mut ask = |outcome| {
        let pass = circuit.admit(now).pass().expect("closed");
        circuit.record(pass, outcome, now, 0);
        circuit.cause(now)
    };
    let outcomes = [Outcome::NotReached, Outcome::NotReached, Outcome::Failure, Outcome::Success];
    for outcome in outcomes {
        assert_eq!(ask(outcome), None);
    }
    assert_eq!((ask(Outcome::NotReached), ask(Outcome::NotReached)), (None, None));
    assert_eq!(ask(Outcome::NotReached), Some(Cause::Unreachable));
}

#[test]
fn a_server_that_came_back_gets_its_share_little_by_little() {
    let (now, policy) = (clock::now(), CircuitPolicy::default());
    let mut circuit = Circuit::new(policy.clone());
    assert_eq!(circuit.slow_until(), None);
    circuit.force_half_open(now);
    let trial = circuit.admit(now).pass().expect("a trial");
    circuit.record(trial, Outcome::Success, now, 0);
    let until = circuit.slow_until().expect("a slow start");
    assert_eq!(until, now + policy.slow_start);
    let mut last = 0.0;
    for second in 0..=30 {
        let share = share(until.saturating_duration_since(now + Duration::from_secs(second)), policy.slow_start);
        assert!(share > last && (0.1..=1.0).contains(&share), "{second}: {share}");
        last = share;
    }
    assert!((last - 1.0).abs() < f32::EPSILON);
    circuit.force_close(now);
    assert_eq!(circuit.slow_until(), None, "an operator knows what they do");
}
