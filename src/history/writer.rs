//! The thread that writes: at most half a second after a request ended, in one transaction for all of that time.
//!
//! | the file | what becomes of a batch |
//! |---|---|
//! | can be written | it is written |
//! | cannot (a full disk) | single requests are dropped and counted, sums and quotas wait in memory; the next batch tries again |
//! | is damaged | it is set aside, a new one is begun, and the batch goes there |
//! | was moved or deleted | a new one is begun, or the one that has its name now is taken |

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::batch::Batch;
use super::place::{FileId, is_damage};
use super::quotas::{Reset, rows};
use super::{Fact, HistoryError, Recorded, Shared, prune};
use crate::{clock, threads};

/// Longest time that a fact waits to be written.
const GATHER: Duration = Duration::from_millis(500);
/// How long facts are let gather before they are taken: at 25,000 a second some 250, far fewer than may wait.
const TOGETHER: Duration = Duration::from_millis(10);
/// Time between two looks at the file while nothing is to be written.
const IDLE: Duration = Duration::from_secs(5);
/// Time between two times that old rows are deleted.
const PRUNE: Duration = Duration::from_secs(60);
/// Time between two attempts to open a file that cannot be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// Starts the thread; `open` is dropped when it ends.
pub(super) fn start(
    shared: Arc<Shared>,
    connection: Option<Connection>,
    facts: Receiver<Fact>,
    open: Sender<()>,
) -> io::Result<()> {
    let mut writer = Writer::new(shared, connection);
    std::thread::Builder::new().name("history".to_owned()).spawn(move || {
        threads::come_behind_requests();
        writer.run(&facts);
        drop(writer);
        drop(open);
    })?;
    Ok(())
}

struct Writer {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    /// The file that is open.
    file: Option<FileId>,
    batch: Batch,
    /// When the first fact of the batch came.
    since: Option<Instant>,
    /// Number of the last request.
    last: i64,
    pruned: Option<Instant>,
    rows_since: u64,
    /// Changes whenever another connection changes the file.
    version: i64,
    tried: Instant,
    /// Whether it was said already that the file cannot be written.
    said: bool,
}

impl Writer {
    fn new(shared: Arc<Shared>, connection: Option<Connection>) -> Self {
        let last = connection.as_ref().map_or(0, last_number);
        let version = connection.as_ref().map_or(0, data_version);
        Self {
            file: shared.place.file_id(),
            shared,
            connection,
            batch: Batch::default(),
            since: None,
            last,
            pruned: None,
            rows_since: 0,
            version,
            tried: clock::now(),
            said: false,
        }
    }

    fn run(&mut self, facts: &Receiver<Fact>) {
        loop {
            let now = clock::now();
            let due = self.since.map(|since| since + GATHER);
            let wait = due.map_or(IDLE, |due| due.saturating_duration_since(now));
            let told = if wait.is_zero() { Err(RecvTimeoutError::Timeout) } else { facts.recv_timeout(wait) };
            let ends = match told {
                Ok(Fact::Close) | Err(RecvTimeoutError::Disconnected) => true,
                Ok(fact) => {
                    self.take(fact);
                    // Whoever hands over to a thread that waits pays for waking it: so this one sleeps, and takes all that
                    // came meanwhile.
                    if !self.shared.closing.load(Ordering::Relaxed) {
                        std::thread::sleep(TOGETHER);
                    }
                    self.take_all(facts)
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.write();
                    self.look_after();
                    self.shared.closing.load(Ordering::Relaxed)
                }
            };
            if ends {
                self.take_all(facts);
                self.write();
                return;
            }
        }
    }

    /// Takes all that is there by now. Whether that is the end.
    fn take_all(&mut self, facts: &Receiver<Fact>) -> bool {
        let mut ends = self.shared.closing.load(Ordering::Relaxed);
        for fact in facts.try_iter() {
            ends |= matches!(fact, Fact::Close);
            self.take(fact);
        }
        ends
    }

    fn take(&mut self, fact: Fact) {
        let left_out = match fact {
            Fact::Request(entry) => {
                let seq = self.next_number();
                let recorded = Recorded { seq, entry };
                if self.shared.live.receiver_count() > 0 {
                    // Nobody listens any more: no matter.
                    drop(self.shared.live.send(recorded.clone()));
                }
                let settings = *self.shared.settings.lock();
                self.batch.request(recorded, &settings)
            }
            Fact::Audit(audit) => u64::from(!self.batch.audit(*audit)),
            Fact::Decided(decided) => self.batch.decided(decided),
            Fact::Charged(account, charge) => u64::from(!self.batch.charges.add(account, charge)),
            Fact::Reset(reset) => {
                self.reset(*reset);
                0
            }
            Fact::Close => 0,
        };
        self.shared.metrics.history.left_out.inc_by(left_out);
        if self.since.is_none() {
            self.since = Some(clock::now());
        }
    }

    /// Microseconds since 1970, or more: numbers grow whatever the clock does.
    fn next_number(&mut self) -> i64 {
        let now = i64::try_from(clock::unix_time().as_micros()).unwrap_or(i64::MAX);
        self.last = now.max(self.last.saturating_add(1));
        self.last
    }

    fn write(&mut self) {
        self.since = None;
        if self.batch.is_empty() {
            return;
        }
        self.open_again();
        let mut result = self.try_write();
        if let Err(Some(error)) = &result
            && is_damage(error)
        {
            self.begin_anew(&error.to_string());
            result = self.try_write();
        }
        match result {
            Ok(()) => {
                self.rows_since += self.batch.written();
                if std::mem::take(&mut self.said) {
                    tracing::info!("the history is written again");
                }
            }
            Err(error) => {
                let dropped = self.batch.drop_rows();
                self.batch.charges.forget_passed(clock::unix_seconds());
                self.shared.metrics.history.failed.inc_by(dropped);
                if !std::mem::replace(&mut self.said, true) {
                    let error = error.map_or_else(|| "it is not open".to_owned(), |error| error.to_string());
                    tracing::error!(error, "the history cannot be written; requests go on, their rows are dropped");
                }
            }
        }
    }

    fn try_write(&mut self) -> Result<(), Option<rusqlite::Error>> {
        let connection = self.connection.as_mut().ok_or(None)?;
        self.batch.write(connection).map_err(Some)
    }

    /// Opens a file that could not be opened before, or is not the one that has its name now.
    fn open_again(&mut self) {
        if self.connection.is_some() && self.shared.place.file_id() != self.file {
            tracing::warn!(path = ?self.shared.place, "the history's file is another one now");
            self.connection = None;
            self.tried = clock::now().checked_sub(OPEN_AGAIN).unwrap_or(self.tried);
        }
        if self.connection.is_none() && clock::now().saturating_duration_since(self.tried) >= OPEN_AGAIN {
            self.open();
        }
    }

    fn open(&mut self) {
        self.tried = clock::now();
        // Only a store in memory can refuse, and that is never opened again.
        self.connection = self.shared.place.open(&self.shared.metrics).ok().flatten();
        self.file = self.shared.place.file_id();
        self.last = self.last.max(self.connection.as_ref().map_or(0, last_number));
        if let Some(connection) = &mut self.connection {
            self.version = data_version(connection);
            if let Err(error) = rows::merge(&self.shared.ledger, connection, clock::unix_seconds()) {
                tracing::warn!(%error, "what was used of quotas is not in the history yet");
            }
        }
    }

    /// Begins windows of quotas anew: after all that was charged until now, before all that will be.
    fn reset(&mut self, reset: Reset) {
        self.write();
        let Reset { accounts, done } = reset;
        let outcome = match &mut self.connection {
            Some(connection) if self.batch.is_empty() => {
                rows::reset(&accounts, connection, clock::unix_seconds()).map_err(HistoryError::from)
            }
            _ => Err(HistoryError::Busy),
        };
        // Nobody waits for it any more: no matter.
        drop(done.send(outcome));
    }

    /// Learns what another process, which uses the file too for as long as an upgrade takes, charged to quotas.
    fn look_at_others(&mut self) {
        let Some(connection) = &self.connection else { return };
        let version = data_version(connection);
        if std::mem::replace(&mut self.version, version) != version
            && let Err(error) = rows::read(&self.shared.ledger, connection, clock::unix_seconds())
        {
            tracing::debug!(%error, "what others used of quotas is not known for now");
        }
    }

    fn begin_anew(&mut self, why: &str) {
        self.connection = None;
        self.shared.place.set_aside(self.file, why, &self.shared.metrics);
        self.open();
    }

    /// What is done now and then: damage that a reader met, and rows that are too old or too many.
    fn look_after(&mut self) {
        self.open_again();
        if self.shared.suspect.swap(false, Ordering::Relaxed)
            && let Some(connection) = &self.connection
        {
            let told = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
            match told {
                Ok(told) if told == "ok" => {}
                Ok(told) => self.begin_anew(&told),
                Err(error) if is_damage(&error) => self.begin_anew(&error.to_string()),
                Err(_) => {}
            }
        }
        self.look_at_others();
        let settings = *self.shared.settings.lock();
        let now = clock::now();
        let due = self.pruned.is_none_or(|pruned| now.saturating_duration_since(pruned) >= PRUNE);
        if !due && self.rows_since <= settings.max_requests / 10 {
            return;
        }
        self.pruned = Some(now);
        self.rows_since = 0;
        self.shared.ledger.forget_unused(clock::unix_seconds());
        let Some(connection) = &self.connection else { return };
        match prune::prune(connection, &settings, clock::unix_time().as_secs_f64()) {
            Err(error) if is_damage(&error) => self.begin_anew(&error.to_string()),
            Err(error) => tracing::debug!(%error, "old rows of the history stay for now"),
            Ok(()) => {}
        }
    }
}

/// A number that changes whenever another connection, of this process or another one, changes the file.
fn data_version(connection: &Connection) -> i64 {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap_or(0)
}

/// The highest number in the file.
fn last_number(connection: &Connection) -> i64 {
    connection.query_row("SELECT coalesce(max(seq), 0) FROM requests", [], |row| row.get(0)).unwrap_or(0)
}
