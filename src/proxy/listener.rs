//! Accepts connections.
//!
//! Pingora's own listeners keep trying a taken port for half a minute and then leave the process
//! running without it, hold a 64 KiB buffer for every idle connection, and cannot be drained by
//! count. So the accept loop is ours.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::connection::{ACCEPT_PAUSE, Acceptor, admit};
use super::server;
use super::service::Service;
use crate::clock;
use crate::fleet::connections::Phase;
use crate::fleet::sockets::{BACKLOG, ListenerSocket, Sockets};
use crate::fleet::store::Store;
use crate::history::History;
use crate::policy::descriptors::Descriptors;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// How often idle connections to servers are looked at.
const PRUNE: Duration = Duration::from_secs(1);

/// What the data path needs.
pub struct Data {
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
    /// The sockets to accept on.
    pub sockets: Arc<Sockets>,
    /// Everything that the process waits for when it stops.
    pub tasks: TaskTracker,
    /// Turns true when nothing is waited for any longer.
    pub cut: watch::Receiver<bool>,
}

/// Begins to accept on all sockets that are open, and on those that a reload opens, until the process ends.
pub fn serve(data: Data) {
    let service = Arc::new_cyclic(|myself| Service {
        store: data.store,
        metrics: data.metrics,
        access_log: data.access_log,
        traces: data.traces,
        history: data.history,
        temp_dir: data.temp_dir,
        in_flight: data.in_flight,
        connector: server::Connector::new(),
        // The limit of a process that runs does not change by itself.
        descriptors: Descriptors {
            soft: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            reserved: open_files(),
        },
        tasks: data.tasks,
        cut: data.cut,
        myself: myself.clone(),
    });
    tokio::spawn(prune(Arc::clone(&service)));
    let mut sockets = data.sockets.subscribe();
    // Not held here, so that each is closed when its own task is done with it.
    let mut known = accept_on(&sockets.borrow_and_update(), &[], &service);
    tokio::spawn(async move {
        while sockets.changed().await.is_ok() {
            known = accept_on(&sockets.borrow_and_update(), &known, &service);
        }
    });
}

/// Accepts on sockets that are not among those where somebody accepts already.
fn accept_on(
    open: &[Arc<ListenerSocket>],
    known: &[Weak<ListenerSocket>],
    service: &Arc<Service>,
) -> Vec<Weak<ListenerSocket>> {
    for socket in open {
        if !known.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(socket))) {
            service.tasks.spawn(accept(Arc::clone(socket), Arc::clone(service)));
        }
    }
    open.iter().map(Arc::downgrade).collect()
}

/// Closes idle connections to servers that are too old or of no use any more, until the process ends.
async fn prune(service: Arc<Service>) {
    let mut ticks = tokio::time::interval(PRUNE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let snapshot = service.store.pin();
        for upstream in &snapshot.upstreams {
            for member in upstream.servers.iter().filter(|member| !member.state.idle.is_empty()) {
                server::prune(&member.state, upstream, clock::now());
            }
        }
    }
}

/// Accepts until the listener closes; who has connected by then is served.
async fn accept(socket: Arc<ListenerSocket>, service: Arc<Service>) {
    let listener = match socket.duplicate().and_then(TcpListener::from_std) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, address = %socket.address, "cannot accept connections");
            return;
        }
    };
    let mut settings = Arc::clone(&socket.settings);
    let mut serve = |tcp: TcpStream, client: SocketAddr| {
        // Without it small pieces of a stream would wait for acknowledgements.
        if tcp.set_nodelay(true).is_ok() {
            settings = service.store.load().listener(&settings);
            // Counted before another one is accepted.
            let Some(open) = admit(&service, &settings, client.ip()) else { return };
            let acceptor = Acceptor { service: Arc::clone(&service) };
            service.tasks.spawn(acceptor.serve(tcp, client, Arc::clone(&settings), open));
        }
    };
    let mut closes = std::pin::pin!(socket.listener.reaches(Phase::Closed));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closes => break,
            accepted = next(&listener, &service) => accepted,
        };
        match accepted {
            Ok((tcp, client)) => serve(tcp, client),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // What comes between the last look and the end of the socket is reset by the system: that is to be as short as it can.
    drop(listener);
    for _ in 0..BACKLOG {
        match socket.accept_waiting().and_then(|(tcp, client)| Ok((TcpStream::from_std(tcp)?, client))) {
            Ok((tcp, client)) => serve(tcp, client),
            Err(_) => return,
        }
    }
}

/// How many files the process has open: what it needs before any client comes.
fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// The next connection, as long as there are file descriptors for it and for what it will need. Others wait in the
/// system's queue; reload, health and admin keep their reserve.
async fn next(listener: &TcpListener, service: &Service) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        let (files, all) = {
            let snapshot = service.store.load();
            (service.descriptors(&snapshot), Arc::clone(&snapshot.lasting.connections))
        };
        all.wait_for(files.room()).await;
        let (tcp, client) = listener.accept().await?;
        // The system hands out the lowest free number: one this high says that nearly all are taken.
        if files.is_kept(u64::try_from(tcp.as_raw_fd()).unwrap_or(0)) {
            service.metrics.connection_refused("files");
            drop(tcp);
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        return Ok((tcp, client));
    }
}
