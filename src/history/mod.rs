//! What happened, kept over restarts: requests that ended, sums of them, usage, what operators did, what was learned.
//!
//! # Problem
//!
//! People ask later: who used which model, which server fails, what happened at three o'clock. The answer must be made of
//! real numbers, and no question and no disk may ever make a request wait.
//!
//! # Shape
//! - One SQLite file, `arriero.db` in `server.data_dir`; in memory where there is no such folder. [`place`] opens it and
//!   brings its [`schema`] up to date; a damaged file is set aside, a new one begun, and what
//!   must not be lost is taken over ([`rescue`]).
//! - Requests hand their facts over through a bounded queue. The [`writer`], a thread of its own, gathers them in a
//!   [`batch`] and writes it in one transaction, at most half a second later; [`prune`] keeps the file bounded.
//! - Sums are kept in three widths, 10 s, 1 min and 1 h, each with a [`histogram`] of the times, so that a percentile over
//!   a month is made of all its requests.
//! - [`quotas`] is what each key has used of its quotas in the window that runs, for whoever lets requests in.
//! - [`kept`] is what must not be lost: what operators changed and what was learned; it is on disk when the call returns.
//! - [`requests`], [`usage`], [`decisions`] and [`sums`] read, each on a connection of its own that can only read and has a time limit.
//!
//! # Invariants
//! - Handing over never waits: what does not fit is dropped and counted.
//! - No bodies, no queries, no credentials.
//! - A file that cannot be written or read costs rows, never requests; when it can be written again, it is.
//! - A process that is killed loses what it had not written yet, half a second at most, and never the file.
//! - Sums count every request; single requests are kept up to a rate (see [`batch`]) and a number.

/// Adds to a column of whole numbers, up to the greatest one: a sum beyond it would be no whole number any more, the table would
/// refuse it, and with it all that is written in the same transaction, each time again.
macro_rules! plus {
    ($column:literal) => {
        concat!($column, " = ", $column, " + min(excluded.", $column, ", 9223372036854775807 - ", $column, ")")
    };
}

mod batch;
pub mod decisions;
pub mod histogram;
pub mod kept;
mod place;
mod prune;
pub mod quotas;
pub mod requests;
mod rescue;
mod schema;
pub mod settings;
pub mod sums;
#[cfg(test)]
mod tests;
pub mod usage;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::broadcast;

use crate::clock;
use crate::telemetry::access_log::Entry;
use crate::telemetry::metrics::Metrics;
use decisions::Decided;
use place::{Mode, Place};
use quotas::ledger::Ledger;
use quotas::{Account, Charge, Reset};
use settings::Settings;

pub use kept::{Audit, Audited, Kept};

/// Facts that may wait for the writer.
const BACKLOG: usize = 8192;
/// Requests that a live reader may be behind before it misses some.
const LIVE: usize = 1024;
/// How long one question may take.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Steps of SQLite's machine between two looks at the clock.
const READ_STEPS: i32 = 20_000;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The folder cannot be made or written to at all.
    #[error("cannot use `server.data_dir` `{path}`: {error}")]
    Folder {
        /// The folder.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The system refused a thread.
    #[error("cannot start the history: {0}")]
    Thread(std::io::Error),
    /// The question takes too long.
    #[error("the question took longer than {} seconds: ask for less", READ_LIMIT.as_secs())]
    TooLong,
    /// The writer has too much to do.
    #[error("the history is busy: try again")]
    Busy,
    /// The file could not be read or written.
    #[error("the history cannot be used: {0}")]
    Store(rusqlite::Error),
    /// What is kept is not JSON any more.
    #[error("what is kept in the history is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<rusqlite::Error> for HistoryError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => Self::TooLong,
            _ => Self::Store(error),
        }
    }
}

/// A request that ended.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its number: later ones have higher numbers.
    pub seq: i64,
    /// Its facts.
    pub entry: Arc<Entry>,
}

/// What the writer is told.
enum Fact {
    Request(Arc<Entry>),
    Audit(Box<Audit>),
    Decided(Vec<Decided>),
    Charged(Arc<Account>, Charge),
    Reset(Box<Reset>),
    Close,
}

/// What the handle and the writer share.
struct Shared {
    place: Place,
    settings: Mutex<Settings>,
    /// Whether any request is worth handing over.
    wanted: AtomicBool,
    /// Somebody read something that looked damaged.
    suspect: AtomicBool,
    closing: AtomicBool,
    metrics: Arc<Metrics>,
    ledger: Ledger,
    live: broadcast::Sender<Recorded>,
}

/// The store. Dropping it leaves what was not written yet to [`History::close`], which is to be called before.
pub struct History {
    shared: Arc<Shared>,
    queue: SyncSender<Fact>,
    written: Mutex<Receiver<()>>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("History").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

impl History {
    /// Opens the store in this folder, which is made if it is not there; in memory without one.
    ///
    /// # Errors
    /// When the folder cannot be made or written to. A file in it that is damaged is set aside, and one that cannot be
    /// written now (a full disk) is tried again later: neither is an error.
    pub fn open(folder: Option<&Path>, settings: Settings, metrics: Arc<Metrics>) -> Result<Self, HistoryError> {
        let place = Place::of(folder)?;
        let connection = place.open(&metrics)?;
        let ledger = Ledger::default();
        if let Some(connection) = &connection
            && let Err(error) = quotas::rows::read(&ledger, connection, clock::unix_seconds())
        {
            tracing::error!(%error, "what was used of quotas cannot be read and begins anew");
        }
        let shared = Arc::new(Shared {
            place,
            wanted: AtomicBool::new(settings.keeps_anything()),
            settings: Mutex::new(settings),
            suspect: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            metrics,
            ledger,
            live: broadcast::Sender::new(LIVE),
        });
        let (queue, facts) = sync_channel(BACKLOG);
        let (open, written) = channel();
        writer::start(Arc::clone(&shared), connection, facts, open).map_err(HistoryError::Thread)?;
        let history = Self { shared, queue, written: Mutex::new(written) };
        if let Some(folder) = folder {
            history.take_learned_file(folder);
        }
        Ok(history)
    }

    /// Whether what is kept outlives the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.shared.place.is_file()
    }

    /// Whether requests are worth handing over.
    #[must_use]
    pub fn wants_requests(&self) -> bool {
        self.shared.wanted.load(Ordering::Relaxed)
    }

    /// Takes a request that ended; never waits.
    pub fn request(&self, entry: Arc<Entry>) {
        self.tell(Fact::Request(entry));
    }

    /// Takes what somebody did; never waits.
    pub fn audit(&self, audit: Audit) {
        self.tell(Fact::Audit(Box::new(audit)));
    }

    fn tell(&self, fact: Fact) {
        if self.queue.try_send(fact).is_err() {
            self.shared.metrics.history.busy.inc();
        }
    }

    /// Requests from now on as they end. A reader that is too slow is told how many it missed.
    #[must_use]
    pub fn live(&self) -> broadcast::Receiver<Recorded> {
        self.shared.live.subscribe()
    }

    /// Other limits from now on.
    pub fn set(&self, settings: Settings) {
        *self.shared.settings.lock() = settings;
        self.shared.wanted.store(settings.keeps_anything(), Ordering::Relaxed);
    }

    /// The limits in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.shared.settings.lock()
    }

    /// Writes what is left and ends the writer, within this time.
    pub fn close(&self, limit: Duration) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // A queue that is full wakes the writer by itself.
        drop(self.queue.try_send(Fact::Close));
        // Nothing is ever sent: the channel closes when the writer ends.
        let _ = self.written.lock().recv_timeout(limit);
    }

    /// Asks, on a connection that can only read and for a limited time.
    fn read<T>(&self, ask: impl FnOnce(&Connection) -> Result<T, HistoryError>) -> Result<T, HistoryError> {
        let mut connection = self.shared.place.connect(Mode::Read)?;
        let deadline = clock::now() + READ_LIMIT;
        connection.progress_handler(READ_STEPS, Some(move || clock::now() > deadline))?;
        self.watched(ask(&connection))
    }

    /// Does something that must not be lost.
    fn write<T>(&self, act: impl FnOnce(&Connection) -> Result<T, HistoryError>) -> Result<T, HistoryError> {
        let connection = self.shared.place.connect(Mode::Durable)?;
        self.watched(act(&connection))
    }

    /// Lets the writer look after a file that looks damaged.
    fn watched<T>(&self, result: Result<T, HistoryError>) -> Result<T, HistoryError> {
        if let Err(HistoryError::Store(error)) = &result
            && place::is_damage(error)
        {
            self.shared.suspect.store(true, Ordering::Relaxed);
        }
        result
    }
}
