//! What Arriero knows about one server, beside any configuration.
//!
//! Everything is readable without waiting: counters and flags are atomics, lists are swapped whole.
//! The two state machines (health, circuit) sit behind a lock of their own server, held for a few
//! instructions; no lock is shared between servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;

use super::idle::IdlePool;
use super::inventory::Inventory;
use super::waiting_room::WaitingRoom;
use super::operation::{Operating, Operation, Standing};
use super::recovery::Recovering;
use super::running::Register;
use crate::policy::circuit::{Admission, Circuit, CircuitPolicy, Outcome, Pass, State, Transition};
use crate::policy::health::{self, Change, Health, HealthPolicy};
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

/// What an operator may order about a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitOrder {
    /// Let nothing pass until then; then it is half open.
    Open {
        /// When that ends.
        until: Instant,
    },
    /// Let one request at a time pass, as a trial.
    HalfOpen,
    /// Let requests pass.
    Close,
    /// Let requests pass, and forget what was.
    Reset,
}

/// A circuit as it is shown.
#[derive(Clone, Debug)]
pub struct CircuitView {
    /// The model that it is about; `None` for that of the server itself.
    pub model: Option<String>,
    /// What it is now.
    pub state: State,
    /// Failures in a row.
    pub failures: u32,
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
    /// Where those wait that want a slot of it.
    room: Arc<WaitingRoom>,
    /// The requests that run on it.
    pub requests: Register,
    /// Its tests while it is ill.
    pub recovery: Recovering,
    operating: Operating,
    /// Copies of what the two state machines say, so that a choice among many takes no lock.
    up: AtomicBool,
    circuit_closed: AtomicBool,
    health: Mutex<Health>,
    circuit: Mutex<Circuit>,
    /// Until when an operator holds the circuit open.
    held_until: Mutex<Option<Instant>>,
    addresses: ArcSwap<Vec<SocketAddr>>,
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
        room: Arc<WaitingRoom>,
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
            room,
            requests: Register::default(),
            recovery: Recovering::default(),
            operating: Operating::default(),
            up: AtomicBool::new(true),
            circuit_closed: AtomicBool::new(true),
            health: Mutex::new(Health::new(health, born)),
            circuit: Mutex::new(Circuit::new(circuit)),
            held_until: Mutex::new(None),
            addresses: ArcSwap::from_pointee(literal.into_iter().collect()),
            next_address: AtomicU32::new(0),
            inventory: ArcSwap::from_pointee(Inventory::default()),
            response_time: AtomicU64::new(0),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Takes the numbers of a new configuration; what was learned stays.
    pub fn set_policies(&self, health: HealthPolicy, circuit: CircuitPolicy) {
        self.health.lock().set_policy(health);
        self.circuit.lock().set_policy(circuit);
    }

    /// Requests running on it.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes a slot if fewer than `limit` are taken. Ask for its [`standing`](Self::standing) afterwards, too.
    pub fn take_slot(self: &Arc<Self>, limit: u32) -> Option<Slot> {
        // Sequentially consistent, as the operator's decision is: of a request that begins and an operator who waits
        // for the server to be empty, at least one sees the other.
        if self.in_flight.fetch_add(1, Ordering::SeqCst) < limit {
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

    /// The state of its circuit.
    pub fn circuit_state(&self, now: Instant) -> State {
        self.circuit.lock().state(now)
    }

    /// Its circuits, its own first.
    pub fn circuit_views(&self, now: Instant) -> Vec<CircuitView> {
        let circuit = self.circuit.lock();
        vec![CircuitView { model: None, state: circuit.state(now), failures: circuit.failures() }]
    }

    /// Whether an operator holds its circuit open: then nothing but time and operators may change that.
    pub fn circuit_is_held(&self, now: Instant) -> bool {
        self.held_until.lock().is_some_and(|until| now < until)
    }

    /// Whether an operator shuts requests out by its circuit. Unlike a circuit that opened by itself this is heeded
    /// even when nobody else is left.
    pub fn is_shut(&self, now: Instant) -> bool {
        !self.circuit_closed.load(Ordering::Relaxed) && self.circuit_is_held(now)
    }

    /// Does to a circuit what an operator orders. One that does not exist is closed already.
    pub fn force_circuit(&self, order: CircuitOrder, model: Option<&str>, now: Instant) -> Option<Transition> {
        if model.is_some() {
            return None;
        }
        let mut circuit = self.circuit.lock();
        *self.held_until.lock() = if let CircuitOrder::Open { until } = order { Some(until) } else { None };
        let change = match order {
            CircuitOrder::Open { until } => circuit.force_open(until, now),
            CircuitOrder::HalfOpen => circuit.force_half_open(now),
            CircuitOrder::Close | CircuitOrder::Reset => circuit.force_close(now),
        };
        self.circuit_closed.store(circuit.state(now) == State::Closed, Ordering::Relaxed);
        self.recovery.stir();
        change
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

    /// Whether its circuit would let a request pass.
    pub fn would_admit(&self, now: Instant) -> bool {
        self.circuit_closed.load(Ordering::Relaxed) || self.circuit.lock().would_admit(now)
    }

    /// Asks its circuit to let a request pass.
    pub fn admit(&self, now: Instant) -> Admission {
        self.circuit.lock().admit(now)
    }

    /// Tells its circuit how a request ended.
    pub fn record(&self, pass: Pass, outcome: Outcome, now: Instant, random: u64) -> Option<Transition> {
        let mut circuit = self.circuit.lock();
        let transition = circuit.record(pass, outcome, now, random);
        self.circuit_closed.store(circuit.state(now) == State::Closed, Ordering::Relaxed);
        if transition.is_some() {
            self.recovery.stir();
        }
        transition
    }

    /// Tells its circuit that a request ended without a verdict.
    pub fn release(&self, pass: Pass) {
        self.circuit.lock().release(pass);
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
        self.0.free_slot();
    }
}
