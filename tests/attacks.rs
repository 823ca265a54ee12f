//! Clients that cost more than they are worth: slow ones, silent ones, many of them. Each is cut in time, and meanwhile
//! everybody else is served. The program runs as a process of its own, so that its memory and time can be told.

#[path = "attacks/large.rs"]
mod large;
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arriero::clock;
use arriero::demo::{Gate, Host, HostConfig, RawUpstream, Script, Step};
use large::Large;
use support::authority::Authority;
use support::frames::{self, CONTINUATION, DATA, END_HEADERS, HEADERS, Raw, frame};
use support::process::{Program, complete};
use support::wire::{Chunk, H1, Head, ask, get, post};
use support::{eventually, http_yaml, ollama_yaml, replace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Longer than any of these tests may take.
const FOREVER: Duration = Duration::from_secs(60);

/// The program before a server.
struct Scene {
    program: Program,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(yaml: &str) -> Self {
        Self::limited(yaml, None).await
    }

    /// With so many file descriptors at most.
    async fn limited(yaml: &str, files: Option<u32>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("arriero.yaml");
        std::fs::write(&file, complete(yaml)).expect("written");
        let program = match files {
            None => Program::run(&file).await,
            Some(files) => {
                let mut command = Command::new("sh");
                let run = format!("ulimit -n {files}; exec \"$0\" run --config \"$1\"");
                command.arg("-c").arg(run).arg(env!("CARGO_BIN_EXE_arriero")).arg(&file).current_dir(folder.path());
                command.env_remove("OLLAMA_HOST").env_remove("OLLAMA_HOSTS");
                Program::serving(command).await
            }
        };
        Self { program, file, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.program.address()
    }

    /// Memory in bytes that the process alone has: pages of its file come and go with the machine.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Processor time so far, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(self.proc("stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system")
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.program.id().to_string()).join(name)
    }

    async fn metric(&self, series: &str) -> f64 {
        let text =
            ask(self.program.admin(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        text.text().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }

    async fn is_healthy(&self) -> bool {
        ask(self.program.admin(), "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .head
            .status
            == 200
    }

    /// Somebody else, who asks on connection after connection until it is waited for.
    fn witness(&self, path: &'static str) -> Witness {
        let (address, stop) = (self.address(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut asked = 0;
            while !stopped.load(Ordering::Relaxed) || asked < 3 {
                let mut client = H1::connect(address).await;
                for _ in 0..5 {
                    assert_eq!(client.ask(get(path)).await.head.status, 200, "after {asked} good answers");
                    asked += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            asked
        });
        Witness { stop, task }
    }
}

struct Witness {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u32>,
}

impl Witness {
    async fn was_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.task.await.expect("everybody else is served") > 0);
    }
}

async fn plain(listener: &str) -> (RawUpstream, Scene) {
    let server = RawUpstream::start(Script::answer(OK)).await.expect("a server");
    let listeners = format!("\nlisteners: [{{ address: \"127.0.0.1:0\", {listener} }}]\n");
    let scene = Scene::new(&(http_yaml(&[server.url()], "", "") + &listeners)).await;
    (server, scene)
}

/// What a client got until the connection ended, and how long that took.
async fn until_closed(stream: &mut TcpStream, begun: Instant) -> (String, Duration) {
    let mut got = Vec::new();
    let _ = timeout(FOREVER, stream.read_to_end(&mut got)).await.expect("it is closed");
    (String::from_utf8_lossy(&got).into_owned(), clock::now() - begun)
}

#[tokio::test]
async fn heads_that_trickle_in_are_cut_and_nobody_else_notices() {
    let (server, scene) = plain("timeouts: { request_header: 2s }").await;
    let witness = scene.witness("/");
    let (address, mut slow) = (scene.address(), JoinSet::new());
    for number in 0..300_u64 {
        slow.spawn(async move {
            // Not all at the same moment.
            tokio::time::sleep(Duration::from_millis(number * 5)).await;
            let begun = clock::now();
            let mut stream = TcpStream::connect(address).await.expect("connected");
            let mut letters = b"GET / HTTP/1.1\r\nHost: a.test\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
            let mut got = Vec::new();
            loop {
                let letter = letters.next().expect("without end");
                if stream.write_all(&[letter]).await.is_err() {
                    break;
                }
                let pause = Duration::from_millis(900 + number);
                if let Ok(Ok(0) | Err(_)) = timeout(pause, stream.read_buf(&mut got)).await {
                    break;
                }
                assert!(clock::now() - begun < FOREVER, "it is never closed");
            }
            (String::from_utf8_lossy(&got).into_owned(), clock::now() - begun)
        });
    }
    while let Some(ended) = slow.join_next().await {
        let (got, took) = ended.expect("closed");
        assert!(got.starts_with("HTTP/1.1 408 "), "{got}");
        assert!(took >= Duration::from_millis(1900) && took <= Duration::from_secs(3), "closed after {took:?}");
    }
    witness.was_served().await;
    let reached = String::from_utf8_lossy(&server.connections().concat()).into_owned();
    assert!(!reached.contains("X: "), "the server hears nothing of them");
    let refused = scene.metric("arriero_heads_refused_total{reason=\"header_timeout\"}").await;
    assert_eq!(refused, 300.0);
}

#[tokio::test]
async fn bodies_that_trickle_in_are_cut_and_cost_no_server() {
    let host = Host::start(HostConfig::new("gpu").small_model("llava:13b")).await.expect("a host");
    let scene = Scene::new(&ollama_yaml(&[host.url()], "")).await;
    let witness = scene.witness("/api/version");
    let before = scene.memory();
    let (address, mut slow) = (scene.address(), JoinSet::new());
    for _ in 0..200 {
        slow.spawn(async move {
            let begun = clock::now();
            let mut client = H1::connect(address).await;
            client.send("POST /api/generate HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1048576\r\n\r\n{\"prompt\":\"").await;
            let H1 { mut reader, mut writer } = client;
            let trickle = async {
                while writer.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                answer = timeout(FOREVER, reader.answer()) => (answer.expect("an answer").head.status, clock::now() - begun),
                () = trickle => unreachable!("it never ends"),
            }
        });
    }
    eventually("all are being served", async || {
        scene.metric("arriero_requests_in_flight{route=\"all\"}").await >= 200.0
    })
    .await;
    let grown = scene.memory().saturating_sub(before);
    println!("{} B for each of 200 slow uploads", grown / 200);
    assert!(grown < 64 << 20, "{grown}");
    while let Some(ended) = slow.join_next().await {
        let (status, took) = ended.expect("an answer");
        assert_eq!(status, 408);
        assert!(took >= Duration::from_millis(9900) && took <= Duration::from_secs(12), "cut after {took:?}");
    }
    witness.was_served().await;
    assert_eq!(host.ledger().inference().len(), 0);
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let (_server, scene) = plain("timeouts: { request_header: 1s }").await;
    let witness = scene.witness("/");
    let begun = clock::now();
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(scene.address()).await.expect("connected"));
    }
    for stream in &mut silent {
        let (got, took) = until_closed(stream, begun).await;
        assert!(got.is_empty(), "{got}");
        assert!(took >= Duration::from_millis(900) && took <= Duration::from_secs(4), "closed after {took:?}");
    }
    witness.was_served().await;
    eventually("none is left", async || scene.metric("arriero_connections").await == 0.0).await;
}

#[tokio::test]
async fn tls_handshakes_that_do_not_go_on_are_cut() {
    let server = RawUpstream::start(Script::answer(OK)).await.expect("a server");
    let (authority, folder) = (Authority::new("test"), tempfile::tempdir().expect("a folder"));
    authority.issue(&["a.test"]).write(folder.path(), "a");
    let path = folder.path().display();
    let tls = format!("tls: {{ certificates: [{{ cert: \"{path}/a.pem\", key: \"{path}/a.key\" }}] }}");
    let listeners = format!("\nlisteners: [{{ address: \"127.0.0.1:0\", timeouts: {{ tls: 1s }}, {tls} }}]\n");
    let scene = Scene::new(&(http_yaml(&[server.url()], "", "") + &listeners)).await;
    assert!(scene.program.err.has("listening on https://127.0.0.1:"), "{}", scene.program.err.text());
    let begun = clock::now();
    let mut silent = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(scene.address()).await.expect("connected");
        // The beginning of a ClientHello of 512 bytes.
        stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..number % 12]).await.expect("sent");
        silent.push(stream);
    }
    for stream in &mut silent {
        let (_, took) = until_closed(stream, begun).await;
        assert!(took >= Duration::from_millis(900) && took <= Duration::from_secs(4), "closed after {took:?}");
    }
    eventually("none is left", async || scene.metric("arriero_connections").await == 0.0).await;
    assert!(server.connections().is_empty());
}

#[tokio::test]
async fn two_thousand_idle_connections_cost_little() {
    let host = Host::start(HostConfig::new("gpu").small_model("llava:13b").tokens(20)).await.expect("a host");
    let limits = "\nlisteners: [{ address: \"127.0.0.1:0\", limits: { connections_per_ip: 0 } }]\n";
    let scene = Scene::new(&(ollama_yaml(&[host.url()], "") + limits)).await;
    let open = async |count: usize| {
        let mut idle = Vec::new();
        for _ in 0..count {
            let mut client = H1::connect(scene.address()).await;
            assert_eq!(client.ask(get("/api/version")).await.head.status, 200);
            idle.push(client);
        }
        idle
    };
    // What the first connections need of threads and tables is not the next ones' cost.
    let warm = open(200).await;
    let before = scene.memory();
    let mut idle = open(2000).await;
    let each = scene.memory().saturating_sub(before) / 2000;
    println!("{each} B for each idle connection");
    assert!(each <= 20 << 10, "{each} B for each idle connection");
    // Streams beside them, and all of them still work.
    host.token_gate().close();
    let before = scene.memory();
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut client = H1::connect(scene.address()).await;
        client.send(post("/api/generate", r#"{"model":"llava:13b","prompt":"hi"}"#)).await;
        streams.push(client);
    }
    eventually("all streams run", async || host.ledger().in_flight() == 200).await;
    println!("{} B for each stream", scene.memory().saturating_sub(before) / 200);
    let ticks = scene.ticks();
    let second = async { tokio::time::sleep(Duration::from_secs(1)).await };
    second.await;
    let busy = scene.ticks() - ticks;
    println!("{busy} % of a processor while nothing happens");
    assert!(busy <= 20, "{busy} % of a processor while nothing happens");
    host.token_gate().open();
    for client in &mut streams {
        let answer = client.reader.answer().await;
        assert_eq!((answer.head.status, answer.whole), (200, true));
    }
    for client in idle.iter_mut().step_by(100) {
        assert_eq!(client.ask(get("/api/version")).await.head.status, 200);
    }
    drop(warm);
}

#[tokio::test]
async fn with_few_descriptors_it_does_not_spin_and_recovers() {
    let server = RawUpstream::start(Script::answer(OK)).await.expect("a server");
    let limits = "\nlisteners: [{ address: \"127.0.0.1:0\", limits: { connections_per_ip: 0 } }]\n";
    let yaml = |route: &str| http_yaml(&[server.url()], route, "") + limits;
    let scene = Scene::limited(&yaml(""), Some(512)).await;
    let mut early = H1::connect(scene.address()).await;
    assert_eq!(early.ask(get("/")).await.text(), "ok");
    let mut clients = Vec::new();
    for _ in 0..700 {
        let stream = TcpStream::connect(scene.address()).await.expect("the system accepts");
        clients.push(stream);
    }
    let open = || async { scene.metric("arriero_connections").await };
    eventually("it is full", async || open().await >= 190.0).await;
    assert!(open().await <= 240.0, "each may need two of 512");
    let ticks = scene.ticks();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let busy = (scene.ticks() - ticks) / 3;
    println!("{busy} % of a processor at the limit, {} connections", open().await);
    assert!(busy <= 60, "{busy} % of a processor: it spins");
    assert!(scene.is_healthy().await, "health answers at the limit");
    assert_eq!(early.ask(get("/")).await.text(), "ok", "who is served is served on");
    let hash = "arriero_config_reloads_total{result=\"applied\"}";
    let before = scene.metric(hash).await;
    replace(&scene.file, &complete(&yaml("timeouts: { read: 99s }")));
    eventually("a reload works at the limit", async || scene.metric(hash).await > before).await;
    drop(clients);
    let begun = clock::now();
    assert_eq!(ask(scene.address(), get("/")).await.text(), "ok");
    let took = clock::now() - begun;
    assert!(took < Duration::from_secs(2), "it recovers in {took:?}");
}

#[tokio::test]
async fn connections_that_wait_need_one_descriptor_and_their_requests_find_another() {
    let server = RawUpstream::start(Script::answer(OK)).await.expect("a server");
    let limits = "\nlisteners: [{ address: \"127.0.0.1:0\", limits: { connections_per_ip: 0 } }]\n";
    let scene = Scene::limited(&(http_yaml(&[server.url()], "", "") + limits), Some(512)).await;
    let mut kept = Vec::new();
    for number in 0..320 {
        let mut client = H1::connect(scene.address()).await;
        assert_eq!(timeout(FOREVER, client.ask(get("/"))).await.expect("accepted").text(), "ok", "{number}");
        kept.push(client);
    }
    for client in &mut kept {
        assert_eq!(client.ask(get("/")).await.text(), "ok");
    }
    assert_eq!(scene.metric("arriero_connections_accepted_total").await, 320.0);
}

/// A client that reads the beginning of an answer and then nothing.
async fn stuck(address: SocketAddr) -> H1 {
    let mut client = H1::narrow(address).await;
    client.send(get("/")).await;
    let head: Head = client.reader.head().await;
    assert_eq!(head.status, 200);
    for _ in 0..1024 {
        client.reader.byte().await;
    }
    client
}

#[tokio::test]
async fn clients_that_stop_reading_hold_the_server_back_and_are_cut() {
    const CLIENTS: u64 = 40;
    let server = Large::start().await;
    let listeners = "\nlisteners: [{ address: \"127.0.0.1:0\", timeouts: { write: 3s } }]\n";
    let yaml = http_yaml(&[format!("http://{}", server.address)], "", "health: { active: off }") + listeners;
    let scene = Scene::new(&yaml).await;
    let address = scene.address();
    // What the first connections need of threads and tables is not the next ones' cost.
    let warm = [stuck(address).await, stuck(address).await];
    let before = scene.memory();
    let mut coming = JoinSet::new();
    for _ in 0..CLIENTS - 2 {
        coming.spawn(stuck(address));
    }
    let clients = coming.join_all().await;
    let in_flight = format!("arriero_server_in_flight{{upstream=\"fleet\",server=\"{}\"}}", server.address);
    assert_eq!(scene.metric(&in_flight).await, CLIENTS as f64, "all wait");
    let grown = scene.memory().saturating_sub(before) / (CLIENTS - 2);
    println!("{grown} B held for each client that does not read");
    assert!(grown <= 256 << 10, "{grown} B held for each client that does not read");
    eventually("all slots are free", async || scene.metric(&in_flight).await == 0.0).await;
    eventually("the server sees that they are gone", async || server.gone.load(Ordering::Relaxed) == CLIENTS).await;
    let written = server.written.load(Ordering::Relaxed) / CLIENTS;
    assert!(written < (Large::SIZE / 2) as u64, "the server was held back: {written} B of each answer");
    let stalled = scene.metric("arriero_requests_ended_total{reason=\"client_stalled\"}").await;
    assert_eq!(stalled, CLIENTS as f64);
    drop((warm, clients));
}

#[tokio::test]
async fn an_http2_client_with_all_its_streams_and_windows_costs_little() {
    let script = Script::new(vec![Step::ReadRequest, Step::Gate, Step::Write(OK.into())]);
    let server = RawUpstream::start(script).await.expect("a server");
    server.gate().close();
    let listeners = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";
    let scene = Scene::new(&(http_yaml(&[server.url()], "", "health: { active: off }") + listeners)).await;
    assert_eq!(scene.metric("arriero_connections").await, 0.0);
    let before = scene.memory();
    let mut raw = Raw::with_window(scene.address(), 0).await;
    // A hundred heads as large as they may be, then bodies as far as the windows let them.
    let filler: Vec<(String, String)> = (0..7).map(|number| (format!("x-{number}"), "y".repeat(4000))).collect();
    let more: Vec<(&str, &str)> = filler.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let block = frames::request("POST", "/", &more);
    for number in 0..100 {
        let (first, second) = block.split_at(16_000);
        raw.send(frame(HEADERS, 0, number * 2 + 1, first)).await;
        raw.send(frame(CONTINUATION, END_HEADERS, number * 2 + 1, second)).await;
    }
    eventually("all are being served", async || {
        scene.metric("arriero_requests_in_flight{route=\"all\"}").await >= 100.0
    })
    .await;
    for number in 0..60 {
        raw.send(frame(DATA, 0, number % 100 * 2 + 1, [b'x'; 1 << 14])).await;
    }
    eventually("the server has what it takes", async || {
        server.connections().iter().map(Vec::len).sum::<usize>() >= 100 * 28_000
    })
    .await;
    let grown = scene.memory().saturating_sub(before);
    println!("{grown} B held for one HTTP/2 connection with 100 streams");
    assert!(grown <= 32 << 20, "{grown} B held for one HTTP/2 connection");
    drop(raw);
    let in_flight = format!("arriero_server_in_flight{{upstream=\"fleet\",server=\"{}\"}}", server.address());
    eventually("nothing is left", async || scene.metric(&in_flight).await == 0.0).await;
}

#[tokio::test]
async fn a_storm_of_connections_cuts_no_stream() {
    let host = Host::start(HostConfig::new("gpu").small_model("llava:13b").tokens(200)).await.expect("a host");
    let limits = "\nlisteners: [{ address: \"127.0.0.1:0\", limits: { connections_per_ip: 0 } }]\n";
    let scene = Scene::new(&(ollama_yaml(&[host.url()], "") + limits)).await;
    let gate: Gate = host.token_gate().clone();
    gate.close();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut client = H1::connect(scene.address()).await;
        client.send(post("/api/generate", r#"{"model":"llava:13b","prompt":"hi"}"#)).await;
        streams.push(client);
    }
    eventually("all run", async || host.ledger().in_flight() == 50).await;
    let (address, mut storm) = (scene.address(), JoinSet::new());
    for _ in 0..8 {
        storm.spawn(async move {
            for number in 0..500 {
                let mut stream = TcpStream::connect(address).await.expect("connected");
                // Some leave at once, some with a RST in the middle of a head.
                if number % 2 == 0 {
                    let _ = stream.write_all(b"GET / HT").await;
                    stream.set_zero_linger().expect("set");
                }
            }
        });
    }
    gate.open();
    for client in &mut streams {
        let head = client.reader.head().await;
        assert_eq!(head.status, 200);
        let mut text = String::new();
        loop {
            match client.reader.chunk().await {
                Chunk::Data(data) => text.push_str(&String::from_utf8_lossy(&data)),
                Chunk::End => break,
                Chunk::Cut => panic!("cut after {text}"),
            }
        }
        assert_eq!(text.matches("\"done\":true").count(), 1);
    }
    storm.join_all().await;
    let accepted = scene.metric("arriero_connections_accepted_total").await;
    // Half of them are gone before anybody looks.
    assert!(accepted >= 2000.0, "{accepted} of 4050 connections were seen");
    drop(streams);
    eventually("none is left", async || scene.metric("arriero_connections").await == 0.0).await;
    assert_eq!(ask(scene.address(), get("/api/version")).await.head.status, 200);
}
