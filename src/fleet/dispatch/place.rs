//! A place on a server, and a request that waits for one. Both are given back when they are dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Dispatcher, Turned};
use crate::fleet::permit::Permit;
use crate::fleet::server::{ServerState, Slot};
use crate::ollama::usage::Usage as Told;
use crate::policy::schedule::{Ticket, Usage};

/// A place among the requests that run on a server.
pub struct Place {
    /// The server.
    pub server: Arc<ServerState>,
    /// What its circuits want to be told about.
    pub permit: Option<Permit>,
    pub(super) slot: Option<Slot>,
    pub(super) ticket: Ticket,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) settled: bool,
}

/// A request in the queue; leaves it when dropped.
pub struct Waiting {
    /// Tells the place.
    pub turn: oneshot::Receiver<Turned>,
    pub(super) ticket: Ticket,
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.dispatcher.event(|scheduler, _| scheduler.leave(ticket));
        drop(self.dispatcher.inner.lock().waiting.remove(&ticket));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end(&Usage::default());
    }
}

impl Place {
    /// The slot, for whoever holds this place.
    pub fn take_slot(&mut self) -> Option<Slot> {
        self.slot.take()
    }

    /// The answer has begun.
    pub fn first_byte(&self) {
        self.dispatcher.event(|scheduler, moment| scheduler.first_byte(self.ticket, moment));
    }

    /// The server said that it is busy with other requests for this model.
    pub fn busy(&self) {
        self.dispatcher.event(|scheduler, moment| scheduler.busy(self.ticket, moment.now));
    }

    /// The request is over: the place is free, and what its answer said is learned.
    pub fn settle(&mut self, told: &Told, good: bool) {
        let seconds = |duration: Option<Duration>| duration.map_or(0.0, |duration| duration.as_secs_f64());
        let count = |count: Option<u64>| count.map_or(0.0, |count| count as f64);
        self.end(&Usage {
            good,
            total: seconds(told.total_duration),
            load: seconds(told.load_duration),
            prompt_tokens: count(told.prompt_eval_count),
            prompt: seconds(told.prompt_eval_duration),
            output_tokens: count(told.eval_count),
            output: seconds(told.eval_duration),
        });
    }

    fn end(&mut self, usage: &Usage) {
        if !std::mem::replace(&mut self.settled, true) {
            drop(self.slot.take());
            self.dispatcher.event(|scheduler, moment| scheduler.finished(self.ticket, usage, moment));
        }
    }
}
