//! What is written in one transaction: single requests, sums of them, usage, the audit.
//!
//! Single requests have a budget for each batch, so that thousands a second cost no more than hundreds: beyond it they are
//! in the sums only. Those that went well and those that did not have budgets of their own. Sums are small however many
//! requests they are made of, and stay in memory when they cannot be written.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::decisions::Decided;
use super::histogram::Histogram;
use super::kept::Audit;
use super::quotas::rows::{Charges, Settled};
use super::settings::Settings;
use super::{Recorded, sums};
use crate::policy::failure::Reason;
use crate::telemetry::access_log::Entry;

/// Single requests of a batch that are written, of those that went well and of the others.
const ROWS: usize = 500;
/// Different sums that a batch holds.
pub(super) const SUMS: usize = 20_000;
/// What somebody did, in one batch.
const AUDITS: usize = 1000;
/// Choices of servers, in one batch.
const DECISIONS: usize = 1000;
/// Models that have a name of their own in the sums of an hour: clients choose names, and could choose many.
const MODELS: usize = 256;
/// What the others are called.
const OTHERS: &str = "(others)";
/// Numbers that are tried for a row before it is given up: another process may have taken some.
const NUMBERS: i64 = 64;

/// Whether a request counts as an error: its status says so, or it broke after a good one.
pub(super) fn is_error(status: u16, reason: &str) -> bool {
    status >= 400 || status == 0 || reason != Reason::Ok.as_str()
}

/// When it ended, seconds since 1970.
pub(super) fn ended(entry: &Entry) -> f64 {
    entry.ts + entry.duration_ms / 1000.0
}

/// The last multiple of `width` seconds that is not after a time.
#[expect(clippy::cast_possible_truncation, reason = "seconds of this century")]
pub(super) fn slot(time: f64, width: i64) -> i64 {
    (time.floor() as i64).div_euclid(width) * width
}

/// How the model of a request is called in the sums.
#[derive(Clone, Copy, Debug)]
enum Called {
    /// By its name.
    ByName,
    /// As one of many.
    Others,
    /// Not at all: no server has it, so its name is a word that a client made up.
    Nothing,
}

/// Requests that are summed up together: a request stands for all that are like it.
#[derive(Clone, Debug)]
struct Alike {
    start: i64,
    like: Arc<Entry>,
    called: Called,
}

impl Alike {
    fn model(&self) -> &str {
        match self.called {
            Called::ByName => &self.like.model,
            Called::Others => OTHERS,
            Called::Nothing => "",
        }
    }

    fn facts(&self) -> (i64, &str, &str, &str, &str, u16) {
        (self.start, &self.like.upstream, &self.like.server, self.model(), self.like.reason, self.like.status)
    }
}

impl PartialEq for Alike {
    fn eq(&self, other: &Self) -> bool {
        self.facts() == other.facts()
    }
}

impl Eq for Alike {}

impl Hash for Alike {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.facts().hash(state);
    }
}

/// Requests of a key and a model in an hour.
#[derive(Clone, Debug)]
struct Used(Alike);

impl Used {
    fn facts(&self) -> (i64, &str, &str) {
        (self.0.start, &self.0.like.key, self.0.model())
    }
}

impl PartialEq for Used {
    fn eq(&self, other: &Self) -> bool {
        self.facts() == other.facts()
    }
}

impl Eq for Used {}

impl Hash for Used {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.facts().hash(state);
    }
}

/// A sum of requests.
#[derive(Clone, Debug, Default)]
struct Sum {
    requests: u64,
    errors: u64,
    attempts: u64,
    duration_ms: f64,
    queue_ms: f64,
    prompt_tokens: u64,
    output_tokens: u64,
    bytes_in: u64,
    bytes_out: u64,
    durations: Histogram,
    ttfbs: Histogram,
}

impl Sum {
    fn count(&mut self, entry: &Entry) {
        self.requests += 1;
        self.errors += u64::from(is_error(entry.status, entry.reason));
        self.attempts += u64::from(entry.attempts);
        self.duration_ms += entry.duration_ms;
        self.queue_ms += entry.queue_ms;
        self.prompt_tokens = self.prompt_tokens.saturating_add(entry.prompt_tokens.unwrap_or(0));
        self.output_tokens = self.output_tokens.saturating_add(entry.output_tokens.unwrap_or(0));
        self.bytes_in = self.bytes_in.saturating_add(entry.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(entry.bytes_out);
        self.durations.count(entry.duration_ms);
        entry.ttfb_ms.iter().for_each(|ttfb| self.ttfbs.count(*ttfb));
    }
}

/// A number as SQLite keeps it.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Batch {
    rows: Vec<Recorded>,
    good: usize,
    audits: Vec<Audit>,
    decisions: Vec<Decided>,
    sums: HashMap<Alike, Sum>,
    usage: HashMap<Used, Sum>,
    /// What was used of quotas.
    pub(super) charges: Charges,
    names: HashSet<String>,
    names_of: i64,
}

impl Batch {
    /// Takes a request. How many of its traces there is no room for.
    pub(super) fn request(&mut self, recorded: Recorded, settings: &Settings) -> u64 {
        let entry = &recorded.entry;
        let time = ended(entry);
        let called = self.call(slot(time, sums::HOUR), entry);
        let mut left_out = 0;
        let alike = |width| Alike { start: slot(time, width), like: Arc::clone(entry), called };
        if !settings.aggregates.is_zero() {
            left_out += u64::from(!add(&mut self.sums, alike(sums::SHORT), entry));
        }
        if !settings.usage.is_zero() {
            left_out += u64::from(!add(&mut self.usage, Used(alike(sums::HOUR)), entry));
        }
        if !settings.requests.is_zero() {
            let is_good = !is_error(entry.status, entry.reason);
            let taken = if is_good { self.good } else { self.rows.len() - self.good };
            if taken < ROWS {
                self.good += usize::from(is_good);
                self.rows.push(recorded);
            } else {
                left_out += 1;
            }
        }
        left_out
    }

    /// Takes what somebody did. Whether there was room for it.
    pub(super) fn audit(&mut self, audit: Audit) -> bool {
        let has_room = self.audits.len() < AUDITS;
        if has_room {
            self.audits.push(audit);
        }
        has_room
    }

    /// Takes choices of servers. How many there was no room for.
    pub(super) fn decided(&mut self, decided: Vec<Decided>) -> u64 {
        let room = DECISIONS.saturating_sub(self.decisions.len());
        let over = decided.len().saturating_sub(room);
        self.decisions.extend(decided.into_iter().take(room));
        over as u64
    }

    /// How the model of a request is called in the sums of its hour.
    fn call(&mut self, hour: i64, entry: &Entry) -> Called {
        if self.names_of != hour {
            self.names_of = hour;
            self.names.clear();
        }
        if entry.reason == Reason::ModelNotFound.as_str() {
            return Called::Nothing;
        }
        if !self.names.contains(&entry.model) {
            if self.names.len() >= MODELS {
                return Called::Others;
            }
            self.names.insert(entry.model.clone());
        }
        Called::ByName
    }

    pub(super) fn is_empty(&self) -> bool {
        let rows = self.rows.len() + self.audits.len() + self.decisions.len();
        rows == 0 && self.sums.is_empty() && self.usage.is_empty() && self.charges.is_empty()
    }

    /// Writes all of it, or nothing.
    pub(super) fn write(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.rows.iter().try_for_each(|row| write_row(&transaction, row))?;
        self.audits.iter().try_for_each(|audit| write_audit(&transaction, audit))?;
        self.decisions.iter().try_for_each(|decided| write_decided(&transaction, decided))?;
        for (alike, sum) in &self.sums {
            for width in sums::WIDTHS {
                write_sum(&transaction, width, alike, sum)?;
            }
        }
        self.usage.iter().try_for_each(|(used, sum)| write_usage(&transaction, used, sum))?;
        let settled = self.charges.write(&transaction)?;
        transaction.commit()?;
        settled.iter().for_each(Settled::tell);
        Ok(())
    }

    /// Begins anew after all of it was written. How many single requests it had.
    pub(super) fn written(&mut self) -> u64 {
        let rows = self.rows.len();
        self.drop_rows();
        self.sums.clear();
        self.usage.clear();
        self.charges.clear();
        rows as u64
    }

    /// Gives up what does not stay small. How many rows that were.
    pub(super) fn drop_rows(&mut self) -> u64 {
        let dropped = self.rows.len() + self.audits.len() + self.decisions.len();
        self.rows.clear();
        self.good = 0;
        self.audits.clear();
        self.decisions.clear();
        dropped as u64
    }
}

/// Whether there was room for it.
fn add<K: Eq + Hash>(all: &mut HashMap<K, Sum>, key: K, entry: &Entry) -> bool {
    if all.len() >= SUMS && !all.contains_key(&key) {
        return false;
    }
    all.entry(key).or_default().count(entry);
    true
}

fn write_row(transaction: &Transaction<'_>, row: &Recorded) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT OR IGNORE INTO requests (seq, at, id, method, path, status, reason, duration_ms, queue_ms, ttfb_ms, \
         route, upstream, server, model, key, attempts, prompt_tokens, output_tokens, bytes_in, bytes_out, client_ip) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
    )?;
    let entry = &row.entry;
    for seq in row.seq..row.seq + NUMBERS {
        let inserted = insert.execute(params![
            seq,
            entry.ts,
            entry.request_id,
            entry.method,
            entry.path,
            entry.status,
            entry.reason,
            entry.duration_ms,
            entry.queue_ms,
            entry.ttfb_ms,
            entry.route,
            entry.upstream,
            entry.server,
            entry.model,
            entry.key,
            entry.attempts,
            entry.prompt_tokens.map(whole),
            entry.output_tokens.map(whole),
            whole(entry.bytes_in),
            whole(entry.bytes_out),
            entry.client_ip,
        ])?;
        if inserted > 0 {
            break;
        }
    }
    Ok(())
}

fn write_audit(transaction: &Transaction<'_>, audit: &Audit) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO audit (at, who, scope, method, path, status, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let Audit { at, who, scope, method, path, status, detail } = audit;
    insert.execute(params![at, who, scope, method, path, status, detail])?;
    Ok(())
}

fn write_decided(transaction: &Transaction<'_>, decided: &Decided) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO decisions (at, upstream, model, server, candidates) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let Decided { at, upstream, model, server, candidates } = decided;
    insert.execute(params![at, upstream, model, server, candidates.to_string()])?;
    Ok(())
}

fn write_sum(transaction: &Transaction<'_>, width: i64, alike: &Alike, sum: &Sum) -> rusqlite::Result<()> {
    let (start, upstream, server, model, reason, status) = alike.facts();
    let start = start.div_euclid(width) * width;
    let mut known = transaction.prepare_cached(
        "SELECT durations, ttfbs FROM sums WHERE width = ?1 AND start = ?2 AND upstream = ?3 AND server = ?4 \
         AND model = ?5 AND reason = ?6 AND status = ?7",
    )?;
    let before = known
        .query_row(params![width, start, upstream, server, model, reason, status], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (mut durations, mut ttfbs): (Histogram, Histogram) = before.unwrap_or_default();
    durations.add(&sum.durations);
    ttfbs.add(&sum.ttfbs);
    let mut insert = transaction.prepare_cached(concat!(
        "INSERT INTO sums (width, start, upstream, server, model, reason, status, requests, attempts, duration_ms, \
         queue_ms, prompt_tokens, output_tokens, bytes_in, bytes_out, durations, ttfbs) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) \
         ON CONFLICT DO UPDATE SET duration_ms = duration_ms + excluded.duration_ms, \
         queue_ms = queue_ms + excluded.queue_ms, durations = excluded.durations, ttfbs = excluded.ttfbs, ",
        plus!("requests"),
        ", ",
        plus!("attempts"),
        ", ",
        plus!("prompt_tokens"),
        ", ",
        plus!("output_tokens"),
        ", ",
        plus!("bytes_in"),
        ", ",
        plus!("bytes_out"),
    ))?;
    insert.execute(params![
        width,
        start,
        upstream,
        server,
        model,
        reason,
        status,
        whole(sum.requests),
        whole(sum.attempts),
        sum.duration_ms,
        sum.queue_ms,
        whole(sum.prompt_tokens),
        whole(sum.output_tokens),
        whole(sum.bytes_in),
        whole(sum.bytes_out),
        durations,
        ttfbs,
    ])?;
    Ok(())
}

fn write_usage(transaction: &Transaction<'_>, used: &Used, sum: &Sum) -> rusqlite::Result<()> {
    let (hour, key, model) = used.facts();
    let mut insert = transaction.prepare_cached(concat!(
        "INSERT INTO usage (hour, key, model, requests, errors, prompt_tokens, output_tokens, bytes_in, bytes_out) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
         ON CONFLICT DO UPDATE SET ",
        plus!("requests"),
        ", ",
        plus!("errors"),
        ", ",
        plus!("prompt_tokens"),
        ", ",
        plus!("output_tokens"),
        ", ",
        plus!("bytes_in"),
        ", ",
        plus!("bytes_out"),
    ))?;
    insert.execute(params![
        hour,
        key,
        model,
        whole(sum.requests),
        whole(sum.errors),
        whole(sum.prompt_tokens),
        whole(sum.output_tokens),
        whole(sum.bytes_in),
        whole(sum.bytes_out),
    ])?;
    Ok(())
}
