//! Carries out the orders of the schedulers: brings models into memory and takes them out; and tells them the time.
//!
//! A model is loaded by a request without a prompt (`POST /api/generate`, Ollama's `GenerateHandler`; models that only
//! embed refuse that and are asked by `/api/embed`), and unloaded by one with `keep_alive: 0`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::client::{self, Way};
use crate::clock;
use crate::fleet::dispatch::{Change, Command};
use crate::fleet::memory;
use crate::fleet::server::Identity;
use crate::fleet::snapshot::Snapshot;
use crate::fleet::store::Store;
use crate::history::decisions::Decided;
use crate::history::{History, HistoryError};
use crate::policy::schedule::RunnerOptions;
use crate::policy::schedule::loads::LoadOutcome;
use crate::telemetry::metrics::Metrics;

/// How long a load may take: as long as the default time to a first byte.
const LOAD_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an unload may take.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two times that what was learned is written down.
const KEEP: Duration = Duration::from_secs(60);
/// Choices of a second that the history is told.
const DECISIONS: usize = 100;
/// Time between two looks of the schedulers at their queues.
const TICK: Duration = Duration::from_millis(100);

/// Carries out orders until the process ends.
pub async fn run(store: Arc<Store>, metrics: Arc<Metrics>, history: Arc<History>) {
    let dispatchers = Arc::clone(&store.load().lasting.dispatchers);
    let Some(orders) = dispatchers.take_orders() else { return };
    tokio::join!(
        tick(&store),
        carry_out(orders, &store, &metrics),
        keep(&store, &history),
        tell_decisions(&store, &history)
    );
}

/// Writes down what was learned, now and then.
async fn keep(store: &Arc<Store>, history: &Arc<History>) {
    let mut said = false;
    loop {
        tokio::time::sleep(KEEP).await;
        let (store, history) = (store.pin(), Arc::clone(history));
        let kept = tokio::task::spawn_blocking(move || keep_now(&store, &history)).await;
        // Nothing panics there, and nothing ends it but the end of the process.
        let Ok(result) = kept else { return };
        if let Err(error) = &result
            && !said
        {
            tracing::warn!(%error, "what was learned cannot be written");
        }
        said = result.is_err();
    }
}

/// Tells the history why servers were chosen, each second; of very many choices the last ones.
async fn tell_decisions(store: &Arc<Store>, history: &Arc<History>) {
    let mut told: HashMap<String, f64> = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let snapshot = store.pin();
        told.retain(|name, _| snapshot.upstreams.iter().any(|upstream| upstream.name == *name));
        for upstream in snapshot.upstreams.iter().filter(|upstream| upstream.is_scheduled()) {
            let before = told.get(&upstream.name).copied().unwrap_or(f64::NEG_INFINITY);
            let (decisions, last) = upstream.dispatcher.decisions_after(before, DECISIONS);
            told.insert(upstream.name.clone(), last);
            if decisions.is_empty() || history.settings().requests.is_zero() {
                continue;
            }
            let now = clock::unix_time().as_secs_f64();
            let decided = decisions.into_iter().map(|one| Decided {
                at: now - one.age,
                upstream: upstream.name.clone(),
                model: one.model,
                server: one.chosen.unwrap_or_default(),
                candidates: serde_json::json!(one.candidates),
            });
            history.decided(decided.collect());
        }
    }
}

/// Writes down what was learned; waits for the disk.
///
/// # Errors
/// When it is not on disk; then what was written before still is.
pub fn keep_now(snapshot: &Snapshot, history: &History) -> Result<(), HistoryError> {
    memory::told(snapshot).iter().try_for_each(|(upstream, memory)| history.learn(upstream, memory))
}

async fn tick(store: &Arc<Store>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for upstream in store.load().upstreams.iter().filter(|upstream| upstream.is_scheduled()) {
            upstream.dispatcher.tick();
        }
    }
}

async fn carry_out(mut orders: UnboundedReceiver<Command>, store: &Arc<Store>, metrics: &Arc<Metrics>) {
    let mut leaving: HashMap<Identity, Vec<JoinHandle<()>>> = HashMap::new();
    while let Some(command) = orders.recv().await {
        let unloads = leaving.entry(command.server.identity.clone()).or_default();
        unloads.retain(|unload| !unload.is_finished());
        let is_load = matches!(command.change, Change::Load(_));
        let before = if is_load { std::mem::take(unloads) } else { Vec::new() };
        let order = tokio::spawn(obey(command, before, Arc::clone(store), Arc::clone(metrics)));
        if !is_load {
            unloads.push(order);
        }
    }
}

/// Carries out one order. A load waits for those that make room for it: a server that is still full would choose itself who
/// goes, maybe a model that is pinned.
async fn obey(command: Command, before: Vec<JoinHandle<()>>, store: Arc<Store>, metrics: Arc<Metrics>) {
    for unload in before {
        // One that failed makes no room, and the server must see to it.
        drop(unload.await);
    }
    let upstream = store.upstream(&command.dispatcher.upstream);
    let tls = upstream.as_ref().and_then(|upstream| upstream.tls.as_ref());
    let http2 = upstream.as_ref().is_some_and(|upstream| upstream.http2);
    let way = Way { server: &command.server, tls, http2 };
    let (server, model) = (command.server.name(), command.model.as_str());
    let started = clock::now();
    let options = match command.change {
        Change::Load(options) => options,
        Change::Unload(why) => {
            let result = unload(way, model).await;
            let good = result.is_ok();
            metrics.model_changed(&command.dispatcher.upstream, "unload", good);
            if good {
                command.server.metrics.evicted(why);
            }
            tracing::debug!(server, model, good, "model unloaded");
            // Only an operator's order is waited for.
            command.told.map(|told| told.send(result));
            return;
        }
    };
    let result = load(way, model, options).await;
    let took = clock::now() - started;
    let seconds = took.as_secs_f64();
    metrics.model_changed(&command.dispatcher.upstream, "load", result.is_ok());
    let (outcome, why) = match result {
        Ok(()) => {
            command.server.metrics.loaded(took);
            tracing::info!(server, model, seconds, "model loaded");
            (LoadOutcome::Done { seconds }, None)
        }
        Err(error) => {
            tracing::warn!(server, model, error, "model not loaded");
            (LoadOutcome::Failed, Some(error))
        }
    };
    command.dispatcher.loaded(command.id, model, outcome, why);
}

/// Brings a model into memory.
///
/// # Errors
/// What the server said, or what kept its answer away.
pub async fn load(way: Way<'_>, model: &str, options: RunnerOptions) -> Result<(), String> {
    let mut body = serde_json::json!({ "model": model });
    for (name, value) in [("num_ctx", options.num_ctx), ("num_gpu", options.num_gpu)] {
        if let Some(value) = value {
            body["options"][name] = value.into();
        }
    }
    let result = ask(way, "/api/generate", body.clone(), LOAD_TIMEOUT).await;
    if matches!(&result, Err(error) if error.contains("does not support generate")) {
        body["input"] = serde_json::json!([]);
        return ask(way, "/api/embed", body, LOAD_TIMEOUT).await;
    }
    result
}

/// Takes a model out of memory once the requests that use it have ended.
///
/// # Errors
/// As for [`load`].
pub async fn unload(way: Way<'_>, model: &str) -> Result<(), String> {
    ask(way, "/api/generate", serde_json::json!({ "model": model, "keep_alive": 0 }), UNLOAD_TIMEOUT).await
}

async fn ask(way: Way<'_>, path: &str, body: serde_json::Value, timeout: Duration) -> Result<(), String> {
    let answer = client::post(way, path, body.to_string().into(), timeout).await.map_err(|error| error.to_string())?;
    match answer.status {
        200 => Ok(()),
        status => Err(format!("status {status}: {}", String::from_utf8_lossy(&answer.body).trim())),
    }
}
