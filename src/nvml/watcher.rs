//! A thread that asks the driver again and again, and is all that ever waits for it.
//!
//! | the thread | what is seen |
//! |---|---|
//! | opens the library, for the first time | `silent`, then what it came to |
//! | has read | the reading, and how old it is |
//! | has been in one step for longer than its limit | `hangs`, until it comes back |
//! | found no driver | `driver_down`, or `silent` where that is not the driver's fault; it tries again |
//!
//! A step is one round of calls about one card, or one wait. The thread notes when it begins each; nobody needs it to see that
//! it is late.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::events::{Events, Heard, Xids};
use super::{Absent, Identity, Nvml};
use crate::clock;
use crate::policy::gpu::reading::{CardFault, Reading, Unread, Xid};

/// How long one step may take.
const STEP: Duration = Duration::from_secs(5);
/// How long opening may: it wakes cards up that nobody uses.
const OPENING: Duration = Duration::from_secs(60);
/// How long to leave the driver alone when it cannot be used.
const RETRY: Duration = Duration::from_secs(5);
/// Longest wait for events: how late the end of the watcher may be noticed.
const WAIT: Duration = Duration::from_secs(1);
/// How long to sleep when events cannot be waited for.
const DEAF: Duration = Duration::from_millis(250);
/// After this time with a card that is gone the library is opened anew: it does not see by itself that a card is back.
const LOST: Duration = Duration::from_secs(60);

/// How the driver is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From the begin of one reading to that of the next.
    pub interval: Duration,
    /// Where the library is; where the system looks for it by default.
    pub library: Option<PathBuf>,
}

impl Settings {
    /// Opens the library.
    ///
    /// # Errors
    /// As [`Nvml::open`].
    pub fn open(&self) -> Result<Nvml, Absent> {
        self.library.as_deref().map_or_else(Nvml::open, Nvml::open_at)
    }
}

/// What is known now.
#[derive(Clone, Debug)]
pub struct Look {
    /// The last reading, or why there is none.
    pub reading: Result<Arc<Reading>, Unread>,
    /// How old it is.
    pub age: Duration,
    /// When it was made, in milliseconds since 1970.
    pub at: u64,
    /// Why there is none, for people.
    pub detail: Option<Arc<str>>,
}

struct State {
    /// When the step began in which the thread is.
    since: Instant,
    /// How long it may take.
    limit: Duration,
    /// The last outcome.
    reading: Result<Arc<Reading>, Unread>,
    /// When it was.
    taken: Instant,
    /// The same in milliseconds since 1970.
    at: u64,
    detail: Option<Arc<str>>,
}

/// Asks the driver in a thread of its own until it is dropped.
pub struct Watcher {
    state: Arc<Mutex<State>>,
    /// The thread ends when this is gone. Nobody waits for that: it may be stuck.
    _ends: Sender<()>,
}

impl Watcher {
    /// Begins.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let (keeps, ends) = channel();
        let now = clock::now();
        let state = Arc::new(Mutex::new(State {
            since: now,
            limit: OPENING,
            reading: Err(Unread::Silent),
            taken: now,
            at: milliseconds(),
            detail: Some("the driver is asked for the first time".into()),
        }));
        let publisher = Publisher { state: Arc::clone(&state) };
        std::thread::Builder::new().name("gpu".to_owned()).spawn(move || run(&settings, &publisher, &ends))?;
        Ok(Self { state, _ends: keeps })
    }

    /// What is known at `now`. Never waits for the driver.
    #[must_use]
    pub fn look(&self, now: Instant) -> Look {
        let state = self.state.lock();
        let age = now.saturating_duration_since(state.taken);
        let late = now.saturating_duration_since(state.since);
        if late > state.limit {
            let detail = format!("the driver has not answered for {} s", late.as_secs());
            return Look { reading: Err(Unread::Hangs), age, at: state.at, detail: Some(detail.into()) };
        }
        Look { reading: state.reading.clone(), age, at: state.at, detail: state.detail.clone() }
    }
}

fn milliseconds() -> u64 {
    u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX)
}

/// The thread's side of what is known.
struct Publisher {
    state: Arc<Mutex<State>>,
}

impl Publisher {
    /// A step begins.
    fn step(&self, limit: Duration) {
        let mut state = self.state.lock();
        (state.since, state.limit) = (clock::now(), limit);
    }

    fn publish(&self, reading: Result<Reading, Unread>, detail: Option<String>) {
        let mut state = self.state.lock();
        if let Some(text) = &detail
            && state.detail.as_deref() != Some(text.as_str())
        {
            tracing::warn!("{text}");
        }
        if state.reading.is_err() && reading.is_ok() {
            tracing::info!("the driver answers");
        }
        (state.reading, state.detail) = (reading.map(Arc::new), detail.map(Arc::from));
        (state.taken, state.at) = (clock::now(), milliseconds());
    }
}

/// Why the thread leaves the library.
enum Left {
    /// Nobody looks any more.
    Ended,
    /// It is to be opened again, at once or after a while.
    Reopen { at_once: bool, known: Vec<Option<Identity>> },
}

fn run(settings: &Settings, publisher: &Publisher, ends: &Receiver<()>) {
    crate::threads::come_behind_requests();
    let mut xids = Xids::default();
    let mut known = Vec::new();
    loop {
        publisher.step(OPENING);
        let at_once = match settings.open() {
            Ok(mut nvml) => {
                nvml.remember(std::mem::take(&mut known));
                match watch(nvml, settings.interval, publisher, &mut xids, ends) {
                    Left::Ended => return,
                    Left::Reopen { at_once, known: before } => {
                        known = before;
                        at_once
                    }
                }
            }
            Err(absent) => {
                publisher.publish(Err(absent.unread()), Some(absent.to_string()));
                false
            }
        };
        publisher.step(RETRY + STEP);
        if !at_once && ended(ends, RETRY) {
            return;
        }
    }
}

/// Sleeps; true when nobody looks any more.
fn ended(ends: &Receiver<()>, time: Duration) -> bool {
    ends.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
}

fn watch(mut nvml: Nvml, interval: Duration, publisher: &Publisher, xids: &mut Xids, ends: &Receiver<()>) -> Left {
    let library = Arc::clone(&nvml.library);
    let events = Events::open(&library);
    let mut lost_since = None;
    loop {
        let begun = clock::now();
        match nvml.read_by_steps(&|| publisher.step(STEP)) {
            Ok(mut reading) => {
                xids.fill(&mut reading.cards, milliseconds());
                let is_lost = reading.cards.iter().any(|card| card.fault == Some(CardFault::Lost));
                lost_since = is_lost.then(|| lost_since.unwrap_or(begun));
                publisher.publish(Ok(reading), None);
            }
            Err(unread) => {
                let detail = "NVIDIA's driver has stopped answering: `nvidia-smi` and `dmesg` may say why";
                publisher.publish(Err(unread), Some(detail.to_owned()));
                return Left::Reopen { at_once: false, known: nvml.known };
            }
        }
        if lost_since.is_some_and(|since| begun.saturating_duration_since(since) > LOST) {
            return Left::Reopen { at_once: true, known: nvml.known };
        }
        if listen(&events, begun + interval, publisher, xids, ends) {
            return Left::Ended;
        }
    }
}

/// Takes errors as they come until it is time for the next reading; true when nobody looks any more.
fn listen(events: &Events<'_>, until: Instant, publisher: &Publisher, xids: &mut Xids, ends: &Receiver<()>) -> bool {
    loop {
        let begun = clock::now();
        let limit = until.saturating_duration_since(begun).min(WAIT);
        publisher.step(STEP);
        // Also when there is no time left: errors that have come are not to wait for the next round.
        let rest = match events.wait(limit) {
            Heard::Xid { card, code } => {
                let at = milliseconds();
                tracing::warn!(xid = code, card, "the driver tells an error of a card");
                xids.add(card, Xid { code, at });
                Duration::ZERO
            }
            // An interrupt ends a wait early; a library that never waits is not to be asked all the time.
            Heard::Nothing => limit.saturating_sub(clock::now().saturating_duration_since(begun)).min(DEAF),
            Heard::Deaf => limit.min(DEAF),
        };
        if ended(ends, rest) {
            return true;
        }
        if clock::now() >= until {
            return false;
        }
    }
}
