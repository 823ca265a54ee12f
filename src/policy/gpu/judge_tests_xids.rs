//! The rows about errors of the driver.

use super::judge_tests::{POLL, Rig, card};
use super::reading::{Card, RecoveryAction, Xid};
use super::verdict::{Signal, State};

/// A card with an error that came just now.
fn with(rig: &Rig, code: u32) -> Card {
    Card { xids: vec![Xid { code, at: rig.unix_ms() + POLL * 1000 }], ..card(0) }
}

fn error(rig: &mut Rig, code: u32) -> State {
    let bad = with(rig, code);
    rig.poll(&[bad])
}

fn well() -> Rig {
    let mut rig = Rig::new();
    rig.polls(&[card(0)], 100);
    rig
}

#[test]
fn a_card_that_left_the_bus_fails_until_the_host_boots_and_is_probed() {
    let mut rig = well();
    assert_eq!((error(&mut rig, 79), rig.signals()), (State::Failed, vec![Signal::Xid]));
    // Neither time nor probes nor a reset of the card are enough.
    rig.polls(&[Card { recovery_action: Some(RecoveryAction::GpuReset), ..card(0) }], 100);
    rig.polls(&[card(0)], 7200);
    assert_eq!(rig.probe_twice(), State::Failed);
    rig.boot = Some("two".into());
    assert_eq!(rig.polls(&[card(0)], 600), State::Failed);
    assert_eq!(rig.probe_twice(), State::Healthy);
}

#[test]
fn where_boots_are_not_told_a_new_driver_is_the_end_of_it() {
    let mut rig = Rig::new();
    rig.boot = None;
    rig.polls(&[card(0)], 100);
    assert_eq!(error(&mut rig, 79), State::Failed);
    rig.polls(&[card(0)], 600);
    assert_eq!(rig.probe_twice(), State::Failed);
    // Its counters begin anew.
    rig.polls(&[Card { pcie_replays: Some(0), ..card(0) }], 100);
    assert_eq!(rig.state(), State::Failed);
    assert_eq!(rig.probe_twice(), State::Healthy);
}

#[test]
fn a_broken_card_fails_until_it_is_reset_and_probed() {
    for code in [48, 64, 74, 95, 119, 120, 140] {
        let mut rig = well();
        assert_eq!(error(&mut rig, code), State::Failed, "{code}");
        rig.polls(&[card(0)], 7200);
        assert_eq!(rig.probe_twice(), State::Failed, "{code}");
        if code.is_multiple_of(2) {
            rig.boot = Some("two".into());
        } else {
            let action = Some(RecoveryAction::DrainAndReset);
            rig.polls(&[Card { recovery_action: action, ..card(0) }], 60);
        }
        rig.polls(&[card(0)], 120);
        assert_eq!(rig.state(), State::Failed, "{code}");
        assert_eq!((rig.probe_twice(), rig.poll(&[card(0)])).1, State::Healthy, "{code}");
    }
}

#[test]
fn a_word_about_several_cards_that_is_taken_back_is_no_reset() {
    let mut rig = well();
    error(&mut rig, 48);
    rig.polls(&[Card { recovery_action: Some(RecoveryAction::DrainP2p), ..card(0) }], 60);
    rig.polls(&[card(0)], 600);
    assert_eq!((rig.probe_twice(), rig.poll(&[card(0)])), (State::Failed, State::Failed));
}

#[test]
fn a_card_that_needs_a_reset_drains_until_then_or_for_half_an_hour() {
    for code in [46, 62, 110, 136, 143, 156, 158] {
        let mut rig = well();
        assert_eq!(error(&mut rig, code), State::Draining, "{code}");
        assert_eq!(rig.polls(&[card(0)], 1790), State::Draining, "{code}");
        assert_eq!(rig.poll(&[card(0)]), State::Healthy, "{code}");

        let mut rig = well();
        error(&mut rig, code);
        rig.boot = Some("two".into());
        assert_eq!(rig.polls(&[card(0)], 50), State::Draining, "{code}: not before a minute is over");
        assert_eq!(rig.poll(&[card(0)]), State::Healthy, "{code}");
    }
}

#[test]
fn timeouts_degrade_and_three_in_ten_minutes_drain() {
    let mut rig = well();
    for _ in 0..3 {
        assert_eq!(error(&mut rig, 109), State::Degraded);
        rig.polls(&[card(0)], 590 - POLL);
    }
    for _ in 0..3 {
        error(&mut rig, 109);
        rig.polls(&[card(0)], 110);
    }
    assert_eq!(rig.state(), State::Draining);
    assert_eq!(rig.polls(&[card(0)], 1800 - 120), State::Draining);
    assert_eq!(rig.poll(&[card(0)]), State::Healthy);
}

#[test]
fn contained_errors_degrade_until_the_models_are_loaded_anew() {
    let mut rig = well();
    rig.list(&[("m", 800, 800)]);
    assert_eq!(error(&mut rig, 94), State::Degraded);
    assert_eq!(rig.polls(&[card(0)], 7200), State::Degraded, "the model is still the same");
    rig.list(&[]);
    assert_eq!(rig.state(), State::Healthy);
    rig.list(&[("m", 800, 800)]);
    // The second within a day; clean for ten minutes is enough once it is loaded anew.
    assert_eq!(error(&mut rig, 94), State::Draining);
    rig.list(&[]);
    rig.list(&[("m", 800, 800)]);
    assert_eq!(rig.polls(&[card(0)], 580), State::Draining);
    assert_eq!(rig.poll(&[card(0)]), State::Healthy);
    rig.wait(86_400);
    rig.polls(&[card(0)], 10);
    assert_eq!(error(&mut rig, 94), State::Degraded, "a day later it is the first");
}

#[test]
fn a_remapped_row_is_a_note_unless_memory_fails_and_it_waits() {
    let mut rig = well();
    for code in [63, 92, 121, 137, 154, 999] {
        assert_eq!(error(&mut rig, code), State::Healthy, "{code}");
        assert!(rig.notes().iter().any(|note| note.contains(&format!("Xid {code}:"))), "{code}");
    }
    let pending = Card { remap_pending: Some(true), ..card(0) };
    assert_eq!(rig.polls(std::slice::from_ref(&pending), 100), State::Healthy);
    let both = Card { xids: with(&rig, 94).xids, ..pending.clone() };
    assert_eq!(rig.poll(&[both]), State::Draining);
    assert_eq!(rig.signals(), [Signal::RowRemap, Signal::Xid]);
    assert_eq!(rig.polls(std::slice::from_ref(&pending), 7200), State::Draining);
    rig.boot = Some("two".into());
    assert_eq!(rig.poll(&[pending]), State::Healthy);
}

#[test]
fn programs_may_fail_twice_in_ten_minutes_and_what_they_do_is_put_down_to_their_model() {
    for models in [&[("m", 800, 800)][..], &[("m", 800, 800), ("n", 800, 800)][..]] {
        let mut rig = well();
        rig.list(models);
        for code in [13, 31] {
            assert_eq!(error(&mut rig, code), State::Healthy);
        }
        assert_eq!(rig.model("m"), None);
        error(&mut rig, 43);
        if models.len() == 1 {
            assert_eq!((rig.state(), rig.model_state("m")), (State::Healthy, State::Degraded));
            assert!((rig.model("m").expect("m").weight - 0.25).abs() < 1e-9);
        } else {
            assert_eq!((rig.state(), rig.model("m")), (State::Degraded, None));
        }
        rig.polls(&[card(0)], 590);
        assert!(rig.state() == State::Degraded || rig.model_state("m") == State::Degraded);
        rig.poll(&[card(0)]);
        assert_eq!((rig.state(), rig.model("m")), (State::Healthy, None));
    }
}

#[test]
fn one_event_that_is_told_again_and_again_is_one() {
    let mut rig = well();
    let first = with(&rig, 109);
    for _ in 0..20 {
        assert_eq!(rig.poll(std::slice::from_ref(&first)), State::Degraded);
    }
    // Another of the same minute is the same.
    let mut again = first.clone();
    again.xids.push(Xid { code: 109, at: first.xids[0].at + 59_999 });
    again.xids.push(Xid { code: 109, at: first.xids[0].at - 59_999 });
    assert_eq!(rig.poll(std::slice::from_ref(&again)), State::Degraded);
    again.xids.push(Xid { code: 109, at: first.xids[0].at + 60_000 });
    again.xids.push(Xid { code: 109, at: first.xids[0].at + 120_000 });
    assert_eq!(rig.poll(&[again]), State::Draining);
}

#[test]
fn events_from_before_are_history_and_those_of_a_late_first_reading_are_not() {
    let mut rig = Rig::new();
    rig.wait(600);
    let born = rig.unix_ms() - 600_000;
    let event = |at| Card { xids: vec![Xid { code: 79, at }], ..card(0) };
    assert_eq!(rig.see(&[event(born - 1)]), State::Healthy);
    assert_eq!(rig.see(&[event(0)]), State::Healthy);
    assert_eq!(rig.see(&[event(born)]), State::Failed);

    let mut rig = Rig::new();
    let first = event(rig.unix_ms() - POLL * 1000);
    assert_eq!(rig.see(&[first]), State::Failed, "it came within the last interval");
}

#[test]
fn a_gauge_is_news_only_when_it_changes() {
    let mut rig = Rig::new();
    rig.boot = None;
    let gauge = |code| Card { last_xid: Some(code), ..card(0) };
    assert_eq!(rig.polls(&[gauge(79)], 600), State::Healthy, "it may be a month old");
    assert_eq!(rig.polls(&[gauge(0)], 600), State::Healthy);
    assert_eq!(rig.poll(&[gauge(48)]), State::Failed);
    rig.polls(&[gauge(48)], 3600);
    assert_eq!(rig.probe_twice(), State::Failed);
    // It is absent for a while, which says nothing, then cleared, which only a new driver does.
    rig.polls(&[card(0)], 100);
    assert_eq!(rig.probe_twice(), State::Failed);
    rig.poll(&[gauge(0)]);
    assert_eq!(rig.probe_twice(), State::Healthy);
    rig.wait(60);
    assert_eq!(rig.poll(&[gauge(48)]), State::Failed, "the same number again");
}

#[test]
fn a_flood_of_small_errors_does_not_wash_a_large_one_away() {
    let mut rig = well();
    error(&mut rig, 79);
    for minute in 0..200 {
        error(&mut rig, [43, 63, 92][minute % 3]);
        rig.polls(&[card(0)], 60);
    }
    assert_eq!(rig.state(), State::Failed);
    assert!(rig.signals().contains(&Signal::Xid));
}
