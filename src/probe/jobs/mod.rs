//! Carries out what operators order about models ([`crate::fleet::jobs`]).
//!
//! One task for each server of a job. What it did is seen by routing before it is called done: the models of the server
//! are looked at anew at once, not at the next look.

mod disk;
mod memory;
mod pull;

use std::sync::Arc;
use std::time::Duration;

use super::{Target, targets};
use crate::config::types::Kind;
use crate::fleet::jobs::Running;
use crate::fleet::jobs::words::Work;
use crate::fleet::snapshot::Upstream;
use crate::fleet::store::Store;
use crate::telemetry::metrics::Metrics;

/// What came of it: how long a load took, or why it did not work.
type Outcome = Result<Option<Duration>, String>;

/// A server, its upstream as it is now, and the models that it is about.
struct Place<'p> {
    target: &'p Target,
    upstream: &'p Arc<Upstream>,
    model: &'p str,
    written: &'p str,
}

/// Carries out jobs until the process ends.
pub async fn run(store: Arc<Store>, metrics: Arc<Metrics>) {
    let jobs = Arc::clone(&store.load().lasting.jobs);
    loop {
        let running = jobs.next().await;
        tokio::spawn(carry_out(running, Arc::clone(&store), Arc::clone(&metrics)));
    }
}

async fn carry_out(running: Running, store: Arc<Store>, metrics: Arc<Metrics>) {
    let task = &running.task;
    let (kind, model) = (task.work.as_str(), task.written.as_str());
    let (server, upstream, who) = (task.server.name.as_str(), task.server.upstream.as_str(), task.who.as_str());
    tracing::info!(job = task.id.job, kind, model, server, upstream, who, "model job begins");
    let outcome = tokio::select! {
        outcome = work(&running, &store, &metrics) => outcome,
        // Dropping the work ends its connection, and Ollama its pull.
        () = running.cancelled.cancelled() => {
            tracing::info!(job = task.id.job, kind, model, server, upstream, "model job cancelled");
            // It may have been done in that moment.
            if let Some(server) = store.servers().get(&task.server) {
                server.want_inventory();
            }
            return;
        }
    };
    let counted = if matches!(task.work, Work::Warmup { .. } | Work::Unload { .. }) { None } else { Some(kind) };
    if let Some(kind) = counted {
        metrics.model_changed(upstream, kind, outcome.is_ok());
    }
    match &outcome {
        Ok(_) => tracing::info!(job = task.id.job, kind, model, server, upstream, "model job done"),
        Err(error) => tracing::warn!(job = task.id.job, kind, model, server, upstream, error, "model job failed"),
    }
    running.ends(outcome);
}

async fn work(running: &Running, store: &Arc<Store>, metrics: &Arc<Metrics>) -> Outcome {
    let task = &running.task;
    let target = targets(&store.load(), store, metrics).into_iter().find(|one| one.state.identity == task.server);
    let (Some(target), Some(upstream)) = (target, store.upstream(&task.server.upstream)) else {
        return Err("the server was removed from the configuration".to_owned());
    };
    if upstream.kind != Kind::Ollama {
        return Err("only Ollama's servers do that".to_owned());
    }
    let place = Place { target: &target, upstream: &upstream, model: &task.model, written: &task.written };
    // What is kept of the model's answers ends here, and again behind the look at what came of it.
    let digests = &upstream.state.digests;
    let _changing = match &task.work {
        Work::Warmup { .. } | Work::Unload { .. } => None,
        Work::Pull | Work::Delete { .. } => Some(digests.change(Some(&task.model))),
        Work::Copy { .. } => Some(digests.change(None)),
    };
    let outcome = match &task.work {
        Work::Warmup { class } => place.warm_up(*class).await,
        Work::Unload { force } => place.unload(*force).await,
        Work::Pull => place.pull(|progress| running.progress(progress)).await,
        Work::Copy { destination, force } => place.copy(destination, *force).await,
        Work::Delete { force } => place.delete(*force).await,
    };
    // Also after a failure: part of it may have been done.
    target.look().await;
    outcome
}

/// What a server says in an answer that is not 200.
fn complaint(status: u16, body: &[u8]) -> String {
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = said.get("error").and_then(serde_json::Value::as_str).map(str::to_owned);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    let text: String = text.chars().take(500).collect();
    if text.is_empty() { format!("status {status}") } else { format!("status {status}: {text}") }
}
