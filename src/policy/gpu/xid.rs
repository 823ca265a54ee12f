//! The errors of NVIDIA's driver ("Xids"): what each one asks for, and until when.
//!
//! # Problem
//!
//! The driver reports an error once. A source tells it as an event with its time, perhaps again and again, or as a gauge
//! that keeps the last number for as long as the driver lives; after a start of Arriero that number can be a month old.
//! So an event counts once within a minute, a gauge only when it changes, and each error stays until that is over which
//! ends it: time, a reset of the card, a boot of the host.
//!
//! Numbers and what follows from them: NVIDIA's Xid catalogue, DCGM's health checks and its list of errors that need a
//! reset.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::hysteresis::Moment;
use super::verdict::State;

/// Errors that are remembered of one card.
const HISTORY: usize = 64;
/// Events of one number within this time are one.
const SAME: Duration = Duration::from_mins(1);
/// How far back errors are remembered, and contained ECC errors add up.
const DAY: Duration = Duration::from_hours(24);
/// How far back errors add up otherwise, and how long a card must be without those of programs and of memory.
const TEN_MINUTES: Duration = Duration::from_mins(10);
/// How long a card must be without errors that ask for a reset, where no reset is seen.
const HALF_HOUR: Duration = Duration::from_mins(30);

/// Errors that are alike in what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The card is not on the bus any more: failed until the host boots.
    Gone,
    /// The card cannot be trusted: failed until it is reset.
    Broken,
    /// A reset is due: draining until it is reset, or for half an hour.
    ResetDue,
    /// An engine of the card timed out, which programs can cause as well: degraded, three within ten minutes as above.
    Timeout,
    /// An error of the memory that hit one program: degraded until the models are loaded anew, two in a day draining.
    Contained,
    /// Programs cause it: only three within ten minutes degrade.
    Program,
    /// Worth a note: a row was remapped, many errors were corrected, and whatever is not known here.
    Note,
}

/// What follows from an error.
pub(super) const fn class(code: u32) -> Class {
    match code {
        79 => Class::Gone,
        48 | 64 | 74 | 95 | 119 | 120 | 140 => Class::Broken,
        46 | 62 | 110 | 136 | 143 | 156 | 158 => Class::ResetDue,
        109 => Class::Timeout,
        94 => Class::Contained,
        13 | 31 | 43 | 45 | 68 => Class::Program,
        _ => Class::Note,
    }
}

/// What an error is, in a few words.
pub(super) const fn meaning(code: u32) -> &'static str {
    match code {
        13 => "exception in a program on the card",
        31 => "page fault of a program on the card",
        43 => "a program on the card stopped",
        45 => "a program on the card was cleaned up",
        46 => "the card stopped processing",
        48 => "memory error that could not be corrected",
        62 => "the card's own controller halted",
        63 => "a row of memory was remapped",
        64 => "a row of memory could not be remapped",
        68 => "exception in the video engine",
        74 => "error of NVLink",
        79 => "the card is not on the bus any more",
        92 => "many memory errors were corrected",
        94 => "contained memory error",
        95 => "uncontained memory error",
        109 => "an engine of the card timed out",
        110 => "security fault",
        119 | 120 => "error of the card's system processor",
        121 => "corrected error of the link to the processor",
        136 => "failed training of a link",
        137 => "fault of an NVLink peer",
        140 => "memory error that was not recovered",
        143 => "the card could not be initialised",
        154 => "the driver changed what must be done with the card",
        156 => "retirement of a resource failed",
        158 => "fatal timeout of the card",
        _ => "error of the driver",
    }
}

/// One error that was seen.
#[derive(Clone, Debug)]
struct Entry {
    code: u32,
    /// When it came, by the host's clock, in milliseconds since 1970.
    at: u64,
    /// The same by ours.
    when: Instant,
    /// Whether it was one too many.
    many: bool,
    /// The model that it is put down to.
    model: Option<String>,
    /// When a reset of the card, or a boot of the host, was first seen after it.
    reset: Option<Instant>,
    boot: Option<Instant>,
    over: bool,
}

impl Entry {
    const fn class(&self) -> Class {
        class(self.code)
    }

    /// Whether it must not be forgotten yet.
    const fn must_stay(&self) -> bool {
        !self.over && matches!(self.class(), Class::Gone | Class::Broken)
    }
}

/// An error that still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Active<'a> {
    pub(super) code: u32,
    pub(super) state: State,
    /// How many of its kind add up to that.
    pub(super) many: bool,
    /// The model that it is put down to, and nobody else.
    pub(super) model: Option<&'a str>,
}

/// What else decides whether an error is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    /// Whether the source ever told which boot of the host it is.
    pub(super) knows_boots: bool,
    /// Since when the models in memory are there, the longest; `None` when none is, or nothing is known of any.
    pub(super) oldest_load: Option<Instant>,
}

/// The errors of one card.
#[derive(Clone, Debug, Default)]
pub(super) struct XidLog {
    entries: VecDeque<Entry>,
    /// Events up to this time are not news any more: they were forgotten.
    forgotten: u64,
    /// What the gauge showed.
    gauge: Option<u32>,
}

impl XidLog {
    /// Takes an event. `sole_model` is the model in memory, where there is just one. Says whether it is news.
    pub(super) fn event(&mut self, code: u32, at: u64, when: Instant, sole_model: Option<&str>) -> bool {
        let same = u64::try_from(SAME.as_millis()).unwrap_or(u64::MAX);
        let known = self.entries.iter().any(|entry| entry.code == code && entry.at.abs_diff(at) < same);
        if code == 0 || known || at <= self.forgotten {
            return false;
        }
        let class = class(code);
        let within = |entry: &&Entry, time| apart(entry.when, when) < time;
        let alike = self.entries.iter().filter(|entry| entry.class() == class);
        let many = match class {
            Class::Timeout | Class::Program => alike.filter(|entry| within(entry, TEN_MINUTES)).count() >= 2,
            Class::Contained => alike.filter(|entry| within(entry, DAY)).count() >= 1,
            _ => false,
        };
        let model = sole_model.filter(|_| class == Class::Program).map(str::to_owned);
        let entry = Entry { code, at, when, many, model, reset: None, boot: None, over: false };
        if self.entries.len() >= HISTORY {
            let least = self.entries.iter().position(|entry| !entry.must_stay()).unwrap_or(0);
            self.entries.remove(least).inspect(|gone| self.forgotten = self.forgotten.max(gone.at));
        }
        self.entries.push_back(entry);
        true
    }

    /// Takes what a gauge of the last error shows, and gives what is new in it. Zero is no error.
    pub(super) fn gauge(&mut self, shown: u32) -> Gauge {
        match self.gauge.replace(shown) {
            None => Gauge::Old,
            Some(before) if before == shown => Gauge::Old,
            // It is cleared by nothing but a new start of the driver.
            Some(_) if shown == 0 => Gauge::Cleared,
            Some(_) => Gauge::New,
        }
    }

    /// The host was booted or the card was reset.
    pub(super) fn reset(&mut self, boot: bool, now: Instant) {
        for entry in &mut self.entries {
            entry.reset.get_or_insert(now);
            if boot {
                entry.boot.get_or_insert(now);
            }
        }
        if boot {
            self.gauge = None;
        }
    }

    /// Ends what is over.
    pub(super) fn settle(&mut self, at: &Moment, around: &Surroundings) {
        while self.entries.front().is_some_and(|entry| !entry.must_stay() && at.age(entry.when) >= DAY) {
            let gone = self.entries.pop_front();
            self.forgotten = self.forgotten.max(gone.map_or(0, |entry| entry.at));
        }
        for index in 0..self.entries.len() {
            let over = self.is_over(&self.entries[index], at, around);
            self.entries[index].over |= over;
        }
    }

    fn is_over(&self, entry: &Entry, at: &Moment, around: &Surroundings) -> bool {
        let class = entry.class();
        let clean = |time| {
            let newest = self.entries.iter().filter(|other| other.class() == class).map(|other| other.when).max();
            newest.is_none_or(|newest| at.age(newest) >= time)
        };
        let probed = |since: Option<Instant>| since.is_some_and(|since| at.probed_since(since));
        match class {
            Class::Gone if around.knows_boots => probed(entry.boot),
            Class::Gone | Class::Broken => probed(entry.reset),
            Class::ResetDue | Class::Timeout => entry.reset.is_some() || clean(HALF_HOUR),
            Class::Contained => around.oldest_load.is_none_or(|load| load > entry.when) && clean(TEN_MINUTES),
            Class::Program => clean(TEN_MINUTES),
            Class::Note => true,
        }
    }

    /// What still counts.
    pub(super) fn active(&self) -> impl Iterator<Item = Active<'_>> {
        self.entries.iter().filter(|entry| !entry.over).filter_map(|entry| {
            let state = match (entry.class(), entry.many) {
                (Class::Gone | Class::Broken, _) => State::Failed,
                (Class::ResetDue, _) | (Class::Timeout | Class::Contained, true) => State::Draining,
                (Class::Timeout | Class::Contained, false) | (Class::Program, true) => State::Degraded,
                (Class::Program, false) | (Class::Note, _) => return None,
            };
            Some(Active { code: entry.code, state, many: entry.many, model: entry.model.as_deref() })
        })
    }

    /// Whether there was an error of the memory since the last reset: with rows that wait for being remapped, it is
    /// bound to come again.
    pub(super) fn memory_failed(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.code, 48 | 94) && entry.reset.is_none())
    }

    /// What is worth a note, the newest first.
    pub(super) fn notes(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().rev().filter(|entry| entry.class() == Class::Note).map(|entry| entry.code)
    }
}

/// What a gauge of the last error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gauge {
    /// Nothing new.
    Old,
    /// The error that it shows is new.
    New,
    /// It was cleared.
    Cleared,
}

fn apart(one: Instant, other: Instant) -> Duration {
    one.saturating_duration_since(other).max(other.saturating_duration_since(one))
}
