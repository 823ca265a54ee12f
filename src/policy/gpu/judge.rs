//! The judge of one server's GPU: takes what is seen, and says how the server is.
//!
//! # Inputs
//!
//! Readings of the cards, what `/api/ps` lists, how answers went, and health checks, each as it comes. Whatever is left out
//! is not known and changes nothing; a source that is silent for more than three intervals takes its signals with it.
//!
//! # Which card is which
//!
//! A card is followed by its identity; its number may be another one after a boot. Where a source gives no identity, its
//! number is all there is, and a boot makes what was known by numbers unknown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::card::{CardHealth, Key, TWO};
use super::cards::memory_of;
use super::hysteresis::{Enter, Held, Latch, Leave, Moment, Rule, Sample};
use super::model::{ModelHealth, POLLS, TRY_AGAIN};
use super::reading::{Card, CardChoice, CardFault, Reading, Unread, uuid};
use super::verdict::Reason;

mod reasons;

/// Intervals without a word after which a source counts as silent.
const SILENT_AFTER: u32 = 3;
/// Cards that are remembered of a host.
const MOST_CARDS: usize = 64;
/// Models that are remembered of a server; the one that nothing was heard of for longest is forgotten.
const MOST_MODELS: usize = 256;
/// Events older than that are history.
const DAY: Duration = Duration::from_hours(24);
const GIB: u64 = 1 << 30;
/// What a program needs on a card beside what Ollama counts.
const OVERHEAD: u64 = GIB / 2;
/// Memory above the usual that may belong to no model, and from which on it is well again.
const LEAK: u64 = 2 * GIB;
const NO_LEAK: u64 = GIB / 2;
const LEAKING: Rule = Rule { enter: Enter::For(Duration::from_mins(10)), leave: Leave::Samples(1) };

/// A model that `/api/ps` lists.
#[derive(Clone, Copy, Debug)]
pub struct Resident<'a> {
    /// Its canonical name.
    pub name: &'a str,
    /// Bytes of all of it.
    pub size: u64,
    /// Bytes of it on the card.
    pub size_vram: u64,
}

/// How a request was answered, in the server's own words.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Tokens that were written.
    pub tokens: u32,
    /// How long that took.
    pub decode: Duration,
    /// How long the first one took, only where the model was in memory and nobody waited before it.
    pub first_token: Option<Duration>,
}

/// Memory of all cards that a server uses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardMemory {
    /// All of it.
    pub total: u64,
    /// In use, by whomever.
    pub used: u64,
    /// Free.
    pub free: u64,
    /// In use by no listed model.
    pub foreign: u64,
}

/// The judge of one server.
#[derive(Clone, Debug)]
pub struct Judge {
    born: Instant,
    interval: Duration,
    choice: CardChoice,
    /// When the first reading was, in milliseconds since 1970.
    first_read: Option<u64>,
    read_at: Option<Instant>,
    /// When the source last said anything, be it that the driver cannot be used.
    heard: Option<Instant>,
    /// Since when it is asked in vain.
    asked: Option<Instant>,
    unread: Option<Unread>,
    boot_id: Option<String>,
    driver: Option<String>,
    cards: Vec<CardHealth>,
    used: Vec<Card>,
    /// The most cards that there were, and how many there are.
    most: usize,
    present: usize,
    lost: Latch,
    driver_down: Latch,
    hangs: Latch,
    models: BTreeMap<String, ModelHealth>,
    listed_at: Option<Instant>,
    /// Whether any model ever was on a card.
    has_card: bool,
    /// Whether everything in memory is computed by the processor, though it was on the card.
    dark: Latch,
    leak: Latch,
    /// The least memory that ever belonged to no model.
    usual_foreign: Option<u64>,
    above_usual: u64,
    /// The last two health checks, where they went well.
    probes: [Option<Instant>; 2],
    held: Held<Reason>,
}

impl Judge {
    /// One that knows nothing yet. `born` is now: errors from before that are no news.
    #[must_use]
    pub fn new(born: Instant) -> Self {
        Self {
            born,
            interval: Duration::from_secs(10),
            choice: CardChoice::default(),
            first_read: None,
            read_at: None,
            heard: None,
            asked: None,
            unread: None,
            boot_id: None,
            driver: None,
            cards: Vec::new(),
            used: Vec::new(),
            most: 0,
            present: 0,
            lost: Latch::default(),
            driver_down: Latch::default(),
            hangs: Latch::default(),
            models: BTreeMap::new(),
            listed_at: None,
            has_card: false,
            dark: Latch::default(),
            leak: Latch::default(),
            usual_foreign: None,
            above_usual: 0,
            probes: [None; 2],
            held: Held::default(),
        }
    }

    /// How often its source tells, at least 1 s; silence is measured in it. 10 s until it is set.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval.max(Duration::from_secs(1));
    }

    /// Which of the host's cards the server uses. What is known of those that it goes on using is kept.
    pub fn set_cards(&mut self, cards: CardChoice) {
        let uuids = cards.uuids.iter().map(|text| uuid(text)).collect();
        let choice = CardChoice { uuids, ..cards };
        if choice == self.choice {
            return;
        }
        let uses = |card: &Card| choice.has(card.uuid.as_deref(), card.index);
        self.cards.retain(|health| uses(&health.card));
        self.used.retain(uses);
        (self.most, self.present, self.usual_foreign) = (0, 0, None);
        self.lost.clear();
        self.leak.clear();
        self.choice = choice;
    }

    /// Takes a reading. `unix_ms` is now in milliseconds since 1970, which dates the events in it.
    pub fn read(&mut self, reading: &Reading, now: Instant, unix_ms: u64) {
        if reading.cards.is_empty() && reading.boot_id.is_none() && reading.driver.is_none() {
            self.not_read(Unread::Silent, now);
            return;
        }
        // What is over ends before anything new is counted.
        let at = self.forget(now);
        let first = *self.first_read.get_or_insert(unix_ms);
        (self.read_at, self.heard, self.asked, self.unread) = (Some(now), Some(now), None, None);
        self.driver_down.sample(&TWO, Sample::Good, &at);
        self.hangs.sample(&TWO, Sample::Good, &at);
        self.notice_reset(reading, now);

        self.used.clear();
        let slow = self.is_slow(now);
        let mut loaded = self.models.values().filter(|model| model.loaded.is_some());
        let sole = loaded.next().filter(|_| loaded.next().is_none()).map(|model| model.name.clone());
        for (place, card) in reading.cards.iter().enumerate() {
            let mut card = card.clone();
            card.uuid = card.uuid.as_deref().map(uuid).filter(|uuid| !uuid.is_empty());
            if !self.choice.has(card.uuid.as_deref(), card.index) {
                continue;
            }
            self.used.push(card.clone());
            // One part of a card has no health of its own.
            if card.partition {
                continue;
            }
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            let key = card.uuid.clone().map_or(Key::Index(card.index.unwrap_or(place)), Key::Uuid);
            let news: Vec<(u32, u64, Instant)> = card
                .xids
                .iter()
                .filter_map(|xid| Some((xid.code, xid.at, self.dated(xid.at, first, now, unix_ms)?)))
                .collect();
            let health = self.health_of(key, now);
            health.read(card, slow, sole.as_deref(), unix_ms, &at);
            for (code, time, when) in news {
                health.xids.event(code, time, when, sole.as_deref());
            }
        }
        self.count(reading, &at);
        self.weigh_memory(&at);
        self.settle(now);
    }

    /// There is no reading, and why.
    pub fn not_read(&mut self, why: Unread, now: Instant) {
        let at = self.forget(now);
        self.unread = Some(why);
        // Only what has been can be lost: a driver that never worked here is none of ours.
        let latch = match why {
            Unread::Silent => None,
            _ if self.most == 0 => None,
            Unread::DriverDown => Some(&mut self.driver_down),
            Unread::Hangs => Some(&mut self.hangs),
        };
        if let Some(latch) = latch {
            latch.sample(&TWO, Sample::Bad, &at);
            (self.heard, self.asked) = (Some(now), None);
        } else {
            self.asked.get_or_insert(now);
        }
        self.settle(now);
    }

    /// Takes all models that `/api/ps` lists, after each poll that was answered.
    pub fn residents(&mut self, models: &[Resident<'_>], now: Instant) {
        let at = self.forget(now);
        self.has_card |= models.iter().any(|model| model.size_vram > 0);
        for model in models {
            let has_card = self.has_card;
            self.model(model.name, now).listed(model, has_card, &at);
        }
        for model in self.models.values_mut().filter(|model| models.iter().all(|other| other.name != model.name)) {
            model.not_listed(&at);
        }
        self.listed_at = Some(now);
        let mut here = models.iter().filter(|model| model.size > 0).peekable();
        if here.peek().is_some() {
            if here.clone().any(|model| model.size_vram > 0) {
                self.dark.sample(&POLLS, Sample::Good, &at);
            } else if here.any(|model| self.models.get(model.name).is_some_and(|model| model.was_on_card)) {
                self.dark.sample(&POLLS, Sample::Bad, &at);
            }
        }
        self.settle(now);
    }

    /// A request on a model, by its canonical name, was answered.
    pub fn answered(&mut self, model: &str, answer: Answer, now: Instant) {
        let at = self.moment(now);
        // Answers come often, and hardly any changes something.
        if self.model(model, now).answered(&answer, &at) {
            self.settle(now);
        }
    }

    /// A health check of the server went well, or not.
    pub fn probed(&mut self, good: bool, now: Instant) {
        self.probes = if good { [self.probes[1], Some(now)] } else { [None; 2] };
        self.settle(now);
    }

    /// Memory of the cards in use as the last reading told it; `None` where that of any of them is not known.
    #[must_use]
    pub fn memory(&self) -> Option<CardMemory> {
        // Parts of a card are counted where the card itself is not there.
        let whole = self.used.iter().any(|card| !card.partition);
        let mut cards =
            self.used.iter().filter(|card| card.partition != whole && card.fault != Some(CardFault::Lost)).peekable();
        cards.peek()?;
        let mut sum = CardMemory { total: 0, used: 0, free: 0, foreign: 0 };
        for card in cards {
            let total = total_of(card)?;
            let free = sane(card.memory_free);
            let used = sane(card.memory_used).or_else(|| total.checked_sub(free?))?.min(total);
            sum.total = sum.total.saturating_add(total);
            sum.used = sum.used.saturating_add(used);
            sum.free = sum.free.saturating_add(free.unwrap_or(total - used).min(total));
        }
        let listed = self.models.values().fold(0_u64, |sum, model| sum.saturating_add(model.on_card));
        sum.foreign = sum.used.saturating_sub(listed);
        Some(sum)
    }

    /// The cards in use as they were read the last time, in the order of the source.
    #[must_use]
    pub fn cards(&self) -> &[Card] {
        &self.used
    }

    /// Whether its source has been silent for longer than three intervals; `false` where nobody asks one.
    #[must_use]
    pub fn is_silent(&self, now: Instant) -> bool {
        self.heard.or(self.asked).is_some_and(|since| now.saturating_duration_since(since) > self.gap())
    }

    #[cfg(test)]
    pub(super) fn model_count(&self) -> usize {
        self.models.len()
    }

    fn gap(&self) -> Duration {
        self.interval.saturating_mul(SILENT_AFTER)
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment { now, gap: self.gap(), probed: self.probes[0] }
    }

    /// When an event was, if it is not too old to count.
    fn dated(&self, event: u64, first: u64, now: Instant, unix_ms: u64) -> Option<Instant> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let born = unix_ms.saturating_sub(millis(now.saturating_duration_since(self.born)));
        let age = Duration::from_millis(unix_ms.saturating_sub(event));
        // What lies that far ahead is no time.
        if event.saturating_sub(unix_ms) > millis(DAY) {
            return None;
        }
        let is_news = event >= first.saturating_sub(millis(self.interval)) || event >= born;
        if is_news && age < DAY { now.checked_sub(age) } else { None }
    }

    /// A boot of the host or another driver makes an end of what waits for that.
    fn notice_reset(&mut self, reading: &Reading, now: Instant) {
        let changed = |known: &mut Option<String>, told: &Option<String>| match (&*known, told) {
            (Some(before), Some(told)) if before == told => false,
            (_, None) => false,
            (before, Some(told)) => {
                let is_other = before.is_some();
                *known = Some(told.clone());
                is_other
            }
        };
        let booted = changed(&mut self.boot_id, &reading.boot_id);
        let other_driver = changed(&mut self.driver, &reading.driver);
        for card in &mut self.cards {
            if booted {
                card.booted(now);
            } else if other_driver {
                card.xids.reset(false, now);
            }
        }
        if booted {
            self.usual_foreign = None;
        }
    }

    fn health_of(&mut self, key: Key, now: Instant) -> &mut CardHealth {
        let index = self.cards.iter().position(|health| health.key == key).unwrap_or_else(|| {
            if self.cards.len() >= MOST_CARDS {
                let oldest =
                    self.cards.iter().enumerate().min_by_key(|(_, health)| health.seen).map_or(0, |(at, _)| at);
                self.cards.remove(oldest);
            }
            self.cards.push(CardHealth::new(key, now));
            self.cards.len() - 1
        });
        &mut self.cards[index]
    }

    fn model(&mut self, name: &str, now: Instant) -> &mut ModelHealth {
        if !self.models.contains_key(name) && self.models.len() >= MOST_MODELS {
            let oldest = self.models.values().min_by_key(|model| (model.loaded.is_some(), model.touched));
            if let Some(name) = oldest.map(|model| model.name.clone()) {
                self.models.remove(&name);
            }
        }
        self.models.entry(name.to_owned()).or_insert_with(|| ModelHealth::new(name, now))
    }

    /// Whether there are fewer cards than there were.
    fn count(&mut self, reading: &Reading, at: &Moment) {
        let there = self.used.iter().filter(|card| !card.partition && card.fault != Some(CardFault::Lost));
        let mut there: Vec<(&Option<String>, Option<u32>)> =
            there.map(|card| (&card.uuid, card.index.filter(|_| card.uuid.is_none()))).collect();
        there.sort_unstable();
        there.dedup_by(|one, other| one == other && *one != (&None, None));
        // Parts are counted by the card that they are of.
        let parts = self.used.iter().filter(|card| card.partition).map(|card| card.index);
        let is_whole = |index: &Option<u32>| self.used.iter().any(|card| !card.partition && card.index == *index);
        let mut parts: Vec<Option<u32>> = parts.filter(|index| index.is_none() || !is_whole(index)).collect();
        parts.sort_unstable();
        parts.dedup();
        self.present = there.len() + parts.len();
        // Any of those that do not say who they are may be ours, and so may be what a card was parted into.
        let choice = &self.choice;
        let is_anybody = |card: &Card| {
            card.fault.is_none()
                && !choice.has(card.uuid.as_deref().map(uuid).as_deref(), card.index)
                && (card.partition
                    || (card.uuid.is_none() && !choice.uuids.is_empty())
                    || (card.index.is_none() && !choice.indices.is_empty()))
        };
        if !parts.contains(&None) && !reading.cards.iter().any(is_anybody) {
            self.most = self.most.max(self.present);
            self.lost.sample(&TWO, Sample::bad(self.present < self.most), at);
        }
    }

    /// Whether memory is in use that belongs to no model.
    fn weigh_memory(&mut self, at: &Moment) {
        let lists_are_fresh = self.listed_at.is_some_and(|listed| at.age(listed) <= at.gap.max(Duration::from_mins(1)));
        let Some(memory) = self.memory().filter(|_| lists_are_fresh) else { return };
        let programs = self.models.values().filter(|model| model.on_card > 0).count() * self.used.len();
        let overhead = OVERHEAD.saturating_mul(u64::try_from(programs).unwrap_or(u64::MAX));
        let foreign = memory.foreign.saturating_sub(overhead);
        let usual = self.usual_foreign.map_or(foreign, |usual| usual.min(foreign));
        self.usual_foreign = Some(usual);
        self.above_usual = foreign - usual;
        let sample = match self.above_usual {
            0..=NO_LEAK => Sample::Good,
            above if above > LEAK => Sample::Bad,
            _ => Sample::Between,
        };
        self.leak.sample(&LEAKING, sample, at);
    }

    /// Whether any model answered more slowly than 70 % of the usual in the last five minutes, where there were answers.
    fn is_slow(&self, now: Instant) -> Option<bool> {
        let shares = self.models.values().filter_map(|model| model.lately(Duration::from_mins(5), now));
        shares.min_by(f64::total_cmp).map(|share| share < 0.7)
    }

    /// Forgets what was not told for too long.
    fn forget(&mut self, now: Instant) -> Moment {
        let at = self.moment(now);
        for latch in [&mut self.lost, &mut self.driver_down, &mut self.hangs, &mut self.leak] {
            latch.expire(&at);
        }
        self.dark.expire(&Moment { gap: TRY_AGAIN, ..at });
        let around = self.surroundings();
        for card in &mut self.cards {
            card.settle(&at, &around);
        }
        for model in self.models.values_mut() {
            model.settle(&at);
        }
        at
    }
}

/// Bytes of a card's memory, if anything tells them.
fn total_of(card: &Card) -> Option<u64> {
    let parts = || sane(card.memory_used)?.checked_add(sane(card.memory_free)?);
    let named = || card.name.as_deref().and_then(memory_of).filter(|_| !card.partition);
    sane(card.memory_total).filter(|total| *total > 0).or_else(parts).or_else(named)
}

/// Bytes, if there may be so many on a card: 16 TiB are a sentinel.
fn sane(bytes: Option<u64>) -> Option<u64> {
    bytes.filter(|bytes| *bytes < 1 << 44)
}
