//! What the tasks of one host share, and the task that accepts connections.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::connection;
use super::faults::Faults;
use super::gate::Gate;
use super::ledger::Ledger;
use super::model::DemoModel;
use super::scheduler::Scheduler;
use super::settings::HostConfig;
use super::wire::{Control, Ending};

/// What a host, its connections and its requests share.
pub(super) struct Shared {
    pub(super) config: HostConfig,
    pub(super) address: SocketAddr,
    pub(super) ledger: Ledger,
    pub(super) faults: Faults,
    pub(super) models: RwLock<Vec<DemoModel>>,
    pub(super) blobs: Mutex<Vec<String>>,
    pub(super) token_gate: Gate,
    pub(super) load_gate: Gate,
    pub(super) pull_gate: Gate,
    /// Bytes of layers that were pulled, by digest.
    pub(super) partial: Mutex<HashMap<String, u64>>,
    scheduler: RwLock<Arc<Scheduler>>,
    connections: Mutex<HashMap<u64, Arc<Control>>>,
    open: watch::Sender<usize>,
    next_connection: AtomicU64,
}

impl Shared {
    pub(super) fn new(config: HostConfig, address: SocketAddr) -> Arc<Self> {
        let (load_gate, ledger) = (Gate::default(), Ledger::new(config.record));
        Arc::new(Self {
            address,
            faults: Faults::default(),
            models: RwLock::new(config.models.clone()),
            blobs: Mutex::new(Vec::new()),
            token_gate: Gate::default(),
            pull_gate: Gate::default(),
            partial: Mutex::new(HashMap::new()),
            scheduler: RwLock::new(Scheduler::new(&config, load_gate.clone(), ledger.clone())),
            load_gate,
            ledger,
            connections: Mutex::new(HashMap::new()),
            open: watch::Sender::new(0),
            next_connection: AtomicU64::new(1),
            config,
        })
    }

    /// The scheduler of the present process.
    pub(super) fn scheduler(&self) -> Arc<Scheduler> {
        Arc::clone(&self.scheduler.read())
    }

    /// Forgets everything loaded, as a new process would.
    pub(super) fn forget_loaded(&self) {
        *self.scheduler.write() = Scheduler::new(&self.config, self.load_gate.clone(), self.ledger.clone());
    }

    /// Connections open now, as a value that can be waited on.
    pub(super) fn open_connections(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// Ends every connection at once.
    pub(super) fn end_connections(&self, ending: Ending) {
        for control in self.connections.lock().values() {
            control.end_now(ending);
        }
    }

    /// The model of a name, if it is on disk.
    pub(super) fn model(&self, name: &str) -> Option<DemoModel> {
        self.models.read().iter().find(|model| model.is_called(name)).cloned()
    }

    fn enter(self: &Arc<Self>) -> Present {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let control = Control::new(id);
        let mut connections = self.connections.lock();
        connections.insert(id, Arc::clone(&control));
        self.open.send_replace(connections.len());
        Present { host: Arc::clone(self), control }
    }
}

/// Keeps a connection in the list while it lives.
struct Present {
    host: Arc<Shared>,
    control: Arc<Control>,
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut connections = self.host.connections.lock();
        connections.remove(&self.control.id);
        self.host.open.send_replace(connections.len());
    }
}

/// The accepting half of a host: listening, or holding the port without listening.
pub(super) enum Door {
    /// Accepting connections.
    Open(JoinHandle<()>),
    /// Refusing them; the bound socket keeps the port ours.
    Shut(Option<TcpSocket>),
}

/// Starts to accept.
pub(super) fn accept(host: &Arc<Shared>, listener: TcpListener, drain: watch::Receiver<bool>) -> JoinHandle<()> {
    let host = Arc::clone(host);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let present = host.enter();
                    let (host, drain) = (Arc::clone(&host), drain.clone());
                    tokio::spawn(async move {
                        let control = Arc::clone(&present.control);
                        connection::serve(host, stream, control, drain).await;
                        drop(present);
                    });
                }
                // Out of file descriptors, or a client that left: let others run, then go on.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
}

/// A bound socket that does not listen: connections to it are refused.
pub(super) fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}
