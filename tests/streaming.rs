//! Nothing is held back: tokens, bytes of a body, and backpressure pass through at once, both ways.

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arriero::demo::{Fault, FaultRule, Host, HostConfig};
use bytes::Bytes;
use http_body_util::BodyExt;
use support::wire::{Answer, Chunk, H1, H2, LIMIT, Reader, Upload, get, post, proxy, read, settled};
use support::{PATIENCE, Proxy, http_yaml, ollama_yaml};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const H2C: &str = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";
/// More than kernel buffers take, less than an answer or an upload has.
const BOUND: u64 = 48 << 20;

async fn host(config: HostConfig) -> (Host, Proxy) {
    let host = Host::start(config.small_model("llava:13b")).await.expect("a host");
    let proxy = proxy(ollama_yaml(&[host.url()], "") + H2C).await;
    (host, proxy)
}

fn tokens(host: &Host) -> usize {
    host.ledger().inference().iter().map(|entry| entry.tokens).sum()
}

/// Reads chunks until so many tokens have come.
async fn read_tokens(reader: &mut Reader, seen: &mut String, mark: &str, count: usize) {
    while seen.matches(mark).count() < count {
        match reader.chunk().await {
            Chunk::Data(data) => seen.push_str(std::str::from_utf8(&data).expect("text")),
            end => panic!("{end:?} after {seen}"),
        }
    }
}

/// The host makes a token only when the gate lets it; every token made is with the client while the gate is shut.
async fn each_token_comes_at_once(path: &str, body: &str, mark: &str) {
    let (host, proxy) = host(HostConfig::new("gpu").tokens(40)).await;
    host.token_gate().close();
    let mut client = H1::connect(proxy.address()).await;
    client.send(post(path, body)).await;
    let mut seen = String::new();
    let mut head = None;
    let mut made = 0;
    while made < 5 {
        host.token_gate().open();
        let next = host.ledger().wait_until(PATIENCE, |_| tokens(&host) > made).await;
        host.token_gate().close();
        next.unwrap_or_else(|error| panic!("{error}"));
        made = tokens(&host);
        if head.is_none() {
            head = Some(client.reader.head().await);
        }
        read_tokens(&mut client.reader, &mut seen, mark, made).await;
    }
    host.token_gate().open();
    while let Chunk::Data(data) = client.reader.chunk().await {
        seen.push_str(std::str::from_utf8(&data).expect("text"));
    }
    assert_eq!(seen.matches(mark).count(), 40, "{seen}");
    assert_eq!(head.map(|head| head.status), Some(200));
}

#[tokio::test]
async fn each_line_of_ndjson_reaches_the_client_before_the_next_is_made() {
    let body = r#"{"model":"llava:13b","prompt":"hi"}"#;
    each_token_comes_at_once("/api/generate", body, r#""done":false"#).await;
}

#[tokio::test]
async fn each_server_sent_event_reaches_the_client_before_the_next_is_made() {
    let body = r#"{"model":"llava:13b","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    each_token_comes_at_once("/v1/chat/completions", body, r#""finish_reason":null"#).await;
}

#[tokio::test]
async fn each_token_reaches_an_http2_client_before_the_next_is_made() {
    let (host, proxy) = host(HostConfig::new("gpu")).await;
    for stop in 1..4 {
        let rule = host.faults().next(1, Fault::StallAfterTokens(stop));
        let (feeder, upload) = Upload::new(None);
        let mut client = H2::connect(proxy.address()).await;
        let answer = client.sender.send_request(H2::request("POST", "/api/generate", upload));
        feeder.send(r#"{"model":"llava:13b","prompt":"hi"}"#.into()).await.expect("sent");
        drop(feeder);
        let mut answer = timeout(LIMIT, answer).await.expect("in time").expect("an answer").into_body();
        let mut seen = Vec::new();
        while seen.iter().filter(|byte| **byte == b'\n').count() < stop {
            let frame = timeout(LIMIT, answer.frame()).await.expect("in time").expect("more").expect("no error");
            seen.extend_from_slice(frame.data_ref().expect("data"));
        }
        host.faults().remove(rule);
    }
}

async fn first_bytes_arrived(host: &Host, number: usize) {
    let ledger = host.ledger();
    let arrived = ledger
        .wait_until(PATIENCE, |ledger| ledger.inference().get(number).is_some_and(|entry| entry.body_bytes >= 100_000));
    arrived.await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_server_sees_the_first_bytes_of_a_body_before_the_client_has_sent_the_rest() {
    let (host, proxy) = host(HostConfig::new("gpu").tokens(2)).await;
    let start = format!(r#"{{"model":"llava:13b","prompt":"hi","images":["{}"#, "A".repeat(100_000));
    let end = format!("{}\"]}}", "B".repeat(1_900_000));
    let length = start.len() + end.len();
    for (number, framing) in
        [format!("Content-Length: {length}"), "Transfer-Encoding: chunked".into()].iter().enumerate()
    {
        let mut client = H1::connect(proxy.address()).await;
        client.send(format!("POST /api/generate HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n")).await;
        let chunked = framing.contains("chunked");
        let framed = |text: &str| if chunked { format!("{:x}\r\n{text}\r\n", text.len()) } else { text.to_owned() };
        client.send(framed(&start)).await;
        first_bytes_arrived(&host, number).await;
        client.send(framed(&end) + if chunked { "0\r\n\r\n" } else { "" }).await;
        assert_eq!(client.reader.answer().await.head.status, 200);
    }
    let (feeder, upload) = Upload::new(None);
    let mut client = H2::connect(proxy.address()).await;
    let answer = client.sender.send_request(H2::request("POST", "/api/generate", upload));
    feeder.send(Bytes::from(start)).await.expect("sent");
    let begun = async {
        first_bytes_arrived(&host, 2).await;
        feeder.send(Bytes::from(end)).await.expect("sent");
        drop(feeder);
    };
    let (answer, ()) = tokio::join!(answer, begun);
    assert_eq!(read(answer.expect("an answer")).await.head.status, 200);
}

/// A server whose answer never wants to end; counts what it could write.
struct Firehose {
    url: String,
    written: Arc<AtomicU64>,
    _task: JoinHandle<io::Result<()>>,
}

const FLOOD: u64 = 96 << 20;

impl Firehose {
    async fn start(head: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 4096];
            tokio::io::AsyncReadExt::read(&mut stream, &mut request).await?;
            stream.write_all(head.as_bytes()).await?;
            let piece = [b'x'; 1 << 16];
            while count.load(Ordering::Relaxed) < FLOOD {
                if head.contains("chunked") {
                    stream.write_all(b"10000\r\n").await?;
                    stream.write_all(&piece).await?;
                    stream.write_all(b"\r\n").await?;
                } else {
                    stream.write_all(&piece).await?;
                }
                count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            stream.write_all(if head.contains("chunked") { b"0\r\n\r\n" } else { b"" }).await?;
            std::future::pending().await
        });
        Self { url, written, _task: task }
    }

    async fn blocked(&self) -> u64 {
        settled("what the server could write", || self.written.load(Ordering::Relaxed)).await
    }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100663296\r\n\r\n";

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_server_back() {
    for head in [CHUNKED, LENGTH] {
        let server = Firehose::start(head).await;
        let proxy = proxy(http_yaml(std::slice::from_ref(&server.url), "", "")).await;
        let mut client = H1::narrow(proxy.address()).await;
        client.send(get("/")).await;
        let blocked = server.blocked().await;
        assert!(blocked < BOUND, "{blocked} bytes are on their way to a client that reads nothing");
        let answer = client.reader.answer().await;
        assert_eq!((answer.body.len() as u64, answer.whole), (FLOOD, true), "and then all of it comes");
    }
}

#[tokio::test]
async fn an_http2_client_that_does_not_read_holds_the_server_back() {
    let server = Firehose::start(CHUNKED).await;
    let proxy = proxy(http_yaml(std::slice::from_ref(&server.url), "", "") + H2C).await;
    let mut client = H2::with_window(proxy.address(), 1 << 16).await;
    let answer = client.send(H2::request("GET", "/", Upload::empty())).await;
    let blocked = server.blocked().await;
    assert!(blocked < BOUND, "{blocked} bytes are on their way to a client that reads nothing");
    let answer = read(answer).await;
    assert_eq!((answer.body.len() as u64, answer.whole), (FLOOD, true), "and then all of it comes");
}

#[tokio::test]
async fn a_server_that_stops_reading_holds_the_client_back() {
    let (host, proxy) = host(HostConfig::new("gpu")).await;
    host.faults().add(FaultRule::everywhere(Fault::StopReading).on_path("/api/generate"));
    let mut client = H1::narrow(proxy.address()).await;
    client.send("POST /api/generate HTTP/1.1\r\nHost: a.test\r\nContent-Length: 99000000\r\n\r\n").await;
    client.send(r#"{"model":"llava:13b","prompt":""#).await;
    let sent = AtomicU64::new(0);
    let piece = [b'x'; 1 << 16];
    let feed = async {
        loop {
            let count = client.writer.write(&piece).await.expect("the connection stays");
            sent.fetch_add(count as u64, Ordering::Relaxed);
        }
    };
    let blocked = tokio::select! {
        () = feed => unreachable!("it never ends"),
        blocked = settled("what the client could send", || sent.load(Ordering::Relaxed)) => blocked,
    };
    assert!(blocked < BOUND, "{blocked} bytes are on their way to a server that reads nothing");
}

/// What must be equal: status, Content-Type, framing, and the body but for times and numbers of requests.
fn essence(answer: &Answer) -> (u16, Option<String>, Option<String>, bool, String) {
    let field = |name| answer.head.field(name).map(str::to_owned);
    let mut text = answer.text();
    for key in ["\"created_at\":", "\"total_duration\":", "\"load_duration\":", "\"prompt_eval_duration\":"]
        .into_iter()
        .chain(["\"eval_duration\":", "\"created\":", "\"id\":", "\"modified_at\":", "\"item_id\":"])
    {
        let mut parts = text.split(key);
        let mut masked = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find([',', '}']).unwrap_or(part.len());
            masked = masked + key + "*" + &part[end..];
        }
        text = masked;
    }
    (answer.head.status, field("content-type"), field("transfer-encoding"), answer.whole, text)
}

#[tokio::test]
async fn answers_are_equal_to_those_of_the_server_itself() {
    let config = || HostConfig::new("gpu").tokens(12).small_model("nomic-embed-text").small_model("llava:13b");
    let direct = Host::start(config()).await.expect("a host");
    let behind = Host::start(config()).await.expect("a host");
    let proxy = proxy(ollama_yaml(&[behind.url()], "")).await;
    let chat = r#""model":"llava:13b","messages":[{"role":"user","content":"hi"}]"#;
    let mut requests = vec![get("/"), get("/api/version"), get("/no/such/path"), get("/api/generate")];
    for (path, body) in [
        ("/api/generate", r#"{"model":"llava:13b","prompt":"hi"}"#.to_owned()),
        ("/api/generate", r#"{"model":"llava:13b","prompt":"hi","stream":false}"#.into()),
        ("/api/generate", r#"{"model":"llava:13b"}"#.into()),
        ("/api/generate", r#"{"model":"LLaVA:13B","prompt":"hi"}  "#.into()),
        ("/api/generate", r#"{"model":"nowhere","prompt":"hi"}"#.into()),
        ("/api/generate", r#"{"model":"nomic-embed-text","prompt":"hi"}"#.into()),
        ("/api/chat", format!("{{{chat}}}")),
        ("/api/chat", format!("{{{chat},\"stream\":false}}")),
        ("/api/chat", r#"{"model":"nowhere","messages":[]}"#.into()),
        ("/api/chat", r#"{"messages":[]}"#.into()),
        ("/v1/chat/completions", format!("{{{chat}}}")),
        ("/v1/chat/completions", format!("{{{chat},\"stream\":true}}")),
        ("/v1/chat/completions", r#"{"model":"nowhere","messages":[{"role":"user","content":"hi"}]}"#.into()),
        ("/v1/completions", r#"{"model":"llava:13b","prompt":"hi","stream":true}"#.into()),
        ("/v1/messages", format!("{{{chat},\"max_tokens\":5,\"stream\":true}}")),
        ("/v1/messages", r#"{"model":"nowhere","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#.into()),
        ("/v1/embeddings", r#"{"model":"nomic-embed-text","input":["a","b"]}"#.into()),
        ("/api/embed", r#"{"model":"nomic-embed-text","input":"a"}"#.into()),
        ("/api/show", r#"{"model":"llava:13b"}"#.into()),
    ] {
        requests.push(post(path, body));
    }
    let mut different = Vec::new();
    for request in requests {
        let text = String::from_utf8_lossy(&request).replace("arriero.test", "localhost");
        let [expected, through] = [direct.address(), proxy.address()].map(|address| support::wire::ask(address, &text));
        let (expected, through) = (essence(&expected.await), essence(&through.await));
        if expected != through {
            different.push(format!("{text}\n  direct:  {expected:?}\n  through: {through:?}"));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n\n"));
}
