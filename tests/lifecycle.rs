//! The life of the program: how it stops, how its listeners come and go, how it makes room for a new one.

#[path = "lifecycle/activation.rs"]
mod activation;
#[path = "lifecycle/drain.rs"]
mod drain;
#[path = "lifecycle/listeners.rs"]
mod listeners;
mod support;
#[path = "lifecycle/systemd.rs"]
mod systemd;
#[path = "lifecycle/upgrade.rs"]
mod upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arriero::demo::{RawUpstream, Script, Step};
use support::eventually;
use support::fleet::Small;
use support::process::{Ended, Program, arriero, complete, finish};
use support::wire::{Chunk, H1, get};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A program before two servers: one streams until a gate opens, the other answers at once.
pub struct Scene {
    pub folder: tempfile::TempDir,
    pub file: PathBuf,
    pub streaming: RawUpstream,
    pub quick: Small,
}

impl Scene {
    /// Streams begin with `one` and end with `two` once the gate is open. `more` belongs to the configuration.
    pub async fn new(more: &str) -> Self {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
        let steps =
            vec![Step::ReadRequest, Step::Write(head.into()), Step::Gate, Step::Write("3\r\ntwo\r\n0\r\n\r\n".into())];
        let streaming = RawUpstream::start(Script::new(steps)).await.expect("a server");
        streaming.gate().close();
        let quick = Small::named("quick").await;
        let folder = tempfile::tempdir().expect("a folder");
        let scene = Self { file: folder.path().join("arriero.yaml"), folder, streaming, quick };
        scene.write(more);
        scene
    }

    /// The configuration with this added to it.
    pub fn text(&self, more: &str) -> String {
        complete(&format!(
            "version: 1\nroutes:\n  - {{ name: streams, upstream: streaming, match: {{ path: /stream }} }}\n  \
             - {{ name: all, upstream: quick }}\nupstreams:\n  \
             streaming: {{ kind: http, servers: [{{ url: \"{}\" }}] }}\n  \
             quick: {{ kind: http, servers: [{{ url: \"{}\" }}] }}\n{more}\n",
            self.streaming.url(),
            self.quick.url()
        ))
    }

    /// Puts that into its file.
    pub fn write(&self, more: &str) {
        support::replace(&self.file, &self.text(more));
    }

    pub async fn run(&self) -> Program {
        Program::run(&self.file).await
    }

    /// Runs a command of the program in its folder.
    pub async fn tell(&self, arguments: &[&str]) -> Ended {
        finish(arriero(arguments, self.folder.path())).await
    }

    /// Reloads, by the admin listener of the configuration or of the program.
    pub async fn reload(&self, program: &Program) -> Ended {
        self.tell(&["reload", "--admin", &program.admin().to_string()]).await
    }
}

/// Streams that have begun.
pub async fn streams(address: SocketAddr, count: usize) -> Vec<H1> {
    let mut all = JoinSet::new();
    for _ in 0..count {
        all.spawn(async move {
            let mut client = H1::connect(address).await;
            client.send(get("/stream")).await;
            assert_eq!(client.reader.head().await.status, 200);
            assert_eq!(client.reader.chunk().await, Chunk::Data(b"one".to_vec()));
            client
        });
    }
    all.join_all().await
}

/// Reads streams to their end, of which nothing may be missing.
pub async fn end_well(streams: Vec<H1>) {
    for mut client in streams {
        assert_eq!(client.reader.chunk().await, Chunk::Data(b"two".to_vec()));
        assert_eq!(client.reader.chunk().await, Chunk::End);
    }
}

/// Clients that ask without a pause, each request on a connection of its own or on one that is kept, until they are
/// told to stop or nobody listens any more.
pub struct Steady {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Steady {
    /// Whoever has been connected must be answered.
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        let mut load = Self { stop: Arc::default(), answered: Arc::default(), clients: JoinSet::new() };
        for number in 0..clients {
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            load.clients.spawn(async move {
                let mut kept: Option<H1> = None;
                while !stop.load(Ordering::Relaxed) {
                    let mut client = match kept.take() {
                        Some(client) => client,
                        None => match TcpStream::connect(address).await {
                            Ok(stream) => H1::over(stream),
                            Err(_) => return,
                        },
                    };
                    let answer = client.ask(get("/load")).await;
                    assert!(answer.head.status == 200 && answer.whole, "{}", answer.head.text);
                    answered.fetch_add(1, Ordering::Relaxed);
                    if number % 2 == 0 && answer.head.field("connection") != Some("close") {
                        kept = Some(client);
                    }
                }
            });
        }
        load
    }

    /// Waits until so many more requests were answered.
    pub async fn more(&self, count: usize) {
        let until = self.answered.load(Ordering::Relaxed) + count;
        eventually("requests are answered", || async { self.answered.load(Ordering::Relaxed) >= until }).await;
    }

    /// Waits until nobody listens any more; fails when a request failed.
    pub async fn refused(mut self) {
        while let Some(client) = self.clients.join_next().await {
            client.expect("no request failed");
        }
    }

    /// Ends it; fails when a request failed or a connection was refused.
    pub async fn stop(mut self) {
        assert!(self.clients.try_join_next().is_none(), "a client has given up");
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no request failed");
        }
    }
}

/// Whether nobody listens there.
pub async fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err()
}
