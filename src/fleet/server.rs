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

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bans::Bans;
use super::circuits::{CircuitOrder, Circuits};
use super::events::Events;
use super::gpu::Gpu;
use super::idle::IdlePool;
use super::inventory::Inventory;
use super::operation::{Operating, Operation, Standing};
use super::recovery::Recovering;
use super::recovery_action::Acting;
use super::running::Register;
use super::waiting_room::WaitingRoom;
use crate::policy::balance::peak_ewma::PeakEwma;
use crate::policy::circuit::{CircuitPolicy, State, Transition};
use crate::policy::health::{self, Change, Health, HealthPolicy};
use crate::policy::reach::Reach;
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

/// What a server has in common with the others of its upstream.
pub struct Shared {
    /// Bans.
    pub bans: Arc<Bans>,
    /// Where requests wait for a slot.
    pub room: Arc<WaitingRoom>,
    /// Where what happens is told.
    pub events: Arc<Events>,
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
    /// Requests that have begun on it.
    begun: AtomicU32,
    connections: Arc<AtomicU32>,
    /// Its idle connections.
    pub idle: IdlePool,
    /// Where those wait that want a slot of it.
    room: Arc<WaitingRoom>,
    /// The requests that run on it.
    pub requests: Register,
    /// Its tests while it is ill.
    pub recovery: Recovering,
    /// What may make it well again.
    pub acting: Acting,
    /// Where what happens to it is told.
    pub events: Arc<Events>,
    operating: Operating,
    /// Its circuits.
    pub circuits: Circuits,
    /// How its GPUs are.
    pub gpu: Gpu,
    /// The bans of its upstream.
    pub bans: Arc<Bans>,
    /// A copy of what its health says, so that a choice among many takes no lock.
    up: AtomicBool,
    health: Mutex<Health>,
    born: Instant,
    /// Milliseconds from `born` until which it is asked last.
    held_back: AtomicU64,
    inventory_wanted: Notify,
    /// Whoever looks at its models holds this meanwhile.
    pub look_turn: tokio::sync::Mutex<()>,
    times: Mutex<PeakEwma>,
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Where it may be; anywhere by default.
    reach: ArcSwapOption<Reach>,
    next_address: AtomicU32,
    inventory: ArcSwap<Inventory>,
    /// Microseconds that the last answer to a check took, and one more; 0 before the first.
    response_time: AtomicU64,
}

impl ServerState {
    /// A server that nothing is known about yet.
    pub fn new(
        identity: Identity,
        location: Location,
        metrics: ServerMetrics,
        health: HealthPolicy,
        circuit: CircuitPolicy,
        shared: Shared,
        born: Instant,
    ) -> Self {
        let Shared { bans, room, events } = shared;
        let literal = location.host.parse().ok().map(|ip| SocketAddr::new(ip, location.port));
        Self {
            identity,
            location,
            metrics,
            in_flight: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            connections: Arc::default(),
            idle: IdlePool::default(),
            room,
            requests: Register::default(),
            recovery: Recovering::default(),
            acting: Acting::default(),
            events,
            operating: Operating::default(),
            circuits: Circuits::new(circuit, born),
            gpu: Gpu::new(born),
            bans,
            up: AtomicBool::new(true),
            health: Mutex::new(Health::new(health, born)),
            born,
            held_back: AtomicU64::new(0),
            inventory_wanted: Notify::new(),
            look_turn: tokio::sync::Mutex::new(()),
            times: Mutex::default(),
            addresses: ArcSwap::from_pointee(literal.into_iter().collect()),
            next_address: AtomicU32::new(0),
            reach: ArcSwapOption::empty(),
            inventory: ArcSwap::from_pointee(Inventory::default()),
            response_time: AtomicU64::new(0),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// What events about it name: `UPSTREAM/SERVER`.
    pub fn subject(&self) -> String {
        format!("{}/{}", self.identity.upstream, self.identity.name)
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

    /// How many requests have begun on it, starting anew at 2^32: two equal numbers say that none did in between.
    pub fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Takes a slot if fewer than `limit` are taken. Ask for its [`standing`](Self::standing) afterwards, too.
    pub fn take_slot(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        // Sequentially consistent, as the operator's decision is: of a request that begins and an operator who waits
        // for the server to be empty, at least one sees the other.
        if self.in_flight.fetch_add(1, Ordering::SeqCst) < limit {
            self.begun.fetch_add(1, Ordering::Relaxed);
            Some(Slot(Arc::clone(self)))
        } else {
            self.free_slot();
            None
        }
    }

    /// What an operator decided about it.
    pub fn operation(&self, now: Instant) -> Operation {
        self.operating.operation(now)
    }

    /// The same in one word, for whoever chooses a server.
    pub fn standing(&self, now: Instant) -> Standing {
        self.operating.standing(now)
    }

    /// Takes an operator's decision; returns what held before. Idle connections are closed: the host behind them
    /// may be on its way down, or have come back as another process.
    pub fn operate(&self, next: Operation, now: Instant) -> Operation {
        let before = self.operating.decide(next, now);
        self.idle.clear();
        self.recovery.stir();
        self.acting.stir();
        before
    }

    /// Ends a maintenance whose time is over; returns it the one time that it ends.
    pub fn end_of_maintenance(&self, now: Instant) -> Option<Operation> {
        let over = self.operating.expire(now)?;
        self.idle.clear();
        Some(over)
    }

    /// Returns once no request runs on it. For servers that take no work: others need not ever be empty.
    pub async fn until_empty(&self) {
        self.operating.until_empty(|| self.in_flight.load(Ordering::SeqCst)).await;
    }

    fn free_slot(&self) {
        if self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.operating.is_empty_now();
        }
        self.room.freed();
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

    /// What its probes say.
    pub fn health(&self) -> health::Status {
        self.health.lock().status()
    }

    /// How long the last answer to a check took.
    pub fn response_time(&self) -> Option<Duration> {
        self.response_time.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }

    /// Notes how long an answer to a check took.
    pub fn responded(&self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX - 1);
        self.response_time.store(microseconds + 1, Ordering::Relaxed);
    }

    /// Notes the verdict of a probe.
    pub fn probed(&self, good: bool, now: Instant) -> Option<Change> {
        let mut health = self.health.lock();
        let change = health.record(good, now);
        self.up.store(health.is_up(), Ordering::Relaxed);
        if change.is_some() {
            self.recovery.stir();
        }
        change
    }

    /// Has it asked last for a while: it had too much to do.
    pub fn hold_back(&self, time: Duration, now: Instant) {
        let until = now.saturating_duration_since(self.born).saturating_add(time);
        self.held_back.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// An answer of it began after this time.
    pub fn answered(&self, time: Duration, now: Instant) {
        self.times.lock().observe(time, now);
    }

    /// A request to it failed.
    pub fn failed(&self, now: Instant) {
        self.times.lock().failed(now);
    }

    /// How soon its answers begin.
    pub fn times(&self) -> PeakEwma {
        *self.times.lock()
    }

    /// Whether it is asked last.
    pub fn is_held_back(&self, now: Instant) -> bool {
        let until = self.held_back.load(Ordering::Relaxed);
        until > 0 && now.saturating_duration_since(self.born) < Duration::from_millis(until)
    }

    /// Whether an operator holds its circuit open: then nothing but time and operators may change that, and it is heeded
    /// even when nobody else is left.
    pub fn circuit_is_held(&self, now: Instant) -> bool {
        self.circuits.is_held(now)
    }

    /// After a test has shown that its model answers: an open circuit becomes half open before its time, unless an
    /// operator holds it open.
    pub fn half_open_early(&self, now: Instant) -> Option<Transition> {
        let open = matches!(self.circuit_state(now), State::Open { .. });
        if !open || self.circuit_is_held(now) {
            return None;
        }
        self.force_circuit(CircuitOrder::HalfOpen, None, now)
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

    /// Says where it may be. Addresses elsewhere are forgotten, those of its URL come back.
    pub fn set_reach(&self, reach: Option<Arc<Reach>>) {
        self.reach.store(reach);
        let mut addresses = Vec::clone(&self.addresses.load());
        addresses.extend(self.location.host.parse().ok().map(|ip| SocketAddr::new(ip, self.location.port)));
        addresses.sort_unstable();
        addresses.dedup();
        self.keep_reachable(&mut addresses);
        if addresses != **self.addresses.load() {
            self.addresses.store(Arc::new(addresses));
            self.idle.clear();
        }
    }

    fn keep_reachable(&self, addresses: &mut Vec<SocketAddr>) {
        let Some(reach) = self.reach.load_full() else { return };
        addresses.retain(|address| {
            let objection = reach.objection(address.ip());
            if let Some(why) = objection {
                let server = self.name();
                tracing::warn!(server, %address, why, "a server that was added at run time is not connected to there");
            }
            objection.is_none()
        });
    }

    /// Notes the addresses that its host name has now; returns whether they changed. An empty list
    /// is ignored: the last good one stays. Idle connections to the old ones are closed.
    pub fn resolved(&self, mut addresses: Vec<SocketAddr>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        self.keep_reachable(&mut addresses);
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
        self.0.free_slot();
    }
}
