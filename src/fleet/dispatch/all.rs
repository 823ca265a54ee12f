//! The dispatchers of all upstreams, and what is the same for all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Command, Dispatcher};

/// The dispatchers of all upstreams by name; they outlive configurations.
#[derive(Debug)]
pub struct Dispatchers {
    known: Mutex<HashMap<String, Arc<Dispatcher>>>,
    commands: mpsc::UnboundedSender<Command>,
    orders: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
    epoch: Instant,
    /// Whether this instance follows the rules for models, where another one of the cluster may.
    leads: AtomicBool,
}

impl Dispatchers {
    /// None yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let (commands, orders) = mpsc::unbounded_channel();
        let leads = AtomicBool::new(true);
        Self { known: Mutex::default(), commands, orders: Mutex::new(Some(orders)), epoch: now, leads }
    }

    /// The dispatcher of an upstream.
    pub fn of(&self, upstream: &str) -> Arc<Dispatcher> {
        let mut known = self.known.lock();
        let new = || Arc::new(Dispatcher::new(upstream, self.commands.clone(), self.epoch));
        let dispatcher = Arc::clone(known.entry(upstream.to_owned()).or_insert_with(new));
        dispatcher.lead(self.leads.load(Ordering::Relaxed));
        dispatcher
    }

    /// All that were ever needed.
    pub fn all(&self) -> Vec<Arc<Dispatcher>> {
        self.known.lock().values().cloned().collect()
    }

    /// The orders that they give; for the one who carries them out.
    pub fn take_orders(&self) -> Option<mpsc::UnboundedReceiver<Command>> {
        self.orders.lock().take()
    }

    /// Says whether this instance loads what is to be warm, and unloads what is idle: in a cluster one of them does.
    pub fn lead(&self, leads: bool) {
        let known = self.known.lock();
        self.leads.store(leads, Ordering::Relaxed);
        known.values().for_each(|dispatcher| dispatcher.lead(leads));
    }
}

impl Dispatcher {
    fn lead(&self, leads: bool) {
        self.inner.lock().scheduler.lead(leads);
    }
}
