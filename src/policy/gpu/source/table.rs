//! The cards of an exporter, gathered from rows that each say one thing about one of them.
//!
//! Rows name a card by its uuid, by its number, or by both, and exporters mix them. Rows of parts of a card (MIG) name the card
//! and the part: what is about memory is the part's, everything else is the card's.

use super::super::reading::{Card, CardFault, Process, Reading, RecoveryAction, Xid, uuid};
use super::field::{Field, fill};

/// Cards and parts of cards that are believed: eight cards in seven or eight parts each are the most that there are.
const MOST_CARDS: usize = 256;
/// Processes and errors that are kept of one card.
const MOST_OF_A_CARD: usize = 256;
/// Letters of a name or an identity that are kept.
const LONGEST_NAME: usize = 200;

/// Which card a row is about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Key<'r> {
    /// Its identity.
    pub(super) uuid: Option<&'r str>,
    /// Its number.
    pub(super) index: Option<u32>,
    /// The part of it, where it has parts.
    pub(super) part: Option<&'r str>,
}

impl Key<'_> {
    /// Whether it leads to a card.
    pub(super) const fn names_a_card(&self) -> bool {
        self.uuid.is_some() || self.index.is_some()
    }
}

#[derive(Debug, Default)]
struct Entry {
    uuid: Option<String>,
    index: Option<u32>,
    part: Option<String>,
    name: Option<String>,
    /// Values by the number of their metric.
    values: Vec<(usize, Field, f64)>,
    processes: Vec<Process>,
    xids: Vec<Xid>,
    action: Option<RecoveryAction>,
    fault: Option<CardFault>,
}

/// The cards so far.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    /// Where to look first: exporters say each metric for all cards in turn.
    next: usize,
    /// There were more cards than are believed.
    pub(super) overflown: bool,
    /// Version of the driver.
    pub(super) driver: Option<String>,
}

impl Table {
    /// Whether any card was named.
    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes a value; `metric` is the number of the metric that says it.
    pub(super) fn value(&mut self, key: Key<'_>, metric: usize, field: Field, value: f64) {
        let key = if field.is_of_the_part() { key } else { Key { part: None, ..key } };
        let Some(entry) = self.entry(key) else { return };
        let Some(value) = field.believed(value) else { return };
        match entry.values.iter_mut().find(|(other, of, _)| (*other, *of) == (metric, field)) {
            Some((.., known)) => *known = field.of_rows(*known, value),
            None => entry.values.push((metric, field, value)),
        }
    }

    /// Notes that a card is there, and what it is called.
    pub(super) fn card(&mut self, key: Key<'_>, name: Option<&str>) {
        if let (Some(entry), Some(name)) = (self.entry(Key { part: None, ..key }), name) {
            entry.name.get_or_insert_with(|| short(name));
        }
    }

    /// Notes what must be done with a card.
    pub(super) fn action(&mut self, key: Key<'_>, action: RecoveryAction) {
        if let Some(entry) = self.entry(key) {
            entry.action = Some(action);
        }
    }

    /// Notes why a card could not be asked.
    pub(super) fn fault(&mut self, key: Key<'_>, fault: CardFault) {
        if let Some(entry) = self.entry(key) {
            entry.fault = Some(fault);
        }
    }

    /// Notes an error of the driver at a time in milliseconds since 1970.
    pub(super) fn xid(&mut self, key: Key<'_>, code: u32, at: u64) {
        let Some(entry) = self.entry(Key { part: None, ..key }) else { return };
        let xid = Xid { code, at };
        if entry.xids.len() < MOST_OF_A_CARD && !entry.xids.contains(&xid) {
            entry.xids.push(xid);
        }
    }

    /// Notes a process, and the bytes that it has.
    pub(super) fn process(&mut self, key: Key<'_>, pid: u32, name: Option<&str>, memory: Option<u64>) {
        let Some(entry) = self.entry(Key { part: None, ..key }) else { return };
        let processes = &mut entry.processes;
        if let Some(process) = processes.iter_mut().find(|process| process.pid == pid) {
            process.memory = process.memory.max(memory);
        } else if processes.len() < MOST_OF_A_CARD {
            processes.push(Process { pid, name: name.map(short), memory });
        }
    }

    /// The entry of a card; `None` for a row that names no card, or one card too many.
    fn entry(&mut self, key: Key<'_>) -> Option<&mut Entry> {
        let id = key.uuid.map(uuid);
        if !key.names_a_card() || self.overflown {
            return None;
        }
        let fits = |entry: &Entry| {
            let same = match (&entry.uuid, &id) {
                (Some(one), Some(other)) => one == other,
                _ => entry.index.is_some() && entry.index == key.index,
            };
            same && entry.part.as_deref() == key.part
        };
        let count = self.entries.len();
        let found = (0..count).map(|step| (self.next + step) % count).find(|at| fits(&self.entries[*at]));
        let at = match found {
            Some(at) => at,
            None if count == MOST_CARDS => {
                self.overflown = true;
                return None;
            }
            None => {
                self.entries.push(Entry { part: key.part.map(short), ..Entry::default() });
                count
            }
        };
        self.next = at;
        let entry = &mut self.entries[at];
        if entry.uuid.is_none() {
            entry.uuid = id.as_deref().map(short);
        }
        entry.index = entry.index.or(key.index);
        Some(entry)
    }

    /// The cards, those with parts before their parts.
    pub(super) fn into_reading(self) -> Reading {
        let (whole, parts): (Vec<_>, Vec<_>) = self.entries.into_iter().partition(|entry| entry.part.is_none());
        let cards = whole.into_iter().chain(parts).map(Entry::into_card).collect();
        Reading { cards, boot_id: None, driver: self.driver }
    }

    /// Notes the version of the driver.
    pub(super) fn driver(&mut self, version: Option<&str>) {
        if let (None, Some(version)) = (&self.driver, version) {
            self.driver = Some(short(version));
        }
    }
}

impl Entry {
    fn into_card(self) -> Card {
        let uuid = match (self.uuid, &self.part) {
            (Some(uuid), Some(part)) => Some(format!("{uuid}/{part}")),
            (uuid, _) => uuid,
        };
        let mut card = Card {
            uuid,
            index: self.index,
            name: self.name,
            processes: self.processes,
            xids: self.xids,
            partition: self.part.is_some(),
            fault: self.fault,
            ..Card::default()
        };
        let told: Vec<_> = self.values.into_iter().map(|(_, field, value)| (field, value)).collect();
        fill(&mut card, &told);
        card.recovery_action = card.recovery_action.or(self.action);
        card
    }
}

/// A name, cut where it is too long.
fn short(text: &str) -> String {
    text.chars().take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key<'r>(uuid: Option<&'r str>, index: Option<u32>) -> Key<'r> {
        Key { uuid, index, part: None }
    }

    #[test]
    fn rows_of_one_card_find_each_other_by_what_they_have() {
        let mut table = Table::default();
        table.value(key(None, Some(1)), 0, Field::Temperature, 40.0);
        table.value(key(Some("GPU-AB"), Some(1)), 1, Field::Power, 100.0);
        table.value(key(Some("ab"), None), 2, Field::Utilisation, 7.0);
        table.value(key(None, Some(0)), 0, Field::Temperature, 50.0);
        table.value(key(None, None), 0, Field::Temperature, 99.0);
        let cards = table.into_reading().cards;
        assert_eq!(cards.len(), 2);
        let first = &cards[0];
        assert_eq!((first.uuid.as_deref(), first.index), (Some("ab"), Some(1)));
        assert_eq!((first.temperature, first.power, first.utilisation), (Some(40.0), Some(100.0), Some(7.0)));
        assert_eq!(cards[1].temperature, Some(50.0));
    }

    #[test]
    fn one_card_too_many_is_noticed_and_costs_nothing() {
        let mut table = Table::default();
        for number in 0..100_000 {
            table.card(key(None, Some(number)), None);
        }
        assert!(table.overflown && table.entries.len() == MOST_CARDS);
    }

    #[test]
    fn a_part_has_memory_and_its_card_the_rest() {
        let mut table = Table::default();
        let part = Key { uuid: Some("GPU-a"), index: Some(0), part: Some("3") };
        table.value(part, 0, Field::MemoryUsed, 5.0);
        table.value(part, 1, Field::Temperature, 60.0);
        let cards = table.into_reading().cards;
        let seen: Vec<_> = cards
            .iter()
            .map(|card| (card.uuid.as_deref(), card.partition, card.memory_used, card.temperature))
            .collect();
        assert_eq!(seen, [(Some("a"), false, None, Some(60.0)), (Some("a/3"), true, Some(5), None)]);
    }
}
