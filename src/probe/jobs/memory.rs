//! Brings models into memory and takes them out, by order of an operator.
//!
//! Where requests are scheduled the scheduler does it, with its one load at a time and its rules. Elsewhere there is none,
//! and the load is a request like a client's: it takes a slot, and Ollama decides who makes room.

use std::time::Duration;

use super::{Outcome, Place};
use crate::clock;
use crate::fleet::jobs::guard;
use crate::fleet::server::Slot;
use crate::policy::queue::Class;
use crate::policy::schedule::{Eviction, RunnerOptions};
use crate::probe::{inventory, loads};

/// How long a model may take to leave the memory once the server was asked.
const LEAVES: Duration = Duration::from_secs(20);
/// Time between two looks at whether it has left.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two looks for a free slot.
const SLOT: Duration = Duration::from_millis(50);

impl Place<'_> {
    /// Brings the model into memory; tells how long the load took, where there was one.
    pub(super) async fn warm_up(&self, class: Class) -> Outcome {
        let (server, dispatcher) = (&self.target.state, &self.upstream.dispatcher);
        if self.upstream.is_scheduled() {
            let order = dispatcher.order_load(server, self.model, class).map_err(str::to_owned)?;
            let Some(mut order) = order else { return Ok(None) };
            return (&mut order.end).await.unwrap_or_else(|_| Err("the server was removed meanwhile".to_owned()));
        }
        if guard::runs_elsewhere(server, self.model) {
            return Err("the model runs elsewhere and is never in memory there".to_owned());
        }
        if !server.inventory().has(self.model) {
            return Err("the server does not have the model".to_owned());
        }
        if self.is_in_memory().await {
            return Ok(None);
        }
        let _slot = self.slot().await?;
        let began = clock::now();
        let way = self.target.way(Some(self.upstream));
        let result = loads::load(way, self.model, RunnerOptions::default()).await;
        self.target.metrics.model_changed(&self.upstream.name, "load", result.is_ok());
        let took = clock::now() - began;
        result.inspect(|()| self.target.state.metrics.loaded(took)).map(|()| Some(took))
    }

    /// Whether the server says that the model is in memory this moment.
    pub(super) async fn is_in_memory(&self) -> bool {
        let loaded = inventory::loaded(self.target.way(Some(self.upstream))).await;
        loaded.is_ok_and(|rows| rows.iter().any(|row| row.name.as_str() == self.model))
    }

    /// A slot on the server, once one is free.
    async fn slot(&self) -> Result<Slot, String> {
        let server = &self.target.state;
        let most = self.upstream.servers.iter().find(|member| std::ptr::eq(&*member.state, &**server));
        let most = most.map_or(u32::MAX, |member| member.max_in_flight);
        loop {
            let slot = server.take_slot(most);
            // Asked after the slot is taken, as for a request.
            if let Some(why) = server.exclusion(Some(self.model), clock::now()) {
                return Err(why.as_str().to_owned());
            }
            if let Some(slot) = slot {
                return Ok(slot);
            }
            tokio::time::sleep(SLOT).await;
        }
    }

    /// Takes the model out of memory, and waits until it has left.
    pub(super) async fn unload(&self, force: bool) -> Outcome {
        let (server, way) = (&self.target.state, self.target.way(Some(self.upstream)));
        if !server.is_up() {
            return Err("down".to_owned());
        }
        if self.upstream.is_scheduled() {
            let outcome = self.upstream.dispatcher.order_unload(server, self.model, force).map_err(str::to_owned)?;
            outcome.await.unwrap_or_else(|_| Err("the process is stopping".to_owned()))?;
        } else {
            if let Some(why) = guard::in_use(self.upstream, server, self.model).filter(|_| !force) {
                return Err(why.to_owned());
            }
            self.upstream.dispatcher.will_leave(server, self.model);
            let result = loads::unload(way, self.model).await;
            self.target.metrics.model_changed(&self.upstream.name, "unload", result.is_ok());
            result?;
            server.metrics.evicted(Eviction::Operator);
        }
        let until = clock::now() + LEAVES;
        loop {
            let loaded = inventory::loaded(way).await.map_err(|fault| fault.text)?;
            if !loaded.iter().any(|row| row.name.as_str() == self.model) {
                return Ok(None);
            }
            if clock::now() >= until {
                return Err(format!("it is still in memory after {LEAVES:?}: requests may be using it"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
