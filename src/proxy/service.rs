//! What all requests share, and the life of one of them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use http::request;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::client::Client;
use super::context::{Connection, Exchange, RequestContext, Stop};
use super::held_body::HoldRules;
use super::request_body::RequestBody;
use super::server::Connector;
use super::timer::LazyTimer;
use super::{attempt, content, embeddings, ending, finish, reply, request as early, response_cache};
use crate::fleet::snapshot::{ListenerSettings, Route, Snapshot, Upstream};
use crate::fleet::store::Store;
use crate::history::History;
use crate::policy::descriptors::Descriptors;
use crate::policy::failure::Reason;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// A request whose head has arrived.
pub struct Arrival {
    /// The head.
    pub head: request::Parts,
    /// The configuration that it begins with.
    pub snapshot: Arc<Snapshot>,
    /// The limits of the listener that it came to.
    pub listener: Arc<ListenerSettings>,
    /// Whether it asks for another protocol.
    pub wants_upgrade: bool,
    /// Whether a file descriptor is left for its server.
    pub has_room: bool,
}

/// What all requests share.
pub struct Service {
    /// The configuration in force and the servers.
    pub store: Arc<Store>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Where finished requests are told.
    pub access_log: AccessLog,
    /// Where they are told as traces.
    pub traces: Traces,
    /// Where they are kept.
    pub history: Arc<History>,
    /// Folder for bodies that do not fit into memory.
    pub temp_dir: PathBuf,
    /// Requests being served.
    pub in_flight: Arc<AtomicUsize>,
    /// File descriptors that there are, and that the process itself needs.
    pub descriptors: Descriptors,
    /// Opens connections to servers.
    pub connector: Connector,
    /// Everything that the process waits for when it stops: listeners, connections, streams.
    pub tasks: TaskTracker,
    /// Turns true when nothing is waited for any longer.
    pub cut: watch::Receiver<bool>,
    /// Itself, for what goes on without a client.
    pub myself: Weak<Self>,
}

impl Service {
    /// How a request's body is held, if it must be.
    pub fn hold_rules(&self, snapshot: &Snapshot) -> HoldRules {
        HoldRules {
            budget: Arc::clone(&self.store.body_budget),
            memory: snapshot.body_memory,
            folder: self.temp_dir.clone(),
        }
    }

    /// File descriptors for clients, in this configuration.
    pub fn descriptors(&self, snapshot: &Snapshot) -> Descriptors {
        let Descriptors { soft, reserved } = self.descriptors;
        Descriptors { soft, reserved: reserved + u64::from(snapshot.reserved_files) }
    }

    /// Waits until nothing is waited for any longer.
    pub async fn is_cut_off(&self) {
        // Nobody who could say so is left: then the process has ended.
        drop(self.cut.clone().wait_for(|cut| *cut).await);
    }

    /// Serves one request, from its head to its log line. Whether the client was sent the head of an answer.
    pub async fn serve(
        &self,
        client: Client<'_>,
        arrival: Arrival,
        connection: &Arc<Connection>,
        timer: &mut LazyTimer,
    ) -> bool {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _served = InFlight(&self.in_flight);
        let Arrival { head, snapshot, listener, wants_upgrade, has_room } = arrival;
        let running = if has_room { listener.connections.try_request() } else { None };
        let mut ctx = RequestContext::new(snapshot, Arc::clone(connection));
        ctx.wants_upgrade = wants_upgrade;
        let mut exchange = Exchange { service: self, client, head, body: RequestBody::default(), timer, listener, ctx };
        let ended = match running {
            Some(_) => run_until_cut(&mut exchange).await,
            None => Err(reply::problem(&exchange.ctx, Reason::Overloaded, "too many requests at a time").into()),
        };
        let reason = match ended {
            Ok(()) => None,
            Err(Stop::Answer(answer)) => {
                exchange.ctx.reason = Some(answer.reason);
                exchange.ctx.again.settle();
                reply::send(&mut exchange, answer).await.err()
            }
            Err(Stop::Broken(reason)) => {
                ending::say(&mut exchange, reason).await;
                exchange.client.abort();
                Some(reason)
            }
        };
        finish::finish(&mut exchange, reason);
        exchange.ctx.status.is_some()
    }
}

/// Counts a request for as long as it is served, however it ends.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run_until_cut(exchange: &mut Exchange<'_>) -> Result<(), Stop> {
    let service = exchange.service;
    tokio::select! {
        biased;
        ended = run(exchange) => return ended,
        () = service.is_cut_off() => {}
    }
    Err(reply::give_up(&mut exchange.ctx, Reason::Shutdown))
}

async fn run(exchange: &mut Exchange<'_>) -> Result<(), Stop> {
    let route = early::prepare(exchange).await?;
    match route.upstream() {
        Some(upstream) => match &route.cache {
            // Boxed, so that other requests are not as large as these.
            Some(cache) => Box::pin(response_cache::run(exchange, &route, upstream, cache)).await,
            None => past_cache(exchange, &route, upstream).await,
        },
        None => content::answer(exchange, &route).await,
    }
}

/// Asks a server, as far as embeddings are not kept.
///
/// # Errors
/// When the client has not got a whole answer.
pub async fn past_cache(exchange: &mut Exchange<'_>, route: &Arc<Route>, upstream: &Arc<Upstream>) -> Result<(), Stop> {
    match &route.embeddings {
        Some(cache) => Box::pin(embeddings::run(exchange, route, upstream, cache)).await,
        None => attempt::run(exchange, route, upstream).await,
    }
}
