//! What was decided about servers, models and queues, kept over restarts.
//!
//! # Problem
//! A server that an operator drained at night must not get requests because the process was restarted in the morning. The
//! same holds for bans, for circuits that are held open, and for a paused queue.
//!
//! # Shape
//! Decisions live where requests ask for them: in the state of servers, upstreams and queues. Here they are read off in one
//! form for each upstream, with times of the wall clock, and written to the store when they changed: right after an
//! operator's order, and each second for what rules and the passing of time decide. At the start they are made again.
//!
//! In a cluster they are shared: [`facts`] takes them one by one, [`overlay`] is what the cluster decided.
//!
//! # Invariants
//! - What is over by then is not made again.
//! - A decision about a server holds for its name and its URL together: another host of the same name is another server.
//! - Circuits that opened by themselves are not kept: the requests of the new process judge anew.

pub mod facts;
pub mod overlay;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::circuits::CircuitOrder;
use super::operation::{Decision, Operation};
use super::reload::NO_FOLDER;
use super::snapshot::{Snapshot, Upstream};
use super::store::Store;
use crate::clock;
use crate::history::History;
use crate::policy::ban::Ban;
use crate::policy::circuit::{Cause, State};

/// What they are kept under.
const KIND: &str = "decisions";
/// What the cluster decided is kept under.
const SHARED: &str = "cluster_decisions";
/// Who writes them.
const WHO: &str = "arriero";
/// Most orders about circuits that wait to be told.
const MOST_ORDERS: usize = 64;
/// Time between two looks at what changed by itself.
const LOOK: Duration = Duration::from_secs(1);

/// The present in both forms, to tell one from the other.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// Of the process.
    pub now: Instant,
    /// Seconds since 1970.
    pub unix: f64,
}

impl Present {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self { now: clock::now(), unix: clock::unix_time().as_secs_f64() }
    }

    /// Seconds since 1970 at a moment.
    #[must_use]
    pub fn unix_of(self, at: Instant) -> f64 {
        let ahead = at.saturating_duration_since(self.now).as_secs_f64();
        let ago = self.now.saturating_duration_since(at).as_secs_f64();
        self.unix + ahead - ago
    }

    /// The moment; the present for one that cannot be told.
    #[must_use]
    pub fn at(self, unix: f64) -> Instant {
        let distance = Duration::try_from_secs_f64((unix - self.unix).abs()).unwrap_or_default();
        let moment = if unix > self.unix { self.now.checked_add(distance) } else { self.now.checked_sub(distance) };
        moment.unwrap_or(self.now)
    }
}

/// All about one upstream, with moments of the process or, in the store, of the wall clock.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Decided<T> {
    paused: bool,
    bans: Vec<KeptBan<T>>,
    servers: BTreeMap<String, KeptServer<T>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct KeptBan<T> {
    server: Option<String>,
    model: Option<String>,
    reason: String,
    who: String,
    since: T,
    until: Option<T>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct KeptServer<T> {
    url: String,
    operation: Option<KeptOperation<T>>,
    /// Circuits that are held open, with the end of that; the name of the server's own is empty.
    held_open: BTreeMap<String, T>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct KeptOperation<T> {
    maintenance: bool,
    reason: String,
    who: String,
    since: T,
    until: Option<T>,
}

impl<T: Copy> Decided<T> {
    fn is_nothing(&self) -> bool {
        !self.paused && self.bans.is_empty() && self.servers.is_empty()
    }

    /// The same with other moments.
    fn map<U>(&self, moment: impl Fn(T) -> U) -> Decided<U> {
        let ban = |ban: &KeptBan<T>| KeptBan {
            server: ban.server.clone(),
            model: ban.model.clone(),
            reason: ban.reason.clone(),
            who: ban.who.clone(),
            since: moment(ban.since),
            until: ban.until.map(&moment),
        };
        let operation = |operation: &KeptOperation<T>| KeptOperation {
            maintenance: operation.maintenance,
            reason: operation.reason.clone(),
            who: operation.who.clone(),
            since: moment(operation.since),
            until: operation.until.map(&moment),
        };
        let server = |server: &KeptServer<T>| KeptServer {
            url: server.url.clone(),
            operation: server.operation.as_ref().map(operation),
            held_open: server.held_open.iter().map(|(model, until)| (model.clone(), moment(*until))).collect(),
        };
        Decided {
            paused: self.paused,
            bans: self.bans.iter().map(ban).collect(),
            servers: self.servers.iter().map(|(name, one)| (name.clone(), server(one))).collect(),
        }
    }
}

/// Keeps decisions.
#[derive(Debug)]
pub struct Decisions {
    history: Arc<History>,
    /// What was written last, by upstream.
    written: Mutex<BTreeMap<String, Decided<Instant>>>,
    /// Orders about circuits that hold nothing, for the cluster.
    orders: Mutex<Vec<(facts::About, overlay::Order, Instant)>>,
    decided: Notify,
}

impl Decisions {
    /// None yet.
    #[must_use]
    pub fn new(history: Arc<History>) -> Self {
        Self { history, written: Mutex::default(), orders: Mutex::default(), decided: Notify::new() }
    }

    /// An operator ordered something of a circuit that nothing is left of but its effect.
    pub fn ordered(&self, about: facts::About, order: overlay::Order) {
        let mut orders = self.orders.lock();
        // Without a cluster nobody takes them.
        if orders.len() >= MOST_ORDERS {
            orders.remove(0);
        }
        orders.push((about, order, clock::now()));
        drop(orders);
        self.decided.notify_one();
    }

    /// Such orders since the last time, with when they were made, in seconds since 1970. Not what nobody would follow any more:
    /// there may have been no cluster for weeks.
    pub fn take_orders(&self, present: Present) -> Vec<(facts::About, overlay::Order, f64)> {
        let orders = std::mem::take(&mut *self.orders.lock());
        let with_time = |(about, order, at)| (about, order, present.unix_of(at));
        let is_fresh = |(_, _, at): &(facts::About, overlay::Order, f64)| present.unix - at < overlay::ORDER_HOLDS;
        orders.into_iter().map(with_time).filter(is_fresh).collect()
    }

    /// Returns once an operator decided something since the last time.
    pub async fn decided(&self) {
        self.decided.notified().await;
    }

    /// What was known of the decisions of this cluster.
    #[must_use]
    pub fn shared(&self, cluster: &str) -> overlay::Overlay {
        let rows = self.history.kept(SHARED).unwrap_or_else(|error| {
            tracing::warn!(%error, "what is known of the cluster's decisions cannot be read and is asked for anew");
            Vec::new()
        });
        let row = rows.into_iter().find(|row| row.key == cluster);
        let overlay = row.and_then(|row| serde_json::from_value::<overlay::Overlay>(row.value).ok());
        // A version that there cannot be would differ from Redis's for ever.
        overlay.filter(|overlay| overlay.highest() <= overlay::MOST_VERSION).unwrap_or_default()
    }

    /// Keeps what is known of the decisions of this cluster. Waits for the disk.
    pub fn keep_shared(&self, cluster: &str, overlay: &overlay::Overlay) {
        let value = serde_json::to_value(overlay).unwrap_or_default();
        if let Err(error) = self.history.keep(SHARED, cluster, &value, WHO, Present::read().unix) {
            tracing::debug!(%error, "what is known of the cluster's decisions cannot be written down");
        }
    }

    /// Makes the decisions again that were kept.
    pub fn restore(&self, snapshot: &Snapshot) {
        let rows = match self.history.kept(KIND) {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(%error, "what operators decided cannot be read: nothing is draining, banned or paused");
                return;
            }
        };
        let present = Present::read();
        for row in rows {
            let decided: Decided<f64> = match serde_json::from_value(row.value) {
                Ok(decided) => decided,
                Err(error) => {
                    tracing::error!(upstream = row.key, %error, "what was decided is of an unknown form and left out");
                    continue;
                }
            };
            if let Some(upstream) = snapshot.upstreams.iter().find(|upstream| upstream.name == row.key) {
                make(&decided.map(|unix| present.at(unix)), upstream, present.now);
                self.written.lock().insert(row.key, read(upstream, present.now));
            }
        }
    }

    /// Writes what is decided now, if it is something else than before. Tells why it does not outlive the process, if so.
    /// Waits for the disk.
    pub fn keep(&self, snapshot: &Snapshot) -> Option<String> {
        self.decided.notify_one();
        let present = Present::read();
        let mut written = self.written.lock();
        for upstream in &snapshot.upstreams {
            let decided = read(upstream, present.now);
            if written.get(&upstream.name).map_or(decided.is_nothing(), |before| *before == decided) {
                continue;
            }
            let value = serde_json::to_value(decided.map(|at| present.unix_of(at))).unwrap_or_default();
            if let Err(error) = self.history.keep(KIND, &upstream.name, &value, WHO, present.unix) {
                return Some(error.to_string());
            }
            written.insert(upstream.name.clone(), decided);
        }
        (!self.history.is_durable()).then(|| NO_FOLDER.to_owned())
    }
}

/// Writes what changes by itself until the process stops.
pub async fn watch(decisions: Arc<Decisions>, store: Arc<Store>, mut stopping: watch::Receiver<bool>) {
    let mut failing = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        let (decisions, snapshot) = (Arc::clone(&decisions), store.pin());
        let Ok(problem) = tokio::task::spawn_blocking(move || decisions.keep(&snapshot)).await else { continue };
        let problem = problem.filter(|problem| problem != NO_FOLDER);
        if let Some(error) = problem.as_ref().filter(|_| !failing) {
            tracing::warn!(error, "what was decided cannot be written down and ends with the process");
        }
        failing = problem.is_some();
    }
}

/// What is decided about an upstream.
fn read(upstream: &Upstream, now: Instant) -> Decided<Instant> {
    let bans = upstream.state.bans.list(now).into_iter().map(|ban| KeptBan {
        server: ban.server,
        model: ban.model,
        reason: ban.reason,
        who: ban.who,
        since: ban.since,
        until: ban.until,
    });
    let mut servers = BTreeMap::new();
    for member in &upstream.servers {
        let state = &member.state;
        let operation = state.operation(now);
        let kept = operation.decision().map(|decision| KeptOperation {
            maintenance: matches!(operation, Operation::Maintenance(..)),
            reason: decision.reason.clone(),
            who: decision.who.clone(),
            since: decision.since,
            until: operation.until(),
        });
        let held_open: BTreeMap<String, Instant> = state
            .circuit_views(now)
            .into_iter()
            .filter(|circuit| circuit.cause == Some(Cause::Order))
            .filter_map(|circuit| match circuit.state {
                State::Open { until } => Some((circuit.model.unwrap_or_default(), until)),
                _ => None,
            })
            .collect();
        if kept.is_some() || !held_open.is_empty() {
            let server = KeptServer { url: state.identity.url.clone(), operation: kept, held_open };
            servers.insert(state.name().to_owned(), server);
        }
    }
    Decided { paused: upstream.dispatcher.is_paused(), bans: bans.collect(), servers }
}

/// Makes decisions again, but for what is over.
fn make(decided: &Decided<Instant>, upstream: &Upstream, now: Instant) {
    let holds = |until: Instant| until > now;
    for ban in decided.bans.iter().filter(|ban| ban.until.is_none_or(holds)) {
        let ban = Ban {
            server: ban.server.clone(),
            model: ban.model.clone(),
            reason: ban.reason.clone(),
            who: ban.who.clone(),
            since: ban.since,
            until: ban.until,
        };
        upstream.state.bans.ban(ban, now);
    }
    for member in &upstream.servers {
        let state = &member.state;
        let Some(kept) = decided.servers.get(state.name()).filter(|kept| kept.url == state.identity.url) else {
            continue;
        };
        if let Some(kept) = kept.operation.as_ref().filter(|kept| kept.until.is_none_or(holds)) {
            let decision = Decision { reason: kept.reason.clone(), who: kept.who.clone(), since: kept.since };
            let operation = if kept.maintenance {
                Operation::Maintenance(decision, kept.until)
            } else {
                Operation::Draining(decision)
            };
            tracing::warn!(
                server = state.name(),
                upstream = upstream.name,
                operation = operation.standing().as_str(),
                reason = kept.reason,
                who = kept.who,
                "operation of before the start"
            );
            state.operate(operation, now);
        }
        for (model, until) in kept.held_open.iter().filter(|(_, until)| holds(**until)) {
            let model = Some(model.as_str()).filter(|model| !model.is_empty());
            state.force_circuit(CircuitOrder::Open { until: *until }, model, now);
        }
    }
    if decided.paused {
        tracing::warn!(upstream = upstream.name, "the queue is paused since before the start");
        upstream.dispatcher.pause();
    }
}
