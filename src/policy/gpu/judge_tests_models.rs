//! The rows about what Ollama lists and how it answers.

use std::time::Duration;

use super::judge::{Answer, Resident};
use super::judge_tests::{POLL, Rig, assert_calm, card};
use super::reading::Unread;
use super::verdict::{Signal, State};

const WHOLE: (&str, u64, u64) = ("m", 1000, 1000);

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[test]
fn a_model_that_is_not_all_on_the_card_has_less_weight() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        rig.list(&[WHOLE]);
    }
    for _ in 0..20 {
        rig.list(&[("m", 1000, 990)]);
    }
    assert_eq!(rig.model("m"), None, "99 % is all of it");
    rig.list(&[("m", 1000, 800)]);
    assert_eq!(rig.model("m"), None, "one poll");
    assert_eq!(rig.list(&[("m", 1000, 800)]), State::Healthy, "the server is well");
    let model = rig.model("m").expect("m");
    assert_eq!((model.state, rig.signals()), (State::Degraded, vec![Signal::CpuSpill]));
    assert!(near(model.weight, 0.64) && near(model.on_card, 0.8), "{model:?}");
    for _ in 0..20 {
        rig.list(&[("m", 1000, 490)]);
    }
    let model = rig.model("m").expect("m");
    assert!(model.state == State::Degraded && near(model.weight, 0.01), "the last resort: {model:?}");
    for _ in 0..20 {
        rig.list(&[("m", 1000, 500)]);
    }
    assert!(near(rig.model("m").expect("m").weight, 0.25));
    rig.list(&[WHOLE]);
    assert_eq!(rig.model_state("m"), State::Degraded);
    rig.list(&[WHOLE]);
    assert_eq!(rig.model("m"), None);
}

#[test]
fn how_a_model_was_loaded_says_nothing_about_the_next_time() {
    let mut rig = Rig::new();
    for _ in 0..20 {
        rig.list(&[("m", 1000, 700), ("n", 500, 500)]);
    }
    rig.list(&[("n", 500, 500)]);
    assert_eq!(rig.model_state("m"), State::Degraded);
    rig.list(&[("n", 500, 500)]);
    assert_eq!(rig.model("m"), None);
}

#[test]
fn a_server_without_a_card_is_not_ill() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.list(&[("m", 1000, 0), ("n", 500, 0), ("elsewhere", 0, 0)]);
        assert_eq!((rig.state(), rig.signals()), (State::Healthy, vec![]));
    }
    assert_eq!((rig.model("m"), rig.model("n")), (None, None));
    // With a card it is another matter.
    for _ in 0..2 {
        rig.list(&[("m", 1000, 0), ("n", 500, 500), ("elsewhere", 0, 0)]);
    }
    assert!(near(rig.model("m").expect("m").weight, 0.01));
    assert_eq!((rig.model("n"), rig.model("elsewhere")), (None, None));
}

#[test]
fn a_card_that_is_lost_in_silence_drains_the_server_until_it_is_back() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.list(&[WHOLE]);
    }
    assert_eq!(rig.list(&[("m", 1000, 0)]), State::Healthy);
    assert_eq!(rig.list(&[("m", 1000, 0)]), State::Draining);
    assert!(rig.signals().contains(&Signal::OnCpu));
    for _ in 0..100 {
        assert_eq!(rig.list(&[("m", 1000, 0)]), State::Draining);
    }
    // No requests, so the model leaves: that is no proof.
    for _ in 0..300 {
        assert_eq!(rig.list(&[]), State::Draining);
    }
    assert_eq!(rig.list(&[WHOLE]), State::Draining);
    assert_eq!(rig.list(&[WHOLE]), State::Healthy);
    assert_eq!(rig.model("m"), None);
}

#[test]
fn a_server_that_lost_its_card_may_show_after_half_an_hour_that_it_is_back() {
    let mut rig = Rig::new();
    for vram in [1000, 1000, 0, 0] {
        rig.list(&[("m", 1000, vram)]);
    }
    for _ in 0..1800 / 5 - 1 {
        assert_eq!(rig.list(&[]), State::Draining);
    }
    rig.list(&[]);
    assert_eq!((rig.list(&[]), rig.model("m")), (State::Healthy, None));
    // It is not: the next time it takes twice as long to be believed, not to be noticed.
    rig.list(&[("m", 1000, 0)]);
    assert_eq!(rig.list(&[("m", 1000, 0)]), State::Healthy, "a minute in each state");
    rig.wait(60);
    assert_eq!(rig.list(&[("m", 1000, 0)]), State::Draining);
}

#[test]
fn one_of_several_models_on_the_processor_is_about_that_model() {
    let mut rig = Rig::new();
    for vram in [1000, 1000, 0, 0] {
        rig.list(&[("m", 1000, vram), ("n", 500, 500)]);
    }
    assert_eq!((rig.state(), rig.model_state("m"), rig.model("n")), (State::Healthy, State::Draining, None));
}

#[test]
fn answers_that_are_written_slowly_are_noticed_by_half_of_ten() {
    for (speed, state, weight) in [(24.9, State::Degraded, 0.25), (12.4, State::Draining, 1.0)] {
        let mut rig = Rig::new();
        for _ in 0..30 {
            rig.answer("m", 50.0, 0.1);
        }
        for _ in 0..4 {
            rig.answer("m", speed, 0.1);
            assert_eq!(rig.model("m"), None);
        }
        assert_eq!(rig.answer("m", speed, 0.1), State::Healthy, "the server is well");
        let model = rig.model("m").expect("m");
        assert!(model.state == state && near(model.weight, weight), "{model:?}");
        assert_eq!(rig.signals(), [Signal::SlowDecode]);
        // What is slow does not become usual.
        for _ in 0..200 {
            rig.answer("m", speed, 0.1);
        }
        assert_eq!(rig.model_state("m"), state);
        for _ in 0..100 {
            rig.answer("m", 39.0, 0.1);
        }
        assert!(rig.model_state("m") > State::Healthy, "below 80 %");
        for _ in 0..9 {
            rig.answer("m", 41.0, 0.1);
            assert!(rig.model_state("m") > State::Healthy);
        }
        rig.answer("m", 41.0, 0.1);
        assert_eq!(rig.model("m"), None);
    }
}

#[test]
fn a_model_that_is_drained_because_it_is_slow_gets_a_few_requests_again() {
    let mut rig = Rig::new();
    for speed in [[50.0; 30], [5.0; 30]].concat() {
        rig.answer("m", speed, 0.1);
    }
    assert_eq!(rig.model_state("m"), State::Draining);
    rig.wait(599);
    assert_eq!(rig.model_state("m"), State::Draining);
    rig.wait(1);
    assert_eq!(rig.model_state("m"), State::Degraded);
    rig.wait(86_400);
    rig.answer("m", 5.0, 0.1);
    assert_eq!(rig.model("m"), None, "after a day nothing is usual any more");
}

#[test]
fn answers_that_begin_late_are_noticed_by_half_of_ten() {
    let mut rig = Rig::new();
    for _ in 0..30 {
        rig.answer("m", 50.0, 0.2);
    }
    for _ in 0..20 {
        rig.answer("m", 50.0, 1.0);
    }
    assert_eq!(rig.model("m"), None, "five times is not more than five times");
    for _ in 0..4 {
        rig.answer("m", 50.0, 1.1);
        assert_eq!(rig.model("m"), None);
    }
    rig.answer("m", 50.0, 1.1);
    assert_eq!((rig.model_state("m"), rig.signals()), (State::Degraded, vec![Signal::SlowFirstToken]));
    rig.wait(60);
    for _ in 0..9 {
        rig.answer("m", 50.0, 0.3);
        assert_eq!(rig.model_state("m"), State::Degraded);
    }
    rig.answer("m", 50.0, 0.3);
    assert_eq!(rig.model("m"), None);
}

#[test]
fn short_answers_and_odd_ones_do_not_count() {
    let mut rig = Rig::new();
    for _ in 0..30 {
        rig.answer("m", 50.0, 0.1);
    }
    let now = rig.now();
    for _ in 0..50 {
        let answer = |tokens, decode| Answer { tokens, decode, first_token: None };
        rig.judge.answered("m", answer(31, Duration::from_secs(100)), now);
        rig.judge.answered("m", answer(100, Duration::ZERO), now);
        rig.judge.answered("m", answer(0, Duration::MAX), now);
    }
    assert_eq!(rig.model("m"), None);
}

#[test]
fn what_ollama_says_stays_when_the_source_of_readings_is_silent() {
    let mut rig = Rig::new();
    rig.polls(&[card(0)], 60);
    for vram in [1000, 1000, 0, 0] {
        rig.list(&[("m", 1000, vram)]);
    }
    for _ in 0..10 {
        rig.unread(Unread::Silent);
        assert_eq!(rig.list(&[("m", 1000, 0)]), State::Draining);
    }
    assert!(rig.judge.is_silent(rig.now()));
}

#[test]
fn a_share_that_swings_every_fifteen_seconds_is_no_dance() {
    for low in [0, 300, 800] {
        let (mut rig, mut changes, mut before, mut weights) = (Rig::new(), Vec::new(), State::Healthy, Vec::new());
        while rig.seconds < 1800 {
            let vram = if (rig.seconds / 15) % 2 == 1 { low } else { 1000 };
            rig.list(&[("m", 1000, vram)]);
            let state = rig.model_state("m").max(rig.state());
            if state != before {
                changes.push(rig.seconds);
                before = state;
            }
            weights.push(rig.model("m").map_or(1.0, |model| model.weight));
        }
        weights.dedup();
        assert!(weights.len() <= 4, "{low}: {weights:?}");
        assert_calm(&changes);
        assert!(changes.len() <= 3, "{low}: {changes:?}");
        rig.assert_calm();
    }
}

#[test]
fn speed_that_swings_is_no_dance() {
    let mut rig = Rig::new();
    for _ in 0..30 {
        rig.answer("m", 50.0, 0.1);
    }
    let (mut changes, mut before) = (Vec::new(), State::Healthy);
    while rig.seconds < 1800 {
        rig.answer("m", if (rig.seconds / 15) % 2 == 1 { 10.0 } else { 50.0 }, 0.1);
        let state = rig.model_state("m");
        if state != before {
            changes.push(rig.seconds);
            before = state;
        }
    }
    assert_calm(&changes);
}

#[test]
fn models_are_bounded_and_those_in_memory_are_kept() {
    let mut rig = Rig::new();
    rig.list(&[WHOLE]);
    for number in 0..2000 {
        rig.answer(&format!("name-{number}"), 50.0, 0.1);
    }
    assert!(rig.judge.model_count() <= 256);
    rig.list(&[("m", 1000, 0)]);
    assert_eq!(rig.list(&[("m", 1000, 0)]), State::Draining, "it is remembered that it was on the card");
    let names: Vec<String> = (0..1000).map(|number| format!("all-{number}")).collect();
    let all: Vec<Resident<'_>> = names.iter().map(|name| Resident { name, size: 1, size_vram: 1 }).collect();
    let now = rig.now() + Duration::from_secs(POLL);
    rig.judge.residents(&all, now);
    assert!(rig.judge.model_count() <= 256);
}
