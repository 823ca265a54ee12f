//! Makes room for a new process of this program, without refusing anybody.
//!
//! The new process is started with the sockets of this one, and both accept; when the new one says that it serves,
//! this one drains and ends. If it does not say so, it is ended, and this one goes on as if nothing had been.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

use super::handover::{self, SERVING};
use crate::admin::Order;
use crate::fleet::sockets::Sockets;
use crate::telemetry::service_manager::ServiceManager;

/// What of the new process' standard error is kept, in bytes.
const KEPT: usize = 64 << 10;
/// How long its last words are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a new process gets, and who is told.
pub struct Upgrades {
    /// Sockets of listeners.
    pub sockets: Arc<Sockets>,
    /// The admin listener by its address as it is written.
    pub admin: (String, OwnedFd),
    /// Whether this process is stopping.
    pub stopping: watch::Receiver<bool>,
    /// Learns who the service is.
    pub manager: Arc<ServiceManager>,
}

impl Upgrades {
    /// Carries out orders until one has succeeded: then this process is to end. False when no more orders can come.
    pub async fn serve(mut self, mut orders: mpsc::Receiver<Order>) -> bool {
        while let Some(order) = orders.recv().await {
            let result = self.launch(&order).await;
            match &result {
                Ok(process) => tracing::info!(process, "another process has taken over"),
                Err(error) => tracing::error!("not upgraded, this process goes on\n{error}"),
            }
            let is_done = result.is_ok();
            // Who asked may have left.
            drop(order.answer.send(result));
            if is_done {
                return true;
            }
        }
        false
    }

    async fn launch(&mut self, order: &Order) -> Result<u32, String> {
        if std::process::id() == 1 {
            let what = "this is process 1, and a container ends with it: start a new container instead";
            return Err(what.to_owned());
        }
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let open = self.sockets.open();
        let listeners = open.iter().map(|socket| Ok((socket.settings.address.clone(), socket.duplicate()?)));
        let listeners: Vec<_> = listeners.collect::<std::io::Result<_>>().map_err(failed)?;
        drop(open);
        handover::send(&ours, (&self.admin.0, &self.admin.1), &listeners).map_err(failed)?;
        drop(listeners);
        let mut child = start(order, theirs)?;
        let process = child.id().unwrap_or_default();
        let said = Said::listen(child.stderr.take());
        let served = self.wait(&mut child, ours, order.limit.0).await;
        let error = match served {
            Ok(()) => {
                // It was said before the new process took over our standard error.
                drop(std::io::stderr().write_all(&said.end().await));
                self.manager.replaced_by(process);
                return Ok(process);
            }
            Err(error) => error,
        };
        // It may have ended by itself.
        drop(child.kill().await);
        let said = said.end().await;
        let words = String::from_utf8_lossy(&said);
        Err(if words.trim().is_empty() { error } else { format!("{error}; it said:\n{}", words.trim_end()) })
    }

    /// Waits until the new process serves.
    async fn wait(&mut self, child: &mut Child, channel: UnixStream, limit: Duration) -> Result<(), String> {
        channel.set_nonblocking(true).map_err(failed)?;
        let channel = tokio::net::UnixStream::from_std(channel).map_err(failed)?;
        tokio::select! {
            biased;
            () = says_that_it_serves(channel) => Ok(()),
            ended = child.wait() => Err(format!("the new process ended: {}", ended.map_or_else(failed, |status| status.to_string()))),
            () = tokio::time::sleep(limit) => Err(format!("the new process did not serve within {}", crate::units::Duration(limit))),
            _ = self.stopping.wait_for(|stopping| *stopping) => Err("this process is stopping".to_owned()),
        }
    }
}

fn start(order: &Order, channel: UnixStream) -> Result<Child, String> {
    let mut arguments = std::env::args_os();
    let own = arguments.next();
    let program: OsString = order.binary.clone().map(OsString::from).or(own).unwrap_or_else(|| "arriero".into());
    let mut command = Command::new(&program);
    command.args(arguments).env(handover::VARIABLE, "stdin");
    // These speak of this process only.
    command.env_remove("WATCHDOG_PID").env_remove("LISTEN_PID").env_remove("LISTEN_FDS");
    command.stdin(Stdio::from(OwnedFd::from(channel))).stderr(Stdio::piped());
    command.spawn().map_err(|error| format!("cannot start `{}`: {error}", program.display()))
}

/// Ready when the new process says so; never if it does not.
async fn says_that_it_serves(mut channel: tokio::net::UnixStream) {
    let mut words = vec![0; SERVING.len()];
    if channel.read_exact(&mut words).await.is_err() || words != SERVING.as_bytes() {
        std::future::pending::<()>().await;
    }
}

fn failed(error: std::io::Error) -> String {
    error.to_string()
}

/// What the new process writes to its standard error until it takes over ours: the last of it.
struct Said {
    kept: Arc<Mutex<Vec<u8>>>,
    reading: tokio::task::JoinHandle<()>,
}

impl Said {
    fn listen(pipe: Option<impl AsyncRead + Send + Unpin + 'static>) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let words = Arc::clone(&kept);
        let reading = tokio::spawn(async move {
            let Some(mut pipe) = pipe else { return };
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece).await {
                let mut words = words.lock();
                words.extend_from_slice(&piece[..count]);
                let surplus = words.len().saturating_sub(KEPT);
                words.drain(..surplus);
            }
        });
        Self { kept, reading }
    }

    /// All that was said, once nobody can say more. A child of the new process may hold the pipe open; it is not
    /// waited for.
    async fn end(self) -> Vec<u8> {
        drop(tokio::time::timeout(LAST_WORDS, self.reading).await);
        std::mem::take(&mut *self.kept.lock())
    }
}
