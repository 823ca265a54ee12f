//! What holds for every sequence of inputs.

use std::time::Duration;

use proptest::prelude::*;

use super::hysteresis::DWELL;
use super::judge::{Answer, Judge, Resident};
use super::judge_tests::card;
use super::reading::{Card, CardFault, Reading, RecoveryAction, Throttle, Unread, Xid};
use super::verdict::{Signal, State};
use crate::clock;

#[derive(Clone, Debug)]
enum Input {
    Read(Vec<Card>, Option<u8>),
    Unread(Unread),
    List(Vec<(u8, u64, u64)>),
    Answer(u8, u32, u64),
    Probe(bool),
}

const START: u64 = 1_800_000_000_000;

fn any_card() -> impl Strategy<Value = Card> {
    let action = prop::sample::select(vec![
        None,
        Some(RecoveryAction::None),
        Some(RecoveryAction::None),
        Some(RecoveryAction::GpuReset),
        Some(RecoveryAction::DrainP2p),
        Some(RecoveryAction::Other),
    ]);
    let fault = prop::sample::select(vec![None, None, None, Some(CardFault::Lost), Some(CardFault::Hangs)]);
    let xid = (prop::sample::select(vec![13, 43, 48, 63, 79, 94, 109, 46]), 0_u64..2_000_000);
    let numbers = (prop::option::of(0_u64..20), prop::option::of(0_u64..20), prop::option::of(-20.0_f64..40.0));
    (0_u32..3, action, fault, prop::collection::vec(xid, 0..2), numbers, any::<u8>()).prop_map(
        |(index, recovery_action, fault, xids, (ecc, pages, margin), bits)| Card {
            recovery_action,
            fault,
            xids: xids.into_iter().map(|(code, at)| Xid { code, at: START + at }).collect(),
            ecc_uncorrected: ecc.map(|ecc| ecc.saturating_sub(18)),
            retired_pages: pages,
            margin,
            throttle: Some(Throttle(u64::from(bits))),
            pcie_replays: Some(u64::from(bits)),
            nvlink_errors: Some(u64::from(bits / 64)),
            memory_used: Some(u64::from(bits) << 28),
            last_xid: bits.is_multiple_of(16).then_some(u32::from(bits)),
            partition: bits.is_multiple_of(11),
            ..card(index)
        },
    )
}

fn any_input() -> impl Strategy<Value = Input> {
    let listed = (0_u8..3, 0_u64..3, 0_u64..3);
    prop_oneof![
        4 => (prop::collection::vec(any_card(), 0..4), prop::option::of(0_u8..2)).prop_map(|(cards, boot)| Input::Read(cards, boot)),
        1 => prop::sample::select(vec![Unread::Silent, Unread::DriverDown, Unread::Hangs]).prop_map(Input::Unread),
        2 => prop::collection::vec(listed, 0..3).prop_map(Input::List),
        2 => (0_u8..3, 0_u32..200, 0_u64..20_000).prop_map(|(model, tokens, took)| Input::Answer(model, tokens, took)),
        1 => any::<bool>().prop_map(Input::Probe),
    ]
}

/// A card of which everything that is told is well or absent.
fn any_absent_card() -> impl Strategy<Value = Card> {
    (0_u32..3, any::<u32>()).prop_map(|(index, mask)| {
        let mut shown = card(index);
        let keep = |bit: u32| mask & (1 << bit) != 0;
        shown.index = shown.index.filter(|_| keep(0));
        shown.name = shown.name.filter(|_| keep(1));
        shown.memory_total = shown.memory_total.filter(|_| keep(2));
        shown.memory_used = shown.memory_used.filter(|_| keep(3));
        shown.memory_free = shown.memory_free.filter(|_| keep(4));
        shown.temperature = shown.temperature.filter(|_| keep(5));
        shown.margin = shown.margin.filter(|_| keep(6));
        shown.memory_margin = shown.memory_margin.filter(|_| keep(7));
        shown.throttle = shown.throttle.filter(|_| keep(8));
        shown.ecc_uncorrected = shown.ecc_uncorrected.filter(|_| keep(9));
        shown.remapped_rows = shown.remapped_rows.filter(|_| keep(10));
        shown.remap_pending = shown.remap_pending.filter(|_| keep(11));
        shown.remap_failed = shown.remap_failed.filter(|_| keep(12));
        shown.retired_pages = shown.retired_pages.filter(|_| keep(13));
        shown.recovery_action = shown.recovery_action.filter(|_| keep(14));
        shown.pcie_replays = shown.pcie_replays.filter(|_| keep(15));
        shown.nvlink_crc = shown.nvlink_crc.filter(|_| keep(16));
        shown.nvlink_errors = shown.nvlink_errors.filter(|_| keep(17));
        shown.memory_temperature = shown.memory_temperature.filter(|_| keep(18));
        shown
    })
}

proptest! {
    #[test]
    fn absence_is_no_illness(
        steps in prop::collection::vec((prop::collection::vec(any_absent_card(), 3), 0_u64..100, any::<bool>()), 0..60),
    ) {
        let mut now = clock::now();
        let mut judge = Judge::new(now);
        for (mut cards, wait, silent) in steps {
            now += Duration::from_secs(wait);
            // All of them are there, in any order.
            for (number, card) in cards.iter_mut().enumerate() {
                card.uuid = Some(format!("GPU-{number}"));
            }
            if silent {
                judge.not_read(Unread::Silent, now);
            } else {
                judge.read(&Reading { cards, ..Reading::default() }, now, START);
            }
            let verdict = judge.verdict(now);
            prop_assert_eq!(verdict.state, State::Healthy);
            prop_assert!(verdict.reasons.is_empty() && verdict.models.is_empty());
        }
    }

    #[test]
    fn states_are_held_and_named(steps in prop::collection::vec((any_input(), 0_u64..40), 1..120)) {
        let start = clock::now();
        let mut judge = Judge::new(start);
        prop_assert_eq!(judge.verdict(start).state, State::Healthy);
        let (mut seconds, mut before, mut changed) = (0, State::Healthy, None);
        for (input, wait) in steps {
            seconds += wait;
            let now = start + Duration::from_secs(seconds);
            match input {
                Input::Read(cards, boot) => {
                    let reading = Reading { cards, boot_id: boot.map(|boot| boot.to_string()), driver: None };
                    judge.read(&reading, now, START + seconds * 1000);
                }
                Input::Unread(why) => judge.not_read(why, now),
                Input::List(models) => {
                    let names = ["a", "b", "c"];
                    let list = models.iter().map(|(name, size, size_vram)| Resident {
                        name: names[usize::from(*name)],
                        size: *size,
                        size_vram: *size_vram,
                    });
                    judge.residents(&list.collect::<Vec<_>>(), now);
                }
                Input::Answer(model, tokens, took) => {
                    let took = Duration::from_millis(took);
                    judge.answered(["a", "b", "c"][usize::from(model)], Answer { tokens, decode: took, first_token: Some(took) }, now);
                }
                Input::Probe(good) => judge.probed(good, now),
            }
            let verdict = judge.verdict(now);
            let own = || verdict.reasons.iter().filter(|reason| reason.model.is_none());
            prop_assert!(verdict.state == State::Healthy || own().any(|reason| reason.state >= verdict.state), "{verdict:?}");
            prop_assert!(verdict.reasons.is_sorted_by(|one, other| one.state >= other.state));
            prop_assert!(verdict.models.iter().all(|model| model.weight > 0.0 && model.weight <= 1.0));
            prop_assert!(verdict.models.iter().all(|model| (0.0..=1.0).contains(&model.on_card)));
            if verdict.state != before {
                let single = [Signal::RecoveryAction, Signal::Xid, Signal::Ecc, Signal::RowRemap, Signal::RetiredPages];
                let at_once = verdict.state > before
                    && own().any(|reason| reason.state == State::Failed || single.contains(&reason.signal));
                let held = changed.is_none_or(|at| now - at >= DWELL);
                prop_assert!(at_once || held, "{before:?} for less than a minute, then {verdict:?}");
                (before, changed) = (verdict.state, Some(now));
            }
        }
    }
}
