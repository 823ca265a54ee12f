//! Sums of requests over a time: what analytics are made of.
//!
//! Every request is in a sum of ten seconds, one of a minute and one of an hour. A question takes the shortest that are
//! kept long enough, and says from when to when its answer is.

use rusqlite::params;

use super::batch::is_error;
use super::histogram::Histogram;
use super::settings::Settings;
use super::{History, HistoryError};

/// Seconds of the shortest sums.
pub(super) const SHORT: i64 = 10;
/// Seconds of those in the middle.
pub(super) const MIDDLE: i64 = 60;
/// Seconds of the longest.
pub(super) const HOUR: i64 = 3600;
/// All of them.
pub(super) const WIDTHS: [i64; 3] = [SHORT, MIDDLE, HOUR];
/// Sums that a question reads at most.
const MOST: usize = 500_000;

/// How long a time is asked about, up to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// As it is written.
    pub word: &'static str,
    /// Its seconds.
    pub seconds: u32,
    width: i64,
}

/// All that can be asked for.
pub const RANGES: [Range; 8] = [
    Range { word: "1m", seconds: 60, width: SHORT },
    Range { word: "5m", seconds: 300, width: SHORT },
    Range { word: "15m", seconds: 900, width: SHORT },
    Range { word: "1h", seconds: 3600, width: SHORT },
    Range { word: "6h", seconds: 6 * 3600, width: MIDDLE },
    Range { word: "24h", seconds: 24 * 3600, width: MIDDLE },
    Range { word: "7d", seconds: 7 * 24 * 3600, width: HOUR },
    Range { word: "30d", seconds: 30 * 24 * 3600, width: HOUR },
];

/// From when to when, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Beginning of the first sum that lies in the time as a whole.
    pub from: i64,
    /// Now.
    pub to: f64,
    width: i64,
}

impl Range {
    /// The time up to `now` (seconds since 1970), as far back as sums are kept. It never begins before it should: its
    /// first sum is the first that lies in it as a whole.
    #[must_use]
    pub fn window(&self, now: f64, settings: &Settings) -> Window {
        let back = f64::from(self.seconds).min(settings.aggregates.as_secs_f64());
        #[expect(clippy::cast_possible_truncation, reason = "seconds of this century")]
        let from = (now - back).ceil() as i64;
        Window { from: (from + self.width - 1).div_euclid(self.width) * self.width, to: now, width: self.width }
    }
}

impl Window {
    /// How long it is, in seconds; a moment at least.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
        let from = self.from as f64;
        (self.to - from).max(0.001)
    }

    /// Seconds of a step when it is cut into at most this many.
    #[must_use]
    pub fn step(&self, steps: u32) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "at most a month")]
        let least = (self.seconds() / f64::from(steps.max(1))).ceil() as i64;
        (least + self.width - 1).div_euclid(self.width).max(1) * self.width
    }
}

/// Requests and what they took.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    /// Those of them that ended with a status from 400 on or broke.
    pub errors: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Milliseconds that they took together.
    pub duration_ms: f64,
    /// Milliseconds that they waited for a slot together.
    pub queue_ms: f64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// How long they took.
    pub durations: Histogram,
    /// How long to the first byte.
    pub ttfbs: Histogram,
}

impl Totals {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.attempts += other.attempts;
        self.duration_ms += other.duration_ms;
        self.queue_ms += other.queue_ms;
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.durations.add(&other.durations);
        self.ttfbs.add(&other.ttfbs);
    }
}

/// Requests of one time that have all of this in common.
#[derive(Clone, Debug)]
pub struct Line {
    /// Beginning of the time, seconds since 1970.
    pub start: i64,
    /// Upstream; empty for none.
    pub upstream: String,
    /// Server of the last attempt; empty for none.
    pub server: String,
    /// Model; empty for none, and for one that no server has.
    pub model: String,
    /// Why they ended as they did.
    pub reason: String,
    /// Status.
    pub status: u16,
    /// The requests.
    pub totals: Totals,
}

/// Which sums are wanted: those of which all that is given is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Among {
    /// Name of the upstream.
    pub upstream: Option<String>,
    /// Name of the server.
    pub server: Option<String>,
    /// Canonical name of the model.
    pub model: Option<String>,
}

impl History {
    /// The sums of a time, the oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn sums(&self, window: &Window, among: &Among) -> Result<Vec<Line>, HistoryError> {
        let sql = format!(
            "SELECT start, upstream, server, model, reason, status, requests, attempts, duration_ms, queue_ms, \
             prompt_tokens, output_tokens, bytes_in, bytes_out, durations, ttfbs FROM sums \
             WHERE width = ?1 AND start >= ?2 AND start <= ?3 AND (?4 IS NULL OR upstream = ?4) \
             AND (?5 IS NULL OR server = ?5) AND (?6 IS NULL OR model = ?6) ORDER BY start LIMIT {MOST}"
        );
        self.read(|connection| {
            let mut all = connection.prepare(&sql)?;
            let wanted = params![window.width, window.from, window.to, among.upstream, among.server, among.model];
            let rows = all.query_map(wanted, |row| {
                let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
                let (reason, status): (String, u16) = (row.get(4)?, row.get(5)?);
                let requests = number(6)?;
                let totals = Totals {
                    requests,
                    errors: if is_error(status, &reason) { requests } else { 0 },
                    attempts: number(7)?,
                    duration_ms: row.get(8)?,
                    queue_ms: row.get(9)?,
                    prompt_tokens: number(10)?,
                    output_tokens: number(11)?,
                    bytes_in: number(12)?,
                    bytes_out: number(13)?,
                    durations: row.get(14)?,
                    ttfbs: row.get(15)?,
                };
                let (upstream, server, model) = (row.get(1)?, row.get(2)?, row.get(3)?);
                Ok(Line { start: row.get(0)?, upstream, server, model, reason, status, totals })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
