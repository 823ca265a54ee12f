//! Sizes: bodies, heads, targets, and the budget for bodies that are held.

mod support;

use arriero::demo::{Host, HostConfig, RawUpstream, Script};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use support::wire::{Answer, H1, H2, LIMIT, Upload, pieces, post, proxy};
use support::{PATIENCE, Proxy, eventually, http_yaml, ollama_yaml};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

const H2C: &str = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";
const LARGEST: usize = 100 << 10;
/// What a client tries to send beyond any limit here.
const FAR_TOO_MUCH: usize = 50 << 20;

/// A plain server behind a limit of [`LARGEST`] for bodies.
async fn plain(listener: &str) -> (RawUpstream, Proxy) {
    let server = RawUpstream::start(Script::answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let server = server.expect("a server");
    let yaml = http_yaml(&[server.url()], "limits: { request_body: 100KiB }", "");
    let proxy = proxy(yaml + &format!("\nlisteners: [{{ address: \"127.0.0.1:0\", h2c: true, {listener} }}]\n")).await;
    (server, proxy)
}

async fn ollama(more: &str) -> (Host, Proxy) {
    let host = Host::start(HostConfig::new("gpu").small_model("llava:13b").tokens(2)).await.expect("a host");
    let proxy = proxy(ollama_yaml(&[host.url()], "") + H2C + more).await;
    (host, proxy)
}

fn refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.head.status, answer.reason()), (status, Some(reason)), "{} {}", answer.head.text, answer.text());
    assert!(answer.whole && !answer.body.is_empty(), "an answer that says why: {answer:?}");
}

/// Sends a head and then body without end, and reads the answer meanwhile.
async fn flood(proxy: &Proxy, head: &str, start: &str, chunked: bool) -> Answer {
    let mut client = H1::connect(proxy.address()).await;
    client.send(head).await;
    let piece = Bytes::from(vec![b'A'; 64 << 10]);
    let feed = async {
        let framed = |bytes: &[u8]| {
            let head = if chunked { format!("{:x}\r\n", bytes.len()) } else { String::new() };
            [head.as_bytes(), bytes, if chunked { b"\r\n" } else { b"" }].concat()
        };
        client.writer.write_all(&framed(start.as_bytes())).await?;
        for _ in 0..FAR_TOO_MUCH / piece.len() {
            client.writer.write_all(&framed(&piece)).await?;
        }
        std::io::Result::Ok(())
    };
    // The proxy may stop to read whenever it likes, but must let the client read the answer.
    let (answer, sent) = tokio::join!(client.reader.answer(), timeout(LIMIT, feed));
    assert!(sent.is_ok(), "the client is left hanging with a body that nobody reads");
    answer
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_answered_413_while_the_client_still_sends() {
    let (server, proxy) = plain("").await;
    let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {FAR_TOO_MUCH}\r\n\r\n");
    for _ in 0..5 {
        let answer = flood(&proxy, &head, "", false).await;
        refused(&answer, 413, "body_too_large");
    }
    assert!(server.connections().is_empty(), "the server hears nothing of it");
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_answered_413_before_the_body_is_asked_for() {
    let (_server, proxy) = plain("").await;
    let head =
        format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {FAR_TOO_MUCH}\r\nExpect: 100-continue\r\n\r\n");
    let mut client = H1::connect(proxy.address()).await;
    client.send(head).await;
    assert_eq!(client.reader.head().await.status, 413);
}

#[tokio::test]
async fn a_chunked_body_beyond_the_limit_is_answered_413_while_the_client_still_sends() {
    let (_server, proxy) = plain("").await;
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for _ in 0..5 {
        let answer = flood(&proxy, head, "x", true).await;
        refused(&answer, 413, "body_too_large");
    }
}

#[tokio::test]
async fn a_model_is_never_run_with_a_body_beyond_the_limit() {
    let (host, proxy) = ollama("defaults: { limits: { request_body: 100KiB } }").await;
    let starts = [r#"{"model":"llava:13b","images":[""#, r#"{"images":[""#];
    for start in starts {
        let head = "POST /api/generate HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        refused(&flood(&proxy, head, start, true).await, 413, "body_too_large");
        let head = format!("POST /api/generate HTTP/1.1\r\nHost: a.test\r\nContent-Length: {FAR_TOO_MUCH}\r\n\r\n");
        refused(&flood(&proxy, &head, start, false).await, 413, "body_too_large");
        let body = format!("{start}{}", "A".repeat(1 << 20));
        let request = H2::request("POST", "/api/generate", Upload::new(None).1);
        let answer = H2::connect(proxy.address()).await.ask(request, body.into()).await;
        refused(&answer, 413, "body_too_large");
    }
    assert!(host.ledger().inference().iter().all(|entry| entry.body_sha256.is_none() && entry.tokens == 0));
    eventually("all are counted", async || {
        proxy.metric("arriero_requests_ended_total{reason=\"body_too_large\"}").await == 6.0
    })
    .await;
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let (_server, proxy) = plain("").await;
    for (size, status) in [(LARGEST, 200), (LARGEST + 1, 413)] {
        let body = Bytes::from(vec![b'x'; size]);
        let answer = support::wire::ask(proxy.address(), post("/", &body)).await;
        assert_eq!(answer.head.status, status, "{size} with a length");
        let mut request = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in pieces(&body) {
            request.extend([format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat());
        }
        request.extend(b"0\r\n\r\n");
        assert_eq!(support::wire::ask(proxy.address(), request).await.head.status, status, "{size} chunked");
        for length in [Some(size as u64), None] {
            let request = H2::request("POST", "/", Upload::new(length).1);
            let answer = H2::connect(proxy.address()).await.ask(request, body.clone()).await;
            assert_eq!(answer.head.status, status, "{size} over HTTP/2, length {length:?}");
        }
    }
}

/// A request with fields of this many bytes in all, and of this number.
fn head(target: &str, fields: usize, bytes: usize) -> String {
    let mut text = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n");
    for number in 1..fields {
        text += &format!("X-{number}: y\r\n");
    }
    if bytes > 0 {
        text += &format!("X-Large: {}\r\n", "a".repeat(bytes.saturating_sub(text.len())));
    }
    text + "\r\n"
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused_and_those_within_them_pass() {
    let defaults = "timeouts: {}";
    let narrow = "limits: { header_bytes: 2KiB, header_fields: 10, target_bytes: 100B }";
    for (limits, bytes, fields, longest) in [(defaults, 32 << 10, 100, 8 << 10), (narrow, 2 << 10, 10, 100)] {
        let (server, proxy) = plain(limits).await;
        let target = |length: usize| format!("/{}", "t".repeat(length - 1));
        for (request, status, reason) in [
            (head("/", 2, bytes + 100), 431, "header_too_large"),
            (head("/", 2, bytes * 30), 431, "header_too_large"),
            (head("/", fields + 1, 0), 431, "header_too_large"),
            (head("/", fields + 1000, 0), 431, "header_too_large"),
            (head(&target(longest + 1), 2, 0), 414, "target_too_long"),
            (head(&target(longest + 1).replacen("/t", "/?", 1), 2, 0), 414, "target_too_long"),
        ] {
            let answer = support::wire::ask(proxy.address(), &request).await;
            refused(&answer, status, reason);
        }
        assert!(server.connections().is_empty(), "the server hears nothing of it");
        for request in [head("/", 2, bytes - 100), head("/", fields, 0), head(&target(longest), 2, 0)] {
            assert_eq!(support::wire::ask(proxy.address(), &request).await.head.status, 200, "{limits}: {request}");
        }
        for (reason, count) in [("header_too_large", 4.0), ("target_too_long", 2.0)] {
            let series = format!("arriero_heads_refused_total{{reason=\"{reason}\"}}");
            assert_eq!(proxy.metric(&series).await, count, "{reason}");
        }
    }
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused_over_http2_too() {
    let (server, proxy) = plain("timeouts: {}").await;
    let request = |target: &str, fields: usize, bytes: usize| {
        let mut request = H2::request("GET", target, Upload::empty());
        for number in 0..fields {
            let name = http::HeaderName::try_from(format!("x-{number}")).expect("a name");
            request.headers_mut().insert(name, "y".repeat(bytes).parse().expect("a value"));
        }
        request
    };
    let long = format!("/{}", "t".repeat(9000));
    let mut wrong = Vec::new();
    for (case, request, status) in [
        ("150 fields", request("/", 150, 1), 431),
        ("a head of 40 kB", request("/", 8, 5000), 431),
        ("a head of 200 kB", request("/", 40, 5000), 431),
        ("a target of 9 kB", request(&long, 1, 1), 414),
        ("90 fields of 100 bytes", request("/", 90, 100), 200),
    ] {
        let mut client = H2::connect(proxy.address()).await;
        let sent = timeout(PATIENCE, client.sender.send_request(request)).await.expect("an answer or a reset in time");
        // A reset is as good as an answer, but not for what is within the limits.
        let got = sent.map(|answer| answer.status().as_u16());
        if !got.as_ref().map_or(status != 200, |got| *got == status) {
            wrong.push(format!("{got:?} in place of {status} for {case}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(server.connections().len(), 1, "only what is within the limits reached the server");
}

/// A body whose model comes last, and no two parts of which are equal.
fn late(size: usize) -> String {
    let numbers: String = (0..size / 8).map(|number| format!("{number:08}")).collect();
    format!(r#"{{"prompt":"hi","images":["{numbers}"],"model":"llava:13b"}}"#)
}

#[tokio::test]
async fn bodies_beyond_the_budget_are_answered_503_until_there_is_room() {
    let (host, proxy) = ollama("server: { body_budget: 1MiB, body_memory: 64KiB }").await;
    let request = post("/api/generate", late(700 << 10));
    let (start, end) = request.split_at(650 << 10);
    let mut first = H1::connect(proxy.address()).await;
    first.send(start).await;
    eventually("the first is held", async || proxy.metric("arriero_held_body_bytes").await >= 600_000.0).await;
    let mut second = H1::connect(proxy.address()).await;
    let (answer, _) = tokio::join!(second.reader.answer(), second.writer.write_all(&request));
    refused(&answer, 503, "body_budget");
    let wait = answer.head.field("retry-after").and_then(|text| text.parse::<u32>().ok());
    assert!(wait.is_some_and(|seconds| seconds > 0), "{}", answer.head.text);
    // What needs not be held passes all the same.
    let early = post("/api/generate", format!(r#"{{"model":"llava:13b","prompt":"{}"}}"#, "A".repeat(700 << 10)));
    assert_eq!(support::wire::ask(proxy.address(), early).await.head.status, 200);
    first.send(end).await;
    assert_eq!(first.reader.answer().await.head.status, 200);
    eventually("there is room", async || proxy.metric("arriero_held_body_bytes").await == 0.0).await;
    assert_eq!(support::wire::ask(proxy.address(), &request).await.head.status, 200);
    assert_eq!(host.ledger().inference().len(), 3);
}

#[tokio::test]
async fn a_body_that_goes_to_a_file_arrives_as_it_was_sent_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display();
    let (host, proxy) = ollama(&format!("server: {{ body_memory: 128KiB, temp_dir: \"{path}\" }}")).await;
    let body = Bytes::from(late(2 << 20));
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let files = || std::fs::read_dir(folder.path()).expect("the folder").count();
    // Pieces that fit the memory that is left come after ones that do not.
    for sizes in [[100_000, 40_000, 900], [70_000, 1, 100_000], [300_000, 10, 16_384]] {
        let mut client = H1::connect(proxy.address()).await;
        let length = body.len();
        client.send(format!("POST /api/generate HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n")).await;
        let mut sent = 0;
        for size in sizes.into_iter().chain([length / 2]) {
            client.send(&body[sent..(sent + size).min(length)]).await;
            sent = (sent + size).min(length);
            // Each piece comes by itself.
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let wanted = sent as f64;
            eventually("it is held", async || proxy.metric("arriero_held_body_bytes").await >= wanted).await;
        }
        assert_eq!(files(), 0, "the file has no name");
        client.send(&body[sent..]).await;
        assert_eq!(client.reader.answer().await.head.status, 200);
        let entry = host.ledger().inference().pop().expect("the request");
        assert_eq!(entry.body_sha256.as_deref(), Some(digest.as_str()), "in pieces of {sizes:?}");
    }
    eventually("nothing is held", async || proxy.metric("arriero_held_body_bytes").await == 0.0).await;
    assert_eq!(files(), 0);
}
