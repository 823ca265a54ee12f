//! What Arriero knows about an upstream as a whole, beside any configuration: bans, retries that run, and requests that made
//! a runner crash. Kept by the upstream's name while successive snapshots have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bans::Bans;
use super::digests::Digests;
use super::recovery_action::Recovering;
use crate::policy::quarantine::{Fingerprint, Quarantine};
use crate::policy::retry_budget::RetryBudget;

/// What changes by itself about one upstream.
#[derive(Default)]
pub struct UpstreamState {
    /// Servers and models that are kept apart.
    pub bans: Arc<Bans>,
    /// Requests on a second attempt.
    pub retries: Retries,
    /// Requests that are tried at no server.
    pub poison: Poison,
    /// For which bytes the names of models stand, as far as somebody asked.
    pub digests: Arc<Digests>,
    /// Whether the recovery action of one of its servers is under way.
    pub recovering: Recovering,
    /// Milliseconds since 1970 when it was last told that its queue is full.
    full_told: AtomicU64,
}

impl UpstreamState {
    /// Whether it is to be told that a queue is full: once a second at most, however many are refused.
    pub fn tells_that_it_is_full(&self, since_1970: Duration) -> bool {
        let now = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let told = self.full_told.load(Ordering::Relaxed);
        // A clock that is set back must not silence it.
        now.abs_diff(told) >= 1000
            && self.full_told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The requests of an upstream that are on a second attempt.
#[derive(Default)]
pub struct Retries {
    /// All requests, ever.
    requests: AtomicU64,
    running: AtomicU64,
    budget: Mutex<RetryBudget>,
}

impl Retries {
    /// A request begins.
    pub fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered 503 because nobody had room.
    pub fn shed(&self, now: Instant) {
        self.budget.lock().shed(self.requests.load(Ordering::Relaxed), now);
    }

    /// Whether another request may be tried again while `active` run.
    pub fn has_room(&self, active: u64, now: Instant) -> bool {
        let (running, requests) = (self.running.load(Ordering::Relaxed), self.requests.load(Ordering::Relaxed));
        self.budget.lock().allows(active, running, requests, now)
    }

    /// Requests on a second attempt now.
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }
}

/// A request on a second attempt; it counts until this is dropped.
pub struct Retrying(Arc<UpstreamState>);

impl Retrying {
    /// Counts one more.
    pub fn begin(upstream: &Arc<UpstreamState>) -> Self {
        upstream.retries.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(upstream))
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The requests that made a runner crash.
#[derive(Default)]
pub struct Poison {
    /// How many are remembered: what the hot path reads.
    known: AtomicUsize,
    quarantine: Mutex<Quarantine>,
}

impl Poison {
    /// Whether any request is remembered.
    pub fn is_empty(&self) -> bool {
        self.known.load(Ordering::Relaxed) == 0
    }

    /// A request made a runner crash; it is remembered for `lasts`.
    pub fn add(&self, fingerprint: Fingerprint, lasts: Duration, now: Instant) {
        let mut quarantine = self.quarantine.lock();
        quarantine.add(fingerprint, lasts, now);
        self.known.store(quarantine.len(), Ordering::Relaxed);
    }

    /// Whether a request may not be tried.
    pub fn holds(&self, fingerprint: Fingerprint, now: Instant) -> bool {
        let mut quarantine = self.quarantine.lock();
        quarantine.forget(now);
        self.known.store(quarantine.len(), Ordering::Relaxed);
        quarantine.holds(fingerprint, now)
    }

    /// Forgets all of them, because an operator says so, or the configuration.
    pub fn clear(&self) {
        *self.quarantine.lock() = Quarantine::default();
        self.known.store(0, Ordering::Relaxed);
    }

    /// How many are remembered.
    pub fn len(&self, now: Instant) -> usize {
        let mut quarantine = self.quarantine.lock();
        quarantine.forget(now);
        self.known.store(quarantine.len(), Ordering::Relaxed);
        quarantine.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_retry_counts_until_it_ends() {
        let (state, now) = (Arc::new(UpstreamState::default()), clock::now());
        let first = Retrying::begin(&state);
        assert_eq!((state.retries.running(), state.retries.has_room(5, now)), (1, false));
        assert!(state.retries.has_room(20, now));
        drop(first);
        assert_eq!((state.retries.running(), state.retries.has_room(5, now)), (0, true));
        state.retries.shed(now);
        assert!(!state.retries.has_room(1000, now));
    }

    #[test]
    fn a_full_queue_is_told_once_a_second() {
        let state = UpstreamState::default();
        let told = |millis| state.tells_that_it_is_full(Duration::from_millis(millis));
        assert_eq!([5000, 5001, 5999, 6000, 6001, 1000].map(told), [true, false, false, true, false, true]);
    }

    #[test]
    fn what_is_remembered_is_seen_without_a_lock() {
        let (poison, now) = (Poison::default(), clock::now());
        let print = Fingerprint::new(&std::hash::RandomState::new(), "m", "/api/chat", 7, None);
        assert!(poison.is_empty());
        poison.add(print, Duration::from_secs(10), now);
        assert!(!poison.is_empty() && poison.holds(print, now));
        assert!(!poison.holds(print, now + Duration::from_secs(10)) && poison.is_empty());
    }
}
