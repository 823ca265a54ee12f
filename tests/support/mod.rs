//! What integration tests share: a proxy in this process, a raw HTTP/1 client, and waiting by condition.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod admin;
pub mod authority;
pub mod docker;
pub mod edge;
pub mod fleet;
pub mod frames;
pub mod h2;
pub mod keys;
pub mod nvml;
pub mod process;
pub mod redis;
pub mod tls;
pub mod wire;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arriero::fleet::reload::Source;
use arriero::lifecycle::{Running, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest that any condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Arriero in this process, stopped when dropped.
pub struct Proxy {
    /// The running instance.
    pub running: Option<Running>,
    /// Its configuration file.
    pub file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts with this configuration, written to a file of its own. `admin` is added on a free port,
    /// the access log is off unless the text says otherwise.
    pub fn start(yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("arriero.yaml");
        std::fs::write(&file, complete(yaml)).expect("the configuration is written");
        let running = start(Source::File(file.clone())).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        Self { running: Some(running), file, _folder: folder }
    }

    /// One `kind: ollama` upstream `fleet` of these servers behind one route.
    pub fn ollama(urls: &[String]) -> Self {
        Self::start(&ollama_yaml(urls, ""))
    }

    /// One `kind: http` upstream of these servers behind one route.
    pub fn http(urls: &[String]) -> Self {
        Self::start(&http_yaml(urls, "", ""))
    }

    /// Address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.running().addresses[0]
    }

    /// `http://HOST:PORT` of the first listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The running instance.
    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("running")
    }

    /// Replaces the configuration file by renaming another one over it, as editors do.
    pub fn rewrite(&self, yaml: &str) {
        replace(&self.file, &complete(yaml));
    }

    /// Text of a page of the admin listener.
    pub async fn admin(&self, path: &str) -> String {
        let arriero::admin::AdminAddress::Tcp(address) = self.running().admin.clone() else { panic!("admin on TCP") };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        String::from_utf8(raw(address, request.as_bytes()).await).expect("text")
    }

    /// Value of a metric with exactly these labels as they are written; 0 when it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // Stopping waits for threads; a test's own runtime must not.
            std::thread::spawn(move || running.stop());
        }
    }
}

/// Adds what every test configuration needs.
fn complete(yaml: &str) -> String {
    let mut text = yaml.to_owned();
    if !text.contains("version:") {
        text.insert_str(0, "version: 1\n");
    }
    if !text.contains("listeners:") {
        text.push_str("\nlisteners: [{ address: \"127.0.0.1:0\" }]\n");
    }
    if !text.contains("\nadmin:") {
        text.push_str("\nadmin: { address: \"127.0.0.1:0\" }\n");
    }
    if !text.contains("telemetry:") {
        text.push_str("\ntelemetry: { access_log: off, log_level: warn }\n");
    }
    text
}

/// A configuration with one ollama upstream; `more` is put into the upstream, indented by four.
pub fn ollama_yaml(urls: &[String], more: &str) -> String {
    upstream_yaml("ollama", urls, "", more)
}

/// A configuration with one ollama upstream whose requests are scheduled, as they are by default.
pub fn scheduled_yaml(urls: &[String], route: &str, upstream: &str) -> String {
    one_upstream("ollama", urls, route, upstream)
}

/// A configuration with one http upstream; `route` and `upstream` are put into those blocks.
pub fn http_yaml(urls: &[String], route: &str, upstream: &str) -> String {
    upstream_yaml("http", urls, route, upstream)
}

/// A configuration with one upstream of a kind.
pub fn upstream_yaml(kind: &str, urls: &[String], route: &str, upstream: &str) -> String {
    // What is tested with it is what happens to a request that has its server at once, and that nothing else is asked of
    // that server meanwhile.
    let rule =
        if kind == "ollama" && !upstream.contains("balance:") { "balance: { policy: least_requests }\n" } else { "" };
    one_upstream(kind, urls, route, &format!("{rule}{upstream}"))
}

fn one_upstream(kind: &str, urls: &[String], route: &str, upstream: &str) -> String {
    let servers: String = urls.iter().map(|url| format!("      - {{ url: \"{url}\" }}\n")).collect();
    format!(
        "version: 1\nroutes:\n  - name: all\n    upstream: fleet\n{}upstreams:\n  fleet:\n    kind: {kind}\n    servers:\n{servers}{}",
        indent(route),
        indent(upstream),
    )
}

fn indent(text: &str) -> String {
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| format!("    {line}\n")).collect()
}

/// Replaces a file by renaming.
pub fn replace(file: &Path, text: &str) {
    let next = file.with_extension("next");
    let mut output = std::fs::File::create(&next).expect("created");
    output.write_all(text.as_bytes()).expect("written");
    drop(output);
    std::fs::rename(&next, file).expect("renamed");
}

/// Sends bytes and reads until the other side closes.
pub async fn raw(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    answer
}

/// Waits until a condition holds; panics with `what` when it does not within [`PATIENCE`].
pub async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never came true: {what}");
}
