//! What operators order of the scheduler: loads and unloads of models, each with its outcome.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Command, Dispatcher, id_of};
use crate::clock;
use crate::fleet::server::ServerState;
use crate::policy::queue::Class;
use crate::policy::schedule::orders::OrderEnd;
use crate::policy::schedule::residency::Residency;
use crate::policy::schedule::{Eviction, OrderId, RunnerOptions};

/// What becomes of a model on a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// It comes into memory, and how.
    Load(RunnerOptions),
    /// It leaves memory, and why.
    Unload(Eviction),
}

/// How long a load took, where it was one of ours; or why the model is not in memory.
pub type Loaded = Result<Option<Duration>, String>;

/// Those who wait for the end of a load that they ordered.
#[derive(Default)]
pub(super) struct Awaited {
    known: HashMap<OrderId, oneshot::Sender<Loaded>>,
    /// What the server said about the load that failed last.
    pub(super) why: Option<String>,
}

impl Awaited {
    /// Tells whoever waits for it how an order ended.
    pub(super) fn end(&mut self, order: OrderId, end: OrderEnd) {
        let Some(told) = self.known.remove(&order) else { return };
        let outcome = match end {
            OrderEnd::Ready(seconds) => Ok(seconds.map(Duration::from_secs_f64)),
            OrderEnd::Failed => Err(self.why.clone().unwrap_or_else(|| "the server did not load it".to_owned())),
            OrderEnd::Refused(why) => Err(why.to_owned()),
        };
        // Who ordered it may have left.
        drop(told.send(outcome));
    }
}

/// An ordered load; withdrawn when dropped. A load that has begun goes on.
pub struct Ordered {
    /// Tells the end.
    pub end: oneshot::Receiver<Loaded>,
    order: OrderId,
    dispatcher: Arc<Dispatcher>,
}

impl Drop for Ordered {
    fn drop(&mut self) {
        let mut inner = self.dispatcher.inner.lock();
        inner.scheduler.withdraw(self.order);
        inner.ordered.known.remove(&self.order);
    }
}

/// A model in memory that nobody uses.
pub struct Idle {
    /// Where.
    pub server: Arc<ServerState>,
    /// Its canonical name.
    pub model: Arc<str>,
    /// Since it was used last, or seen for the first time.
    pub time: Duration,
}

impl Dispatcher {
    /// Orders a load; `None` when the model is in memory already.
    ///
    /// # Errors
    /// Why the model may not come into memory there.
    pub fn order_load(
        self: &Arc<Self>,
        server: &Arc<ServerState>,
        model: &str,
        class: Class,
    ) -> Result<Option<Ordered>, &'static str> {
        let (told, end) = oneshot::channel();
        let order = self.event_with(|inner, moment| {
            let (Some(server), Some(model)) = (id_of(inner.servers, server), inner.scheduler.known_model(model)) else {
                return Err("the server does not have the model");
            };
            let order = inner.scheduler.order_load(server, model, class, moment)?;
            if let Some(order) = order {
                inner.ordered.known.insert(order, told);
            }
            Ok(order)
        })?;
        Ok(order.map(|order| Ordered { end, order, dispatcher: Arc::clone(self) }))
    }

    /// Orders that a model leaves the memory of a server; the outcome comes when the server has been asked.
    ///
    /// # Errors
    /// Why it stays.
    pub fn order_unload(
        self: &Arc<Self>,
        server: &Arc<ServerState>,
        model: &str,
        force: bool,
    ) -> Result<oneshot::Receiver<Result<(), String>>, &'static str> {
        let (told, outcome) = oneshot::channel();
        let id = self.event_with(|inner, moment| {
            let (Some(id), Some(known)) = (id_of(inner.servers, server), inner.scheduler.known_model(model)) else {
                return Err("the server does not have the model");
            };
            inner.scheduler.order_unload(id, known, force, moment.now).map(|()| id)
        })?;
        let command = Command {
            dispatcher: Arc::clone(self),
            server: Arc::clone(server),
            id,
            model: model.to_owned(),
            change: Change::Unload(Eviction::Operator),
            told: Some(told),
        };
        // Nobody carries orders out when the process ends.
        drop(self.commands.send(command));
        Ok(outcome)
    }

    /// Notes that a model was told to leave the memory of a server, and not by an order of this scheduler.
    pub fn will_leave(&self, server: &Arc<ServerState>, model: &str) {
        let mut inner = self.inner.lock();
        if let (Some(server), Some(model)) = (id_of(&inner.servers, server), inner.scheduler.known_model(model)) {
            inner.scheduler.will_leave(server, model);
        }
    }

    /// Whether a model is in the memory of a server or on its way there, as far as is known.
    pub fn has_in_memory(&self, server: &Arc<ServerState>, model: &str) -> bool {
        let inner = self.inner.lock();
        let (server, model) = (id_of(&inner.servers, server), inner.scheduler.known_model(model));
        server.zip(model).is_some_and(|(server, model)| inner.scheduler.residency(server, model) != Residency::Cold)
    }

    /// How long a load is expected to take: what was learned, else what such a size usually takes. `None` for a server or a
    /// model that nothing is known of.
    pub fn expected_load(&self, server: &Arc<ServerState>, model: &str) -> Option<Duration> {
        let inner = self.inner.lock();
        let (server, model) = (id_of(&inner.servers, server)?, inner.scheduler.known_model(model)?);
        Duration::try_from_secs_f64(inner.scheduler.expected_load(server, model)?).ok()
    }

    /// Models in memory that nobody has used for this long at least.
    pub fn idle(&self, least: Duration) -> Vec<Idle> {
        let now = (clock::now() - self.epoch).as_secs_f64();
        let inner = self.inner.lock();
        let idle = inner.scheduler.idle(now).filter(|(.., seconds)| *seconds >= least.as_secs_f64());
        idle.filter_map(|(server, model, seconds)| {
            Some(Idle {
                server: Arc::clone(inner.servers.get(server)?),
                model: Arc::clone(inner.models.get(model)?),
                time: Duration::try_from_secs_f64(seconds).ok()?,
            })
        })
        .collect()
    }
}
