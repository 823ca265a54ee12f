//! Every framing of a request body × both protocols upstream × every place of `model` × small and large:
//! what the server gets is what the client sent, once, at the server that has the model.

mod support;

use std::net::SocketAddr;

use arriero::demo::{Entry, Fleet, Framing, HostConfig, Ledger, Outcome, RawUpstream, Script};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use support::wire::{Answer, H1, H2, Upload, pieces, proxy};
use support::{PATIENCE, Proxy, upstream_yaml};
use tokio::io::AsyncWriteExt;

const KB: usize = 1000;
const SIZES: [usize; 3] = [2 * KB, 200 * KB, 50_000 * KB];

/// Enough budget for a body of the largest size, little enough memory that it goes to disk.
const PROCESS: &str = "
listeners: [{ address: \"127.0.0.1:0\", h2c: true }]
server: { body_budget: 128MiB, body_memory: 1MiB }
";

/// How a client frames its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Length,
    Chunked,
    Expect,
    H2Length,
    H2,
}

/// Where `model` stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    First,
    Last,
}

/// A request body of exactly this size; what stands before a late `model` is full of decoys.
fn body(model: &str, place: Place, size: usize) -> Bytes {
    let decoys = r#""options":{"num_predict":2,"model":"decoy"},"prompt":"say \"model\":\"decoy\" twice"#;
    let (start, end) = match place {
        Place::First => (format!(r#"{{"model":"{model}",{decoys}","images":[""#), r#""]}"#.to_owned()),
        Place::Last => (format!(r#"{{{decoys}","images":[""#), format!(r#""],"model":"{model}"}}"#)),
    };
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(start.as_bytes());
    let block = noise();
    while bytes.len() + end.len() < size {
        let left = size - bytes.len() - end.len();
        bytes.extend_from_slice(&block[..block.len().min(left)]);
    }
    bytes.extend_from_slice(end.as_bytes());
    assert_eq!(bytes.len(), size);
    bytes.into()
}

/// Letters of base64 without a pattern, of a length that shares no factor with any buffer's.
fn noise() -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        LETTERS[usize::try_from(state >> 58).expect("six bits")]
    };
    (0..100_003).map(letter).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sent {
    /// Sends the body to `/api/generate` and reads the answer.
    async fn send(self, address: SocketAddr, id: &str, body: &Bytes) -> Answer {
        if matches!(self, Self::H2Length | Self::H2) {
            let length = (self == Self::H2Length).then_some(body.len() as u64);
            let mut request = H2::request("POST", "/api/generate", Upload::new(length).1);
            request.headers_mut().insert("x-request-id", id.parse().expect("a value"));
            if let Some(length) = length {
                request.headers_mut().insert("content-length", length.into());
            }
            return H2::connect(address).await.ask(request, body.clone()).await;
        }
        let framing = match self {
            Self::Chunked => "Transfer-Encoding: chunked".to_owned(),
            Self::Expect => format!("Content-Length: {}\r\nExpect: 100-continue", body.len()),
            _ => format!("Content-Length: {}", body.len()),
        };
        let mut client = H1::connect(address).await;
        let head = "POST /api/generate HTTP/1.1\r\nHost: arriero.test\r\nX-Request-Id";
        client.send(format!("{head}: {id}\r\n{framing}\r\n\r\n")).await;
        if self == Self::Expect {
            let go_on = client.reader.head().await;
            assert_eq!((go_on.status, go_on.fields.len()), (100, 0), "{}", go_on.text);
        }
        let H1 { mut reader, mut writer } = client;
        let feed = async {
            for piece in pieces(body) {
                if self == Self::Chunked {
                    writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                    writer.write_all(&piece).await?;
                    writer.write_all(b"\r\n").await?;
                } else {
                    writer.write_all(&piece).await?;
                }
            }
            writer.write_all(if self == Self::Chunked { b"0\r\n\r\n" } else { b"" }).await
        };
        let head = async {
            let head = reader.head().await;
            assert_ne!(head.status, 100, "told to go on more often than asked");
            let (body, whole) = reader.body(&head).await;
            Answer { head, body, whole }
        };
        let (answer, sent) = tokio::join!(head, feed);
        sent.unwrap_or_else(|error| panic!("{error}: {answer:?}"));
        answer
    }
}

async fn fleet(http2: bool) -> (Fleet, Proxy) {
    let host = |name: &str, model: &str| {
        let config = HostConfig::new(name).small_model(model);
        if http2 { config.http2() } else { config }
    };
    let fleet = Fleet::start(vec![host("left", "mistral:7b"), host("right", "llava:13b")]).await.expect("a fleet");
    let upstream = format!("http2: {http2}");
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", &upstream) + PROCESS).await;
    (fleet, proxy)
}

/// All six bodies of one framing towards one protocol.
async fn all_arrive(sent: Sent, http2: bool) {
    let (fleet, proxy) = fleet(http2).await;
    let mut number = 0;
    for size in SIZES {
        for place in [Place::First, Place::Last] {
            number += 1;
            let case = format!("{sent:?} to {}, model {place:?}, {size} bytes", if http2 { "h2" } else { "h1" });
            // Turns make sure that neither host is right by default.
            let (index, model) = if number % 3 == 0 { (0, "mistral:7b") } else { (1, "llava:13b") };
            let body = body(model, place, size);
            let answer = sent.send(proxy.address(), &format!("case-{number}"), &body).await;
            let text = answer.text();
            assert_eq!((answer.head.status, answer.whole), (200, true), "{case}: {} {text}", answer.head.text);
            let last = text.lines().last().unwrap_or_default();
            assert!(last.contains(r#""done":true"#) && text.lines().count() == 3, "{case}: {text}");

            let ledger = fleet.hosts[index].ledger();
            let ended = |ledger: &Ledger| ledger.inference().iter().all(|entry| entry.finished.is_some());
            ledger.wait_until(PATIENCE, ended).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            let entries: Vec<Entry> = fleet.hosts.iter().flat_map(|host| host.ledger().inference()).collect();
            assert_eq!(entries.len(), number, "{case}: executed once each");
            let entry = ledger.inference().pop().unwrap_or_else(|| panic!("{case}: the wrong server"));
            assert_eq!(entry.request_id, Some(format!("case-{number}")), "{case}: the wrong server");
            let arrived = (entry.body_bytes, entry.body_sha256.as_deref());
            assert_eq!(arrived, (size as u64, Some(sha256(&body).as_str())), "{case}");
            assert_eq!((entry.outcome(), entry.model.as_deref()), (Some(Outcome::Completed), Some(model)), "{case}");
            assert_eq!(entry.http_version, if http2 { "HTTP/2.0" } else { "HTTP/1.1" }, "{case}");
            if !matches!(sent, Sent::Chunked | Sent::H2) {
                assert_eq!(entry.framing, Framing::ContentLength(size as u64), "{case}: the length is passed on");
            }
        }
    }
    assert_eq!(fleet.duplicates(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_with_a_length_arrive_whole_over_http1() {
    all_arrive(Sent::Length, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_with_a_length_arrive_whole_over_http2() {
    all_arrive(Sent::Length, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_bodies_arrive_whole_over_http1() {
    all_arrive(Sent::Chunked, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_bodies_arrive_whole_over_http2() {
    all_arrive(Sent::Chunked, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_wait_for_100_continue_arrive_whole_over_http1() {
    all_arrive(Sent::Expect, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_wait_for_100_continue_arrive_whole_over_http2() {
    all_arrive(Sent::Expect, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_bodies_with_a_length_arrive_whole_over_http1() {
    all_arrive(Sent::H2Length, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_bodies_with_a_length_arrive_whole_over_http2() {
    all_arrive(Sent::H2Length, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_bodies_without_a_length_arrive_whole_over_http1() {
    all_arrive(Sent::H2, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_bodies_without_a_length_arrive_whole_over_http2() {
    all_arrive(Sent::H2, true).await;
}

/// One answer for inventory, probes and inference alike; what it looks like to the client does not matter here.
const ANY_ANSWER: &str =
    r#"{"models":[{"name":"llava:13b","model":"llava:13b","size":1,"digest":"a"}],"version":"0.33.0"}"#;

/// Parses everything that came on a connection as requests with nothing between, before or after them.
fn requests(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    fn line<'a>(bytes: &mut &'a [u8]) -> &'a str {
        let end = bytes.windows(2).position(|window| window == b"\r\n");
        let end =
            end.unwrap_or_else(|| panic!("no line: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(99)])));
        let line = std::str::from_utf8(&bytes[..end]).expect("text");
        *bytes = &bytes[end + 2..];
        line
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let first = line(&mut bytes);
        assert!(first.ends_with(" HTTP/1.1"), "stray bytes before a request: {first:?}");
        let mut head = first.to_owned();
        loop {
            let field = line(&mut bytes);
            if field.is_empty() {
                break;
            }
            head.push('\n');
            head.push_str(&field.to_ascii_lowercase());
        }
        let mut body = Vec::new();
        if head.contains("\ntransfer-encoding: chunked") {
            assert!(!head.contains("\ncontent-length:"), "{head}");
            loop {
                let size = usize::from_str_radix(line(&mut bytes), 16).expect("a size");
                body.extend_from_slice(&bytes[..size]);
                assert_eq!(&bytes[size..size + 2], b"\r\n", "the end of a chunk, or of the body");
                bytes = &bytes[size + 2..];
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            let length = length.parse().expect("a number");
            body.extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
        }
        all.push((head, body));
    }
    all
}

/// Two requests over one connection to the server: each has one terminator, and nothing strays between them.
async fn one_terminator_each(sent: Sent) {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{ANY_ANSWER}", ANY_ANSWER.len());
    let server = RawUpstream::start(Script::answer(answer)).await.expect("a server");
    let upstream = "health: { active: off }\nkeepalive: { max_idle: 8 }";
    let proxy = proxy(upstream_yaml("ollama", &[server.url()], "", upstream) + PROCESS).await;
    let mut expected = Vec::new();
    for place in [Place::First, Place::Last] {
        for size in [2 * KB, 200 * KB, 70 * KB] {
            let body = body("llava:13b", place, size);
            let answer = sent.send(proxy.address(), "wire", &body).await;
            assert_eq!((answer.head.status, answer.text().as_str()), (200, ANY_ANSWER), "{place:?} {size}");
            expected.push((size, sha256(&body)));
        }
    }
    let parsed: Vec<_> = server.connections().iter().map(|bytes| requests(bytes)).collect();
    let is_ours = |request: &&(String, Vec<u8>)| request.0.starts_with("POST /api/generate ");
    let ours = parsed.iter().flatten().filter(is_ours);
    let arrived: Vec<_> = ours.map(|(_, body)| (body.len(), sha256(body))).collect();
    let mut connections = parsed.iter().map(|requests| requests.iter().filter(is_ours).count());
    assert!(connections.any(|count| count > 1), "no connection was used again, so stray bytes could not show");
    assert_eq!(arrived, expected);
}

#[tokio::test]
async fn a_chunked_body_has_one_terminator_on_the_wire() {
    one_terminator_each(Sent::Chunked).await;
}

#[tokio::test]
async fn an_http2_body_without_a_length_has_one_terminator_on_the_wire() {
    one_terminator_each(Sent::H2).await;
}

#[tokio::test]
async fn an_http2_body_with_a_length_leaves_no_stray_bytes_on_the_wire() {
    one_terminator_each(Sent::H2Length).await;
}
