//! Binds addresses and accepts connections.
//!
//! Pingora's own listeners keep trying a taken port for half a minute and then leave the process
//! running without it, hold a 64 KiB buffer for every idle connection, and cannot be drained by
//! count. So the accept loop is ours.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connection::{ACCEPT_PAUSE, Acceptor};
use super::server;
use super::service::Service;
use crate::clock;
use crate::fleet::store::Store;
use crate::policy::descriptors::Descriptors;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How often idle connections to servers are looked at.
const PRUNE: Duration = Duration::from_secs(1);

/// An address that is bound and does not accept yet.
pub struct BoundListener {
    /// The address with its real port.
    pub address: SocketAddr,
    socket: std::net::TcpListener,
}

/// Binds an address.
///
/// # Errors
/// When it is not an address, or cannot be bound.
pub fn bind(address: &str) -> io::Result<BoundListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no such address");
    for candidate in address.to_socket_addrs()? {
        match bind_one(candidate) {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<BoundListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, as they are written.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = std::net::TcpListener::from(socket);
    Ok(BoundListener { address: socket.local_addr()?, socket })
}

/// What the data path needs.
pub struct Data {
    /// The configuration in force and the servers.
    pub store: Arc<Store>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Where finished requests are told.
    pub access_log: AccessLog,
    /// Folder for bodies that do not fit into memory.
    pub temp_dir: PathBuf,
    /// Requests being served.
    pub in_flight: Arc<AtomicUsize>,
    /// Turns true when no new request may begin.
    pub shutdown: watch::Receiver<bool>,
}

/// Accepts on all listeners; returns when told to shut down. Requests in flight go on.
///
/// # Errors
/// When a socket cannot be handed to the runtime.
pub async fn serve(listeners: Vec<BoundListener>, data: Data) -> io::Result<()> {
    let service = Arc::new(Service {
        store: data.store,
        metrics: data.metrics,
        access_log: data.access_log,
        temp_dir: data.temp_dir,
        in_flight: data.in_flight,
        connector: server::Connector::new(),
        shutdown: data.shutdown,
    });
    tokio::spawn(prune(Arc::clone(&service)));
    let mut accepting = tokio::task::JoinSet::new();
    for (number, bound) in listeners.into_iter().enumerate() {
        let acceptor = Arc::new(Acceptor { service: Arc::clone(&service), listener: number });
        accepting.spawn(accept(TcpListener::from_std(bound.socket)?, acceptor));
    }
    while accepting.join_next().await.is_some() {}
    Ok(())
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

async fn accept(listener: TcpListener, acceptor: Arc<Acceptor>) {
    let mut shutdown = acceptor.service.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            accepted = next(&listener, &acceptor.service) => accepted,
        };
        match accepted {
            // Without it small pieces of a stream would wait for acknowledgements.
            Ok((tcp, client)) if tcp.set_nodelay(true).is_ok() => {
                tokio::spawn(Arc::clone(&acceptor).serve(tcp, client));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection, as long as there are file descriptors for it and for what it will need. Others wait in the
/// system's queue; reload, health and admin keep their reserve.
async fn next(listener: &TcpListener, service: &Service) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        let (files, all) = {
            let snapshot = service.store.load();
            let soft = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            let files = Descriptors { soft, reserved: snapshot.reserved_files.into() };
            (files, Arc::clone(&snapshot.lasting.connections))
        };
        if !files.may_accept(all.open()) {
            all.wait_below(files.most()).await;
        }
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
