//! What Arriero knows about one server, beside any configuration.
//!
//! Everything is readable without waiting: counters and flags are atomics, lists are swapped whole.
//! The state machines (health, [circuits](super::circuits)) sit behind a lock of their own server, held for a few
//! instructions; no lock is shared between servers. Whether it may have a request is answered by
//! [`exclusion`](super::exclusion).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bans::Bans;
use super::circuits::Circuits;
use super::idle::IdlePool;
use super::inventory::Inventory;
use crate::policy::circuit::CircuitPolicy;
use crate::policy::health::{Change, Health, HealthPolicy};
use crate::telemetry::metrics::ServerMetrics;

/// What makes a server the same one after a reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Name of its upstream.
    pub upstream: String,
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
}

/// Where a server is.
#[derive(Clone, Debug)]
pub struct Location {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Host name or IP address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Host and port as the Host field has them.
    pub authority: HeaderValue,
}

/// What changes by itself about one server.
pub struct ServerState {
    /// What makes it the same server after a reload.
    pub identity: Identity,
    /// Where it is.
    pub location: Location,
    /// Its metrics.
    pub metrics: ServerMetrics,
    in_flight: AtomicU32,
    connections: Arc<AtomicU32>,
    /// Its idle connections.
    pub idle: IdlePool,
    /// Its circuits.
    pub circuits: Circuits,
    /// The bans of its upstream.
    pub bans: Arc<Bans>,
    /// A copy of what its health says, so that a choice among many takes no lock.
    up: AtomicBool,
    health: Mutex<Health>,
    born: Instant,
    /// Milliseconds from `born` until which it is asked last.
    held_back: AtomicU64,
    inventory_wanted: Notify,
    addresses: ArcSwap<Vec<SocketAddr>>,
    next_address: AtomicU32,
    inventory: ArcSwap<Inventory>,
}

impl ServerState {
    /// A server that nothing is known about yet.
    pub fn new(
        identity: Identity,
        location: Location,
        metrics: ServerMetrics,
        health: HealthPolicy,
        circuit: CircuitPolicy,
        bans: Arc<Bans>,
        born: Instant,
    ) -> Self {
        let literal = location.host.parse().ok().map(|ip| SocketAddr::new(ip, location.port));
        Self {
            identity,
            location,
            metrics,
            in_flight: AtomicU32::new(0),
            connections: Arc::default(),
            idle: IdlePool::default(),
            circuits: Circuits::new(circuit, born),
            bans,
            up: AtomicBool::new(true),
            health: Mutex::new(Health::new(health, born)),
            born,
            held_back: AtomicU64::new(0),
            inventory_wanted: Notify::new(),
            addresses: ArcSwap::from_pointee(literal.into_iter().collect()),
            next_address: AtomicU32::new(0),
            inventory: ArcSwap::from_pointee(Inventory::default()),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Takes the numbers of a new configuration; what was learned stays.
    pub fn set_policies(&self, health: HealthPolicy, circuit: &CircuitPolicy) {
        self.health.lock().set_policy(health);
        self.circuits.set_policy(circuit);
    }

    /// Requests running on it.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes a slot if fewer than `limit` are taken.
    pub fn take_slot(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        if self.in_flight.fetch_add(1, Ordering::Relaxed) < limit {
            Some(Slot(Arc::clone(self)))
        } else {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }

    /// Open connections to it.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The counter of open connections, for whoever opens and closes them. A connection must not keep its
    /// server alive, because the server keeps connections.
    pub fn connection_counter(&self) -> &Arc<AtomicU32> {
        &self.connections
    }

    /// Whether its probes say that it is up, or nothing yet.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Notes the verdict of a probe.
    pub fn probed(&self, good: bool, now: Instant) -> Option<Change> {
        let mut health = self.health.lock();
        let change = health.record(good, now);
        self.up.store(health.is_up(), Ordering::Relaxed);
        change
    }

    /// Has it asked last for a while: it had too much to do.
    pub fn hold_back(&self, time: Duration, now: Instant) {
        let until = now.saturating_duration_since(self.born).saturating_add(time);
        self.held_back.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it is asked last.
    pub fn is_held_back(&self, now: Instant) -> bool {
        let until = self.held_back.load(Ordering::Relaxed);
        until > 0 && now.saturating_duration_since(self.born) < Duration::from_millis(until)
    }

    /// Asks for a look at its models before the next one is due: it does not have one that it should have.
    pub fn want_inventory(&self) {
        self.inventory_wanted.notify_one();
    }

    /// Ready when somebody wants its models looked at.
    pub async fn inventory_is_wanted(&self) {
        self.inventory_wanted.notified().await;
    }

    /// The addresses of its host; another one first each time.
    pub fn address(&self) -> Option<SocketAddr> {
        let addresses = self.addresses.load();
        match addresses.as_slice() {
            [] => None,
            [only] => Some(*only),
            several => {
                let turn = self.next_address.fetch_add(1, Ordering::Relaxed) as usize;
                several.get(turn % several.len()).copied()
            }
        }
    }

    /// Notes the addresses that its host name has now; returns whether they changed. An empty list
    /// is ignored: the last good one stays. Idle connections to the old ones are closed.
    pub fn resolved(&self, mut addresses: Vec<SocketAddr>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() || addresses == **self.addresses.load() {
            return false;
        }
        self.addresses.store(Arc::new(addresses));
        self.idle.clear();
        true
    }

    /// Its models.
    pub fn inventory(&self) -> Arc<Inventory> {
        self.inventory.load_full()
    }

    /// Notes its models.
    pub fn learned(&self, inventory: Inventory) {
        self.inventory.store(Arc::new(inventory));
    }
}

/// A place among the requests that run on a server; free again when dropped, whatever happens.
pub struct Slot(Arc<ServerState>);

impl Slot {
    /// The server that it is on.
    pub fn server(&self) -> &Arc<ServerState> {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
