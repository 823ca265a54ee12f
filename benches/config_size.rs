//! Does a request cost more when the configuration is large? Processor time of the Arriero process per
//! request with 1,000 routes, 200 servers and 1,000 models, as a ratio to 3 of each, in turn.
//!
//! `cargo bench --bench config_size` prints each round and the median ratio, twice: with the same three models asked for
//! in both, so that the size of the configuration is all that differs; and with requests for all models, whose answers come over
//! connections to all 200 servers, each of which is seldom used and has left the processor's caches.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const REQUESTS: usize = 40_000;
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;

/// How large a configuration is.
#[derive(Clone, Copy)]
struct Size {
    routes: usize,
    servers: usize,
    models: usize,
    /// How many of the models are asked for.
    asked: usize,
}

const SMALL: Size = Size { routes: 3, servers: 3, models: 3, asked: 3 };
const LARGE: Size = Size { routes: 1000, servers: 200, models: 1000, asked: 3 };

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("an address for the servers");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || serve(listener.into_std().expect("a socket")));
    compare("the same three models", LARGE, port).await;
    compare("all models", Size { asked: LARGE.models, ..LARGE }, port).await;
}

async fn compare(what: &str, large: Size, port: u16) {
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let mut costs = Vec::new();
        for size in if round % 2 == 0 { [SMALL, large] } else { [large, SMALL] } {
            costs.push((size.routes, measure(size, port).await));
        }
        costs.sort_by_key(|(routes, _)| *routes);
        let ratio = costs[1].1 / costs[0].1;
        println!(
            "{what}, round {round}: {:.1} µs with 3, {:.1} µs with 1,000, ratio {ratio:.3}",
            costs[0].1, costs[1].1
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("{what}: median ratio {:.3}", ratios[ROUNDS / 2]);
}

/// Simulated servers: each loopback address is one, with the models that its last number gives it.
fn serve(listener: std::net::TcpListener) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            tokio::spawn(answer(stream));
        }
    });
}

async fn answer(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("set");
    let std::net::IpAddr::V4(own) = stream.local_addr().expect("bound").ip() else { return };
    let number = usize::from(own.octets()[3]) - 1;
    let mut received = Vec::new();
    loop {
        // Head and body may come in two pieces.
        let request = loop {
            if let Some(end) = whole(&received) {
                let rest = received.split_off(end);
                break std::mem::replace(&mut received, rest);
            }
            let Ok(1..) = stream.read_buf(&mut received).await else { return };
        };
        let body = if request.starts_with(b"GET /api/tags ") {
            let models: Vec<String> =
                (0..5).map(|model| format!("{{\"name\":\"m{}:latest\"}}", number * 5 + model)).collect();
            format!("{{\"models\":[{}]}}", models.join(","))
        } else if request.starts_with(b"GET") {
            "{\"models\":[],\"data\":[],\"version\":\"0.33.0\"}".to_owned()
        } else {
            "{\"done\":true}".to_owned()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Where the first request ends, if all of it is there.
fn whole(received: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(received);
    let head = text.find("\r\n\r\n")? + 4;
    let length = text[..head].lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some(head + length.unwrap_or(0)).filter(|end| *end <= received.len())
}

/// Arriero as a process of its own, ended when dropped.
struct Arriero(Child);

impl Drop for Arriero {
    fn drop(&mut self) {
        self.0.kill().expect("ended");
        self.0.wait().expect("waited for");
    }
}

/// Microseconds of processor time per request.
async fn measure(size: Size, port: u16) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let listen = std::net::TcpListener::bind("127.0.0.1:0").expect("free").local_addr().expect("bound");
    let file = folder.path().join("arriero.yaml");
    fs::write(&file, configuration(size, port, &listen.to_string())).expect("written");
    let child = Command::new(env!("CARGO_BIN_EXE_arriero"))
        .args(["run", "-c"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let arriero = Arriero(child);
    while TcpStream::connect(listen).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    load(listen, size, REQUESTS / 8).await;
    let before = processor_time(arriero.0.id());
    load(listen, size, REQUESTS).await;
    let used = processor_time(arriero.0.id()) - before;
    used / REQUESTS as f64 * 1e6
}

fn configuration(size: Size, port: u16, listen: &str) -> String {
    let routes: String = (0..size.routes)
        .map(|number| {
            format!("  - {{ name: r{number}, match: {{ path: /api/, model: m{number} }}, upstream: fleet }}\n")
        })
        .collect();
    let servers: String = (0..size.servers)
        .map(|number| {
            format!(
                "      - {{ url: \"http://{}:{port}\", max_loaded: 5 }}\n",
                Ipv4Addr::new(127, 0, 0, number as u8 + 1)
            )
        })
        .collect();
    format!(
        "version: 1\nlisteners: [{{ address: \"{listen}\" }}]\nadmin: {{ address: \"127.0.0.1:0\" }}\n\
         server: {{ threads: 1 }}\ntelemetry: {{ access_log: off, log_level: error }}\nroutes:\n{routes}upstreams:\n  \
         fleet:\n    kind: ollama\n    health: {{ active: off }}\n    inventory: {{ interval: 600s }}\n    servers:\n{servers}"
    )
}

async fn load(address: std::net::SocketAddr, size: Size, requests: usize) {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            stream.set_nodelay(true).expect("set");
            let mut buffer = vec![0; 4096];
            for number in 0..requests / CONNECTIONS {
                let model = (number * CONNECTIONS + client) * 7 % size.asked * (size.models / size.asked);
                let body = format!("{{\"model\":\"m{model}\",\"stream\":false,\"messages\":[]}}");
                let head =
                    format!("POST /api/chat HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(head.as_bytes()).await.expect("sent");
                let read = stream.read(&mut buffer).await.expect("answered");
                assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..read]));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every request is answered");
    }
}

/// Seconds of processor time of all threads so far.
fn processor_time(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("running");
    let nanoseconds = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}
