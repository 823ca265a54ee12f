//! What exporters say, as a reading.
//!
//! # Problem
//!
//! Hosts with GPUs often have an exporter for Prometheus already. Each has its own names and units, leaves things out, writes
//! sentinels where it knows nothing, repeats old news, says one card several times, and may be cut off in the middle of a
//! number. A judge that believes all of that takes healthy servers out.
//!
//! # Shape
//!
//! Bytes go into a [`Reader`] as they come. [`text`] makes lines and rows of them, [`Dialect`] knows what a metric means,
//! `table` gathers rows by their card, [`field`] knows what can be true and which of two values counts.
//!
//! # Invariants
//!
//! - What is not told, is no number, or cannot be, is absent. Nothing becomes zero.
//! - An answer that was cut off, or has more cards than there can be, is no reading at all: half of the cards must not look
//!   as if the others were gone.
//! - The memory that it takes depends neither on the length of the answer nor on how it is cut into pieces.
//! - No bytes make it panic.

pub mod field;
pub mod text;

mod amd;
mod dcgm;
mod dialect;
mod mapping;
mod nvidia_smi;
mod own;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::reading::{Reading, Unread};

use dialect::Says;
use field::whole;
use table::{Key, Table};
use text::{Sample, Scanner};

pub use dialect::Dialect;
pub use field::Field;
pub use mapping::Mapping;

/// Why there is no reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// In one word.
    pub unread: Unread,
    /// For people. It stays the same as long as the cause does.
    pub detail: String,
}

impl Why {
    /// Nothing is known.
    pub fn silent(detail: impl Into<String>) -> Self {
        Self { unread: Unread::Silent, detail: detail.into() }
    }
}

/// A metric that is wanted: what it says, and its number among those of the answer.
#[derive(Clone, Copy)]
struct Wanted {
    dialect: Option<Dialect>,
    says: Says,
    number: usize,
}

/// Reads the answer of an exporter.
pub struct Reader {
    scanner: Scanner,
    /// Metrics that are wanted, by their name.
    wanted: HashMap<String, Vec<Wanted>>,
    gathered: Gathered,
}

/// What was gathered so far.
struct Gathered {
    mapping: Option<Mapping>,
    /// One table for each dialect, in the order of [`Dialect::ALL`], or one for the mapping.
    tables: [Table; Dialect::ALL.len()],
    /// Whether a metric of the dialect was there, about whatever.
    seen: [bool; Dialect::ALL.len()],
    /// What an exporter said about itself.
    failed: Option<Why>,
}

impl Reader {
    /// Reads the metrics of a mapping, or those of every exporter that is known here.
    #[must_use]
    pub fn new(mapping: Option<Mapping>) -> Self {
        let mut wanted: HashMap<String, Vec<Wanted>> = HashMap::new();
        let mut numbers = 0..;
        let mut want = |name: &str, dialect, says| {
            let number = numbers.next().unwrap_or_default();
            wanted.entry(name.to_owned()).or_default().push(Wanted { dialect, says, number });
        };
        match &mapping {
            Some(mapping) => {
                mapping.fields.iter().for_each(|(field, name, factor)| want(name, None, Says::Value(*field, *factor)));
            }
            None => Dialect::ALL
                .iter()
                .flat_map(|dialect| dialect.rules().iter().map(move |rule| (*dialect, rule)))
                .for_each(|(dialect, (name, says))| want(name, Some(dialect), *says)),
        }
        let gathered = Gathered {
            mapping,
            tables: std::array::from_fn(|_| Table::default()),
            seen: [false; Dialect::ALL.len()],
            failed: None,
        };
        Self { scanner: Scanner::default(), wanted, gathered }
    }

    /// Takes in the next piece of the answer.
    pub fn feed(&mut self, piece: &[u8]) {
        let Self { scanner, wanted, gathered } = self;
        scanner.feed(piece, |line| {
            let Some(wanted) = text::name(line).and_then(|name| wanted.get(name)) else { return };
            text::take_apart(line, |sample| wanted.iter().for_each(|wanted| gathered.sample(*wanted, sample)));
        });
    }

    /// What the answer said as a whole.
    ///
    /// # Errors
    /// Why it is no reading.
    pub fn finish(self) -> Result<Reading, Why> {
        if self.scanner.is_inside_a_line() {
            return Err(Why::silent("the answer ends in the middle of a line"));
        }
        let Gathered { mapping, tables, seen, failed, .. } = self.gathered;
        let first = tables.iter().position(|table| !table.is_empty()).or_else(|| seen.iter().position(|seen| *seen));
        if let Some(why) = failed {
            return Err(why);
        }
        let Some(table) = first.and_then(|first| tables.into_iter().nth(first)) else {
            let what = if mapping.is_some() {
                "the answer has none of the metrics of `metrics`"
            } else {
                "the answer has no metrics of an exporter that is known here: write its metrics in `metrics`"
            };
            return Err(Why::silent(what));
        };
        if table.overflown {
            return Err(Why::silent("the answer has more cards than one host can have"));
        }
        if table.is_empty() {
            return Err(Why::silent("the answer says nothing about any card"));
        }
        Ok(table.into_reading())
    }
}

impl Gathered {
    fn sample(&mut self, wanted: Wanted, sample: &Sample<'_>) {
        let place = wanted.dialect.and_then(|dialect| Dialect::ALL.iter().position(|other| *other == dialect));
        let place = place.unwrap_or_default();
        let (key, value) = match (wanted.dialect, &self.mapping) {
            (Some(dialect), _) => (dialect.key(sample), dialect.value(sample)),
            (None, Some(mapping)) => (mapping.key(sample), sample.value),
            (None, None) => return,
        };
        self.seen[place] = true;
        let table = &mut self.tables[place];
        if let (Some(dialect), true) = (wanted.dialect, key.names_a_card()) {
            dialect.labels(sample, key, table);
        } else {
            table.card(key, None);
        }
        let Some(value) = value else { return };
        match wanted.says {
            Says::Value(field, factor) => table.value(key, wanted.number, field, value * factor),
            Says::Driver => table.driver(sample.label("version")),
            Says::Reason => reason(table, key, wanted.number, sample, value),
            Says::Action if value > 0.0 => own::action(sample).into_iter().for_each(|action| table.action(key, action)),
            Says::Fault if value > 0.0 => own::fault(sample).into_iter().for_each(|fault| table.fault(key, fault)),
            Says::XidTime => {
                if let (Some(code), true) = (dialect::number(sample, "xid"), value > 0.0) {
                    table.xid(key, code, whole(value * 1000.0));
                }
            }
            Says::Process => {
                if let (Some(pid), true) = (dialect::number(sample, "pid"), value >= 0.0) {
                    table.process(key, pid, sample.label("process_name"), Some(whole(value)));
                }
            }
            Says::ExitCode => self.exit_code(value),
            Says::Success if value <= 0.0 => {
                self.fail(Unread::Silent, "the exporter says that it could not ask the cards");
            }
            Says::Readable if value <= 0.0 => self.fail(own::unread(sample), "the agent says that it has no reading"),
            Says::Card | Says::Action | Says::Fault | Says::Success | Says::Readable => {}
        }
    }

    /// `nvidia-smi` and NVML number the same errors.
    fn exit_code(&mut self, code: f64) {
        const DRIVER_NOT_LOADED: u64 = 9;
        match whole(code) {
            0 => {}
            DRIVER_NOT_LOADED => self.fail(Unread::DriverDown, "the exporter says that NVIDIA's driver is not loaded"),
            other => self
                .fail(Unread::Silent, &format!("the exporter could not ask the cards: nvidia-smi ended with {other}")),
        }
    }

    /// Notes that the exporter says that it knows nothing. Of two reasons the one that says more stays.
    fn fail(&mut self, unread: Unread, detail: &str) {
        if self.failed.as_ref().is_none_or(|known| known.unread == Unread::Silent && unread != Unread::Silent) {
            self.failed = Some(Why { unread, detail: detail.to_owned() });
        }
    }
}

/// Notes a reason for low clocks, or that it is none.
#[expect(clippy::cast_precision_loss, reason = "a reason is one bit")]
fn reason(table: &mut Table, key: Key<'_>, metric: usize, sample: &Sample<'_>, value: f64) {
    if let Some(bit) = own::reason(sample) {
        table.value(key, metric, Field::Throttle, if value > 0.0 { bit as f64 } else { 0.0 });
    }
}
