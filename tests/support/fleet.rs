//! What the tests of routing, failover and the fleet share: requests, bodies, small servers, series.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use arriero::demo::{DemoModel, Fleet, Host, HostConfig};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::wire::{Answer, H1, Head};
use super::{Proxy, eventually, indent};

/// A whole HTTP/1 request. `fields` are lines that end in `\r\n`; a `Host` among them replaces `localhost`.
pub fn request(method: &str, path: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let host = if fields.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let length =
        if body.is_empty() && method != "POST" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut bytes = format!("{method} {path} HTTP/1.1\r\n{host}{fields}{length}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A request on a connection of its own, and its answer.
pub async fn send(address: SocketAddr, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
    send_with(address, method, path, "", body).await
}

/// The same with fields.
pub async fn send_with(address: SocketAddr, method: &str, path: &str, fields: &str, body: impl AsRef<[u8]>) -> Answer {
    let mut client = H1::connect(address).await;
    let bytes = request(method, path, fields, body);
    if method == "HEAD" {
        client.send(bytes).await;
        let head: Head = client.reader.head().await;
        return Answer { head, body: Vec::new(), whole: true };
    }
    let H1 { mut reader, mut writer } = client;
    // An answer may come before everything was sent.
    let feed = async { drop(tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await) };
    let (answer, ()) = tokio::join!(reader.answer(), feed);
    answer
}

/// A request for text that ends after one token and does not stream.
pub fn generate(model: &str) -> String {
    format!(r#"{{"model":"{model}","prompt":"x","stream":false,"options":{{"num_predict":1}}}}"#)
}

/// Bytes of a request for text of this size, with the model in front or at the end.
pub fn sized(model: &str, size: usize, first: bool) -> Vec<u8> {
    let rest = r#""prompt":"x","stream":false,"options":{"num_predict":1},"images":[""#;
    let (start, end) = if first {
        (format!(r#"{{"model":"{model}",{rest}"#), r#""]}"#.to_owned())
    } else {
        (format!("{{{rest}"), format!(r#""],"model":"{model}"}}"#))
    };
    let filler = size.saturating_sub(start.len() + end.len());
    let mut body = start.into_bytes();
    body.extend((0..filler).map(|index| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklm"[index % 39]));
    body.extend_from_slice(end.as_bytes());
    body
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Instant hosts that all have these models.
pub async fn fleet(count: usize, models: &[&str]) -> Fleet {
    let config =
        |number| models.iter().fold(HostConfig::new(&format!("host-{number}")), |host, name| host.small_model(name));
    Fleet::start((0..count).map(config).collect()).await.expect("a fleet")
}

/// Instant hosts, each with its own models.
pub async fn mixed_fleet(models: &[&[&str]]) -> Fleet {
    let model = |name: &&str| DemoModel::new(name, 1_000_000_000);
    let config = |models: &&[&str]| {
        let mut config = HostConfig::new(&models.join("+"));
        config.models = models.iter().map(model).collect();
        config
    };
    Fleet::start(models.iter().map(config).collect()).await.expect("a fleet")
}

/// A configuration of one upstream whose servers have keys of their own (`weight: 2`, or nothing).
pub fn weighted_yaml(kind: &str, servers: &[(String, &str)], route: &str, upstream: &str) -> String {
    let line = |(url, keys): &(String, &str)| {
        let comma = if keys.is_empty() { "" } else { ", " };
        format!("      - {{ url: \"{url}\"{comma}{keys} }}\n")
    };
    let servers: String = servers.iter().map(line).collect();
    let (route, upstream) = (indent(route), indent(upstream));
    format!(
        "version: 1\nroutes:\n  - name: all\n    upstream: fleet\n{route}upstreams:\n  fleet:\n    kind: {kind}\n    servers:\n{servers}{upstream}"
    )
}

/// The value of a metric of a server.
pub async fn of_server(proxy: &Proxy, metric: &str, server: SocketAddr, more: &str) -> f64 {
    proxy.metric(&format!("{metric}{{upstream=\"fleet\",server=\"{server}\"{more}}}")).await
}

/// Whether the circuit of a server is in this state and in no other.
pub async fn circuit_is(proxy: &Proxy, server: &Host, state: &str) -> bool {
    for each in ["closed", "open", "half_open"] {
        let value =
            of_server(proxy, "arriero_server_circuit_state", server.address(), &format!(",state=\"{each}\"")).await;
        if (value == 1.0) != (each == state) {
            return false;
        }
    }
    true
}

/// How many requests ended for a reason.
pub async fn ended(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("arriero_requests_ended_total{{reason=\"{reason}\"}}")).await
}

/// Waits until the proxy knows how many models a server has, `disk` or `memory`.
pub async fn knows(proxy: &Proxy, server: &Host, place: &str, count: u32) {
    let labels = format!(",in=\"{place}\"");
    let series = "arriero_server_models";
    eventually(&format!("{count} models in {place}"), || async {
        of_server(proxy, series, server.address(), &labels).await == f64::from(count)
    })
    .await;
}

/// A request that a [`Small`] server got.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub fields: http::HeaderMap,
    pub body: Bytes,
}

/// A small HTTP/1 server whose answers a function makes. Dropping it ends it.
pub struct Small {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    task: JoinHandle<()>,
}

/// An answer of a small server.
pub fn reply(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", content_type);
    response.body(Full::new(body.into())).expect("an answer")
}

impl Small {
    pub async fn start(answer: impl Fn(&Got) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let got = Arc::new(Mutex::new(Vec::new()));
        let (answer, list) = (Arc::new(answer), Arc::clone(&got));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, list) = (Arc::clone(&answer), Arc::clone(&list));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, list) = (Arc::clone(&answer), Arc::clone(&list));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                        let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
                        let got = Got { method: head.method.to_string(), path, fields: head.headers, body };
                        let response = answer(&got);
                        list.lock().expect("no panic").push(got);
                        Ok::<_, Infallible>(response)
                    }
                });
                // A connection that breaks is the test's own doing.
                connections.spawn(async move {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, got, task }
    }

    /// Answers every request with its own name and the hash of the body.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |got| reply(200, "text/plain", format!("{name} {}", sha256(&got.body)))).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().expect("no panic").clone()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.task.abort();
    }
}
