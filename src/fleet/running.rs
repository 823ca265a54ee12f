//! Which requests run on a server: for operators, who see which ones a drain waits for.
//!
//! One register a server, behind a lock of its own that is held for a few instructions when an attempt begins and
//! when it ends. A request writes its phase without the lock. Nothing of what a request says is kept but its id and
//! its model.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;

use super::server::ServerState;
use crate::clock;

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// A connection is being opened.
    Connecting,
    /// The request is on its way, or the server works on it; nothing of the answer has come.
    Waiting,
    /// The answer comes.
    Answering,
}

impl Phase {
    /// The word for the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Answering => "answering",
        }
    }
}

/// A request that runs on a server.
#[derive(Debug)]
pub struct Request {
    /// Its id, where it has one.
    pub id: Option<HeaderValue>,
    /// Its model by the canonical name, where it has one.
    pub model: Option<String>,
    /// When this attempt began.
    pub since: Instant,
    phase: AtomicU8,
}

impl Request {
    /// A request that begins.
    pub fn new(id: Option<HeaderValue>, model: Option<String>, since: Instant) -> Self {
        Self { id, model, since, phase: AtomicU8::new(Phase::Connecting as u8) }
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Connecting,
            1 => Phase::Waiting,
            _ => Phase::Answering,
        }
    }
}

/// The requests that run on one server.
#[derive(Default)]
pub struct Register {
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    places: Vec<Option<Arc<Request>>>,
    free: Vec<usize>,
    /// When one last began or ended.
    last: Option<Instant>,
}

impl Register {
    /// Those that run now, in no order.
    pub fn requests(&self) -> Vec<Arc<Request>> {
        self.list.lock().places.iter().flatten().cloned().collect()
    }

    /// How long none has run, begun or ended; `None` when none ever did.
    pub fn quiet_for(&self, now: Instant) -> Option<Duration> {
        let list = self.list.lock();
        let runs = list.free.len() < list.places.len();
        list.last.map(|last| if runs { Duration::ZERO } else { now.saturating_duration_since(last) })
    }

    fn enter(&self, request: Arc<Request>) -> usize {
        let mut list = self.list.lock();
        list.last = Some(request.since);
        let place = list.free.pop().unwrap_or_else(|| {
            list.places.push(None);
            list.places.len() - 1
        });
        list.places[place] = Some(request);
        place
    }

    fn leave(&self, place: usize, now: Instant) {
        let mut list = self.list.lock();
        list.last = Some(now);
        list.places[place] = None;
        list.free.push(place);
    }
}

/// A request's place in the register of its server; given up when dropped, whatever happens.
pub struct Entry {
    server: Arc<ServerState>,
    request: Arc<Request>,
    place: usize,
}

impl Entry {
    /// Enters a request into the register of its server.
    pub fn new(server: &Arc<ServerState>, request: Request) -> Self {
        let request = Arc::new(request);
        let place = server.requests.enter(Arc::clone(&request));
        Self { server: Arc::clone(server), request, place }
    }

    /// Notes how far the request is.
    pub fn reached(&self, phase: Phase) {
        self.request.phase.store(phase as u8, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.server.requests.leave(self.place, clock::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(model: &str, since: Instant) -> Arc<Request> {
        Arc::new(Request::new(None, Some(model.to_owned()), since))
    }

    #[test]
    fn places_are_used_again_and_only_what_runs_is_listed() {
        let (register, now) = (Register::default(), clock::now());
        let places: Vec<usize> = (0..3).map(|number| register.enter(request(&number.to_string(), now))).collect();
        register.leave(places[1], now);
        assert_eq!(register.enter(request("3", now)), places[1]);
        let mut models: Vec<_> = register.requests().iter().filter_map(|one| one.model.clone()).collect();
        models.sort();
        assert_eq!(models, ["0", "2", "3"]);
        places.into_iter().for_each(|place| register.leave(place, now));
        assert!(register.requests().is_empty());
    }

    #[test]
    fn a_server_is_quiet_from_its_last_end_on() {
        let (register, now) = (Register::default(), clock::now());
        assert_eq!(register.quiet_for(now), None);
        let place = register.enter(request("m", now));
        assert_eq!(register.quiet_for(now + Duration::from_mins(5)), Some(Duration::ZERO), "it runs");
        register.leave(place, now + Duration::from_mins(5));
        assert_eq!(register.quiet_for(now + Duration::from_mins(6)), Some(Duration::from_mins(1)));
    }
}
