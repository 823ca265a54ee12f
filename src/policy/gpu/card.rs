//! How well one card is, by what its readings say.
//!
//! Nothing is concluded from what a reading leaves out: a signal whose values stay away for too long is forgotten.
//! Counters count from what they were when first seen; one that goes back was reset, and says that the card was.

use std::time::{Duration, Instant};

use super::hysteresis::{Enter, Latch, Leave, Moment, Rule, Sample};
use super::reading::{Card, CardFault, RecoveryAction, Throttle};
use super::verdict::{Signal, State};
use super::xid::{Gauge, Surroundings, XidLog, meaning};

const MINUTE: Duration = Duration::from_mins(1);
/// Rows that were remapped because of errors that could not be corrected, from which on a card cannot be trusted.
const MOST_ROWS: u64 = 512;
/// Pages that may be taken out of use.
const MOST_PAGES: u64 = 15;
/// °C below the limit from which on a card is cool again.
const COOL: f64 = 5.0;
/// Checksum errors of `NVLink` per second that are too many.
const CRC_PER_SECOND: f64 = 100.0;
/// No card has a limit of heat below this: then it is not one.
const COLDEST_LIMIT: f64 = 60.0;
/// No counter of errors gets there: then it is a sentinel.
const ABSURD: u64 = 1 << 40;

const ONE: Rule = Rule { enter: Enter::Of(1, 1), leave: Leave::Samples(1) };
const RECOVERY: Rule = Rule { enter: Enter::Of(1, 1), leave: Leave::ForAndProbes(MINUTE) };
pub(super) const TWO: Rule = Rule { enter: Enter::Of(2, 2), leave: Leave::Samples(1) };
const THROTTLED: Rule = Rule { enter: Enter::Of(6, 10), leave: Leave::AtMost(1, 10) };
const FIVE_MINUTES: Rule =
    Rule { enter: Enter::For(Duration::from_mins(5)), leave: Leave::For(Duration::from_mins(5)) };
const HOT: Rule = Rule { enter: Enter::Of(3, 5), leave: Leave::For(Duration::from_mins(5)) };
const LINK: Rule = Rule { enter: Enter::Of(3, 3), leave: Leave::For(Duration::from_mins(10)) };

/// What a source calls a card for as long as the host is not booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Uuid(String),
    /// Its number, or where it has none its place among the others.
    Index(u32),
}

impl Key {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Uuid(uuid) => uuid.clone(),
            Self::Index(index) => index.to_string(),
        }
    }
}

/// Takes what speaks against a card: the model that it is about, if it is about one alone, and a sentence.
pub(super) type Tell<'a> = dyn FnMut(Signal, State, Option<&str>, String) + 'a;

/// A counter, and when it was read.
#[derive(Clone, Copy, Debug)]
struct Counter {
    count: u64,
    at: Instant,
}

/// How a counter moved.
enum Moved {
    Unknown,
    Back,
    By(u64, Duration),
}

/// Takes what a counter shows, and says how it moved since the last time.
fn moved(counter: &mut Option<Counter>, shown: Option<u64>, at: &Moment) -> Moved {
    let Some(count) = shown.filter(|count| *count < ABSURD) else { return Moved::Unknown };
    match counter.replace(Counter { count, at: at.now }) {
        Some(before) if count < before.count => Moved::Back,
        Some(before) if at.now > before.at => Moved::By(count - before.count, at.age(before.at)),
        _ => Moved::Unknown,
    }
}

/// A minute of readings that becomes one sample.
#[derive(Clone, Copy, Debug)]
struct Minute {
    began: Instant,
    readings: u32,
    bad: u32,
}

/// One card's signals.
#[derive(Clone, Debug)]
pub(super) struct CardHealth {
    pub(super) key: Key,
    /// As it was read the last time.
    pub(super) card: Card,
    pub(super) seen: Instant,
    pub(super) xids: XidLog,
    recovery: Latch,
    /// The action that was asked for last, and whether it still is.
    action: Option<RecoveryAction>,
    action_due: bool,
    ecc: Latch,
    remap_failed: Latch,
    rows: Latch,
    pages: Latch,
    minute: Option<Minute>,
    throttled: Latch,
    sw_thermal: Latch,
    hot: Latch,
    pcie: Latch,
    nvlink: Latch,
    hangs: Latch,
    replays: Option<Counter>,
    crc: Option<Counter>,
    link_errors: Option<Counter>,
    /// The best link that was seen; it is slower while the card is idle.
    link: (u32, u32),
}

impl CardHealth {
    pub(super) fn new(key: Key, now: Instant) -> Self {
        Self {
            key,
            card: Card::default(),
            seen: now,
            xids: XidLog::default(),
            recovery: Latch::default(),
            action: None,
            action_due: false,
            ecc: Latch::default(),
            remap_failed: Latch::default(),
            rows: Latch::default(),
            pages: Latch::default(),
            minute: None,
            throttled: Latch::default(),
            sw_thermal: Latch::default(),
            hot: Latch::default(),
            pcie: Latch::default(),
            nvlink: Latch::default(),
            hangs: Latch::default(),
            replays: None,
            crc: None,
            link_errors: None,
            link: (0, 0),
        }
    }

    /// Takes a reading. `slow` says whether answers are slower than 70 % of what is usual, where that is known;
    /// `sole_model` is the model in memory, where there is just one.
    pub(super) fn read(&mut self, card: Card, slow: Option<bool>, sole_model: Option<&str>, unix_ms: u64, at: &Moment) {
        self.seen = at.now;
        if let Some(shown) = card.last_xid {
            match self.xids.gauge(shown) {
                Gauge::New => {
                    self.xids.event(shown, unix_ms, at.now, sole_model);
                }
                Gauge::Cleared => self.xids.reset(false, at.now),
                Gauge::Old => {}
            }
        }
        self.driver_says(&card, at);
        self.memory(&card, at);
        self.heat(&card, slow, at);
        self.links(&card, at);
        self.card = card;
    }

    fn driver_says(&mut self, card: &Card, at: &Moment) {
        match card.fault {
            Some(CardFault::Hangs) => self.hangs.sample(&TWO, Sample::Bad, at),
            Some(CardFault::Error) => false,
            Some(CardFault::Lost) | None => self.hangs.sample(&TWO, Sample::Good, at),
        };
        match card.recovery_action {
            Some(RecoveryAction::None) => {
                // The driver does not take such a word back without a reset.
                if std::mem::take(&mut self.action_due) && self.action != Some(RecoveryAction::DrainP2p) {
                    self.xids.reset(false, at.now);
                }
                self.recovery.sample(&RECOVERY, Sample::Good, at);
            }
            Some(RecoveryAction::Other) | None => {}
            action => {
                (self.action, self.action_due) = (action, true);
                self.recovery.sample(&RECOVERY, Sample::Bad, at);
            }
        }
    }

    fn memory(&mut self, card: &Card, at: &Moment) {
        let before = self.card.ecc_uncorrected;
        let known = |count: Option<u64>| count.filter(|count| *count < ABSURD);
        if let Some(errors) = known(card.ecc_uncorrected) {
            if known(before).is_some_and(|before| errors < before) {
                self.xids.reset(false, at.now);
            }
            self.ecc.sample(&ONE, Sample::bad(errors > 0), at);
        }
        if let Some(failed) = card.remap_failed {
            self.remap_failed.sample(&ONE, Sample::bad(failed), at);
        }
        if let Some(rows) = known(card.remapped_rows) {
            self.rows.sample(&ONE, Sample::bad(rows >= MOST_ROWS), at);
        }
        if let Some(pages) = known(card.retired_pages) {
            self.pages.sample(&ONE, Sample::bad(pages > MOST_PAGES), at);
        }
    }

    fn heat(&mut self, card: &Card, slow: Option<bool>, at: &Moment) {
        if let Some(throttle) = card.throttle {
            let bad = throttle.any(Throttle::HW_THERMAL | Throttle::HW_SLOWDOWN | Throttle::POWER_BRAKE);
            self.throttle(bad, at);
            let warm = throttle.any(Throttle::SW_THERMAL);
            // Where too few answers tell, nothing begins, and what began does not end.
            let sample = match slow {
                _ if !warm => Some(Sample::Good),
                Some(slow) => Some(Sample::bad(slow)),
                None => self.sw_thermal.is_on().then_some(Sample::Between),
            };
            if let Some(sample) = sample {
                self.sw_thermal.sample(&FIVE_MINUTES, sample, at);
            }
        }
        let limit_makes_sense = |margin: f64, temperature: Option<f64>| {
            temperature.is_none_or(|temperature| !temperature.is_finite() || temperature + margin >= COLDEST_LIMIT)
        };
        let sane =
            |margin: &f64, temperature| (-100.0..=200.0).contains(margin) && limit_makes_sense(*margin, temperature);
        let margin = card.margin.filter(|margin| sane(margin, card.temperature));
        let memory_margin = card.memory_margin.filter(|margin| sane(margin, card.memory_temperature));
        if margin.is_some() || memory_margin.is_some() {
            let bad = margin.is_some_and(|margin| margin <= 0.0) || memory_margin.is_some_and(|margin| margin < 0.0);
            let good = margin.is_none_or(|margin| margin >= COOL) && memory_margin.is_none_or(|margin| margin >= COOL);
            let sample = if good { Sample::Good } else { Sample::Between };
            self.hot.sample(&HOT, if bad { Sample::Bad } else { sample }, at);
        }
    }

    /// A minute is bad when at least half of its readings are.
    fn throttle(&mut self, bad: bool, at: &Moment) {
        if let Some(minute) = self.minute.take_if(|minute| at.age(minute.began) >= MINUTE) {
            self.throttled.sample(&THROTTLED, Sample::bad(minute.bad * 2 >= minute.readings), at);
        }
        let minute = self.minute.get_or_insert(Minute { began: at.now, readings: 0, bad: 0 });
        minute.readings = minute.readings.saturating_add(1);
        minute.bad = minute.bad.saturating_add(u32::from(bad));
    }

    fn links(&mut self, card: &Card, at: &Moment) {
        self.link.0 = self.link.0.max(card.pcie_generation.unwrap_or(0));
        self.link.1 = self.link.1.max(card.pcie_width.unwrap_or(0));
        match moved(&mut self.replays, card.pcie_replays, at) {
            Moved::By(count, time) => {
                let bad = per_second(count, time) * 60.0 > expected_replays(self.link.0, self.link.1);
                self.pcie.sample(&LINK, Sample::bad(bad), at);
            }
            Moved::Back => self.xids.reset(false, at.now),
            Moved::Unknown => {}
        }
        let mut bad = None;
        for (counter, shown, is_crc) in
            [(&mut self.crc, card.nvlink_crc, true), (&mut self.link_errors, card.nvlink_errors, false)]
        {
            match moved(counter, shown, at) {
                Moved::By(count, time) if is_crc => {
                    bad = Some(bad == Some(true) || per_second(count, time) >= CRC_PER_SECOND);
                }
                Moved::By(count, _) => bad = Some(bad == Some(true) || count >= 1),
                Moved::Back => self.xids.reset(false, at.now),
                Moved::Unknown => {}
            }
        }
        if let Some(bad) = bad {
            self.nvlink.sample(&LINK, Sample::bad(bad), at);
        }
    }

    /// The host was booted. Without an identity nobody knows which of the cards this one is now.
    pub(super) fn booted(&mut self, now: Instant) {
        self.xids.reset(true, now);
        (self.replays, self.crc, self.link_errors) = (None, None, None);
        self.card.ecc_uncorrected = None;
        if matches!(self.key, Key::Index(_)) {
            self.forget_samples();
        }
    }

    /// Forgets what only newer readings could confirm.
    pub(super) fn forget_samples(&mut self) {
        for (latch, _) in self.latches() {
            latch.clear();
        }
        self.minute = None;
    }

    fn latches(&mut self) -> [(&mut Latch, bool); 11] {
        [
            (&mut self.recovery, false),
            (&mut self.ecc, false),
            (&mut self.remap_failed, false),
            (&mut self.rows, false),
            (&mut self.pages, false),
            (&mut self.throttled, true),
            (&mut self.sw_thermal, false),
            (&mut self.hot, false),
            (&mut self.pcie, false),
            (&mut self.nvlink, false),
            (&mut self.hangs, false),
        ]
    }

    /// Ends what is over, and forgets what is not told any more.
    pub(super) fn settle(&mut self, at: &Moment, around: &Surroundings) {
        for (latch, by_minutes) in self.latches() {
            let gap = if by_minutes { at.gap.max(MINUTE * 3) } else { at.gap };
            latch.expire(&Moment { gap, ..*at });
        }
        self.xids.settle(at, around);
    }

    /// What speaks against it. `spanning` are models that need several cards.
    pub(super) fn signals(&self, spanning: &[&str], tell: &mut Tell<'_>) {
        let card = &self.card;
        if self.recovery.is_on() {
            match self.action {
                Some(RecoveryAction::DrainP2p) => {
                    let text = "the driver says that it must be kept from what uses several cards";
                    tell(Signal::RecoveryAction, State::Degraded, None, text.to_owned());
                    for model in spanning {
                        tell(Signal::RecoveryAction, State::Draining, Some(model), text.to_owned());
                    }
                }
                Some(RecoveryAction::NodeReboot) => {
                    let text = "the driver says that the host must be booted".to_owned();
                    tell(Signal::RecoveryAction, State::Failed, None, text);
                }
                _ => {
                    let text = "the driver says that the card must be reset".to_owned();
                    tell(Signal::RecoveryAction, State::Failed, None, text);
                }
            }
        }
        let mut told: Vec<(u32, State)> = Vec::new();
        for error in self.xids.active() {
            if !told.contains(&(error.code, error.state)) {
                told.push((error.code, error.state));
                let often = if error.many { ", again and again" } else { "" };
                let text = format!("Xid {}: {}{often}", error.code, meaning(error.code));
                tell(Signal::Xid, error.state, error.model, text);
            }
        }
        if card.remap_pending == Some(true) && self.xids.memory_failed() {
            let text = "rows of its memory failed and wait for a reset to be remapped".to_owned();
            tell(Signal::RowRemap, State::Draining, None, text);
        }
        self.sampled_signals(tell);
    }

    fn sampled_signals(&self, tell: &mut Tell<'_>) {
        let card = &self.card;
        let count = |count: Option<u64>| count.map_or_else(|| "some".to_owned(), |count| count.to_string());
        let degrees =
            |name: &str, margin: Option<f64>| margin.map(|margin| format!("{margin:.0} °C left for its {name}"));
        let mut on = |latch: &Latch, signal, state, text: &dyn Fn() -> String| {
            if latch.is_on() {
                tell(signal, state, None, text());
            }
        };
        on(&self.ecc, Signal::Ecc, State::Failed, &|| {
            format!("{} memory errors could not be corrected", count(card.ecc_uncorrected))
        });
        on(&self.remap_failed, Signal::RowRemap, State::Failed, &|| "a row of its memory could not be remapped".into());
        on(&self.rows, Signal::RowRemap, State::Failed, &|| {
            format!("{} rows of its memory were remapped, {MOST_ROWS} are too many", count(card.remapped_rows))
        });
        on(&self.pages, Signal::RetiredPages, State::Draining, &|| {
            format!("{} pages of its memory are out of use, at most {MOST_PAGES} may be", count(card.retired_pages))
        });
        on(&self.throttled, Signal::HwSlowdown, State::Degraded, &|| {
            "the hardware cuts its clocks by half or more in most of the last minutes".into()
        });
        on(&self.sw_thermal, Signal::SwThermal, State::Degraded, &|| {
            "the driver lowers its clocks because of heat, and answers are slower than 70 % of the usual".into()
        });
        on(&self.hot, Signal::Temperature, State::Degraded, &|| {
            let known = [degrees("processor", card.margin), degrees("memory", card.memory_margin)];
            format!("too hot: {}", known.into_iter().flatten().collect::<Vec<_>>().join(", "))
        });
        on(&self.pcie, Signal::PcieReplays, State::Degraded, &|| {
            let expected = expected_replays(self.link.0, self.link.1);
            format!(
                "more than {expected:.1} transfers over PCIe per minute are repeated, or were in the last ten minutes"
            )
        });
        on(&self.nvlink, Signal::Nvlink, State::Degraded, &|| {
            "NVLink has errors, or had in the last ten minutes".into()
        });
        on(&self.hangs, Signal::Hangs, State::Draining, &|| "the driver does not answer questions about it".into());
    }

    /// What is worth knowing and changes nothing.
    pub(super) fn notes(&self, note: &mut dyn FnMut(String)) {
        let (card, name) = (&self.card, self.key.text());
        let mut told = Vec::new();
        for code in self.xids.notes() {
            if !told.contains(&code) {
                told.push(code);
                note(format!("card {name}: Xid {code}: {}", meaning(code)));
            }
        }
        if let Some(rows) = card.remapped_rows.filter(|rows| (1..MOST_ROWS).contains(rows)) {
            note(format!("card {name}: {rows} rows of its memory were remapped"));
        }
        if card.remap_pending == Some(true) {
            note(format!("card {name}: rows of its memory are remapped at the next reset"));
        }
        if card.fault == Some(CardFault::Error) {
            note(format!("card {name}: the driver says nothing about it but an error"));
        }
        if card.recovery_action == Some(RecoveryAction::Other) {
            note(format!("card {name}: the driver says that something must be done with it that is not known here"));
        }
    }
}

/// Transfers per minute that a link may repeat: `PCIe` allows one wrong bit in 10¹². Without its generation and width, as
/// many as the quickest link may.
fn expected_replays(generation: u32, width: u32) -> f64 {
    let gigabits = match generation {
        1 => 2.5,
        2 => 5.0,
        3 => 8.0,
        4 => 16.0,
        5 => 32.0,
        _ => 64.0,
    };
    let lanes = if (1..=32).contains(&width) { width } else { 16 };
    gigabits * f64::from(lanes) * 60.0 / 1000.0
}

fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "below 2^40")]
    let count = count as f64;
    count / time.as_secs_f64().max(0.001)
}
