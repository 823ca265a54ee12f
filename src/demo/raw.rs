//! A bare TCP server for tests that care about every byte: it records what it is sent, and answers
//! from a script.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::gate::Gate;

/// One thing a raw connection does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Reads until these bytes have come (counted from the end of what earlier steps read).
    ReadUntil(Bytes),
    /// Reads this many bytes more.
    ReadBytes(usize),
    /// Reads one whole HTTP/1 request: head, and body by its `Content-Length` or its chunks.
    ReadRequest,
    /// Writes these bytes, in one write.
    Write(Bytes),
    /// Waits until [`RawUpstream::gate`] is open.
    Gate,
    /// Closes with FIN.
    Close,
    /// Closes with RST.
    Reset,
}

/// What each connection does. After the last step it reads, and records, until the other side
/// closes.
#[derive(Clone, Debug, Default)]
pub struct Script {
    steps: Vec<Step>,
    repeat: bool,
}

impl Script {
    /// A script of steps.
    #[must_use]
    pub fn new(steps: Vec<Step>) -> Self {
        Self { steps, repeat: false }
    }

    /// Answers every request on a connection with the same bytes.
    #[must_use]
    pub fn answer(response: impl Into<Bytes>) -> Self {
        Self { steps: vec![Step::ReadRequest, Step::Write(response.into())], repeat: true }
    }

    /// Starts again from the first step after the last.
    #[must_use]
    pub fn repeated(mut self) -> Self {
        self.repeat = true;
        self
    }
}

/// A raw TCP server. Dropping it ends it and its connections.
pub struct RawUpstream {
    address: SocketAddr,
    seen: Arc<Seen>,
    gate: Gate,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Seen {
    connections: Mutex<Vec<Vec<u8>>>,
    changed: watch::Sender<u64>,
}

impl Seen {
    fn record(&self, index: usize, bytes: &[u8]) {
        if let Some(connection) = self.connections.lock().get_mut(index) {
            connection.extend_from_slice(bytes);
        }
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

impl RawUpstream {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn start(script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen { connections: Mutex::default(), changed: watch::Sender::new(0) });
        let gate = Gate::default();
        let task = tokio::spawn(accept(listener, script, Arc::clone(&seen), gate.clone()));
        Ok(Self { address, seen, gate, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:41234`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What [`Step::Gate`] waits for; open at first.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Every byte received, a vector for each connection in the order of their coming.
    #[must_use]
    pub fn connections(&self) -> Vec<Vec<u8>> {
        self.seen.connections.lock().clone()
    }

    /// Waits until a condition on what has been received holds.
    ///
    /// # Errors
    /// When it does not hold within the limit: what has been received, as text.
    pub async fn wait_until(&self, limit: Duration, condition: impl Fn(&[Vec<u8>]) -> bool) -> Result<(), String> {
        let mut changed = self.seen.changed.subscribe();
        let met = tokio::time::timeout(limit, async {
            loop {
                changed.borrow_and_update();
                if condition(&self.seen.connections.lock()) {
                    return;
                }
                // The sender lives in self.
                let _ = changed.changed().await;
            }
        });
        met.await.map_err(|_| {
            let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
            let received: Vec<String> = self.connections().iter().map(text).collect();
            format!("not met within {limit:?}; received {received:#?}")
        })
    }
}

impl Drop for RawUpstream {
    fn drop(&mut self) {
        // The connections live in the task's join set and end with it.
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, script: Script, seen: Arc<Seen>, gate: Gate) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let index = {
            let mut all = seen.connections.lock();
            all.push(Vec::new());
            all.len() - 1
        };
        seen.record(index, &[]);
        let (script, seen, gate) = (script.clone(), Arc::clone(&seen), gate.clone());
        connections.spawn(async move {
            let mut connection = Connection { stream, index, seen, unread: Vec::new() };
            // A broken connection has nothing more to record.
            let _ = connection.play(&script, &gate).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

struct Connection {
    stream: TcpStream,
    index: usize,
    seen: Arc<Seen>,
    /// Recorded, but not yet used up by a step.
    unread: Vec<u8>,
}

impl Connection {
    async fn play(&mut self, script: &Script, gate: &Gate) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        loop {
            for step in &script.steps {
                match step {
                    Step::ReadUntil(wanted) => self.read_until(wanted).await.map(drop)?,
                    Step::ReadBytes(count) => self.read_bytes(*count).await?,
                    Step::ReadRequest => self.read_request().await?,
                    Step::Write(bytes) => self.stream.write_all(bytes).await?,
                    Step::Gate => gate.pass().await,
                    Step::Close => return Ok(()),
                    Step::Reset => return self.stream.set_zero_linger(),
                }
            }
            if !script.repeat || script.steps.is_empty() {
                break;
            }
        }
        while self.more().await? {}
        Ok(())
    }

    async fn more(&mut self) -> io::Result<bool> {
        let before = self.unread.len();
        let count = self.stream.read_buf(&mut self.unread).await?;
        self.seen.record(self.index, self.unread.get(before..).unwrap_or_default());
        Ok(count > 0)
    }

    async fn need(&mut self) -> io::Result<()> {
        if self.more().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn read_until(&mut self, wanted: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            let found = self.unread.windows(wanted.len().max(1)).position(|window| window == wanted);
            if let Some(at) = found {
                return Ok(self.unread.drain(..at + wanted.len()).collect());
            }
            self.need().await?;
        }
    }

    async fn read_bytes(&mut self, count: usize) -> io::Result<()> {
        while self.unread.len() < count {
            self.need().await?;
        }
        self.unread.drain(..count);
        Ok(())
    }

    async fn read_request(&mut self) -> io::Result<()> {
        let head = self.read_until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if header("transfer-encoding:").is_some_and(|value| value.ends_with("chunked")) {
            return self.read_chunks().await;
        }
        let length = header("content-length:").and_then(|value| value.parse().ok()).unwrap_or(0);
        self.read_bytes(length).await
    }

    async fn read_chunks(&mut self) -> io::Result<()> {
        loop {
            let line = self.read_until(b"\r\n").await?;
            let line = String::from_utf8_lossy(&line);
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if size == 0 {
                while self.read_until(b"\r\n").await?.len() > 2 {}
                return Ok(());
            }
            self.read_bytes(size + 2).await?;
        }
    }
}
