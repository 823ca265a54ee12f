//! What a view that is made each second shows of a scheduler: a part of what there is, for little time under its lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Dispatcher, id_of};
use crate::clock;
use crate::fleet::explain::{Explanation, explain};
use crate::fleet::server::ServerState;
use crate::policy::schedule::Scheduler;

impl Dispatcher {
    /// Looks at the scheduler.
    pub fn look<T>(&self, look: impl FnOnce(&Scheduler) -> T) -> T {
        look(&self.inner.lock().scheduler)
    }

    /// Models on their way into the memory of a server, and how many requests may run on it as far as that is known.
    pub fn figures(&self, server: &Arc<ServerState>) -> (usize, Option<u32>) {
        let inner = self.inner.lock();
        let Some(server) = id_of(&inner.servers, server) else { return (0, None) };
        (inner.scheduler.loading_on(server), inner.scheduler.known_slots(server))
    }

    /// The last choices, the latest first.
    pub fn decisions(&self) -> Vec<Explanation> {
        self.last_decisions(usize::MAX)
    }

    /// The last choices, the latest first, at most so many.
    pub fn last_decisions(&self, most: usize) -> Vec<Explanation> {
        let now = self.seconds();
        self.look(|scheduler| {
            scheduler.decisions().iter().take(most).map(|decision| explain(scheduler, decision, now)).collect()
        })
    }

    /// The choices after a moment of the scheduler's own time, the oldest first and `most` at most, and the moment of the
    /// last one.
    pub fn decisions_after(&self, moment: f64, most: usize) -> (Vec<Explanation>, f64) {
        let now = self.seconds();
        self.look(|scheduler| {
            let last = scheduler.decisions().last().map_or(moment, |decision| decision.at);
            let fresh = scheduler.decisions().iter().take_while(|decision| decision.at > moment).take(most);
            let mut told: Vec<_> = fresh.map(|decision| explain(scheduler, decision, now)).collect();
            told.reverse();
            (told, last.max(moment))
        })
    }

    /// The models for which requests wait to be scheduled, and how long the oldest of each has waited.
    pub fn longest_waits(&self) -> HashMap<String, Duration> {
        let now = self.seconds();
        let waited = |since: f64| Duration::from_secs_f64((now - since).max(0.0));
        self.look(|scheduler| scheduler.oldest().map(|(model, since)| (model.to_owned(), waited(since))).collect())
    }

    fn seconds(&self) -> f64 {
        (clock::now() - self.epoch).as_secs_f64()
    }
}
