//! Binds addresses and accepts connections.
//!
//! Pingora's own listeners keep trying a taken port for half a minute and then leave the process
//! running without it, hold a 64 KiB buffer for every idle connection, and cannot be drained by
//! count. So the accept loop is ours and hands each connection to Pingora's engine.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use pingora_core::apps::HttpServerOptions;
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::client_stream::http2_options;
use super::connection::{ACCEPT_PAUSE, Acceptor};
use super::service::Service;
use crate::fleet::store::Store;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Idle connections to servers in all, far above what `max_idle` of real upstreams adds up to.
const POOL: usize = 65_536;

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
    /// Worker threads.
    pub threads: usize,
    /// Turns true when no new request may begin.
    pub shutdown: ShutdownWatch,
}

/// Accepts on all listeners; returns when told to shut down. Requests in flight go on.
///
/// # Errors
/// When a socket cannot be handed to the runtime.
pub async fn serve(listeners: Vec<BoundListener>, data: Data) -> io::Result<()> {
    let (store, metrics, shutdown) = (Arc::clone(&data.store), Arc::clone(&data.metrics), data.shutdown.clone());
    let proxy = Arc::new(engine(data));
    let mut accepting = tokio::task::JoinSet::new();
    for (number, bound) in listeners.into_iter().enumerate() {
        let acceptor = Arc::new(Acceptor {
            proxy: Arc::clone(&proxy),
            store: Arc::clone(&store),
            metrics: Arc::clone(&metrics),
            listener: number,
            shutdown: shutdown.clone(),
        });
        accepting.spawn(accept(TcpListener::from_std(bound.socket)?, acceptor));
    }
    while accepting.join_next().await.is_some() {}
    Ok(())
}

fn engine(data: Data) -> HttpProxy<Service> {
    let conf = ServerConf {
        threads: data.threads,
        upstream_keepalive_pool_size: POOL,
        // Our own rule decides; this is above anything that it allows.
        max_retries: 64,
        ..ServerConf::default()
    };
    let idle = data.store.load().listeners.iter().map(|listener| listener.keepalive).max();
    let service = Service {
        store: data.store,
        metrics: data.metrics,
        access_log: data.access_log,
        temp_dir: data.temp_dir,
        in_flight: data.in_flight,
    };
    let mut proxy = http_proxy(&Arc::new(conf), service);
    proxy.h2_options = Some(http2_options());
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = idle;
    proxy.server_options = Some(options);
    proxy
}

async fn accept(listener: TcpListener, acceptor: Arc<Acceptor>) {
    let mut shutdown = acceptor.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, client)) => {
                // Without it small pieces of a stream would wait for acknowledgements.
                if tcp.set_nodelay(true).is_ok() {
                    tokio::spawn(Arc::clone(&acceptor).serve(tcp, client));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
