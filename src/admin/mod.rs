//! The admin listener: health, metrics, and what operators see and do.
//!
//! It is apart from the listeners of clients, on loopback or a unix socket unless the configuration
//! says otherwise. Reads are open; a change must be a POST, PATCH or DELETE, must not come from a web page of another
//! site, and needs the token where there is one.
//!
//! # Shape
//! One file a topic ([`servers`], [`in_flight`], ...), each with a router of its own below `/api/orchestrator`; the cluster is
//! below `/api/multihost` ([`multihost`]).
//! [`request`] reads paths, queries and bodies, [`find`] finds servers by the names that operators use, and whatever
//! goes wrong is a [`problem::Problem`]. Keys of answers are camelCase, as operators' scripts for that prefix expect.

mod access;
mod analytics;
mod audit;
mod bans;
mod caches;
mod circuits;
mod config;
mod dashboard;
mod find;
mod gpus;
mod handlers;
mod health;
mod in_flight;
mod job_views;
mod jobs;
mod logs;
mod membership;
mod model_jobs;
mod model_orders;
mod model_stats;
mod models;
mod multihost;
mod notifications;
mod openapi;
mod overview;
mod problem;
mod queue;
mod quotas;
mod recovery;
mod recovery_action;
mod request;
mod requests;
mod servers;
mod store;
mod time;
mod upgrade;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};

use crate::fleet::decisions::Decisions;
use crate::fleet::reload::Reloader;
use crate::fleet::store::Store;
use crate::history::History;
use crate::telemetry::metrics::Metrics;

use openapi::about;
use overview::Live;
pub use upgrade::{LIMIT, Order};

/// Where operators' calls are.
const PREFIX: &str = "/api/orchestrator";

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound admin listener.
pub enum AdminListener {
    /// On TCP.
    Tcp(std::net::TcpListener, SocketAddr),
    /// On a unix socket.
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl AdminListener {
    /// The socket that a process before this one had bound to `address`.
    ///
    /// # Errors
    /// When it is no such socket.
    pub fn inherited(address: &str, socket: OwnedFd) -> io::Result<Self> {
        if let Some(path) = address.strip_prefix("unix:") {
            return Ok(Self::Unix(socket.into(), PathBuf::from(path)));
        }
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    /// The same socket once more, for another process.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener, _) => listener.try_clone().map(OwnedFd::from),
            Self::Unix(listener, _) => listener.try_clone().map(OwnedFd::from),
        }
    }

    /// Where it is, with its real port.
    pub fn address(&self) -> AdminAddress {
        match self {
            Self::Tcp(_, address) => AdminAddress::Tcp(*address),
            Self::Unix(_, path) => AdminAddress::Unix(path.clone()),
        }
    }
}

/// Binds `HOST:PORT` or `unix:/path`.
///
/// # Errors
/// When it cannot be bound.
pub fn bind(address: &str) -> io::Result<AdminListener> {
    if let Some(path) = address.strip_prefix("unix:") {
        return bind_unix(Path::new(path));
    }
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok(AdminListener::Tcp(listener, address))
}

fn bind_unix(path: &Path) -> io::Result<AdminListener> {
    // A socket that nobody answers on is what a process that was killed left behind.
    if std::os::unix::net::UnixStream::connect(path).is_err()
        && std::fs::symlink_metadata(path)
            .is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()))
    {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(AdminListener::Unix(listener, path.to_path_buf()))
}

/// What the handlers need.
pub struct State {
    /// What runs.
    pub store: Arc<Store>,
    /// The way to another configuration.
    pub reloader: Arc<Reloader>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// What is kept.
    pub history: Arc<History>,
    /// Keeps what operators decide.
    pub decisions: Arc<Decisions>,
    /// Whether the process is stopping.
    pub stopping: watch::Receiver<bool>,
    /// Where we listen.
    pub own: AdminAddress,
    /// Takes orders to make room for a new process.
    pub upgrades: mpsc::Sender<Order>,
    /// Turns true when another process answers here.
    pub closing: watch::Receiver<bool>,
    /// When the process started.
    pub started: Instant,
}

/// Whether a decision outlives the process.
#[derive(serde::Serialize, schemars::JsonSchema)]
pub struct Kept {
    /// Whether it outlives the process.
    kept: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl State {
    /// Keeps what was decided; returns when it is on disk, or cannot be.
    async fn keep(self: &Arc<Self>) -> Kept {
        let state = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || state.decisions.keep(&state.store.pin())).await;
        let warning = done.unwrap_or_else(|failed| Some(failed.to_string()));
        Kept { kept: warning.is_none(), warning }
    }
}

/// What operators see and do.
fn orchestrator(live: Arc<Live>) -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/upgrade", post_with(upgrade::upgrade, about("upgrade", "Let a new process take over")))
        .merge(audit::routes())
        .merge(config::routes())
        .merge(health::routes())
        .merge(servers::routes())
        .merge(membership::routes())
        .merge(gpus::routes())
        .merge(in_flight::routes())
        .merge(circuits::routes())
        .merge(bans::routes())
        .merge(caches::routes())
        .merge(queue::routes())
        .merge(quotas::routes())
        .merge(models::routes())
        .merge(model_jobs::routes())
        .merge(model_stats::routes())
        .merge(jobs::routes())
        .merge(recovery::routes())
        .merge(requests::routes())
        .merge(logs::routes())
        .merge(analytics::routes())
        .route("/metrics", get(handlers::metrics))
        .merge(recovery_action::routes())
        .merge(notifications::routes())
        .merge(overview::routes(live))
}

/// Serves until the runtime ends, or until another process does it; then whoever waits for an answer gets it.
pub async fn serve(listener: AdminListener, state: State) {
    let own = state.own.clone();
    let mut closing = state.closing.clone();
    let closed = async move {
        // Nobody who could say so is left: then the process has ended.
        drop(closing.wait_for(|closing| *closing).await);
    };
    let guard = access::Guard { store: Arc::clone(&state.store), history: Arc::clone(&state.history), own };
    let state = Arc::new(state);
    let live = Live::new(Arc::clone(&state));
    let sampler = tokio::spawn(Arc::clone(&live).run());
    let (orchestrator, mut document) = openapi::finish(orchestrator(live), PREFIX);
    let (multihost, of_multihost) = openapi::finish(multihost::routes(), multihost::PREFIX);
    openapi::merge(&mut document, of_multihost);
    let orchestrator = orchestrator.route(openapi::PATH, get(async move || Json(document)));
    let app = Router::new()
        .route("/health", get(handlers::health))
        .route("/health/live", get(handlers::live))
        .route("/health/ready", get(handlers::ready))
        .route("/metrics", get(handlers::metrics))
        .merge(dashboard::routes())
        .nest(PREFIX, orchestrator)
        .nest(multihost::PREFIX, multihost)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(axum::middleware::from_fn_with_state(Arc::new(guard), access::check))
        .with_state(state);
    let served = match listener {
        AdminListener::Tcp(listener, _) => match TcpListener::from_std(listener) {
            Ok(listener) => axum::serve(listener, app).with_graceful_shutdown(closed).await,
            Err(error) => Err(error),
        },
        AdminListener::Unix(listener, _) => match UnixListener::from_std(listener) {
            Ok(listener) => axum::serve(listener, app).with_graceful_shutdown(closed).await,
            Err(error) => Err(error),
        },
    };
    sampler.abort();
    if let Err(error) = served {
        tracing::error!(%error, "the admin listener failed");
    }
}
