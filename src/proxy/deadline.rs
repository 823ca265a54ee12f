//! The time limit that holds for a request right now, and a timer that is cheap to keep.
//!
//! Pingora has one read timeout for each attempt; we need several (first byte, gap between reads,
//! the whole request) that follow each other. So each request carries one [`Deadline`], which the
//! hooks move from phase to phase with one atomic store, and whoever reads from the client at that
//! moment watches it: Pingora always does, also while it waits for the upstream. A timer is armed
//! only when a read has to wait, stays armed over many requests and is moved only when it fires
//! early, so a busy connection touches the timer wheel about once per time limit, not per request.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::clock;

/// The moment that all stored times count from.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(clock::now)
}

fn millis(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch()).as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The time limit of one request, shared between the hooks that set it and the reader that keeps it.
#[derive(Debug, Default)]
pub struct Deadline {
    /// Milliseconds since the epoch; 0 is none.
    at: AtomicU64,
    /// The end of the whole request; 0 is none.
    total: AtomicU64,
    expired: AtomicBool,
}

impl Deadline {
    /// Forgets everything of the request before and sets the limit of the whole new one.
    pub fn begin(&self, total: Option<Instant>) {
        let total = total.map_or(0, millis);
        self.total.store(total, Ordering::Relaxed);
        self.at.store(total, Ordering::Relaxed);
        self.expired.store(false, Ordering::Relaxed);
    }

    /// Sets the limit of the phase that begins now; the limit of the whole request stays.
    pub fn phase(&self, at: Instant) {
        let total = self.total.load(Ordering::Relaxed);
        let at = millis(at);
        self.at.store(if total == 0 { at } else { at.min(total) }, Ordering::Relaxed);
    }

    /// Removes the limit of the phase.
    pub fn no_phase(&self) {
        self.at.store(self.total.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// When time is up.
    pub fn get(&self) -> Option<Instant> {
        match self.at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(epoch() + Duration::from_millis(at)),
        }
    }

    /// Whether it was the limit of the whole request that ended it.
    pub fn is_total(&self) -> bool {
        let total = self.total.load(Ordering::Relaxed);
        total != 0 && total == self.at.load(Ordering::Relaxed)
    }

    /// Remembers that time ran out.
    pub fn expire(&self) {
        self.expired.store(true, Ordering::Relaxed);
    }

    /// Whether time ran out since [`Deadline::begin`].
    pub fn is_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }
}

/// A timer that is armed late and moved rarely.
#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<(Instant, Pin<Box<tokio::time::Sleep>>)>,
}

impl LazyTimer {
    /// Ready when `deadline` has passed; otherwise the task is woken at that time or earlier.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let (armed, sleep) =
            self.sleep.get_or_insert_with(|| (deadline, Box::pin(tokio::time::sleep_until(deadline.into()))));
        if *armed > deadline {
            *armed = deadline;
            sleep.as_mut().reset(deadline.into());
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
            *armed = deadline;
            sleep.as_mut().reset(deadline.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_never_outlives_the_request() {
        let deadline = Deadline::default();
        let now = clock::now();
        deadline.begin(Some(now + Duration::from_secs(5)));
        deadline.phase(now + Duration::from_secs(60));
        assert!(deadline.is_total());
        deadline.phase(now + Duration::from_secs(1));
        assert!(!deadline.is_total());
        deadline.no_phase();
        assert!(deadline.is_total());
        deadline.begin(None);
        assert_eq!(deadline.get(), None);
    }
}
