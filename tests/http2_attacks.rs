//! Attacks on HTTP/2, written frame by frame: each ends with its connection closed, its stream refused, or in nothing,
//! and meanwhile everybody else is served.

#[path = "http2_attacks/floods.rs"]
mod floods;
#[path = "http2_attacks/smuggling.rs"]
mod smuggling;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arriero::clock;
use arriero::demo::{RawUpstream, Script, Step};
use support::authority::Authority;
use support::frames::{self, *};
use support::wire::{ask, get as h1_get, proxy};
use support::{PATIENCE, Proxy, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::TLS13;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that the attacker reaches, one for everybody else, and Arriero before both.
struct Scene {
    target: RawUpstream,
    _other: RawUpstream,
    proxy: Proxy,
}

impl Scene {
    async fn new(listener: &str) -> Self {
        let answers = Script::new(vec![Step::ReadRequest, Step::Gate, Step::Write(OK.into())]).repeated();
        Self::before(answers, listener).await
    }

    async fn before(script: Script, listener: &str) -> Self {
        let target = RawUpstream::start(script).await.expect("a server");
        let other = RawUpstream::start(Script::answer(OK)).await.expect("a server");
        let h2c = if listener.contains("h2c") { "" } else { "h2c: true, " };
        let yaml = format!(
            r#"
listeners: [{{ address: "127.0.0.1:0", {h2c}{listener} }}]
routes:
  - {{ name: witness, match: {{ path: /witness }}, upstream: other }}
  - {{ name: target, match: {{ path: / }}, upstream: target }}
upstreams:
  other: {{ kind: http, servers: [{{ url: "{}" }}] }}
  target: {{ kind: http, servers: [{{ url: "{}" }}] }}
"#,
            other.url(),
            target.url()
        );
        Self { target, _other: other, proxy: proxy(yaml).await }
    }

    async fn raw(&self) -> Raw {
        Raw::connect(self.proxy.address()).await
    }

    /// Requests that reached the server.
    fn started(&self) -> usize {
        requests(&self.target.connections())
    }

    async fn in_flight(&self) -> f64 {
        let server = self.target.address();
        self.proxy.metric(&format!("arriero_server_in_flight{{upstream=\"target\",server=\"{server}\"}}")).await
    }

    /// Somebody else, who asks again and again until it is waited for.
    fn witness(&self) -> Witness {
        let (address, stop) = (self.proxy.address(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut client = support::wire::H1::connect(address).await;
            let mut asked = 0;
            while !stopped.load(Ordering::Relaxed) || asked < 3 {
                let answer = client.ask(h1_get("/witness")).await;
                assert_eq!(answer.text(), "ok", "somebody else, after {asked} good answers");
                asked += 1;
            }
        });
        Witness { stop, task }
    }

    /// Nothing of the attack is left: no request, no connection.
    async fn over(&self) {
        self.target.gate().open();
        eventually("nothing is in flight", async || self.in_flight().await == 0.0).await;
        eventually("no connection is left", async || self.proxy.metric("arriero_connections").await == 0.0).await;
        assert_eq!(ask(self.proxy.address(), h1_get("/witness")).await.text(), "ok");
    }

    async fn floods(&self) -> f64 {
        self.proxy.metric("arriero_connections_refused_total{limit=\"flood\"}").await
    }
}

fn requests(connections: &[Vec<u8>]) -> usize {
    connections.iter().map(|bytes| String::from_utf8_lossy(bytes).matches(" HTTP/1.1\r\n").count()).sum()
}

struct Witness {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Witness {
    async fn was_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("everybody else is served");
    }
}

/// Writes until the other side closes or everything is written, and reads how it ended.
async fn flood(mut raw: Raw, bytes: Vec<u8>) -> Ended {
    let mut writer = std::mem::replace(&mut raw.writer, spare().await);
    let write = async {
        // The other side closes at some point; what it thinks of it shows in what it says.
        drop(writer.write_all(&bytes).await);
        writer
    };
    let (ended, _writer) = tokio::join!(raw.ended(), write);
    ended
}

/// A half of a socket that nobody uses.
async fn spare() -> tokio::net::tcp::OwnedWriteHalf {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    stream.into_split().1
}

fn repeated(count: u32, mut make: impl FnMut(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|number| make(number * 2 + 1)).collect()
}

// H01

#[tokio::test]
async fn rapid_reset_in_one_go() {
    let scene = Scene::new("").await;
    scene.target.gate().close();
    let witness = scene.witness();
    let bytes = repeated(20_000, |stream| [frames::get(stream, "/"), cancel(stream)].concat());
    let ended = flood(scene.raw().await, bytes).await;
    assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "{ended:?}");
    assert!(scene.started() <= 51, "{} requests reached the server", scene.started());
    witness.was_served().await;
    scene.over().await;
}

#[tokio::test]
async fn rapid_reset_of_requests_that_have_reached_the_server() {
    let scene = Scene::new("").await;
    scene.target.gate().close();
    let mut raw = scene.raw().await;
    let mut sent = 0;
    while sent < 200 {
        let (stream, before) = (sent * 2 + 1, scene.started());
        if !raw.try_send(frames::get(stream, "/")).await {
            break;
        }
        let reached = scene.target.wait_until(PATIENCE, |all| requests(all) > before);
        tokio::select! {
            reached = reached => reached.expect("it reaches the server"),
            // Nothing comes but the end.
            ended = raw.ended() => {
                assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "{ended:?}");
                break;
            }
        }
        raw.try_send(cancel(stream)).await;
        eventually("the server is rid of it", async || scene.in_flight().await == 0.0).await;
        sent += 1;
    }
    assert_eq!(scene.started(), 51, "50 may be given up, the next is one too many");
    assert_eq!(scene.floods().await, 1.0);
    scene.over().await;
}

// H02

#[tokio::test]
async fn made_you_reset() {
    let scene = Scene::new("").await;
    scene.target.gate().close();
    let witness = scene.witness();
    type Break = fn(u32) -> Vec<u8>;
    let ways: [(&str, Break); 3] = [
        ("a window beyond 2^31-1", |stream| window_update(stream, 0x7fff_ffff)),
        ("DATA after the end", |stream| frame(DATA, 0, stream, "x")),
        ("HEADERS after the end", |stream| headers(stream, false, &block(&[("x", "y")]))),
    ];
    for (what, break_it) in ways {
        let before = scene.started();
        let bytes = repeated(500, |stream| [frames::get(stream, "/"), break_it(stream)].concat());
        let ended = flood(scene.raw().await, bytes).await;
        let calmed = [ENHANCE_YOUR_CALM, PROTOCOL_ERROR].contains(&ended.goaway.unwrap_or(NO_ERROR));
        assert!(calmed && ended.resets.len() <= 100, "{what}: {ended:?}");
        assert!(scene.started() - before <= 100, "{what}: {} reached the server", scene.started() - before);
    }
    witness.was_served().await;
    scene.over().await;
}

// H03, H04

#[tokio::test]
async fn continuations_without_end() {
    let scene = Scene::new("").await;
    let witness = scene.witness();
    let first = frame(HEADERS, 0, 1, request("GET", "/", &[]));
    for (what, piece) in [("of one field", block(&[("x", "y")])), ("that are empty", Vec::new())] {
        let bytes = [first.clone(), repeated(10_000, |_| frame(CONTINUATION, 0, 1, &piece))].concat();
        let ended = flood(scene.raw().await, bytes).await;
        assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "CONTINUATIONs {what}: {ended:?}");
    }
    assert_eq!(scene.started(), 0);
    witness.was_served().await;
    scene.over().await;
}

#[tokio::test]
async fn a_header_bomb_of_references() {
    let scene = Scene::new("").await;
    let witness = scene.witness();
    for (references, size) in [(200, 1_usize), (12_000, 1), (60, 3000), (12_000, 3000)] {
        let mut raw = Raw::with_window(scene.proxy.address(), 0).await;
        // One field goes into the table, then a byte names it again and again.
        let mut bomb = request("GET", "/", &[]);
        bomb.push(0x40);
        text(&mut bomb, b"x");
        text(&mut bomb, &vec![b'y'; size]);
        bomb.extend(std::iter::repeat_n(0xbe, references));
        raw.send(headers(1, true, &bomb)).await;
        let ended = raw.verdict(1).await;
        let refused = ended.answers == [(1, 431)] || ended.resets.len() == 1;
        let closed = ended.goaway.is_some_and(|code| code == ENHANCE_YOUR_CALM || code == COMPRESSION_ERROR);
        assert!(refused || closed, "{references} × {size} B: {ended:?}");
        assert!(references < 12_000 || size < 3000 || closed, "36 MB end the connection: {ended:?}");
    }
    assert_eq!(scene.started(), 0);
    witness.was_served().await;
    scene.over().await;
}

// H05

#[tokio::test]
async fn streams_that_are_held_open_beyond_the_limit() {
    let scene = Scene::new("").await;
    scene.target.gate().close();
    let witness = scene.witness();
    let mut raw = scene.raw().await;
    raw.send(repeated(100, |stream| frames::get(stream, "/"))).await;
    eventually("a hundred run", async || scene.started() == 100).await;
    raw.send(repeated(10, |stream| frames::get(stream + 200, "/"))).await;
    let ended = raw.verdict(219).await;
    assert_eq!(ended.resets, (0..10).map(|number| (201 + number * 2, 7)).collect::<Vec<_>>(), "REFUSED_STREAM");
    let ended = flood(raw, repeated(1000, |stream| frames::get(stream + 220, "/"))).await;
    assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "{ended:?}");
    assert_eq!(scene.started(), 100);
    witness.was_served().await;
    scene.over().await;
}

// H17, H18

#[tokio::test]
async fn connect_is_refused_and_h2c_is_not_spoken_where_it_is_not_enabled() {
    let scene = Scene::new("").await;
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/"),
    ];
    for (what, block) in [
        ("CONNECT", block(&[(":method", "CONNECT"), (":authority", "127.0.0.1:6379")])),
        ("CONNECT with a path", request("CONNECT", "/", &[])),
        ("extended CONNECT", block(&extended)),
    ] {
        let mut raw = scene.raw().await;
        raw.send(headers(1, true, &block)).await;
        let ended = raw.verdict(1).await;
        let refused = ended.answers.iter().all(|(_, status)| matches!(status, 400 | 405 | 501));
        assert!(refused && (!ended.answers.is_empty() || !ended.resets.is_empty()), "{what}: {ended:?}");
    }
    assert!(scene.target.connections().is_empty());
    let upgrade = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let plain = Scene::new("h2c: false").await;
    let preface = [PREFACE, &settings(&[]), &frames::get(1, "/")].concat();
    let answer = support::raw(plain.proxy.address(), &preface).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    for scene in [&plain, &scene] {
        let answer = ask(scene.proxy.address(), upgrade).await;
        assert_eq!((answer.head.status, answer.text().as_str()), (200, "ok"), "an ordinary answer");
        let reached = String::from_utf8_lossy(&scene.target.connections().concat()).to_ascii_lowercase();
        assert!(!reached.contains("upgrade") && !reached.contains("http2-settings"), "{reached}");
        assert_eq!(scene.started(), 1);
    }
}

// H19

#[tokio::test]
async fn many_slow_uploads_on_many_connections_meet_the_limits() {
    let limits = "limits: { requests: 60, connections_per_ip: 12 }, timeouts: { request_body: 2s }";
    let scene = Scene::new(limits).await;
    scene.target.gate().close();
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::silent(scene.proxy.address()).await;
        raw.greet(65_535).await;
        let uploads = repeated(10, |stream| {
            [headers(stream, false, &request("POST", "/", &[])), frame(DATA, 0, stream, "slow")].concat()
        });
        raw.try_send(uploads).await;
        connections.push(raw);
    }
    let refused = "arriero_connections_refused_total{limit=\"client\"}";
    eventually("eight connections are refused", async || scene.proxy.metric(refused).await == 8.0).await;
    let overloaded = "arriero_requests_ended_total{reason=\"overloaded\"}";
    eventually("half of the requests are answered 503", async || scene.proxy.metric(overloaded).await == 60.0).await;
    assert!(scene.started() <= 60, "{}", scene.started());
    let late = "arriero_requests_ended_total{reason=\"body_timeout\"}";
    eventually("the others are cut", async || scene.proxy.metric(late).await == 60.0).await;
    drop(connections);
    scene.over().await;
}

// H20

#[tokio::test]
async fn silence_after_any_part_of_the_preface_ends_the_connection() {
    let scene = Scene::new("timeouts: { request_header: 500ms }").await;
    let greeting = [PREFACE, &settings(&[]), &frame(SETTINGS, ACK, 0, [])].concat();
    let half_a_head = [&greeting[..], &frame(HEADERS, 0, 1, request("GET", "/", &[]))].concat();
    let pings = [&greeting[..], &frame(PING, 0, 0, [0; 8])].concat();
    let begun = clock::now();
    let mut all = JoinSet::new();
    for bytes in
        [b"".to_vec(), PREFACE[..10].to_vec(), PREFACE[..20].to_vec(), PREFACE.to_vec(), greeting, half_a_head, pings]
    {
        let address = scene.proxy.address();
        all.spawn(async move {
            let mut raw = Raw::silent(address).await;
            raw.send(&bytes).await;
            let mut got = Vec::new();
            let _ = timeout(PATIENCE, raw.reader.read_to_end(&mut got)).await.expect("it is closed");
            got
        });
    }
    all.join_all().await;
    let took = clock::now() - begun;
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(took < Duration::from_secs(4), "half a second of patience took {took:?}");
    scene.over().await;
}

#[tokio::test]
async fn protocols_that_were_not_agreed_on_are_not_spoken() {
    let server = RawUpstream::start(Script::answer(OK)).await.expect("a server");
    let authority = Authority::new("test");
    let folder = tempfile::tempdir().expect("a folder");
    authority.issue(&["a.test"]).write(folder.path(), "a");
    let yaml = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0", timeouts: {{ request_header: 1s }}, tls: {{ certificates: [{{ cert: "{0}/a.pem", key: "{0}/a.key" }}] }} }}]
routes: [{{ name: all, upstream: web }}]
upstreams: {{ web: {{ kind: http, servers: [{{ url: "{1}" }}] }} }}
"#,
        folder.path().display(),
        server.url()
    );
    let proxy = proxy(yaml).await;
    let connect = async |protocols: &[&str]| {
        let mut config = authority.client(&[&TLS13], None);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let tcp = TcpStream::connect(proxy.address()).await.expect("connected");
        let name = ServerName::try_from("a.test").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    assert!(connect(&["foo"]).await.is_err(), "nothing in common");
    for (protocols, bytes) in [
        (&["h2"][..], h1_get("/")),
        (&["http/1.1"], [PREFACE, &settings(&[]), &frames::get(1, "/")].concat()),
        (&[], [PREFACE, &settings(&[]), &frames::get(1, "/")].concat()),
    ] {
        let mut tls = connect(protocols).await.expect("connected");
        tls.write_all(&bytes).await.expect("sent");
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, tls.read_to_end(&mut answer)).await.expect("closed");
        assert!(
            !answer.windows(4).any(|piece| piece == b" 200"),
            "{protocols:?}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(server.connections().is_empty());
    let mut tls = connect(&["h2", "http/1.1"]).await.expect("connected");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    tls.write_all(&[PREFACE, &settings(&[]), &frames::get(1, "/")].concat()).await.expect("sent");
    server.wait_until(PATIENCE, |all| !all.is_empty()).await.expect("h2 works");
}
