//! The one connection to Redis of this instance, and its deadline.
//!
//! # States
//! ```text
//!          connected, subscribed, a sign of life was written
//!   down ─────────────────────────────────────────────────────▶ up
//!        ◀─────────────────────────────────────────────────────
//!          late answer, broken connection, or an answer that says that nothing can be written
//! ```
//! # Invariants
//! - While it is down, every call fails at once.
//! - One late answer is enough to be down: those who come next do not wait for the same.
//! - What was published while it was down is lost: [`Event::Up`] tells all parts to compare what they have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, ScriptInvocation, Value};
use tokio::sync::{Notify, broadcast};

use super::connect::{Opened, Told, connect};
use super::fault::Fault;
use super::keys::{Keys, Topic};
use crate::fleet::cluster::ClusterPlan;
use crate::telemetry::metrics::ClusterMetrics;

/// Events that wait for a part that is behind; a part that is further behind compares anew.
const BEHIND: usize = 4096;

/// What the parts of a cluster are told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Redis can be used again, and anything may have changed.
    Up,
    /// Redis cannot be used.
    Down,
    /// An instance published something; this one is among those that hear its own.
    Told(Topic, Bytes),
}

/// The way to Redis; clones share it.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    plan: Arc<ClusterPlan>,
    keys: Keys,
    open: ArcSwapOption<Open>,
    generation: AtomicU64,
    broken: Notify,
    fault: parking_lot::Mutex<Fault>,
    events: broadcast::Sender<Event>,
    metrics: ClusterMetrics,
}

struct Open {
    connection: MultiplexedConnection,
    generation: u64,
}

impl Link {
    /// Not connected yet.
    pub fn new(plan: Arc<ClusterPlan>, metrics: ClusterMetrics) -> Self {
        let keys = Keys::new(&plan.typed.name);
        let events = broadcast::Sender::new(BEHIND);
        Self(Arc::new(Shared {
            plan,
            keys,
            open: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            broken: Notify::new(),
            fault: parking_lot::Mutex::new(Fault::Down),
            events,
            metrics,
        }))
    }

    /// What is configured.
    pub fn plan(&self) -> &Arc<ClusterPlan> {
        &self.0.plan
    }

    /// The names of keys and channels.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Whether calls are tried.
    pub fn is_up(&self) -> bool {
        self.0.open.load().is_some()
    }

    /// Runs a script.
    ///
    /// # Errors
    /// Why it did not run, or may have run without an answer.
    pub async fn run(&self, script: &ScriptInvocation<'_>) -> Result<Value, Fault> {
        self.call(async |mut connection| script.invoke_async(&mut connection).await).await
    }

    /// Runs commands, all in one go.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn pipe(&self, commands: &redis::Pipeline) -> Result<Vec<Value>, Fault> {
        self.call(async |mut connection| commands.query_async(&mut connection).await).await
    }

    /// Tells all instances, this one too.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn publish(&self, topic: Topic, message: &[u8]) -> Result<(), Fault> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.0.keys.channel(topic)).arg(message);
        self.call(async |mut connection| command.query_async::<Value>(&mut connection).await).await.map(|_| ())
    }

    /// Calls over the connection that is in use, within its deadline.
    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, redis::RedisError>,
    ) -> Result<T, Fault> {
        let result = match self.0.open.load_full() {
            None => Err(Fault::Down),
            Some(open) => {
                let result = in_time(self.0.plan.timeout, call(open.connection.clone())).await;
                if let Err(fault) = result.as_ref()
                    && fault.is_lasting()
                {
                    self.give_up(open.generation, fault.clone());
                }
                result
            }
        };
        self.0.metrics.call(result.as_ref().err().map_or("ok", Fault::as_str));
        result
    }

    /// Gives up the connection of this generation, if it is still in use.
    fn give_up(&self, generation: u64, fault: Fault) {
        let same = |open: &Option<Arc<Open>>| open.as_ref().is_some_and(|open| open.generation == generation);
        let before = self.0.open.rcu(|open| if same(open) { None } else { open.clone() });
        if same(&before) {
            *self.0.fault.lock() = fault;
            self.0.broken.notify_one();
            // Nobody listens where nothing is shared.
            drop(self.0.events.send(Event::Down));
        }
    }

    /// Gives up the connection that is in use; tells why.
    pub(super) fn give_up_all(&self, fault: Fault) -> Fault {
        if let Some(open) = self.0.open.load_full() {
            self.give_up(open.generation, fault.clone());
        }
        fault
    }

    /// Opens a connection that hears what is published. It is not in use yet.
    pub(super) async fn connect(&self, first: usize) -> Result<Opened, Fault> {
        let (channels, events) = (self.0.keys.clone(), self.0.events.clone());
        let told: Told = Arc::new(move |push: PushInfo| {
            if let Some(event) = event_of(&channels, push) {
                drop(events.send(event));
            }
        });
        let opened = connect(&self.0.plan, &self.0.keys.key("leader"), &told, first).await?;
        let mut connection = opened.connection.clone();
        for topic in Topic::ALL {
            let channel = self.0.keys.channel(topic);
            in_time(self.0.plan.timeout, connection.subscribe(channel)).await?;
        }
        Ok(opened)
    }

    /// Runs a script on a connection that is not in use yet.
    pub(super) async fn run_on(&self, opened: &Opened, script: &ScriptInvocation<'_>) -> Result<Value, Fault> {
        let mut connection = opened.connection.clone();
        in_time(self.0.plan.timeout, script.invoke_async(&mut connection)).await
    }

    /// Uses a connection until it is given up; tells why it was.
    pub(super) async fn use_until_broken(&self, mut opened: Opened) -> Fault {
        let generation = self.0.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.open.store(Some(Arc::new(Open { connection: opened.connection.clone(), generation })));
        drop(self.0.events.send(Event::Up));
        loop {
            tokio::select! {
                () = self.0.broken.notified() => {
                    if !self.is_up() {
                        return self.0.fault.lock().clone();
                    }
                }
                () = opened.ended() => {
                    self.give_up(generation, Fault::Unusable("the connection broke".to_owned()));
                }
            }
        }
    }
}

/// The answer, if it comes in time.
pub(super) async fn in_time<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, redis::RedisError>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(timeout, call).await {
        Ok(result) => result.map_err(Fault::from),
        Err(_) => Err(Fault::Timeout(timeout)),
    }
}

fn event_of(keys: &Keys, push: PushInfo) -> Option<Event> {
    if push.kind != PushKind::Message {
        return None;
    }
    let mut data = push.data.into_iter();
    let (Some(Value::BulkString(channel)), Some(Value::BulkString(message))) = (data.next(), data.next()) else {
        return None;
    };
    Some(Event::Told(keys.topic(&channel)?, Bytes::from(message)))
}
