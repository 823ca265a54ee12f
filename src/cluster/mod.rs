//! Several instances that act as one: what they tell each other by way of Redis or Valkey.
//!
//! # Problem
//! Instances in front of the same servers must share what each knows: how busy the servers are, what operators decided, what
//! clients have used of their limits. An engine that people already run carries it. But the engine fails at times, and a
//! proxy that waits for it would fail with it.
//!
//! # Shape
//! Requests decide by what is in memory (`fleet`), and nothing here is on their path, but one look for an answer that is not
//! kept here, for a moment ([`answers`]). Tasks of this module settle in the background: they tell Redis what happened here,
//! and write into memory what happened elsewhere.
//!
//! - [`connect`]: a connection, whatever stands at the addresses; [`link`]: the one that is in use, and its deadline.
//! - [`keys`]: the names of keys and channels. `scripts/*.lua`: what must happen in Redis in one step, by Redis's clock.
//! - [`members`]: who is alive, and who leads. [`load`]: requests that run and wait. [`answers`]: what routes keep together.
//! - [`decisions`]: what operators and rules decided; [`hints`]: what instances saw. [`rates`]: limits on how often. [`quotas`]: tokens
//!   that were used.
//!
//! # Invariants
//! - One connection for each instance, for calls and messages alike (RESP3), so Redis 6 or newer, or Valkey.
//! - A part that cannot reach Redis goes on by itself with its share, and is told when to compare again.
//! - Another address, or a part that broke, is another connection to the same cluster: what is known of the others stays.
//! - Each script heals a key of ours that has become something else.

/// A script by the name of its file, behind what all of them share.
macro_rules! script {
    ($name:literal) => {
        redis::Script::new(concat!(
            include_str!("scripts/shared.lua"),
            include_str!(concat!("scripts/", $name, ".lua"))
        ))
    };
}

pub mod answers;
pub mod connect;
pub mod decisions;
pub mod fault;
pub mod hints;
pub mod keys;
pub mod link;
pub mod load;
pub mod members;
mod purges;
pub mod quotas;
pub mod rates;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock;
use crate::fleet::cluster::ClusterState;
use crate::fleet::decisions::Decisions;
use crate::fleet::store::Store;
use crate::history::History;
use crate::policy::balance::scramble;
use crate::telemetry::metrics::Metrics;

use answers::Answers;
use decisions::Sharing;
use keys::Topic;
use link::{Event, Link};
use load::{Loads, Peers};
use members::{Process, Signs};

/// First and longest pause between two tries to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long leaving may take when the process stops.
const LEAVE: Duration = Duration::from_millis(500);

/// What all parts need.
#[derive(Clone)]
pub struct Around {
    /// What runs.
    pub store: Arc<Store>,
    /// What is known of the cluster.
    pub state: Arc<ClusterState>,
    /// The way to Redis.
    pub link: Link,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// What was used of quotas.
    pub history: Arc<History>,
    /// What stays the same however often this process joins.
    pub process: Arc<Process>,
    /// What runs and waits at the others.
    pub peers: Peers,
    /// Whether the process stops.
    pub stopping: watch::Receiver<bool>,
}

/// Keeps this instance in the cluster that is configured, until the process is about to end.
pub async fn run(
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    decided: Arc<Decisions>,
    history: Arc<History>,
    stopping: watch::Receiver<bool>,
    mut ending: watch::Receiver<bool>,
) {
    let state = Arc::clone(&store.load().lasting.cluster);
    let (process, peers) = (Arc::new(Process::this()), Peers::default());
    let mut changed = store.subscribe();
    loop {
        let plan = store.load().cluster.clone();
        if state.begin(plan.as_ref().map(|plan| plan.typed.name.as_str()), clock::now()) {
            forget_others(&store, &peers);
            history.quotas().forget_others();
        }
        let other = async {
            loop {
                // The store lives as long as the process.
                let Ok(()) = changed.changed().await else { return std::future::pending().await };
                let now = store.load().cluster.clone();
                let same = match (&plan, &now) {
                    (None, None) => true,
                    (Some(plan), Some(now)) => Arc::ptr_eq(plan, now),
                    _ => false,
                };
                if !same {
                    return;
                }
            }
        };
        let Some(plan) = plan.clone() else {
            metrics.cluster.show(None);
            store.load().lasting.dispatchers.lead(true);
            tokio::select! {
                () = other => continue,
                _ = ending.wait_for(|ending| *ending) => return,
            }
        };
        let around = Around {
            link: Link::new(plan, metrics.cluster.clone()),
            store: Arc::clone(&store),
            state: Arc::clone(&state),
            metrics: Arc::clone(&metrics),
            history: Arc::clone(&history),
            process: Arc::clone(&process),
            peers: Arc::clone(&peers),
            stopping: stopping.clone(),
        };
        let signs = Arc::new(Signs::new(around.clone()));
        let mut parts = JoinSet::new();
        spawn(&mut parts, &around, &signs);
        parts.spawn(Sharing::new(around.clone(), Arc::clone(&decided)).run());
        parts.spawn(hints::watch(around.clone()));
        let (over, broken) = tokio::select! {
            () = other => (false, false),
            _ = ending.wait_for(|ending| *ending) => (true, false),
            // No part ends by itself: what one of them was in the middle of is begun anew by all.
            Some(ended) = parts.join_next() => {
                let error = ended.err().map(|error| error.to_string());
                tracing::error!(error, "a part of the cluster broke: this instance leaves and joins again");
                (false, true)
            }
        };
        // Redis may be gone; the others then see that this instance is.
        drop(tokio::time::timeout(LEAVE, quotas::tell_last(around.clone())).await);
        drop(tokio::time::timeout(LEAVE, signs.leave()).await);
        parts.shutdown().await;
        if over {
            forget_others(&store, &peers);
            return;
        }
        if broken {
            tokio::time::sleep(PAUSES.1).await;
        }
    }
}

/// This instance is alone: nothing of the others is left, and limits and slots are its own.
fn forget_others(store: &Store, peers: &Peers) {
    peers.lock().clear();
    let snapshot = store.load();
    snapshot.lasting.limiter.share_among(0);
    for dispatcher in snapshot.lasting.dispatchers.all() {
        dispatcher.hear(&[], None, 1, false);
    }
}

fn spawn(parts: &mut JoinSet<()>, around: &Around, signs: &Arc<Signs>) {
    let (one, keeper) = (Arc::clone(signs), around.clone());
    parts.spawn(async move { keep(keeper, &one).await });
    let one = Arc::clone(signs);
    parts.spawn(async move { one.run().await });
    parts.spawn(Answers::new(around.clone(), signs.id()).run(around.link.events()));
    parts.spawn(Loads::new(around.clone(), signs.id()).run(around.link.events()));
    parts.spawn(rates::run(around.clone()));
    parts.spawn(quotas::run(around.clone()));
    let (one, mut events) = (Arc::clone(signs), around.link.events());
    parts.spawn(async move {
        loop {
            match events.recv().await {
                Ok(Event::Told(Topic::Members, message)) => one.told(&message),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// Keeps a connection, and says in the log when there is none.
async fn keep(around: Around, signs: &Signs) {
    let Around { link, state, .. } = &around;
    let (mut pause, mut told) = (PAUSES.0, String::new());
    let mut tries = 0_u64;
    // An address that answers may be of no use: then the next one is tried first.
    let mut first = 0;
    loop {
        let opened = async {
            let opened = link.connect(first).await?;
            signs.first(&opened).await?;
            Ok(opened)
        };
        let fault: fault::Fault = match opened.await {
            Ok(opened) => {
                let at = opened.address.to_string();
                tracing::info!(redis = at, instance = signs.id(), cluster = link.plan().typed.name, "linked");
                (pause, told) = (PAUSES.0, String::new());
                state.change(|view| view.redis = Some(at));
                state.set_linked(true, None, clock::now());
                tokio::select! {
                    fault = link.use_until_broken(opened) => fault,
                    () = state.asking.reconnect_wanted() => {
                        link.give_up_all(fault::Fault::Unusable("an operator wants another connection".to_owned()))
                    }
                }
            }
            Err(fault) => {
                first += 1;
                fault
            }
        };
        let text = fault.to_string();
        state.set_linked(false, Some(text.clone()), clock::now());
        if text != told {
            tracing::warn!(fault = text, "Redis cannot be used: this instance goes on by itself and tries again");
            told = text;
        }
        tries += 1;
        let spread = Duration::from_millis(scramble(clock::unix_time().as_micros() as u64 ^ tries) % 100);
        tokio::select! {
            () = tokio::time::sleep(pause + spread) => pause = (pause * 2).min(PAUSES.1),
            // It is tried at once, which is what an operator wants who asks for another connection.
            () = state.asking.reconnect_wanted() => {}
        }
    }
}
