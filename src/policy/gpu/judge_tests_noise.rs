//! What must not make anybody ill: odd values, odd orders, silence, and what was there before.

use std::time::Duration;

use super::judge_tests::{Rig, card};
use super::reading::{Card, CardChoice, CardFault, Reading, RecoveryAction, Throttle, Unread, Xid};
use super::verdict::State;

fn calm(rig: &Rig) {
    assert_eq!(rig.changes, [0; 0]);
}

#[test]
fn one_bad_card_of_eight_makes_only_its_server_ill() {
    let mut rigs: Vec<Rig> = (0..8).map(|_| Rig::new()).collect();
    for (index, rig) in (0..).zip(&mut rigs) {
        rig.judge.set_cards(CardChoice { uuids: vec![format!("gpu-{index:04}")], indices: vec![] });
    }
    let mut all: Vec<Card> = (0..8).map(card).collect();
    for rig in &mut rigs {
        rig.polls(&all, 100);
    }
    all[5].recovery_action = Some(RecoveryAction::GpuReset);
    all[5].margin = Some(-5.0);
    let states: Vec<State> = rigs.iter_mut().map(|rig| rig.polls(&all, 100)).collect();
    let expected: Vec<State> = (0..8).map(|index| if index == 5 { State::Failed } else { State::Healthy }).collect();
    assert_eq!(states, expected);
    // One that uses all of them has the worst state of any.
    assert_eq!(Rig::new().polls(&all, 100), State::Failed);
}

#[test]
fn absurd_values_are_ignored() {
    let mut rig = Rig::new();
    rig.polls(&[card(0)], 100);
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e9, 1e18] {
        let bad = Card {
            temperature: Some(odd),
            margin: Some(odd),
            memory_temperature: Some(odd),
            memory_margin: Some(odd),
            power: Some(odd),
            utilisation: Some(odd),
            ..card(0)
        };
        rig.polls(&[bad], 300);
    }
    let sentinel = Some(9_223_372_036_854_775_794);
    let bad = Card {
        ecc_uncorrected: sentinel,
        remapped_rows: sentinel,
        retired_pages: sentinel,
        pcie_replays: sentinel,
        nvlink_crc: sentinel,
        nvlink_errors: sentinel,
        memory_total: sentinel,
        memory_used: sentinel,
        memory_free: sentinel,
        last_xid: Some(u32::MAX),
        ..card(0)
    };
    rig.polls(&[bad], 300);
    assert_eq!(rig.judge.memory(), None);
    // A margin of zero where the card is cool is no margin.
    rig.polls(&[Card { margin: Some(0.0), temperature: Some(35.0), ..card(0) }], 300);
    calm(&rig);
}

#[test]
fn counters_that_begin_anew_are_no_errors() {
    let mut rig = Rig::new();
    let high = Card {
        pcie_replays: Some(1_000_000),
        nvlink_crc: Some(1_000_000),
        nvlink_errors: Some(50),
        remapped_rows: Some(3),
        retired_pages: Some(4),
        ..card(0)
    };
    for _ in 0..20 {
        rig.polls(std::slice::from_ref(&high), 20);
        rig.polls(&[card(0)], 20);
        // The same after a boot: what is counted since is little, whatever was counted before.
        rig.boot = Some(format!("boot {}", rig.seconds));
    }
    let mut slow = Rig::new();
    for seconds in 0..200 {
        // As many as the link may have.
        slow.poll(&[Card { pcie_replays: Some(seconds * 15 / 6), ..card(0) }]);
    }
    calm(&slow);
}

#[test]
fn cards_may_change_places_when_the_host_boots() {
    let mut rig = Rig::new();
    rig.judge.set_cards(CardChoice { uuids: vec!["0001".into()], indices: vec![] });
    let bad = Card { pcie_replays: Some(100_000), margin: Some(-9.0), ..card(0) };
    rig.polls(&[bad.clone(), card(1)], 300);
    for boot in 0..10 {
        rig.boot = Some(boot.to_string());
        let places = |own, others| [Card { index: Some(own), ..card(1) }, Card { index: Some(others), ..bad.clone() }];
        rig.polls(&places(boot % 2, 1 - boot % 2), 300);
        assert_eq!(rig.judge.cards().len(), 1);
    }
    calm(&rig);
    // Where cards have only numbers, the counters of one are not compared with those of another.
    let mut rig = Rig::new();
    let numbered = |index, replays| Card {
        uuid: None,
        pcie_replays: Some(replays),
        nvlink_errors: Some(replays),
        last_xid: Some(u32::try_from(replays).unwrap_or(0)),
        ..card(index)
    };
    rig.polls(&[numbered(0, 0), numbered(1, 79)], 100);
    for boot in 0..10 {
        rig.boot = Some(boot.to_string());
        let swapped = boot % 2;
        rig.polls(&[numbered(swapped, 0), numbered(1 - swapped, 79)], 100);
    }
    calm(&rig);
}

#[test]
fn parts_of_a_card_have_no_health_and_are_not_lost_with_it() {
    let mut rig = Rig::new();
    rig.polls(&[card(0), card(1)], 100);
    let part = |index: u32, number: u32| Card {
        uuid: Some(format!("MIG-{index}-{number}")),
        partition: true,
        recovery_action: Some(RecoveryAction::GpuReset),
        ecc_uncorrected: Some(9),
        margin: Some(-5.0),
        memory_total: Some(10 << 30),
        memory_used: Some(1 << 30),
        memory_free: Some(9 << 30),
        ..card(index)
    };
    // With the card itself, without it, and without saying of which card.
    rig.polls(&[card(0), card(1), part(1, 0), part(1, 1)], 100);
    assert_eq!(rig.judge.memory().expect("memory").total, 160 << 30, "counted once");
    rig.polls(&[part(0, 0), part(1, 0), part(1, 1)], 100);
    assert_eq!(rig.judge.memory().expect("memory").total, 30 << 30);
    rig.polls(&[Card { index: None, ..part(0, 0) }, Card { index: None, ..part(1, 0) }], 100);
    rig.polls(&[card(0), card(1)], 100);
    calm(&rig);
}

#[test]
fn old_news_at_the_start_is_no_news() {
    let mut rig = Rig::new();
    let past = rig.unix_ms() - 3_600_000;
    let old = Card {
        last_xid: Some(79),
        xids: vec![
            Xid { code: 79, at: past },
            Xid { code: 48, at: 0 },
            Xid { code: 0, at: rig.unix_ms() },
            Xid { code: 79, at: u64::MAX },
        ],
        ..card(0)
    };
    rig.polls(&[old], 3600);
    calm(&rig);
}

#[test]
fn a_source_that_falls_silent_ejects_nobody() {
    let mut fleet: Vec<Rig> = (0..20).map(|_| Rig::new()).collect();
    for rig in &mut fleet {
        rig.polls(&[card(0), card(1)], 100);
        assert!(!rig.judge.is_silent(rig.now()));
        for _ in 0..300 {
            assert_eq!(rig.unread(Unread::Silent), State::Healthy);
        }
        assert!(rig.judge.is_silent(rig.now()));
        assert_eq!(rig.notes().len(), 1);
        // What comes back with nothing in it is silent as well.
        let now = rig.now();
        rig.judge.read(&Reading::default(), now, 0);
        assert!(rig.judge.is_silent(now));
        assert_eq!(rig.poll(&[card(0), card(1)]), State::Healthy);
        assert!(!rig.judge.is_silent(rig.now()));
        calm(rig);
    }
    let mut never = Rig::new();
    assert!(!never.judge.is_silent(never.now() + Duration::from_hours(1)), "nobody asks");
    for _ in 0..4 {
        never.unread(Unread::Silent);
    }
    assert!(!never.judge.is_silent(never.now()));
    never.unread(Unread::Silent);
    assert!(never.judge.is_silent(never.now()));
}

#[test]
fn silence_keeps_a_state_for_three_intervals_and_not_longer() {
    let mut rig = Rig::new();
    rig.polls(&[card(0)], 100);
    let bad = Card { recovery_action: Some(RecoveryAction::NodeReboot), ..card(0) };
    rig.polls(std::slice::from_ref(&bad), 100);
    for _ in 0..3 {
        assert_eq!(rig.unread(Unread::Silent), State::Failed);
    }
    rig.wait(1);
    assert_eq!(rig.state(), State::Healthy);
    // It says so again: at once.
    assert_eq!(rig.poll(&[bad]), State::Failed);
    // An error that only a boot ends is not forgotten by silence.
    let mut rig = Rig::new();
    rig.polls(&[card(0)], 100);
    let at = rig.unix_ms() + 10_000;
    rig.poll(&[Card { xids: vec![Xid { code: 79, at }], ..card(0) }]);
    rig.polls(&[card(0)], 60);
    for _ in 0..3 {
        assert_eq!(rig.unread(Unread::Silent), State::Failed);
    }
    rig.wait(1);
    assert_eq!(rig.state(), State::Healthy);
    assert_eq!(rig.poll(&[card(0)]), State::Failed);
}

#[test]
fn a_value_that_is_not_told_any_more_is_forgotten() {
    let mut rig = Rig::new();
    let hot = Card { margin: Some(-1.0), throttle: Some(Throttle(Throttle::HW_THERMAL)), ..card(0) };
    rig.polls(&[hot], 600);
    assert_eq!(rig.state(), State::Degraded);
    let mute = Card { margin: None, memory_margin: None, throttle: None, ..card(0) };
    rig.polls(std::slice::from_ref(&mute), 120);
    assert_eq!(rig.state(), State::Degraded, "three of the samples of a minute");
    assert_eq!(rig.polls(&[mute], 70), State::Healthy);
}

#[test]
fn a_card_that_says_nothing_but_an_error_is_a_note() {
    let mut rig = Rig::new();
    rig.polls(&[card(0)], 100);
    let mute = Card { uuid: card(0).uuid, fault: Some(CardFault::Error), ..Card::default() };
    rig.polls(&[mute], 600);
    assert_eq!(rig.notes().len(), 1);
    rig.polls(&[Card { recovery_action: Some(RecoveryAction::Other), ..card(0) }], 600);
    assert_eq!(rig.notes().len(), 1);
    calm(&rig);
}

#[test]
fn memory_is_known_or_not() {
    let mut rig = Rig::new();
    assert_eq!(rig.judge.memory(), None);
    let named = Card {
        memory_total: None,
        memory_used: None,
        memory_free: Some(30 << 30),
        name: Some("NVIDIA A40".into()),
        ..card(0)
    };
    rig.poll(std::slice::from_ref(&named));
    let memory = rig.judge.memory().expect("by its name");
    assert_eq!((memory.total, memory.used, memory.free), (48 << 30, 18 << 30, 30 << 30));
    rig.poll(&[named, Card { memory_used: None, memory_free: None, ..card(1) }]);
    assert_eq!(rig.judge.memory(), None, "one of them does not tell");
}

#[test]
fn another_choice_of_cards_keeps_what_is_known_of_those_that_stay() {
    let mut rig = Rig::new();
    rig.polls(&[card(0), card(1)], 100);
    let at = rig.unix_ms() + 10_000;
    rig.poll(&[card(0), Card { xids: vec![Xid { code: 79, at }], ..card(1) }]);
    rig.judge.set_cards(CardChoice { uuids: vec![], indices: vec![1] });
    assert_eq!(rig.polls(&[card(0), card(1)], 100), State::Failed);
    rig.judge.set_cards(CardChoice { uuids: vec!["GPU-0000".into()], indices: vec![] });
    assert_eq!(rig.polls(&[card(0), card(1)], 100), State::Healthy, "its card is another one now");
    rig.judge.set_cards(CardChoice { uuids: vec!["nobody".into()], indices: vec![] });
    rig.polls(&[card(0), card(1)], 100);
    assert_eq!((rig.judge.cards().len(), rig.notes().len(), rig.judge.memory()), (0, 1, None));
}

#[test]
fn cards_that_do_not_say_who_they_are_are_not_missed() {
    let mut rig = Rig::new();
    rig.judge.set_cards(CardChoice { uuids: vec!["GPU-0001".into()], indices: vec![] });
    rig.polls(&[card(0), card(1)], 100);
    // The exporter leaves identities out, or names parts of the card, or says the same twice.
    rig.polls(&[Card { uuid: None, ..card(0) }, Card { uuid: None, ..card(1) }], 100);
    rig.polls(&[card(0), Card { uuid: Some("MIG-1".into()), partition: true, ..card(1) }], 100);
    rig.polls(&[card(0), card(1), card(1)], 100);
    rig.polls(&[card(0), card(1)], 100);
    calm(&rig);
    rig.polls(&[card(0)], 20);
    assert_eq!(rig.state(), State::Failed, "there it is not");
}

#[test]
fn what_is_just_within_its_limit_is_well() {
    let mut rig = Rig::new();
    for time in 0..200 {
        let edge = Card {
            retired_pages: Some(15),
            remapped_rows: Some(511),
            remap_pending: Some(true),
            margin: Some(0.1),
            memory_margin: Some(0.0),
            nvlink_crc: Some(999 * time),
            ..card(0)
        };
        rig.poll(&[edge]);
    }
    assert_eq!(rig.notes().len(), 2);
    calm(&rig);
}

#[test]
fn a_boot_makes_what_was_known_by_a_number_unknown() {
    for uuid in [None, card(0).uuid] {
        let mut rig = Rig::new();
        let is_known = uuid.is_some();
        let numbered = Card { uuid, ..card(0) };
        rig.polls(&[Card { margin: Some(-1.0), ..numbered.clone() }], 120);
        rig.boot = Some("two".into());
        // It may be another card now. One with an identity is the same, and must be cool for five minutes.
        assert_eq!(rig.poll(&[numbered]) == State::Degraded, is_known);
    }
}
