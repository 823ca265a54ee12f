//! A real Redis or Valkey of a test's own, and a relay before it that can fail in every way a network or a server does.
//!
//! `ARRIERO_REDIS_SERVER` names the program; `redis-server` by default.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{FromRedisValue, Value};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::eventually;

/// A server; killed when dropped.
pub struct Redis {
    child: Option<Child>,
    /// Where it listens.
    pub port: u16,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    /// Whether it is a sentinel, which reads its file alone.
    sentinel: bool,
    /// Password for the calls of tests.
    pub password: Option<String>,
}

/// A port that nobody has now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with more arguments.
    pub async fn with(arguments: &[&str]) -> Self {
        Self::on(free_port(), arguments).await
    }

    /// The same on this port.
    pub async fn on(port: u16, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        let mut redis = Self { child: None, port, folder, arguments, sentinel: false, password: None };
        redis.start_again().await;
        redis
    }

    /// A sentinel that watches this one as `primary`, and alone decides that it is down.
    pub async fn sentinel(&self) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
        let watched = self.port;
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor primary 127.0.0.1 {watched} 1\n\
             sentinel down-after-milliseconds primary 1000\nsentinel failover-timeout primary 3000\n"
        );
        std::fs::write(folder.path().join("sentinel.conf"), text).expect("written");
        let mut redis = Self { child: None, port, folder, arguments: Vec::new(), sentinel: true, password: None };
        redis.start_again().await;
        redis
    }

    /// Starts it on the port that it had.
    pub async fn start_again(&mut self) {
        let program = std::env::var("ARRIERO_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let mut command = Command::new(&program);
        let folder = self.folder.path().to_str().expect("text");
        if self.sentinel {
            command.arg(format!("{folder}/sentinel.conf")).arg("--sentinel");
        } else {
            command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.args(["--dir", folder]).args(&self.arguments);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")));
        let port = self.port;
        eventually("redis listens", || async move { TcpStream::connect(("127.0.0.1", port)).await.is_ok() }).await;
    }

    /// `redis://…` of it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("sent");
    }

    /// What it answers to a command; panics where that is an error.
    pub async fn call<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_call(command).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Puts something else into the place of a key, whoever writes there at the same time.
    pub async fn spoil(&self, key: &str) {
        let script = "redis.call('DEL', KEYS[1]) return redis.call('LPUSH', KEYS[1], 'not ours')";
        let _: i64 = self.call(&["EVAL", script, "1", key]).await;
    }

    /// The same, with errors.
    pub async fn try_call<T: FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let password = self.password.as_ref().map_or(String::new(), |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}", self.port)).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut asked = redis::cmd(command[0]);
        asked.arg(&command[1..]);
        let value: Value = asked.query_async(&mut connection).await?;
        T::from_redis_value(value).map_err(Into::into)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a relay does with what passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Passes it on.
    Open,
    /// Passes it on that much later, both ways.
    Late(Duration),
    /// Takes connections and bytes, and passes nothing on.
    Hole,
    /// Closes connections at once.
    Closed,
    /// Answers each command with this error, without the server. `HELLO` and the other words of a log-in are passed on.
    Error(&'static str),
}

/// A relay before a server.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    way: Arc<Mutex<Way>>,
    connections: Arc<Mutex<JoinSet<()>>>,
    task: AbortHandle,
}

impl Relay {
    /// Begins to pass on to a server.
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let way = Arc::new(Mutex::new(Way::Open));
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let (ways, all) = (Arc::clone(&way), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let way = Arc::clone(&ways);
                if *way.lock().expect("not poisoned") == Way::Closed {
                    continue;
                }
                all.lock().expect("not poisoned").spawn(relay(client, server, way));
            }
        });
        Self { address, way, connections, task: task.abort_handle() }
    }

    /// `redis://…` of it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Does this from now on, with connections that are open too; those end where it closes.
    pub fn set(&self, way: Way) {
        if way == Way::Closed {
            self.connections.lock().expect("not poisoned").abort_all();
        }
        *self.way.lock().expect("not poisoned") = way;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, server: SocketAddr, way: Arc<Mutex<Way>>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
    let (up, answers) = (Arc::clone(&way), Arc::clone(&to_client));
    let there = async move {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let Ok(count @ 1..) = from_client.read(&mut buffer).await else { return };
            let bytes = &buffer[..count];
            let now = up.lock().expect("not poisoned").clone();
            match now {
                Way::Hole => {}
                Way::Closed => return,
                Way::Error(text) if !is_log_in(bytes) => {
                    let commands = commands_in(bytes);
                    let answer = format!("-{text}\r\n").repeat(commands);
                    if answers.lock().await.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Way::Open | Way::Late(_) | Way::Error(_) => {
                    if let Way::Late(late) = now {
                        tokio::time::sleep(late).await;
                    }
                    if to_server.write_all(bytes).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let back = async move {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let Ok(count @ 1..) = from_server.read(&mut buffer).await else { return };
            let now = way.lock().expect("not poisoned").clone();
            match now {
                Way::Hole => continue,
                Way::Closed => return,
                Way::Late(late) => tokio::time::sleep(late).await,
                Way::Open | Way::Error(_) => {}
            }
            if to_client.lock().await.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

fn is_log_in(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.contains("HELLO") || text.contains("SETINFO")
}

/// How many commands these bytes begin: each is an array.
fn commands_in(bytes: &[u8]) -> usize {
    let begins = |at: &usize| bytes[*at] == b'*' && (*at == 0 || bytes[at - 1] == b'\n');
    (0..bytes.len()).filter(begins).count().max(1)
}
