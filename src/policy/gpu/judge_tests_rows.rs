//! Each row about the cards: entered on time, and left neither earlier nor later than it says.

use super::judge_tests::{POLL, Rig, card};
use super::reading::{Card, CardFault, RecoveryAction, Throttle, Unread};
use super::verdict::{Signal, State};

/// One row: what makes a card ill, and by when.
struct Row {
    signal: Signal,
    state: State,
    ill: fn(&mut Card, u64),
    /// Readings until it is entered, and until it is left.
    enter: u64,
    leave: u64,
    probes: bool,
}

fn row(signal: Signal, state: State, enter: u64, leave: u64, ill: fn(&mut Card, u64)) -> Row {
    Row { signal, state, ill, enter, leave, probes: false }
}

fn rows() -> Vec<Row> {
    let probed =
        |action: fn(&mut Card, u64), state| Row { probes: true, ..row(Signal::RecoveryAction, state, 1, 7, action) };
    vec![
        probed(|card, _| card.recovery_action = Some(RecoveryAction::NodeReboot), State::Failed),
        probed(|card, _| card.recovery_action = Some(RecoveryAction::GpuReset), State::Failed),
        probed(|card, _| card.recovery_action = Some(RecoveryAction::DrainAndReset), State::Failed),
        probed(|card, _| card.recovery_action = Some(RecoveryAction::DrainP2p), State::Degraded),
        row(Signal::Ecc, State::Failed, 1, 1, |card, _| card.ecc_uncorrected = Some(1)),
        row(Signal::RowRemap, State::Failed, 1, 1, |card, _| card.remap_failed = Some(true)),
        row(Signal::RowRemap, State::Failed, 1, 1, |card, _| card.remapped_rows = Some(512)),
        row(Signal::RetiredPages, State::Draining, 1, 1, |card, _| card.retired_pages = Some(16)),
        // Six one-minute samples; until one of the last ten is bad: nine that are good, and the rest of a minute.
        row(Signal::HwSlowdown, State::Degraded, 37, 54, |card, _| {
            card.throttle = Some(Throttle(Throttle::HW_THERMAL));
        }),
        row(Signal::HwSlowdown, State::Degraded, 37, 54, |card, _| {
            card.throttle = Some(Throttle(Throttle::HW_SLOWDOWN | 1));
        }),
        row(Signal::HwSlowdown, State::Degraded, 37, 54, |card, _| {
            card.throttle = Some(Throttle(Throttle::POWER_BRAKE));
        }),
        row(Signal::Temperature, State::Degraded, 3, 31, |card, _| card.margin = Some(0.0)),
        row(Signal::Temperature, State::Degraded, 3, 31, |card, _| card.memory_margin = Some(-1.0)),
        // 16 lanes of generation 4 may repeat 15.36 in a minute, 2.56 in ten seconds.
        row(Signal::PcieReplays, State::Degraded, 3, 61, |card, time| card.pcie_replays = Some(5 + 3 * time / 10)),
        row(Signal::Nvlink, State::Degraded, 3, 61, |card, time| card.nvlink_crc = Some(100 * time)),
        row(Signal::Nvlink, State::Degraded, 3, 61, |card, time| card.nvlink_errors = Some(time / 10)),
        row(Signal::Hangs, State::Draining, 2, 1, |card, _| card.fault = Some(CardFault::Hangs)),
        row(Signal::CardLost, State::Failed, 2, 1, |card, _| card.fault = Some(CardFault::Lost)),
    ]
}

#[test]
fn each_row_is_entered_and_left_on_time() {
    for (number, row) in rows().into_iter().enumerate() {
        let what = format!("row {number}, {:?}", row.signal);
        let mut rig = Rig::new();
        assert_eq!(rig.polls(&[card(0), card(1)], 600), State::Healthy, "{what}");
        let ill = |rig: &mut Rig| {
            let mut bad = card(1);
            (row.ill)(&mut bad, rig.seconds + POLL - 600);
            rig.poll(&[card(0), bad.clone()]);
            bad
        };
        for poll in 1..row.enter {
            ill(&mut rig);
            assert_eq!(rig.state(), State::Healthy, "{what}: reading {poll}");
        }
        ill(&mut rig);
        assert_eq!((rig.state(), rig.signals()), (row.state, vec![row.signal]), "{what}");
        // Long enough for the state to be left when the signal is.
        let mut last = card(1);
        for _ in 0..9 {
            last = ill(&mut rig);
        }
        let mut well = card(1);
        (well.pcie_replays, well.nvlink_crc, well.nvlink_errors) =
            (last.pcie_replays, last.nvlink_crc, last.nvlink_errors);
        for poll in 1..row.leave {
            rig.poll(&[card(0), well.clone()]);
            assert_eq!(rig.state(), row.state, "{what}: good reading {poll}");
        }
        if row.probes {
            rig.poll(&[card(0), well.clone()]);
            assert_eq!(rig.state(), row.state, "{what}: it was not probed yet");
            rig.probe_twice();
        }
        // Where minutes are counted, it depends on when they begin.
        let spare = if row.signal == Signal::HwSlowdown { 12 } else { 1 };
        rig.polls(&[card(0), well], spare * POLL);
        assert_eq!(rig.state(), State::Healthy, "{what}");
    }
}

#[test]
fn a_probe_that_fails_begins_the_count_anew() {
    let mut rig = Rig::new();
    let bad = Card { recovery_action: Some(RecoveryAction::GpuReset), ..card(0) };
    rig.see(&[bad]);
    rig.probe_twice();
    rig.polls(&[card(0)], 100);
    for good in [true, false, true] {
        let now = rig.now();
        rig.judge.probed(good, now);
    }
    assert_eq!(rig.polls(&[card(0)], 30), State::Failed);
    let now = rig.now();
    rig.judge.probed(true, now);
    assert_eq!(rig.poll(&[card(0)]), State::Healthy);
}

#[test]
fn what_is_normal_under_load_is_ignored() {
    let mut rig = Rig::new();
    let busy = Card { throttle: Some(Throttle(Throttle::POWER_CAP | Throttle::IDLE)), ..card(0) };
    rig.polls(&[busy], 1800);
    // Hot by itself is nothing either while answers are as fast as ever.
    let warm = Card { throttle: Some(Throttle(Throttle::SW_THERMAL)), ..card(0) };
    rig.polls(std::slice::from_ref(&warm), 1800);
    for _ in 0..200 {
        rig.poll(std::slice::from_ref(&warm));
        rig.answer("m", 50.0, 0.1);
    }
    assert_eq!(rig.changes, [0; 0]);
}

#[test]
fn heat_that_slows_answers_down_degrades_after_five_minutes() {
    let mut rig = Rig::new();
    let warm = Card { throttle: Some(Throttle(Throttle::SW_THERMAL)), ..card(0) };
    for _ in 0..60 {
        rig.poll(&[card(0)]);
        rig.answer("m", 50.0, 0.1);
    }
    let mut began = None;
    while rig.state() == State::Healthy && rig.seconds < 5000 {
        rig.answer("m", 30.0, 0.1);
        rig.wait(POLL - 1);
        rig.see(std::slice::from_ref(&warm));
        if rig.judge.clone().verdict(rig.now()).state == State::Healthy {
            began.get_or_insert(rig.seconds);
        }
    }
    let took = rig.seconds - began.expect("a first reading");
    // From when the middle of the last answers is slow: half of ten of them.
    assert!((300..=370).contains(&took), "{took}");
    assert_eq!(rig.signals(), [Signal::SwThermal]);
    assert_eq!(rig.polls(&[warm], 1200), State::Degraded, "without answers it does not end");
    assert_eq!(rig.polls(&[card(0)], 300), State::Degraded);
    assert_eq!(rig.poll(&[card(0)]), State::Healthy);
}

#[test]
fn memory_that_belongs_to_no_model_degrades_after_ten_minutes() {
    let mut rig = Rig::new();
    let gib = 1_u64 << 30;
    let with = |used: u64| Card { memory_used: Some(used), memory_free: Some(80 * gib - used), ..card(0) };
    let step = |rig: &mut Rig, used| {
        rig.list(&[("m", 10_240, 10_240)]);
        rig.wait(5);
        rig.see(&[with(used)])
    };
    for _ in 0..30 {
        step(&mut rig, 11 * gib);
    }
    let memory = rig.judge.memory().expect("memory");
    assert_eq!((memory.total, memory.used, memory.free, memory.foreign), (80 * gib, 11 * gib, 69 * gib, gib));
    // 2 GiB are not more than 2 GiB.
    for _ in 0..120 {
        step(&mut rig, 13 * gib);
    }
    assert_eq!(rig.state(), State::Healthy);
    for _ in 0..60 {
        assert_eq!(step(&mut rig, 14 * gib), State::Healthy);
    }
    assert_eq!(step(&mut rig, 14 * gib), State::Degraded);
    assert_eq!(rig.signals(), [Signal::MemoryLeak]);
    for _ in 0..60 {
        assert_eq!(step(&mut rig, 12 * gib), State::Degraded, "more than half a GiB");
    }
    assert_eq!(step(&mut rig, 11 * gib + gib / 2), State::Healthy);
}

#[test]
fn a_driver_that_worked_is_missed_and_one_that_never_did_is_a_note() {
    for (why, signal) in [(Unread::DriverDown, Signal::DriverDown), (Unread::Hangs, Signal::Hangs)] {
        let mut rig = Rig::new();
        for _ in 0..20 {
            assert_eq!(rig.unread(why), State::Healthy);
        }
        assert_eq!(rig.notes().len(), 1);
        rig.polls(&[card(0)], 100);
        assert_eq!(rig.unread(why), State::Healthy, "one sample");
        assert_eq!((rig.unread(why), rig.signals()), (State::Draining, vec![signal]));
        for _ in 0..60 {
            assert_eq!(rig.unread(why), State::Draining);
        }
        assert_eq!(rig.poll(&[card(0)]), State::Healthy);
    }
}

#[test]
fn cards_that_are_gone_fail_the_server_until_they_are_back() {
    for alone in [false, true] {
        let mut rig = Rig::new();
        let (all, left) = if alone { (vec![card(1)], vec![]) } else { (vec![card(0), card(1)], vec![card(0)]) };
        rig.polls(&all, 100);
        assert_eq!(rig.poll(&left), State::Healthy);
        assert_eq!((rig.poll(&left), rig.signals()), (State::Failed, vec![Signal::CardLost]));
        let now = rig.now();
        assert_eq!(rig.judge.verdict(now).reasons[0].card.as_deref(), Some("0001"));
        rig.boot = Some("two".into());
        assert_eq!(rig.polls(&left, 600), State::Failed, "a boot alone does not bring it back");
        assert_eq!(rig.poll(&all), State::Healthy);
    }
}

#[test]
fn cards_that_models_share_drain_only_those_models() {
    let mut rig = Rig::new();
    rig.polls(&[card(0), card(1)], 20);
    rig.list(&[("large", 100_000, 100_000), ("small", 40_000, 40_000)]);
    let bad = Card { recovery_action: Some(RecoveryAction::DrainP2p), ..card(1) };
    assert_eq!(rig.poll(&[card(0), bad]), State::Degraded);
    assert_eq!((rig.model_state("large"), rig.model_state("small")), (State::Draining, State::Healthy));
}

#[test]
fn a_swing_every_fifteen_seconds_is_no_dance() {
    let cases: [fn(&mut Card); 6] = [
        |card| card.margin = Some(-2.0),
        |card| card.throttle = Some(Throttle(Throttle::HW_THERMAL)),
        |card| card.retired_pages = Some(16),
        |card| card.fault = Some(CardFault::Hangs),
        |card| card.fault = Some(CardFault::Lost),
        |card| (card.memory_used, card.memory_free) = (Some(60 << 30), Some(20 << 30)),
    ];
    for (number, ill) in cases.into_iter().enumerate() {
        for interval in [1, 5, 10, 15] {
            let mut rig = Rig::new();
            rig.judge.set_interval(std::time::Duration::from_secs(interval));
            while rig.seconds < 1800 {
                if rig.seconds.is_multiple_of(5) {
                    rig.list_now(&[]);
                }
                let mut shown = card(0);
                if (rig.seconds / 15) % 2 == 1 {
                    ill(&mut shown);
                }
                rig.see(&[shown]);
                rig.wait(interval);
            }
            assert!(rig.changes.len() <= 3, "case {number}, every {interval} s: {:?}", rig.changes);
            rig.assert_calm();
        }
    }
}
