//! The sockets of listeners: bound before a configuration that names them comes into force, kept as long as one does.
//!
//! # Invariants
//! - A listener is its counter [`Connections`], which lives as long as a configuration names its address. So a socket,
//!   and the port that the system chose for port 0, outlive every reload that leaves the address as it is written.
//! - What a configuration needs is open before anything of it is in force; if one address cannot be had, nothing
//!   changes.
//! - Whoever has connected is served: a listener that goes takes what waits in its queue before its socket is closed.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::watch;

use super::connections::{Connections, Phase};
use super::snapshot::ListenerSettings;

/// Connections that may wait to be accepted.
pub const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}` ({what}): {error}")]
pub struct BindError {
    /// The address.
    pub address: String,
    /// Where it stands in the configuration.
    pub what: String,
    /// What the system said.
    pub error: io::Error,
}

/// An address that clients can connect to.
#[derive(Debug)]
pub struct ListenerSocket {
    /// The listener that it belongs to.
    pub listener: Arc<Connections>,
    /// Its settings when the socket was opened.
    pub settings: Arc<ListenerSettings>,
    /// The address with its real port.
    pub address: SocketAddr,
    socket: TcpListener,
}

impl ListenerSocket {
    /// The same socket once more, for a runtime or for another process.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn duplicate(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }

    /// A connection that is waiting already.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn accept_waiting(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (tcp, client) = self.socket.accept()?;
        tcp.set_nonblocking(true)?;
        Ok((tcp, client))
    }
}

/// All sockets that are open.
#[derive(Debug)]
pub struct Sockets {
    open: watch::Sender<Vec<Arc<ListenerSocket>>>,
    /// Sockets of the process before or of the service manager, by the address as it was written there.
    inherited: Mutex<Vec<(String, TcpListener)>>,
}

impl Sockets {
    /// Begins without any; `inherited` were open before this process began.
    #[must_use]
    pub fn new(inherited: Vec<(String, TcpListener)>) -> Self {
        Self { open: watch::Sender::new(Vec::new()), inherited: Mutex::new(inherited) }
    }

    /// What is open, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Vec<Arc<ListenerSocket>>> {
        self.open.subscribe()
    }

    /// What is open now, in the order of the configuration.
    pub fn open(&self) -> Vec<Arc<ListenerSocket>> {
        self.open.borrow().clone()
    }

    /// Opens what these listeners need and is not open yet. Nobody accepts there before [`Sockets::put_in_force`].
    ///
    /// # Errors
    /// The first address that cannot be had; nothing has changed then.
    pub fn prepare(&self, listeners: &[Arc<ListenerSettings>]) -> Result<Vec<Arc<ListenerSocket>>, BindError> {
        let open = self.open();
        let stays = |socket: &&Arc<ListenerSocket>| {
            listeners.iter().any(|settings| Arc::ptr_eq(&settings.connections, &socket.listener))
        };
        let (staying, going): (Vec<_>, Vec<_>) = open.iter().partition(stays);
        let one = |(number, settings): (usize, &Arc<ListenerSettings>)| {
            let is_same = |socket: &&&Arc<ListenerSocket>| Arc::ptr_eq(&socket.listener, &settings.connections);
            if let Some(known) = staying.iter().find(is_same) {
                return Ok(Arc::clone(known));
            }
            self.open_one(settings, &going).map(Arc::new).map_err(|error| BindError {
                address: settings.address.clone(),
                what: format!("listeners[{number}].address"),
                error,
            })
        };
        listeners.iter().enumerate().map(one).collect()
    }

    /// From here on clients are accepted on these sockets, and on no others.
    pub fn put_in_force(&self, next: Vec<Arc<ListenerSocket>>) {
        let has =
            |all: &[Arc<ListenerSocket>], one: &Arc<ListenerSocket>| all.iter().any(|each| Arc::ptr_eq(each, one));
        let before = self.open();
        for new in next.iter().filter(|socket| !has(&before, socket)) {
            tracing::info!(address = %new.address, "listening");
        }
        let gone = before.iter().filter(|socket| !has(&next, socket));
        let gone: Vec<_> = gone.map(|socket| (socket.address, Arc::clone(&socket.listener))).collect();
        drop(before);
        self.open.send_replace(next);
        for (address, listener) in gone {
            tracing::info!(%address, "no longer listening");
            listener.enter(Phase::Closed);
        }
        // What no listener wanted is not ours: its port is to be free.
        for (address, _) in self.inherited.lock().drain(..) {
            tracing::warn!(%address, "a socket was handed over that no listener has in its `address`");
        }
    }

    /// No client is to begin anything more than it must on any listener.
    pub fn leave(&self) {
        self.open.borrow().iter().for_each(|socket| socket.listener.enter(Phase::Leaving));
    }

    /// Nobody is accepted any more.
    pub fn close(&self) {
        let before = self.open.send_replace(Vec::new());
        // Who accepts is to be the last to hold a socket, so that it is closed the moment that nobody waits there.
        let listeners: Vec<_> = before.iter().map(|socket| Arc::clone(&socket.listener)).collect();
        drop(before);
        listeners.iter().for_each(|listener| listener.enter(Phase::Closed));
    }

    fn open_one(&self, settings: &Arc<ListenerSettings>, going: &[&Arc<ListenerSocket>]) -> io::Result<ListenerSocket> {
        let socket = match self.take_inherited(&settings.address) {
            Some(inherited) => inherited,
            None => bind(&settings.address, going)?,
        };
        Ok(ListenerSocket {
            listener: Arc::clone(&settings.connections),
            settings: Arc::clone(settings),
            address: socket.local_addr()?,
            socket,
        })
    }

    /// The socket that was open before this process began for an address, as it is written or as it is meant.
    pub fn take_inherited(&self, address: &str) -> Option<TcpListener> {
        let mut inherited = self.inherited.lock();
        if inherited.is_empty() {
            return None;
        }
        let written = inherited.iter().position(|(written, _)| written == address);
        let index = written.or_else(|| {
            let meant: Vec<SocketAddr> = address.to_socket_addrs().ok()?.collect();
            inherited.iter().position(|(_, socket)| socket.local_addr().is_ok_and(|local| meant.contains(&local)))
        })?;
        Some(inherited.remove(index).1)
    }
}

/// Binds an address as it is written; names are looked up.
fn bind(address: &str, going: &[&Arc<ListenerSocket>]) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no such address");
    for candidate in address.to_socket_addrs()? {
        match bind_one(candidate, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => {
                last = error;
                continue;
            }
            Ok(bound) => return Ok(bound),
        }
        // A listener that moves from one address of a port to another is in its own way, until it is gone.
        let in_the_way: Vec<_> = going.iter().filter(|socket| socket.address.port() == candidate.port()).collect();
        if in_the_way.is_empty() {
            continue;
        }
        let share = |on: bool| in_the_way.iter().try_for_each(|each| SockRef::from(&each.socket).set_reuse_port(on));
        let bound = share(true).and_then(|()| bind_one(candidate, true));
        share(false)?;
        match bound {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, as they are written.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(share)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    if share {
        // Only while it moves: two programs on one port would each get some of the clients.
        socket.set_reuse_port(false)?;
    }
    Ok(TcpListener::from(socket))
}
