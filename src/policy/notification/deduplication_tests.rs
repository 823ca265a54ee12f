use proptest::prelude::*;

use super::*;
use crate::clock;

const WINDOW: Duration = Duration::from_mins(5);

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

fn told<T>(event: T, left_out: u32) -> Verdict<T> {
    Verdict::Now(Told { event, left_out })
}

#[test]
fn the_same_problem_is_told_once_in_a_window() {
    let (mut known, start) = (Deduplication::new(WINDOW), clock::now());
    assert_eq!(known.take(Kind::QueueFull, "fleet", 1, start), told(1, 0));
    assert_eq!(known.take(Kind::QueueFull, "fleet", 2, at(start, 1)), Verdict::LeftOut(1));
    assert_eq!(known.take(Kind::QueueFull, "other", 3, at(start, 1)), told(3, 0), "another subject");
    assert_eq!(known.take(Kind::CircuitOpen, "fleet", 4, at(start, 1)), told(4, 0), "another kind");
    assert_eq!(known.take(Kind::QueueFull, "fleet", 5, at(start, 299)), Verdict::LeftOut(1));
    assert_eq!(known.take(Kind::QueueFull, "fleet", 6, at(start, 300)), told(6, 2));
}

#[test]
fn an_end_is_told_only_after_its_problem() {
    let (mut known, start) = (Deduplication::new(WINDOW), clock::now());
    assert_eq!(known.take(Kind::ServerUp, "a", 1, start), Verdict::NothingToEnd);
    assert_eq!(known.take(Kind::ServerDown, "a", 2, at(start, 1)), told(2, 0));
    assert_eq!(known.take(Kind::ServerUp, "a", 3, at(start, 2)), told(3, 0), "the end does not wait");
    assert_eq!(known.take(Kind::ServerUp, "a", 4, at(start, 1000)), Verdict::LeftOut(1));
    assert_eq!(known.take(Kind::RecoverySucceeded, "a", 5, at(start, 1000)), told(5, 0), "news by itself");
    assert_eq!(known.take(Kind::RecoverySucceeded, "a", 6, at(start, 1400)), told(6, 0), "and again");
}

#[test]
fn what_flaps_is_held_and_told_if_it_stays_so() {
    let (mut known, start) = (Deduplication::new(WINDOW), clock::now());
    known.take(Kind::ServerDown, "a", 1, start);
    known.take(Kind::ServerUp, "a", 2, at(start, 10));
    assert_eq!(known.take(Kind::ServerDown, "a", 3, at(start, 20)), Verdict::Later);
    assert_eq!(known.next_due(), Some(at(start, 300)));
    assert_eq!(known.take(Kind::ServerUp, "a", 4, at(start, 30)), Verdict::LeftOut(2), "as it was told last");
    assert_eq!(known.next_due(), None);
    assert_eq!(known.take(Kind::ServerDown, "a", 5, at(start, 40)), Verdict::Later);
    assert_eq!(known.due(at(start, 299)), []);
    assert_eq!(known.due(at(start, 300)), [Told { event: 5, left_out: 2 }]);
    assert_eq!(known.take(Kind::ServerUp, "a", 6, at(start, 305)), Verdict::Later, "290 s after the last");
    assert_eq!(known.due(at(start, 310)), [Told { event: 6, left_out: 0 }]);
}

#[test]
fn the_number_of_subjects_is_bounded_and_problems_that_stand_stay() {
    let (mut known, start) = (Deduplication::new(WINDOW), clock::now());
    known.take(Kind::ServerDown, "stands", 0, start);
    for number in 0..MOST - 1 {
        known.take(Kind::ServerDown, &number.to_string(), 1, at(start, 1));
        known.take(Kind::ServerUp, &number.to_string(), 2, at(start, 2));
    }
    assert_eq!(known.subjects.len(), MOST);
    known.take(Kind::ServerDown, "one more", 3, at(start, 1000));
    assert_eq!(known.subjects.len(), 2);
    assert_eq!(known.take(Kind::ServerUp, "stands", 4, at(start, 1001)), told(4, 0));
    for number in 0..MOST * 2 {
        known.take(Kind::ServerDown, &number.to_string(), 5, at(start, 1002));
    }
    assert_eq!(known.subjects.len(), MOST, "also when every problem stands");
}

proptest! {
    #[test]
    fn nobody_is_told_too_often_and_everybody_knows_the_truth_in_the_end(
        steps in prop::collection::vec((any::<bool>(), 0..200_u64), 1..80),
    ) {
        let start = clock::now();
        let (mut known, mut now) = (Deduplication::new(WINDOW), start);
        let mut heard: Vec<(bool, Instant)> = Vec::new();
        let (mut left_out, mut ever_down, mut nothing_to_end) = (0, false, 0);
        for (down, pause) in &steps {
            now += Duration::from_secs(*pause);
            // As a timer does: at the moment that something is due, and not later.
            while let Some(due) = known.next_due().filter(|due| *due <= now) {
                for told in known.due(due) {
                    left_out += told.left_out;
                    heard.push((told.event, due));
                }
            }
            nothing_to_end += u32::from(!ever_down && !down);
            ever_down |= down;
            let kind = if *down { Kind::ServerDown } else { Kind::ServerUp };
            if let Verdict::Now(told) = known.take(kind, "a", *down, now) {
                left_out += told.left_out;
                heard.push((told.event, now));
            }
        }
        while let Some(due) = known.next_due() {
            for told in known.due(due) {
                left_out += told.left_out;
                heard.push((told.event, due));
            }
        }
        for kind in [true, false] {
            let times: Vec<_> = heard.iter().filter(|(down, _)| *down == kind).map(|(_, at)| *at).collect();
            prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= WINDOW), "{heard:?}");
        }
        let truth = steps.last().map(|(down, _)| *down);
        prop_assert_eq!(heard.last().map(|(down, _)| *down), truth.filter(|_| ever_down));
        prop_assert!(heard.windows(2).all(|pair| pair[0].0 || pair[1].0), "an end without a problem: {heard:?}");
        let waits = known.subjects.values().map(|subject| subject.left_out).sum::<u32>();
        let all = u32::try_from(steps.len()).unwrap();
        prop_assert_eq!(u32::try_from(heard.len()).unwrap() + left_out + waits + nothing_to_end, all);
    }
}
