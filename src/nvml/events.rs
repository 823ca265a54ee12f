//! Errors that the driver tells as they come (Xid), and how long they are remembered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml as Library};

use crate::policy::gpu::reading::{Card, CardFault, Xid, uuid};

/// Errors of one card that are remembered.
const LAST: usize = 64;
/// How long they are, in milliseconds.
const KEPT: u64 = 24 * 60 * 60 * 1000;
/// The number of an error that the driver does not know itself.
const UNKNOWN: u32 = 999;

/// What waiting for errors came to.
pub enum Heard {
    /// An error; of a card with this identity, where it could still tell it.
    Xid {
        /// The card.
        card: Option<String>,
        /// Which error.
        code: u32,
    },
    /// Nothing, or nothing of interest, for the time that was given.
    Nothing,
    /// Events cannot be waited for now: time has not passed.
    Deaf,
}

/// The cards' errors as they come.
pub struct Events<'a> {
    set: Option<EventSet<'a>>,
}

impl<'a> Events<'a> {
    /// Has all cards tell their errors that can.
    pub fn open(library: &'a Library) -> Self {
        // Whoever drops a set would call what is not there.
        let can_be_freed = library.lib().nvmlEventSetFree.is_ok();
        Self { set: can_be_freed.then(|| subscribe(library)).flatten() }
    }

    /// Waits for the next error, not longer than `limit`.
    pub fn wait(&self, limit: Duration) -> Heard {
        let Some(set) = &self.set else { return Heard::Deaf };
        match set.wait(u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1)) {
            Ok(event) => match event.event_data {
                None => Heard::Nothing,
                Some(error) => Heard::Xid {
                    card: event.device.uuid().ok().map(|text| uuid(&text)),
                    code: match error {
                        XidError::Value(code) => u32::try_from(code).unwrap_or(UNKNOWN),
                        XidError::Unknown => UNKNOWN,
                    },
                },
            },
            Err(NvmlError::Timeout) => Heard::Nothing,
            // With a card that is gone this comes at once, every time.
            Err(_) => Heard::Deaf,
        }
    }
}

/// A set in which all cards are that can be. One that cannot costs the set, so it is made anew without that one.
fn subscribe(library: &Library) -> Option<EventSet<'_>> {
    let count = library.device_count().ok()?;
    let mut without = BTreeSet::new();
    'anew: loop {
        let mut set = library.create_event_set().ok()?;
        for index in (0..count).filter(|index| !without.contains(index)).collect::<Vec<_>>() {
            let Ok(device) = library.device_by_index(index) else {
                without.insert(index);
                continue;
            };
            match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
                Ok(same) => set = same,
                Err(_) => {
                    without.insert(index);
                    continue 'anew;
                }
            }
        }
        return (without.len() < usize::try_from(count).unwrap_or_default()).then_some(set);
    }
}

/// The last errors of each card.
#[derive(Debug, Default)]
pub struct Xids {
    cards: BTreeMap<String, VecDeque<Xid>>,
    /// Errors of cards that could not say any more who they are.
    homeless: VecDeque<Xid>,
}

impl Xids {
    /// Remembers an error.
    pub fn add(&mut self, card: Option<String>, xid: Xid) {
        let ring = match card {
            Some(card) => self.cards.entry(card).or_default(),
            None => &mut self.homeless,
        };
        if ring.len() == LAST {
            ring.pop_front();
        }
        ring.push_back(xid);
    }

    /// Writes the errors to their cards, and forgets old ones; `now` in milliseconds since 1970.
    pub fn fill(&mut self, cards: &mut [Card], now: u64) {
        // A card that is gone may not tell its identity; what nobody else claims is its.
        let lost: Vec<String> = cards
            .iter()
            .filter(|card| card.fault == Some(CardFault::Lost))
            .filter_map(|card| card.uuid.clone())
            .collect();
        if !lost.is_empty() {
            for xid in std::mem::take(&mut self.homeless) {
                lost.iter().for_each(|card| self.add(Some(card.clone()), xid));
            }
        }
        let is_young = |xid: &Xid| now.saturating_sub(xid.at) < KEPT;
        self.homeless.retain(is_young);
        self.cards.retain(|_, ring| {
            ring.retain(is_young);
            !ring.is_empty()
        });
        for card in cards {
            let ring = card.uuid.as_ref().and_then(|uuid| self.cards.get(uuid));
            card.xids = ring.map(|ring| ring.iter().copied().collect()).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(uuid: &str, fault: Option<CardFault>) -> Card {
        Card { uuid: Some(uuid.to_owned()), fault, ..Card::default() }
    }

    fn codes(card: &Card) -> Vec<u32> {
        card.xids.iter().map(|xid| xid.code).collect()
    }

    #[test]
    fn errors_go_to_their_cards_and_are_forgotten_after_a_day() {
        let mut xids = Xids::default();
        xids.add(Some("a".into()), Xid { code: 13, at: 1000 });
        xids.add(Some("b".into()), Xid { code: 31, at: 2000 });
        let mut cards = [card("a", None), card("b", None)];
        xids.fill(&mut cards, 3000);
        assert_eq!((codes(&cards[0]), codes(&cards[1])), (vec![13], vec![31]));
        xids.fill(&mut cards, 1000 + KEPT);
        assert_eq!((codes(&cards[0]), codes(&cards[1])), (vec![], vec![31]));
        assert_eq!(xids.cards.len(), 1);
    }

    #[test]
    fn a_flood_of_errors_keeps_the_last_ones() {
        let mut xids = Xids::default();
        (0..1000).for_each(|code| xids.add(Some("a".into()), Xid { code, at: 0 }));
        let mut cards = [card("a", None)];
        xids.fill(&mut cards, 0);
        assert_eq!(codes(&cards[0]), (936..1000).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_nobody_is_that_of_the_card_that_is_gone() {
        let mut xids = Xids::default();
        xids.add(None, Xid { code: 79, at: 0 });
        let mut cards = [card("a", None), card("b", None)];
        xids.fill(&mut cards, 1);
        assert!(cards.iter().all(|card| card.xids.is_empty()));
        cards[1].fault = Some(CardFault::Lost);
        xids.fill(&mut cards, 2);
        assert_eq!((codes(&cards[0]), codes(&cards[1])), (vec![], vec![79]));
        cards[1].fault = None;
        xids.fill(&mut cards, 3);
        assert_eq!(codes(&cards[1]), [79]);
    }
}
