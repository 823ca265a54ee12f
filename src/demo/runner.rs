//! One loaded model: who uses it, how long it stays, and the slot a request holds on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::keep_alive::KeepAlive;
use super::model::{DemoModel, canonical_name};
use super::prefix_cache::PrefixCache;
use super::scheduler::Scheduler;
use crate::clock;

/// A model in memory, or on its way there.
pub(super) struct Runner {
    /// Tells this load from an earlier one of the same model.
    pub(super) instance: u64,
    pub(super) model: DemoModel,
    pub(super) size_vram: u64,
    /// One permit for each parallel request; tokio's semaphore is first come, first served.
    pub(super) slots: Arc<Semaphore>,
    /// What its slots remember; used by hosts with a card.
    pub(super) cache: Arc<Mutex<PrefixCache>>,
    /// Requests that run on it or wait for a slot.
    pub(super) users: usize,
    pub(super) keep_alive: KeepAlive,
    /// Set whenever it becomes idle; not moved while it is busy, as in Ollama.
    pub(super) expires: Option<Instant>,
    pub(super) loading: bool,
    /// Chosen for eviction while busy: takes no new request and goes when it is idle.
    pub(super) leaving: bool,
    /// On its way out of memory, on a host where that takes time. Nobody uses it any more.
    pub(super) unloading: bool,
    /// Counts how often it became idle, so that an old timer cannot end a new idle time.
    pub(super) idle_times: u64,
}

impl Runner {
    pub(super) fn is(&self, model: &DemoModel) -> bool {
        canonical_name(&self.model.name) == canonical_name(&model.name)
    }

    /// Whether a request may use it now.
    pub(super) fn is_ready(&self) -> bool {
        !self.loading && !self.is_going()
    }

    /// Whether it takes no new request.
    pub(super) fn is_going(&self) -> bool {
        self.leaving || self.unloading
    }

    /// When it would be unloaded, as `/api/ps` tells it.
    pub(super) fn expires_in(&self) -> Duration {
        self.expires.map_or(self.keep_alive.length(), |at| at.saturating_duration_since(clock::now()))
    }
}

/// A reference to a runner; giving up the last one makes it idle.
pub(super) struct User {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) instance: u64,
    pub(super) slots: Arc<Semaphore>,
    pub(super) cache: Arc<Mutex<PrefixCache>>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.scheduler.leave(self.instance);
    }
}

/// A slot on a loaded model. Dropping it frees the slot at once.
pub(super) struct Lease {
    /// How long the request waited for load and slot.
    pub(super) waited: Duration,
    /// How long it waited for the load alone.
    pub(super) loaded: Duration,
    // Field order: the slot is free before the runner may become idle.
    pub(super) _slot: Option<OwnedSemaphorePermit>,
    pub(super) user: User,
}

/// One row of `/api/ps`.
pub(super) struct Row {
    pub(super) model: DemoModel,
    pub(super) size_vram: u64,
    pub(super) expires_in: Duration,
}
