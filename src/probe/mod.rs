//! Background looks at the servers: are they there, which models have they, which addresses.
//!
//! One task a server, started and stopped as snapshots come and go. A probe writes what it saw into
//! the server's state and nothing else; requests read that state and never wait for a probe.
//!
//! What operators order about models is carried out here too ([`jobs`]), as are the loads of the schedulers.
//!
//! A server that is down or has an open circuit is also tested, less and less often ([`recovery`]); what may make it
//! well again is done here too ([`recovery_action`]).
//!
//! How the cards of a host are is asked of sources beside the servers ([`gpu`]).
//!
//! Beside the servers, webhooks are told what happens ([`notifications`]), and a collector what requests did ([`traces`]). [`process`] looks at ourselves.
//!
//! Liveness is a plain GET (`/api/version` for Ollama): Ollama's `/api/ps` hangs while a model loads,
//! so a server is never called dead because of it.

mod certificates;
mod client;
pub mod gpu;
mod inventory;
mod jobs;
mod loads;
mod notifications;
mod process;
mod recovery;
mod recovery_action;
mod traces;
mod webhook;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::clock;
use crate::config::types::Kind;
use crate::fleet::gpu::GpuPlan;
use crate::fleet::operation::Standing;
use crate::fleet::recovery_action::ActionPlan;
use crate::fleet::server::{Identity, ServerState};
use crate::fleet::snapshot::{Check, Snapshot, Upstream};
use crate::fleet::store::Store;
use crate::policy::health;
use crate::policy::notification::Kind as EventKind;
use crate::policy::recovery::RecoveryPolicy;
use crate::telemetry::metrics::Metrics;

use client::Fault;

pub use certificates::watch as watch_certificates;
pub use jobs::run as carry_out_jobs;
pub use loads::{keep_now, run as carry_out_orders};
pub use notifications::run as notify;
pub use process::{Folders, look_once as look_at_process, watch as watch_process};
pub use traces::run as tell_traces;

/// Time between two look-ups of a host name.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);
/// Least time between two looks at the models of a server, whoever asks.
const SOONEST_LOOK: Duration = Duration::from_secs(1);
/// How long a look-up may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);

/// What a server's probe depends on; a change starts it anew.
#[derive(Clone, Debug, PartialEq)]
struct Plan {
    kind: Kind,
    http2: bool,
    check: Option<Check>,
    inventory_interval: Duration,
    recovery: RecoveryPolicy,
    action: Option<ActionPlan>,
    gpu: Option<GpuPlan>,
}

/// A server with its plan.
struct Target {
    state: Arc<ServerState>,
    plan: Plan,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

/// A running probe and what it was started for.
struct Probe {
    state: Arc<ServerState>,
    plan: Plan,
    task: AbortHandle,
}

impl Probe {
    fn start(target: Target, stopping: watch::Receiver<bool>) -> Self {
        let (state, plan) = (Arc::clone(&target.state), target.plan.clone());
        Self { state, plan, task: tokio::spawn(target.run(stopping)).abort_handle() }
    }

    fn still_fits(&self, target: &Target) -> bool {
        Arc::ptr_eq(&self.state, &target.state) && self.plan == target.plan && !self.task.is_finished()
    }
}

/// Looks at every server once, side by side, so that the first request finds the models known.
/// Takes `limit` at most; what has not answered by then is looked at later.
pub async fn first_look(store: &Arc<Store>, metrics: &Arc<Metrics>, limit: Duration) {
    let mut looks = JoinSet::new();
    for target in targets(&store.load(), store, metrics) {
        looks.spawn(async move {
            target.resolve().await;
            if target.plan.kind != Kind::Http {
                target.look().await;
            }
        });
    }
    // Looks that are late are given up here and made again by the probes.
    drop(tokio::time::timeout(limit, async { while looks.join_next().await.is_some() {} }).await);
}

/// Keeps one probe running for each server of the snapshot in force, until the process ends. Once it is `stopping`, no
/// recovery action begins.
pub async fn run(store: Arc<Store>, metrics: Arc<Metrics>, stopping: watch::Receiver<bool>) {
    let mut changes = store.subscribe();
    let mut running: HashMap<Identity, Probe> = HashMap::new();
    loop {
        let wanted = targets(&store.load(), &store, &metrics);
        let mut next = HashMap::with_capacity(wanted.len());
        for target in wanted {
            let identity = target.state.identity.clone();
            match running.remove(&identity) {
                Some(probe) if probe.still_fits(&target) => next.insert(identity, probe),
                other => {
                    other.into_iter().for_each(|probe| probe.task.abort());
                    next.insert(identity, Probe::start(target, stopping.clone()))
                }
            };
        }
        running.into_values().for_each(|probe| probe.task.abort());
        running = next;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn targets(snapshot: &Snapshot, store: &Arc<Store>, metrics: &Arc<Metrics>) -> Vec<Target> {
    snapshot
        .upstreams
        .iter()
        .flat_map(|upstream| {
            upstream.servers.iter().map(|member| Target {
                state: Arc::clone(&member.state),
                plan: Plan {
                    kind: upstream.kind,
                    http2: upstream.http2,
                    check: upstream.check.clone(),
                    inventory_interval: upstream.inventory_interval,
                    recovery: upstream.recovery.clone(),
                    action: member.action.clone(),
                    gpu: member.gpu.clone(),
                },
                store: Arc::clone(store),
                metrics: Arc::clone(metrics),
            })
        })
        .collect()
}

impl Target {
    async fn run(self, stopping: watch::Receiver<bool>) {
        let resolving = async {
            loop {
                self.resolve().await;
                tokio::time::sleep(spread(RESOLVE_INTERVAL)).await;
            }
        };
        let checking = async {
            let Some(check) = &self.plan.check else { return std::future::pending().await };
            loop {
                self.check(check).await;
                tokio::time::sleep(spread(check.interval)).await;
            }
        };
        let learning = async {
            if self.plan.kind == Kind::Http {
                return std::future::pending().await;
            }
            loop {
                self.look().await;
                self.until_next_look().await;
            }
        };
        tokio::join!(resolving, checking, learning, self.recovering(), self.acting(stopping), self.watching_gpu());
    }

    /// Waits for the next look at the models. One that a request asks for comes early, but not at once after the last.
    async fn until_next_look(&self) {
        let asked = async {
            tokio::time::sleep(SOONEST_LOOK).await;
            self.state.inventory_is_wanted().await;
        };
        tokio::select! {
            () = tokio::time::sleep(spread(self.plan.inventory_interval)) => {}
            () = asked => {}
        }
    }

    /// Looks up the addresses of the server's host; the last good ones stay when that fails.
    async fn resolve(&self) {
        let location = &self.state.location;
        if location.host.parse::<std::net::IpAddr>().is_ok() {
            return;
        }
        let look_up = tokio::net::lookup_host((location.host.as_str(), location.port));
        let found = match tokio::time::timeout(RESOLVE_TIMEOUT, look_up).await {
            Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<SocketAddr>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {RESOLVE_TIMEOUT:?}")),
        };
        match found {
            Ok(addresses) => {
                self.metrics.probed("dns", "ok");
                if self.state.resolved(addresses) {
                    tracing::info!(server = self.state.name(), host = location.host, "addresses changed");
                }
            }
            Err(error) => {
                self.metrics.probed("dns", "failed");
                tracing::debug!(server = self.state.name(), host = location.host, error, "host name not resolved");
            }
        }
    }

    async fn check(&self, check: &Check) {
        let upstream = self.upstream();
        let began = clock::now();
        let answer = client::get(self.way(upstream.as_deref()), &check.path, check.timeout).await;
        if answer.is_ok() {
            self.state.responded(clock::now() - began);
        }
        let good = matches!(&answer, Ok(answer) if (200..400).contains(&answer.status));
        self.metrics.probed("liveness", if good { "ok" } else { "failed" });
        self.judge(good, || match answer {
            Ok(answer) => format!("status {}", answer.status),
            Err(fault) => fault.text,
        });
    }

    /// Counts a check of liveness, whoever made it.
    fn judge(&self, good: bool, why: impl FnOnce() -> String) {
        let now = clock::now();
        let change = self.state.probed(good, now);
        self.state.gpu.probed(good, now);
        self.checked_for_action(good, now);
        if let Some(change) = change {
            let why = why();
            tracing::info!(
                server = self.state.name(),
                upstream = self.state.identity.upstream,
                from = change.from.as_str(),
                to = change.to.as_str(),
                why,
                "health changed"
            );
            self.tell_health(change.to, &why);
            self.index();
            if let Some(upstream) = self.upstream().filter(|_| good) {
                upstream.dispatcher.appeared(&self.state);
            }
        }
    }

    /// Tells whoever cares that the server went down or came up.
    fn tell_health(&self, to: health::Status, why: &str) {
        let (kind, what) = match to {
            health::Status::Down => (EventKind::ServerDown, "is down"),
            health::Status::Up => (EventKind::ServerUp, "is up"),
            health::Status::Unknown => return,
        };
        let (name, url) = (self.state.name(), &self.state.identity.url);
        let standing = match self.state.standing(clock::now()) {
            Standing::Active => String::new(),
            taken_out => format!(" ({})", taken_out.as_str()),
        };
        let why = if to == health::Status::Down { format!(": {why}") } else { String::new() };
        self.state.events.tell(kind, self.state.subject(), &format!("server `{name}` ({url}) {what}{standing}{why}"));
    }

    async fn look(&self) {
        // Failures are counted; what a server cannot tell it may still be able to do.
        drop(self.learn().await);
    }

    /// Looks at the models of the server.
    async fn learn(&self) -> Result<(), Fault> {
        // One look at a time: the last one to begin is the last one to be noted.
        let _turn = self.state.look_turn.lock().await;
        let upstream = self.upstream();
        let asked = clock::now();
        let outcome = inventory::look(self.way(upstream.as_deref()), self.plan.kind).await;
        self.metrics.probed("inventory", outcome.as_ref().map_or("failed", |outcome| outcome.as_str()));
        if outcome? == inventory::Outcome::Changed {
            self.index();
        }
        if let Some(upstream) = upstream {
            upstream.dispatcher.learn(&self.state, Some(asked));
            upstream.dispatcher.spilled(&self.state);
        }
        Ok(())
    }

    /// Makes the index of the server's upstream anew.
    fn index(&self) {
        if let Some(upstream) = self.upstream() {
            upstream.index_models();
        }
    }

    fn way<'a>(&'a self, upstream: Option<&'a Upstream>) -> client::Way<'a> {
        let tls = upstream.and_then(|upstream| upstream.tls.as_ref());
        client::Way { server: &self.state, tls, http2: self.plan.http2 }
    }

    /// The server's upstream as it is now.
    fn upstream(&self) -> Option<Arc<Upstream>> {
        self.store.upstream(&self.state.identity.upstream)
    }
}

/// The interval, up to a tenth longer, so that probes of many servers do not march in step.
fn spread(interval: Duration) -> Duration {
    let share = u16::try_from(random() & 0xffff).unwrap_or(0);
    interval + interval.mul_f64(f64::from(share) / f64::from(u16::MAX) / 10.0)
}

/// Any number. Without randomness it is always the same, and probes march in step, which is no harm.
fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}
