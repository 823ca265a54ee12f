//! The current snapshot, and the servers that outlive snapshots.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::body_budget::BodyBudget;
use super::process::ProcessState;
use super::server::{Identity, ServerState};
use super::snapshot::{Snapshot, Upstream};
use crate::clock;

/// Holds what runs.
pub struct Store {
    current: ArcSwap<Snapshot>,
    /// Tells the probes that another snapshot is in force.
    changed: watch::Sender<u64>,
    /// Bytes of bodies that may be held.
    pub body_budget: Arc<BodyBudget>,
    /// What is known of our own process.
    pub process: ProcessState,
    publishing: Mutex<()>,
}

impl Store {
    /// Begins with a first snapshot.
    pub fn new(first: Snapshot, body_budget: Arc<BodyBudget>) -> Self {
        hand_down(&first);
        for upstream in first.upstreams.iter().filter(|upstream| upstream.has_models()) {
            upstream.dispatcher.configure(upstream);
        }
        Self {
            current: ArcSwap::from_pointee(first),
            changed: watch::Sender::new(0),
            body_budget,
            process: ProcessState::new(clock::now()),
            publishing: Mutex::new(()),
        }
    }

    /// The snapshot in force, for a short look.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The snapshot in force, to keep.
    pub fn pin(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts a new snapshot in force: one swap, seen by every request that begins from now on.
    /// What must outlive a snapshot is handed on to it.
    pub fn publish(&self, mut next: Snapshot) {
        let publishing = self.publishing.lock();
        next.keep_tls(&self.load());
        for listener in &next.listeners {
            listener.connections.set_limits(listener.connection_limits);
        }
        hand_down(&next);
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        for upstream in next.upstreams.iter().filter(|upstream| upstream.has_models()) {
            upstream.dispatcher.configure(upstream);
        }
        self.changed.send_modify(|generation| *generation += 1);
        drop(publishing);
    }

    /// Wakes whenever another snapshot is in force.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The servers of the snapshot in force by identity, to be kept by the next one.
    pub fn servers(&self) -> HashMap<Identity, Arc<ServerState>> {
        self.load()
            .upstreams
            .iter()
            .flat_map(|upstream| &upstream.servers)
            .map(|member| (member.state.identity.clone(), Arc::clone(&member.state)))
            .collect()
    }

    /// The upstream in force that a server belongs to.
    pub fn upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        self.load().upstreams.iter().find(|upstream| upstream.name == name).cloned()
    }
}

/// Gives what outlives snapshots the numbers of this one.
fn hand_down(snapshot: &Snapshot) {
    for embeddings in snapshot.routes.iter().filter_map(|route| route.embeddings.as_ref()) {
        embeddings.store.set_max(embeddings.max_size);
    }
    for cache in snapshot.routes.iter().filter_map(|route| route.cache.as_ref()) {
        cache.store.set_max(cache.max_size, cache.max_object);
        cache.store.set_share(cache.share.clone());
    }
    for upstream in &snapshot.upstreams {
        upstream.state.bans.set_rule(upstream.ban_rule);
        if upstream.quarantine.is_zero() {
            upstream.state.poison.clear();
        }
        for member in &upstream.servers {
            member.state.set_policies(upstream.health.clone(), &upstream.circuit);
            member.state.gpu.set_plan(member.gpu.as_ref(), clock::now());
            member.state.set_reach(member.reach.clone());
        }
    }
}
