//! The record of every request a host began, and what became of it.
//!
//! An entry is made before the body is read and is never removed. Whoever handles the request
//! holds a [`Record`]; when that is dropped without a word, the client has gone away (or a fault
//! has cut the connection), and the entry says so. Nothing can be left open by an early return.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::wire::Control;
use crate::clock;

/// What happened to a host's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Loads begun.
    pub loads: usize,
    /// Models that the host unloaded to make room.
    pub evictions: usize,
    /// Models that were unloaded because a request said so (`keep_alive: 0` without a prompt).
    pub unloads: usize,
    /// Loads whose first request went away before they were done. A real Ollama gives such a load up.
    pub cancelled_loads: usize,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was handed to the socket, whatever its status.
    Completed,
    /// The client closed the connection, or its stream, before that.
    ClientGone,
    /// A fault ended it, or the host was killed.
    Fault,
}

/// When and how a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Instant,
}

/// How the body of a request was framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1 without a body.
    None,
    /// `Content-Length`.
    ContentLength(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// HTTP/2 without a length: framed by DATA frames.
    Frames,
}

/// One request that a host began.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the ledger.
    pub index: usize,
    /// `X-Request-Id`, if it came with one.
    pub request_id: Option<String>,
    /// The method.
    pub method: String,
    /// Path and query as sent.
    pub path: String,
    /// The model as sent, once the body has been read.
    pub model: Option<String>,
    /// Every header in order; HTTP/1 names are lower-cased.
    pub headers: Vec<(String, String)>,
    /// Body bytes read so far.
    pub body_bytes: u64,
    /// Hex SHA-256 of the body, once all of it has been read.
    pub body_sha256: Option<String>,
    /// How the body was framed.
    pub framing: Framing,
    /// When the head had been read.
    pub started: Instant,
    /// When it got its slot on a loaded model; None for what needs none or still waits.
    pub slot_at: Option<Instant>,
    /// None while the request is in flight.
    pub finished: Option<Finished>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    pub http_version: String,
    /// The status answered, once there is one.
    pub status: Option<u16>,
    /// Tokens sent, or generated for an answer that does not stream.
    pub tokens: usize,
    /// Texts that were embedded.
    pub inputs: usize,
    /// The connection it came on; numbers are never reused by a host.
    pub connection: u64,
}

impl Entry {
    /// Whether a proxy asked on its own account: it loads or unloads a model, or tries whether one still works.
    #[must_use]
    pub fn is_own_account(&self) -> bool {
        super::faults::is_inference(self.path.split('?').next().unwrap_or_default())
            && self.header("user-agent").is_some_and(|agent| agent.starts_with("arriero/"))
    }

    /// The value of a header, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.finished.map(|finished| finished.outcome)
    }
}

/// A condition on a ledger was not met in time; shows what the ledger had.
#[derive(Debug)]
pub struct WaitTimeout {
    /// How long was waited.
    pub limit: Duration,
    /// `POST /api/chat llava:13b → Completed`, one for each entry.
    pub entries: Vec<String>,
}

impl std::fmt::Display for WaitTimeout {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "not met within {:?}; the ledger has: {:#?}", self.limit, self.entries)
    }
}

impl std::error::Error for WaitTimeout {}

/// A host's ledger. Clones share the record.
#[derive(Clone, Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entries: Mutex<Vec<Entry>>,
    changed: watch::Sender<u64>,
    begun: AtomicUsize,
    ended: AtomicUsize,
    counts: Mutex<Counts>,
    recording: bool,
}

impl Ledger {
    pub(super) fn new(recording: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                entries: Mutex::new(Vec::new()),
                changed: watch::Sender::new(0),
                begun: AtomicUsize::new(0),
                ended: AtomicUsize::new(0),
                counts: Mutex::new(Counts::default()),
                recording,
            }),
        }
    }

    /// A copy of every entry, in the order in which the requests began.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.entries.lock().clone()
    }

    /// What proxies asked on their own account.
    #[must_use]
    pub fn own_account(&self) -> Vec<Entry> {
        self.shared.entries.lock().iter().filter(|entry| entry.is_own_account()).cloned().collect()
    }

    /// The entries that satisfy a condition, those on a proxy's own account left out.
    #[must_use]
    pub fn find(&self, condition: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let wanted = |entry: &&Entry| !entry.is_own_account() && condition(entry);
        self.shared.entries.lock().iter().filter(wanted).cloned().collect()
    }

    /// The entries for a path, without its query.
    #[must_use]
    pub fn by_path(&self, path: &str) -> Vec<Entry> {
        self.find(|entry| entry.path.split('?').next() == Some(path))
    }

    /// The entries for a model, in any spelling of its name.
    #[must_use]
    pub fn by_model(&self, model: &str) -> Vec<Entry> {
        let wanted = super::model::canonical_name(model);
        self.find(|entry| entry.model.as_deref().is_some_and(|name| super::model::canonical_name(name) == wanted))
    }

    /// Requests begun, ever.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.begun.load(Ordering::Acquire)
    }

    /// Requests begun and not yet ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let ended = self.shared.ended.load(Ordering::Acquire);
        self.count().saturating_sub(ended)
    }

    /// Loads and unloads so far; they are counted whether or not the host records.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.shared.counts.lock()
    }

    /// Requests for inference begun (not probes, lists or management).
    #[must_use]
    pub fn inference(&self) -> Vec<Entry> {
        self.find(|entry| super::faults::is_inference(entry.path.split('?').next().unwrap_or("")))
    }

    /// Each `X-Request-Id` that began more than once, and how often.
    #[must_use]
    pub fn duplicates(&self) -> Vec<(String, usize)> {
        duplicates(&self.entries())
    }

    /// Waits until a condition on this ledger holds; it is asked again at every change.
    ///
    /// # Errors
    /// When it does not hold within the limit.
    pub async fn wait_until(&self, limit: Duration, condition: impl Fn(&Ledger) -> bool) -> Result<(), WaitTimeout> {
        let mut changed = self.shared.changed.subscribe();
        let met = tokio::time::timeout(limit, async {
            loop {
                changed.borrow_and_update();
                if condition(self) {
                    return;
                }
                // The sender lives in self and cannot go away meanwhile.
                let _ = changed.changed().await;
            }
        });
        met.await.map_err(|_| WaitTimeout { limit, entries: self.summary() })
    }

    fn summary(&self) -> Vec<String> {
        let describe = |entry: &Entry| {
            let model = entry.model.as_deref().unwrap_or("-");
            let state = entry.outcome().map_or("in flight".to_owned(), |end| format!("{end:?}"));
            format!("{} {} {model} → {state}, {} tokens", entry.method, entry.path, entry.tokens)
        };
        self.shared.entries.lock().iter().map(describe).collect()
    }

    /// Counts something that happened to the memory.
    pub(super) fn count_memory(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.shared.counts.lock());
        self.bump();
    }

    pub(super) fn is_recording(&self) -> bool {
        self.shared.recording
    }

    /// Begins an entry; its index is filled in here.
    pub(super) fn begin(&self, control: Arc<Control>, entry: impl FnOnce() -> Entry) -> Record {
        let index = if self.shared.recording {
            let mut entries = self.shared.entries.lock();
            let index = entries.len();
            entries.push(Entry { index, ..entry() });
            Some(index)
        } else {
            None
        };
        self.shared.begun.fetch_add(1, Ordering::AcqRel);
        self.bump();
        Record { mark: Mark { ledger: self.clone(), index }, control, finished: false }
    }

    fn bump(&self) {
        self.shared.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// Each request id that occurs more than once, and how often.
pub(super) fn duplicates(entries: &[Entry]) -> Vec<(String, usize)> {
    let mut counts = BTreeMap::<&str, usize>::new();
    for id in entries.iter().filter_map(|entry| entry.request_id.as_deref()) {
        *counts.entry(id).or_default() += 1;
    }
    counts.into_iter().filter(|(_, count)| *count > 1).map(|(id, count)| (id.to_owned(), count)).collect()
}

/// Writes to one entry, without owning its end.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    ledger: Ledger,
    index: Option<usize>,
}

impl Mark {
    pub(super) fn update(&self, change: impl FnOnce(&mut Entry)) {
        let Some(index) = self.index else { return };
        if let Some(entry) = self.ledger.shared.entries.lock().get_mut(index) {
            change(entry);
        }
        self.ledger.bump();
    }

    pub(super) fn slot(&self) {
        let at = clock::now();
        self.update(|entry| entry.slot_at = Some(at));
    }

    pub(super) fn token(&self) {
        self.tokens(1);
    }

    pub(super) fn tokens(&self, count: usize) {
        self.update(|entry| entry.tokens += count);
    }
}

/// Owns the end of one entry.
#[derive(Debug)]
pub(super) struct Record {
    mark: Mark,
    control: Arc<Control>,
    finished: bool,
}

impl Record {
    pub(super) fn mark(&self) -> Mark {
        self.mark.clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Entry)) {
        self.mark.update(change);
    }

    pub(super) fn finish(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.mark.ledger.shared.ended.fetch_add(1, Ordering::AcqRel);
        if self.mark.index.is_some() {
            let at = clock::now();
            self.mark.update(|entry| entry.finished = Some(Finished { outcome, at }));
        } else {
            self.mark.ledger.bump();
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let cut = self.control.is_ending();
        self.finish(if cut { Outcome::Fault } else { Outcome::ClientGone });
    }
}
