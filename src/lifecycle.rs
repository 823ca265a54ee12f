//! Puts the parts together, starts them, and stops them without cutting anybody off.
//!
//! Two runtimes: requests run on the one, everything else (probes, admin listener, file watcher) on
//! the other, so that neither can starve the other. [`drain`] is how it stops, [`signals`] what it does until then,
//! [`upgrade`] how it makes room for another process, [`handover`] what passes between the two, and [`activation`] what
//! a service manager hands over.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle as Task;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminAddress, AdminListener, Order};
use crate::config::{Diagnostics, Loaded};
use crate::fleet::body_budget::BodyBudget;
use crate::fleet::compile::{CompileError, Surroundings, compile};
use crate::fleet::decisions::{self, Decisions};
use crate::fleet::keys;
use crate::fleet::memory;
use crate::fleet::reload::{
    Around, Change, InForce, Reloader, Source, apply_process_settings, changes_kept, overlay_of,
};
use crate::fleet::sockets::{BindError, Sockets};
use crate::fleet::store::Store;
use crate::fleet::watch as file_watch;
use crate::history::settings::Settings;
use crate::history::{History, HistoryError};
use crate::telemetry::access_log::{AccessLog, LastLine};
use crate::telemetry::logging;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::service_manager::ServiceManager;
use crate::telemetry::traces::Traces;
use crate::{clock, cluster, probe, proxy, threads};

mod activation;
mod drain;
mod handover;
mod open_files;
mod signals;
mod upgrade;

use handover::Inherited;
use upgrade::Upgrades;

pub use drain::Drained;
pub use signals::run;

/// How long a start waits for the servers to tell their models.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Threads for work with files, which must not hold up requests. Each has memory of its own for as long as it lives.
const BLOCKING: usize = 32;
/// What the last words to clients, and blocking work, may still take when everything else is done.
const LAST_WORK: Duration = Duration::from_millis(500);

/// The key of the admin listener's address.
const ADMIN_ADDRESS: &str = "admin.address";

/// Why a start failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not valid.
    #[error("{}", .0.render(false))]
    Config(Diagnostics),
    /// The configuration cannot run.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `server.data_dir` cannot be used.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The system refused a thread or a file.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// A running Arriero.
pub struct Running {
    /// Addresses of the listeners that it started with, with real ports.
    pub addresses: Vec<SocketAddr>,
    /// Address of the admin listener.
    pub admin: AdminAddress,
    /// What runs.
    pub store: Arc<Store>,
    /// The way to another configuration.
    pub reloader: Arc<Reloader>,
    sockets: Arc<Sockets>,
    in_flight: Arc<AtomicUsize>,
    tasks: TaskTracker,
    stopping: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    manager: Arc<ServiceManager>,
    order: mpsc::Sender<Order>,
    upgrades: Option<(Upgrades, mpsc::Receiver<Order>)>,
    admin_closing: watch::Sender<bool>,
    admin_served: Task<()>,
    finished: oneshot::Sender<()>,
    data: JoinHandle<()>,
    last_line: LastLine,
    last_story: Task<()>,
    membership: (watch::Sender<bool>, Task<()>),
    history: Arc<History>,
    control: Runtime,
}

/// Starts everything; returns when requests are accepted.
///
/// # Errors
/// Why nothing was started.
pub fn start(source: Source) -> Result<Running, StartError> {
    start_with(source, Inherited::default())
}

/// The same with what a process before this one had open.
fn start_with(source: Source, inherited: Inherited) -> Result<Running, StartError> {
    let first = source.load().map_err(StartError::Config)?;
    let log_level = logging::start(first.config.telemetry.log_level.as_str());
    open_files::prepare();
    let metrics = Arc::new(Metrics::default());
    let data_dir = first.config.server.data_dir.as_ref().map(Path::new);
    let history = Arc::new(History::open(data_dir, Settings::of(&first.config), Arc::clone(&metrics))?);
    let (loaded, changes) = with_changes(&source, first, changes_kept(&history));
    for warning in &loaded.warnings {
        tracing::warn!("{}", warning.message);
    }
    let hash = loaded.hash.clone();
    let in_force = InForce::new(loaded, changes);
    let config = &in_force.config;
    let around = Surroundings {
        servers: std::collections::HashMap::new(),
        metrics: &metrics,
        now: clock::now(),
        unix_time: clock::unix_time().as_secs_f64(),
    };
    let snapshot = compile(config, hash, &around)?;
    let sockets = Arc::new(Sockets::new(inherited.listeners));
    let listeners = sockets.prepare(&snapshot.listeners)?;
    let given = inherited.admin.or_else(|| {
        let address = &config.admin.address;
        sockets.take_inherited(address).map(|socket| (address.clone(), socket.into()))
    });
    let (admin_listener, admin_socket) = admin_listener(&config.admin.address, given)?;
    let addresses = listeners.iter().map(|listener| listener.address).collect();
    let admin_address = admin_listener.address();
    let store = Arc::new(Store::new(snapshot, Arc::new(BodyBudget::default())));
    sockets.put_in_force(listeners);
    apply_process_settings(config, &store, &log_level);
    let (access_log, last_line) = AccessLog::start(io::stdout(), Arc::clone(&metrics))?;
    let threads = config.server.threads.map_or_else(default_threads, |threads| threads as usize);
    let temp_dir = config.server.temp_dir.clone().map_or_else(std::env::temp_dir, PathBuf::from);
    match history.learned() {
        Ok(learned) => memory::remember(&store.load(), &learned),
        Err(error) => tracing::warn!(%error, "what was learned cannot be read and begins anew"),
    }
    let data_dir = config.server.data_dir.clone().map(PathBuf::from);
    let manager = Arc::new(ServiceManager::new(&|name| std::env::var(name).ok()));
    let around = Around {
        store: Arc::clone(&store),
        metrics: Arc::clone(&metrics),
        log_level,
        sockets: Arc::clone(&sockets),
        manager: Arc::clone(&manager),
        history: Arc::clone(&history),
    };
    let reloader = Arc::new(Reloader::new(source, in_force, around));
    let decisions = Arc::new(Decisions::new(Arc::clone(&history)));
    decisions.restore(&store.load());
    let (traces, stories) = Traces::channel(Arc::clone(&metrics));
    let (stopping, is_stopping) = watch::channel(false);
    let (cut, is_cut) = watch::channel(false);
    let (admin_closing, admin_is_closing) = watch::channel(false);
    let (order, orders) = mpsc::channel(1);
    let upgrades = Upgrades {
        sockets: Arc::clone(&sockets),
        admin: admin_socket,
        stopping: is_stopping.clone(),
        manager: Arc::clone(&manager),
    };
    let in_flight = Arc::new(AtomicUsize::new(0));
    let tasks = TaskTracker::new();

    let control = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .on_thread_start(threads::come_behind_requests)
        .enable_all()
        .build()?;
    let events = store.load().lasting.telling.events.listen();
    control.spawn(probe::notify(Arc::clone(&store), Arc::clone(&metrics), events));
    control.block_on(probe::first_look(&store, &metrics, FIRST_LOOK));
    control.spawn(probe::run(Arc::clone(&store), Arc::clone(&metrics), is_stopping.clone()));
    control.spawn(probe::carry_out_orders(Arc::clone(&store), Arc::clone(&metrics), Arc::clone(&history)));
    control.spawn(probe::carry_out_jobs(Arc::clone(&store), Arc::clone(&metrics)));
    control.spawn(file_watch::watch(Arc::clone(&reloader)));
    let (leave, leaving) = watch::channel(false);
    let cluster = cluster::run(
        Arc::clone(&store),
        Arc::clone(&metrics),
        Arc::clone(&decisions),
        Arc::clone(&history),
        is_stopping.clone(),
        leaving,
    );
    let membership = (leave, control.spawn(cluster));
    control.spawn(probe::watch_certificates(Arc::clone(&store), Arc::clone(&metrics)));
    let folders = probe::Folders { data: data_dir, temp: temp_dir.clone() };
    control.spawn(probe::watch_process(Arc::clone(&store), Arc::clone(&metrics), folders));
    let last_story = control.spawn(probe::tell_traces(Arc::clone(&store), Arc::clone(&metrics), stories));
    control.spawn(keys::watch(Arc::clone(&store), Arc::clone(&metrics)));
    control.spawn(decisions::watch(Arc::clone(&decisions), Arc::clone(&store), is_stopping.clone()));
    let admin_served = control.spawn(admin::serve(
        admin_listener,
        admin::State {
            store: Arc::clone(&store),
            reloader: Arc::clone(&reloader),
            metrics: Arc::clone(&metrics),
            history: Arc::clone(&history),
            decisions,
            stopping: is_stopping,
            own: admin_address.clone(),
            upgrades: order.clone(),
            closing: admin_is_closing,
            started: clock::now(),
        },
    ));

    let data = proxy::Data {
        store: Arc::clone(&store),
        metrics,
        access_log,
        traces,
        history: Arc::clone(&history),
        temp_dir,
        in_flight: Arc::clone(&in_flight),
        sockets: Arc::clone(&sockets),
        tasks: tasks.clone(),
        cut: is_cut,
    };
    let watchdog = Arc::clone(&manager);
    let (finished, end) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let data = std::thread::Builder::new().name("data".to_owned()).spawn(move || {
        let failed = ready.clone();
        run_data(threads, &failed, async move {
            proxy::serve(data);
            tokio::spawn(tell_that_we_live(watchdog));
            drop(ready.send(Ok(())));
            // Requests in flight go on until this side is told that all is done.
            drop(end.await);
        });
    })?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(Running {
        addresses,
        admin: admin_address,
        store,
        reloader,
        sockets,
        in_flight,
        tasks,
        stopping,
        cut,
        manager,
        order,
        upgrades: Some((upgrades, orders)),
        admin_closing,
        admin_served,
        finished,
        data,
        last_line,
        last_story,
        membership,
        history,
        control,
    })
}

/// The configuration with what was changed at run time before this start. If it would not be valid with that, because the
/// file was changed since, the file alone holds; the log has what is left out.
fn with_changes(source: &Source, first: Loaded, changes: Vec<Change>) -> (Loaded, Vec<Change>) {
    if changes.is_empty() {
        return (first, changes);
    }
    match source.load_with(&overlay_of(&changes)) {
        Ok(loaded) => {
            tracing::warn!(changes = changes.len(), "values that were changed at run time hold instead of the file's");
            (loaded, changes)
        }
        Err(refused) => {
            let changes = serde_json::to_string(&changes).unwrap_or_default();
            let error = refused.render(false);
            tracing::error!(
                changes,
                "what was changed at run time does not fit the file any more, which holds alone\n{error}"
            );
            (first, Vec::new())
        }
    }
}

/// The admin listener, and its socket once more for a process after this one.
fn admin_listener(
    address: &str,
    inherited: Option<(String, OwnedFd)>,
) -> Result<(AdminListener, (String, OwnedFd)), StartError> {
    let listener = match inherited {
        Some((written, socket)) if written == address => AdminListener::inherited(address, socket),
        _ => admin::bind(address),
    };
    let both =
        listener.and_then(|listener| listener.duplicate().map(|socket| (listener, (address.to_owned(), socket))));
    let what = ADMIN_ADDRESS.to_owned();
    Ok(both.map_err(|error| BindError { address: address.to_owned(), what, error })?)
}

/// Tells the service manager that requests are worked on, for as long as they are.
async fn tell_that_we_live(manager: Arc<ServiceManager>) {
    let Some(interval) = manager.watchdog() else { return };
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        manager.alive();
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs the data path on this thread until it is done; tells when it cannot. One worker needs no scheduler between threads.
fn run_data(threads: usize, failed: &std::sync::mpsc::Sender<io::Result<()>>, work: impl Future<Output = ()>) {
    let built = if threads == 1 {
        Builder::new_current_thread().max_blocking_threads(BLOCKING).enable_all().build()
    } else {
        Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(BLOCKING)
            .thread_name("data")
            .enable_all()
            .build()
    };
    match built {
        Ok(runtime) => {
            runtime.block_on(work);
            runtime.shutdown_timeout(LAST_WORK);
        }
        Err(error) => drop(failed.send(Err(error))),
    }
}
