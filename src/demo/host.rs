//! One simulated Ollama host, from start to stop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};

use super::faults::Faults;
use super::gate::Gate;
use super::ledger::Ledger;
use super::lifecycle::{self, Door, Shared};
use super::model::DemoModel;
use super::settings::HostConfig;
use super::wire::Ending;

/// How many connections the kernel may hold for us before we accept them.
const BACKLOG: u32 = 1024;

/// A simulated Ollama host on a real socket. Dropping it kills it.
pub struct Host {
    shared: Arc<Shared>,
    door: Mutex<Door>,
    drain: watch::Sender<bool>,
}

impl Host {
    /// Starts a host on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn start(config: HostConfig) -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), config).await
    }

    /// Starts a host on a given address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_on(address: SocketAddr, config: HostConfig) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let shared = Shared::new(config, listener.local_addr()?);
        let drain = watch::Sender::new(false);
        let task = lifecycle::accept(&shared, listener, drain.subscribe());
        Ok(Self { shared, door: Mutex::new(Door::Open(task)), drain })
    }

    /// The configured name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.config.name
    }

    /// Where it listens; the same for its whole life, restarts included.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// `http://127.0.0.1:41234`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Every request it began. The ledger outlives the host.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger.clone()
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Holds back every token while it is closed.
    #[must_use]
    pub fn token_gate(&self) -> &Gate {
        &self.shared.token_gate
    }

    /// Holds back the end of every load while it is closed.
    #[must_use]
    pub fn load_gate(&self) -> &Gate {
        &self.shared.load_gate
    }

    /// Holds back pulls, each before the next piece that it takes, while it is closed.
    #[must_use]
    pub fn pull_gate(&self) -> &Gate {
        &self.shared.pull_gate
    }

    /// Names of the models in memory or loading, in the order of loading.
    #[must_use]
    pub fn loaded(&self) -> Vec<String> {
        self.shared.scheduler().names()
    }

    /// Requests that wait for their turn to load.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.shared.scheduler().pending()
    }

    /// Connections open now; a test can wait on it.
    #[must_use]
    pub fn open_connections(&self) -> watch::Receiver<usize> {
        self.shared.open_connections()
    }

    /// Puts a model on disk, as a finished pull does.
    pub fn add_model(&self, model: DemoModel) {
        let mut models = self.shared.models.write();
        models.retain(|other| !other.is_called(&model.name));
        models.push(model);
    }

    /// Takes a model off the disk. One that is loaded stays loaded.
    pub fn remove_model(&self, name: &str) {
        self.shared.models.write().retain(|model| !model.is_called(name));
    }

    /// Refuses new connections from now on; those there are go on.
    pub async fn stop_listening(&self) {
        let mut door = self.door.lock().await;
        if let Door::Open(task) = &*door {
            task.abort();
        }
        if let Door::Open(task) = std::mem::replace(&mut *door, Door::Shut(None)) {
            // Once the task is gone so is its listener; the port is free for our own reservation.
            let _ = task.await;
            *door = Door::Shut(lifecycle::reserve(self.shared.address).ok());
        }
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Errors
    /// When the port has been taken by someone else meanwhile.
    pub async fn listen_again(&self) -> io::Result<()> {
        let mut door = self.door.lock().await;
        let socket = match &mut *door {
            Door::Open(_) => return Ok(()),
            Door::Shut(kept) => match kept.take() {
                Some(socket) => socket,
                None => lifecycle::reserve(self.shared.address)?,
            },
        };
        let listener = socket.listen(BACKLOG)?;
        *door = Door::Open(lifecycle::accept(&self.shared, listener, self.drain.subscribe()));
        Ok(())
    }

    /// Dies as by `kill -9`: stops listening, resets every connection, forgets what was loaded.
    pub async fn kill(&self) {
        self.stop_listening().await;
        self.shared.end_connections(Ending::Reset);
        self.all_closed().await;
        // Last, so that no request of the old life can load anything into the new one.
        self.shared.forget_loaded();
    }

    /// Starts again after a kill, on the same port, with nothing loaded and the ledger kept.
    ///
    /// # Errors
    /// When the port has been taken by someone else meanwhile.
    pub async fn restart(&self) -> io::Result<()> {
        self.listen_again().await
    }

    /// Resets every open connection and goes on listening.
    pub fn reset_connections(&self) {
        self.shared.end_connections(Ending::Reset);
    }

    /// Stops in good order: no new connections, requests in flight finish, idle connections close.
    pub async fn stop(self) {
        self.stop_listening().await;
        self.drain.send_replace(true);
        self.all_closed().await;
    }

    async fn all_closed(&self) {
        // The sender lives in self.shared.
        let _ = self.shared.open_connections().wait_for(|open| *open == 0).await;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Door::Open(task) = &*self.door.get_mut() {
            task.abort();
        }
        self.shared.end_connections(Ending::Reset);
    }
}
