//! What operators order about models, on one server or on many, and how far each server is.
//!
//! # Problem
//! A pull of forty gigabytes takes an hour and runs on six servers that share a disk and a line to the registry. Whoever
//! ordered it wants to see how far each is, and to call it off; whoever orders the same once more should not begin it
//! again; and no answer of the admin listener can wait that long.
//!
//! # States
//! ```text
//!              its turn comes                ┌──▶ done
//!   waiting ──────────────────────▶ running ─┼──▶ failed
//!      │                               │     │
//!      └──────────▶ cancelled ◀────────┘            skipped (from the beginning: down, draining, ...)
//! ```
//! One for each server of a job; a job is over when all of its servers are.
//!
//! # Invariants
//! - On a server nothing happens to a model twice at a time. The same order once more takes the outcome of the first.
//! - Jobs that run and jobs that are remembered are bounded ([`book`]).
//! - A job keeps no server alive: it knows servers by [`Identity`](super::server::Identity).
//! - Jobs end with the process.
//!
//! The probes carry jobs out, the admin listener gives and shows them; they meet in [`Jobs`].

pub mod book;
pub mod guard;
pub mod words;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use book::{Book, Full};
use words::{Job, JobId, Order, Progress, Task, TaskId};

/// The jobs of the process.
#[derive(Debug)]
pub struct Jobs {
    inner: Mutex<Inner>,
    stirred: Notify,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    book: Book,
    running: HashMap<TaskId, CancellationToken>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { inner: Mutex::default(), stirred: Notify::new(), changes: watch::Sender::new(0) }
    }
}

impl Jobs {
    /// Takes an order.
    ///
    /// # Errors
    /// When there are too many jobs already.
    pub fn add(&self, order: Order, now: Instant) -> Result<JobId, Full> {
        let id = self.inner.lock().book.add(order, now)?;
        self.changed();
        Ok(id)
    }

    /// Cancels a job; what runs of it is ended. Whether there is such a job.
    pub fn cancel(&self, id: JobId, now: Instant) -> bool {
        let known = {
            let mut inner = self.inner.lock();
            let ran = inner.book.cancel(id, now);
            for task in ran.iter().flatten() {
                if let Some(token) = inner.running.get(task) {
                    token.cancel();
                }
            }
            ran.is_some()
        };
        self.changed();
        known
    }

    /// A job as it is now.
    pub fn get(&self, id: JobId) -> Option<Job> {
        self.inner.lock().book.get(id).cloned()
    }

    /// All jobs that are known, the latest first.
    pub fn list(&self) -> Vec<Job> {
        self.inner.lock().book.jobs().rev().cloned().collect()
    }

    /// Wakes whenever a job changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The next work, for the one who carries it out; waits until there is some.
    pub async fn next(self: &Arc<Self>) -> Running {
        loop {
            if let Some(running) = self.begin() {
                return running;
            }
            self.stirred.notified().await;
        }
    }

    fn begin(self: &Arc<Self>) -> Option<Running> {
        let cancelled = CancellationToken::new();
        let task = {
            let mut inner = self.inner.lock();
            let task = inner.book.begin(clock::now())?;
            inner.running.insert(task.id, cancelled.clone());
            task
        };
        self.changed();
        let outcome = Err("it was given up".to_owned());
        Some(Running { task, cancelled, jobs: Arc::clone(self), outcome })
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
        self.stirred.notify_one();
    }
}

/// Work that is carried out. Its end is noted when it is dropped, whatever became of its task.
pub struct Running {
    /// What is to be done.
    pub task: Task,
    /// Says that it is not wanted any more.
    pub cancelled: CancellationToken,
    jobs: Arc<Jobs>,
    outcome: Result<Option<Duration>, String>,
}

impl Running {
    /// Notes how far it is.
    pub fn progress(&self, progress: &Progress) {
        self.jobs.inner.lock().book.progress(self.task.id, progress, clock::now());
        self.jobs.changed();
    }

    /// It is over: how long a load took, where it was one; or why it did not work.
    pub fn ends(mut self, outcome: Result<Option<Duration>, String>) {
        self.outcome = outcome;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(None));
        {
            let mut inner = self.jobs.inner.lock();
            inner.running.remove(&self.task.id);
            inner.book.finish(self.task.id, outcome, clock::now());
        }
        self.jobs.changed();
    }
}
