//! A client that leaves, in every phase of its request: the server is told at once, nothing leaks, the reason is counted.

mod support;

use std::time::Duration;

use arriero::demo::{Entry, Fault, Host, HostConfig, Outcome};
use http_body_util::BodyExt;
use support::wire::{Chunk, H1, H2, Upload, get, post, proxy};
use support::{Proxy, eventually, http_yaml, ollama_yaml};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// "At once", on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(5);

const MORE: &str = "
listeners: [{ address: \"127.0.0.1:0\", h2c: true }]
server: { body_budget: 16MiB, body_memory: 64KiB }
";
const GENERATE: &str = r#"{"model":"llava:13b","prompt":"hi"}"#;

struct Scene {
    host: Host,
    proxy: Proxy,
}

impl Scene {
    async fn new() -> Self {
        Self::over(false).await
    }

    async fn over(http2: bool) -> Self {
        let config = HostConfig::new("gpu").small_model("llava:13b").tokens(10_000);
        let host = Host::start(if http2 { config.http2() } else { config }).await.expect("a host");
        let proxy = proxy(ollama_yaml(&[host.url()], &format!("http2: {http2}")) + MORE).await;
        Self { host, proxy }
    }

    /// Waits until the host's only request for inference satisfies a condition.
    async fn begun(&self, condition: impl Fn(&Entry) -> bool) {
        let met = |ledger: &arriero::demo::Ledger| ledger.inference().iter().any(&condition);
        self.host.ledger().wait_until(AT_ONCE * 4, met).await.unwrap_or_else(|error| panic!("{error}"));
    }

    async fn in_flight(&self) -> f64 {
        let server = self.host.address();
        self.proxy.metric(&format!("arriero_server_in_flight{{upstream=\"fleet\",server=\"{server}\"}}")).await
    }

    /// Each reason for which a request has ended, and how often.
    async fn reasons(&self) -> Vec<String> {
        let text = self.proxy.admin("/metrics").await;
        let lines = text.lines().filter_map(|line| line.strip_prefix("arriero_requests_ended_total{reason=\""));
        let counted = lines.filter(|line| !line.ends_with(" 0"));
        counted.map(|line| line.replace("\"}", "")).collect()
    }

    /// The host is rid of the request, and so is the proxy.
    async fn cancelled(&self) {
        self.counted().await;
        let ended = |ledger: &arriero::demo::Ledger| ledger.inference().iter().all(|entry| entry.finished.is_some());
        self.host.ledger().wait_until(AT_ONCE, ended).await.unwrap_or_else(|error| panic!("{error}"));
        let entries = self.host.ledger().inference();
        let outcomes: Vec<_> = entries.iter().map(Entry::outcome).collect();
        assert_eq!(outcomes, [Some(Outcome::ClientGone)], "executed once, and cancelled");
        self.serves_on().await;
    }

    /// Nothing is left of the request but its count.
    async fn counted(&self) {
        eventually("the end is counted", async || !self.reasons().await.is_empty()).await;
        assert_eq!(self.reasons().await, ["client_closed 1"]);
        eventually("the server has nothing in flight", async || self.in_flight().await == 0.0).await;
        eventually("nothing is held", async || self.proxy.metric("arriero_held_body_bytes").await == 0.0).await;
        let routed = "arriero_requests_in_flight{route=\"all\"}";
        eventually("the route has nothing in flight", async || self.proxy.metric(routed).await == 0.0).await;
    }

    /// The next request is served as if nothing had been.
    async fn serves_on(&self) {
        self.host.faults().clear();
        self.host.load_gate().open();
        self.host.token_gate().open();
        let body = r#"{"model":"llava:13b","prompt":"hi","options":{"num_predict":2}}"#;
        let answer = support::wire::ask(self.proxy.address(), post("/api/generate", body)).await;
        assert_eq!((answer.head.status, answer.whole), (200, true), "{}", answer.text());
    }

    /// An HTTP/2 request whose body is not at its end; dropping the sender ends it.
    async fn http2(&self) -> (H2, tokio::sync::mpsc::Sender<bytes::Bytes>, tokio::task::JoinHandle<()>) {
        let client = H2::connect(self.proxy.address()).await;
        let (feeder, upload) = Upload::new(None);
        let mut sender = client.sender.clone();
        let answer = tokio::spawn(async move {
            // Reads whatever comes, until it is aborted.
            if let Ok(mut answer) = sender.send_request(H2::request("POST", "/api/generate", upload)).await {
                while let Some(Ok(_)) = answer.body_mut().frame().await {}
            }
        });
        (client, feeder, answer)
    }
}

/// The head and the first half of a body.
fn half(body: &str) -> String {
    let length = body.len() * 2;
    format!("POST /api/generate HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn model_first() -> String {
    format!(r#"{{"model":"llava:13b","images":["{}"#, "A".repeat(300_000))
}

fn model_last() -> String {
    format!(r#"{{"images":["{}"#, "A".repeat(300_000))
}

#[tokio::test]
async fn while_its_body_streams_to_the_server() {
    let scene = Scene::new().await;
    let mut client = H1::connect(scene.proxy.address()).await;
    client.send(half(&model_first())).await;
    scene.begun(|entry| entry.body_bytes >= 200_000).await;
    drop(client);
    scene.cancelled().await;
}

/// The same as a bare server sees it, which knows nothing but its socket.
#[tokio::test]
async fn and_the_server_sees_the_connection_end_within_the_body() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let proxy = proxy(http_yaml(&[url], "", "") + MORE).await;
    for http2 in [false, true] {
        let mut client = H1::connect(proxy.address()).await;
        let mut other = H2::connect(proxy.address()).await;
        let (feeder, upload) = Upload::new(None);
        if http2 {
            feeder.send(model_first().into()).await.expect("sent");
            tokio::spawn(other.sender.send_request(H2::request("POST", "/upload", upload)));
        } else {
            client.send(half(&model_first())).await;
        }
        let (mut server, _) = listener.accept().await.expect("accepted");
        let mut seen = Vec::new();
        while seen.len() < 200_000 {
            assert!(server.read_buf(&mut seen).await.expect("the body begins") > 0);
        }
        drop((client, other));
        // A reset is as good as an end.
        let end = tokio::time::timeout(AT_ONCE, server.read_to_end(&mut seen)).await;
        assert!(end.is_ok(), "the connection to the server outlives the client's; http2: {http2}");
    }
}

#[tokio::test]
async fn by_a_reset_while_its_body_streams_to_the_server() {
    let scene = Scene::new().await;
    let mut client = H1::connect(scene.proxy.address()).await;
    client.send(half(&model_first())).await;
    scene.begun(|entry| entry.body_bytes >= 200_000).await;
    client.reset();
    scene.cancelled().await;
}

#[tokio::test]
async fn while_its_body_is_held() {
    let scene = Scene::new().await;
    let mut client = H1::connect(scene.proxy.address()).await;
    client.send(half(&model_last())).await;
    eventually("it is held", async || scene.proxy.metric("arriero_held_body_bytes").await >= 200_000.0).await;
    drop(client);
    scene.counted().await;
    assert_eq!(scene.host.ledger().inference().len(), 0, "the server heard nothing of it");
    scene.serves_on().await;
}

#[tokio::test]
async fn over_http2_while_its_body_streams_to_the_server() {
    let scene = Scene::new().await;
    let (client, feeder, _answer) = scene.http2().await;
    feeder.send(model_first().into()).await.expect("sent");
    scene.begun(|entry| entry.body_bytes >= 200_000).await;
    drop(client);
    scene.cancelled().await;
}

#[tokio::test]
async fn over_http2_while_its_body_is_held() {
    let scene = Scene::new().await;
    let (client, feeder, _answer) = scene.http2().await;
    feeder.send(model_last().into()).await.expect("sent");
    eventually("it is held", async || scene.proxy.metric("arriero_held_body_bytes").await >= 200_000.0).await;
    drop(client);
    scene.counted().await;
    assert_eq!(scene.host.ledger().inference().len(), 0, "the server heard nothing of it");
    scene.serves_on().await;
}

/// The proxy does not read on, so that what the client sent last may stand between it and the end.
#[tokio::test]
async fn while_the_model_is_loaded() {
    for http2 in [false, true] {
        let scene = Scene::over(http2).await;
        scene.host.load_gate().close();
        let mut client = H1::connect(scene.proxy.address()).await;
        client.send(post("/api/generate", GENERATE)).await;
        scene.begun(|entry| entry.body_sha256.is_some()).await;
        assert_eq!(scene.in_flight().await, 1.0);
        drop(client);
        scene.cancelled().await;
    }
}

#[tokio::test]
async fn while_the_server_is_silent() {
    let scene = Scene::new().await;
    scene.host.faults().always(Fault::Hang);
    let mut client = H1::connect(scene.proxy.address()).await;
    client.send(post("/api/generate", GENERATE)).await;
    scene.begun(|entry| entry.body_sha256.is_some()).await;
    drop(client);
    scene.cancelled().await;
}

#[tokio::test]
async fn while_the_server_is_silent_after_a_body_that_was_held() {
    let scene = Scene::new().await;
    scene.host.faults().always(Fault::Hang);
    let mut client = H1::connect(scene.proxy.address()).await;
    client.send(post("/api/generate", model_last() + r#""],"model":"llava:13b"}"#)).await;
    scene.begun(|entry| entry.body_sha256.is_some()).await;
    drop(client);
    scene.cancelled().await;
}

#[tokio::test]
async fn over_http2_while_the_model_is_loaded() {
    for http2 in [false, true] {
        let scene = Scene::over(http2).await;
        scene.host.load_gate().close();
        let (client, feeder, _answer) = scene.http2().await;
        feeder.send(GENERATE.into()).await.expect("sent");
        drop(feeder);
        scene.begun(|entry| entry.body_sha256.is_some()).await;
        drop(client);
        scene.cancelled().await;
    }
}

#[tokio::test]
async fn in_the_middle_of_a_stream() {
    for http2 in [false, true] {
        let scene = Scene::over(http2).await;
        scene.host.faults().always(Fault::StallAfterTokens(3));
        let mut client = H1::connect(scene.proxy.address()).await;
        client.send(post("/api/generate", GENERATE)).await;
        assert_eq!(client.reader.head().await.status, 200);
        assert!(matches!(client.reader.chunk().await, Chunk::Data(_)));
        assert_eq!(scene.in_flight().await, 1.0);
        drop(client);
        scene.cancelled().await;
    }
}

#[tokio::test]
async fn by_a_reset_in_the_middle_of_a_stream() {
    let scene = Scene::new().await;
    let mut client = H1::connect(scene.proxy.address()).await;
    client.send(post("/api/generate", GENERATE)).await;
    assert_eq!(client.reader.head().await.status, 200);
    scene.host.token_gate().close();
    client.reset();
    scene.cancelled().await;
}

#[tokio::test]
async fn over_http2_in_the_middle_of_a_stream() {
    for http2 in [false, true] {
        let scene = Scene::over(http2).await;
        scene.host.faults().always(Fault::StallAfterTokens(3));
        let (client, feeder, _answer) = scene.http2().await;
        feeder.send(GENERATE.into()).await.expect("sent");
        drop(feeder);
        scene.begun(|entry| entry.tokens == 3).await;
        drop(client);
        scene.cancelled().await;
    }
}

/// Only the stream is reset; the connection serves on.
#[tokio::test]
async fn by_cancelling_one_of_its_http2_streams() {
    let scene = Scene::new().await;
    scene.host.faults().next(1, Fault::StallAfterTokens(3));
    let (mut client, feeder, answer) = scene.http2().await;
    feeder.send(GENERATE.into()).await.expect("sent");
    drop(feeder);
    scene.begun(|entry| entry.tokens == 3).await;
    answer.abort();
    scene.cancelled().await;
    let other = client.ask(H2::request("GET", "/api/version", Upload::empty()), "".into()).await;
    assert_eq!(other.head.status, 200);
}

#[tokio::test]
async fn by_cancelling_an_http2_stream_while_the_model_is_loaded() {
    let scene = Scene::new().await;
    scene.host.load_gate().close();
    let (mut client, feeder, answer) = scene.http2().await;
    feeder.send(GENERATE.into()).await.expect("sent");
    drop(feeder);
    scene.begun(|entry| entry.body_sha256.is_some()).await;
    answer.abort();
    scene.cancelled().await;
    let other = client.ask(H2::request("GET", "/api/version", Upload::empty()), "".into()).await;
    assert_eq!(other.head.status, 200);
}

/// The connection to an h1 server cannot be used again after a cancelled request.
#[tokio::test]
async fn and_the_connection_to_the_server_is_closed() {
    let scene = Scene::new().await;
    scene.host.faults().next(1, Fault::Hang);
    let mut client = H1::connect(scene.proxy.address()).await;
    client.send(post("/api/generate", GENERATE)).await;
    scene.begun(|entry| entry.body_sha256.is_some()).await;
    drop(client);
    scene.cancelled().await;
    let entries = scene.host.ledger().inference();
    assert_ne!(entries[0].connection, entries[1].connection);
}

#[tokio::test]
async fn a_hundred_clients_that_leave_leak_nothing() {
    let scene = Scene::new().await;
    scene.host.load_gate().close();
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = H1::connect(scene.proxy.address()).await;
        client.send(post("/api/generate", GENERATE)).await;
        clients.push(client);
    }
    let all = |ledger: &arriero::demo::Ledger| ledger.inference().len() == 100;
    scene.host.ledger().wait_until(AT_ONCE * 4, all).await.unwrap_or_else(|error| panic!("{error}"));
    drop(clients);
    eventually("the host is rid of all", async || scene.host.ledger().inference().iter().all(|e| e.finished.is_some()))
        .await;
    eventually("all are counted", async || scene.reasons().await == ["client_closed 100"]).await;
    eventually("nothing is in flight", async || scene.in_flight().await == 0.0).await;
    let connections = async || scene.proxy.metric("arriero_connections").await;
    eventually("no connection is left", async || connections().await == 0.0).await;
    assert_eq!(support::wire::ask(scene.proxy.address(), get("/api/version")).await.head.status, 200);
}
