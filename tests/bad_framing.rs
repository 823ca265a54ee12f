//! Requests that two readers could read in two ways: refused with 400, and the server hears nothing of them.

mod support;

use std::time::Duration;

use arriero::clock;
use arriero::demo::{RawUpstream, Script};
use support::wire::{H1, proxy};
use support::{PATIENCE, Proxy, eventually, http_yaml};
use tokio::time::timeout;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn scene() -> (RawUpstream, Proxy) {
    let server = RawUpstream::start(Script::answer(OK)).await.expect("a server");
    let proxy = proxy(http_yaml(&[server.url()], "", "")).await;
    (server, proxy)
}

/// Sends bytes, as a whole or each by itself, and reads until the proxy closes.
async fn exchange(proxy: &Proxy, bytes: &[u8], split: bool) -> Result<String, String> {
    let mut client = H1::connect(proxy.address()).await;
    for piece in bytes.chunks(if split { 1 } else { bytes.len() }) {
        // A refusal may come before the end.
        if client.try_send(piece).await.is_err() {
            break;
        }
        if split {
            tokio::task::yield_now().await;
        }
    }
    let answer = timeout(PATIENCE, client.reader.rest()).await.map_err(|_| "left open".to_owned())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether an answer is one refusal in due form.
fn is_refusal(answer: &Result<String, String>) -> bool {
    answer.as_ref().is_ok_and(|text| {
        let one = text.starts_with("HTTP/1.1 400 ") && text.matches("HTTP/1.1 ").count() == 1;
        one && text.to_ascii_lowercase().contains("\r\nx-arriero-reason: bad_request\r\n")
    })
}

/// Every request is refused, its connection closed, and nothing of it sent to the server.
async fn refused(requests: &[(&str, &[u8])]) {
    let (server, proxy) = scene().await;
    let mut wrong = Vec::new();
    let mut heard = 0;
    for (what, bytes) in requests {
        for split in [false, true] {
            let answer = exchange(&proxy, bytes, split).await;
            let reached: usize = server.connections().iter().map(Vec::len).sum();
            if !is_refusal(&answer) || reached != heard {
                wrong.push(format!("{what:?}, split: {split}: {answer:?}, {} bytes at the server", reached - heard));
            }
            heard = reached;
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), requests.len() * 2);
}

fn with_fields(fields: &str, body: &str) -> Vec<u8> {
    format!("POST /api/chat HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn lengths_that_contradict_each_other_or_themselves_are_refused() {
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let cases = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", smuggled),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", smuggled),
        ("Content-Length: 1\r\nContent-Length: 0", "Z"),
        ("Content-Length: 1\r\nContent-Length: 1", "Z"),
        ("Content-Length: 1, 1", "Z"),
        ("Content-Length: 0, 1", "Z"),
        ("Content-Length: +1", "Z"),
        ("Content-Length: -1", "Z"),
        ("Content-Length: 0x1", "Z"),
        ("Content-Length: 1_0", "0123456789"),
        ("Content-Length: 1 0", "0123456789"),
        ("Content-Length: 1a", "0123456789"),
        ("Content-Length:", smuggled),
        ("Content-Length: 18446744073709551617", "Z"),
        ("Content-Length 5", "01234"),
        ("Content-Length : 5", "01234"),
        ("Content_Length: 5\r\nContent-Length: 0", ""),
        ("Content-Length: \x0b5", "01234"),
    ];
    let cases: Vec<_> = cases.iter().map(|(fields, body)| (*fields, with_fields(fields, body))).collect();
    let cases: Vec<_> = cases.iter().map(|(what, bytes)| (*what, bytes.as_slice())).collect();
    refused(&cases).await;
}

#[tokio::test]
async fn transfer_encodings_other_than_chunked_once_are_refused() {
    let cases = [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked;foo=bar",
        "Transfer-Encoding: \u{a0}chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-\r\nEncoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 5",
    ];
    let mut all: Vec<_> = cases.iter().map(|fields| (*fields, with_fields(fields, "0\r\n\r\n"))).collect();
    let old = b"POST /api/chat HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    all.push(("HTTP/1.0 and chunked", old.to_vec()));
    let all: Vec<_> = all.iter().map(|(what, bytes)| (*what, bytes.as_slice())).collect();
    refused(&all).await;
}

#[tokio::test]
async fn malformed_chunks_are_refused() {
    let long = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "a".repeat(70_000));
    let cases = [
        "0x2\r\n{}\r\n0\r\n\r\n",
        "0_2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "-0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "2 \r\n{}\r\n0\r\n\r\n",
        "g\r\n{}\r\n0\r\n\r\n",
        "10000000000000002\r\n{}\r\n0\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\n\n",
        "2;\n{}\r\n0\r\n\r\n",
        "2;a\rb\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}XX\r\n0\r\n\r\n",
        "2\r\n{}X\r\n0\r\n\r\n",
        "\r\n\r\n",
        "5\r\r;ABCD\r\n34\r\nE\r\n0\r\n\r\n",
        "\r\n2\r\n{}\r\n0\r\n\r\n",
        &long,
    ];
    let mut wrong = Vec::new();
    for chunks in cases {
        let bytes = with_fields("Transfer-Encoding: chunked", chunks);
        for split in [false, true] {
            let (server, proxy) = scene().await;
            let begun = clock::now();
            let answer = exchange(&proxy, &bytes, split).await;
            let reached = server.connections().concat();
            // A short first chunk that comes soon is judged before the server hears of it; of what trickles in it may
            // have heard the beginning, for bodies are not buffered, but never a whole request.
            let slow = clock::now() - begun > Duration::from_millis(200);
            let harmless = if slow { !reached.ends_with(b"0\r\n\r\n") } else { reached.is_empty() };
            if !is_refusal(&answer) || !harmless {
                let (chunks, reached) = (&chunks[..chunks.len().min(40)], String::from_utf8_lossy(&reached));
                wrong.push(format!("{chunks:?}, split: {split}: {answer:?}; at the server: {reached:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_first_chunk_that_does_not_come_holds_no_request_back() {
    for begun in ["", "5\r\n12"] {
        let (server, proxy) = scene().await;
        let mut client = H1::connect(proxy.address()).await;
        client.send(with_fields("Transfer-Encoding: chunked", begun)).await;
        let heard = |all: &[Vec<u8>]| all.concat().windows(4).any(|window| window == b"\r\n\r\n");
        server.wait_until(PATIENCE, heard).await.expect("the server hears of it all the same");
        let rest = if begun.is_empty() { "2\r\n{}\r\n0\r\n\r\n" } else { "345\r\n0\r\n\r\n" };
        client.send(rest).await;
        assert_eq!(client.reader.answer().await.text(), "ok");
    }
}

#[tokio::test]
async fn malformed_request_lines_and_hosts_are_refused() {
    let cases: [&[u8]; 26] = [
        b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test@evil\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
        b"GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"post / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n{}",
        b"G=\"x\" / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a.test\r\n\r\n",
        b"GET / http/1.1\r\nHost: a.test\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a.test\n\n",
    ];
    let named: Vec<_> = cases.iter().map(|bytes| (String::from_utf8_lossy(bytes).into_owned(), *bytes)).collect();
    let cases: Vec<_> = named.iter().map(|(what, bytes)| (what.as_str(), *bytes)).collect();
    refused(&cases).await;
}

#[tokio::test]
async fn malformed_fields_are_refused() {
    let cases: [&[u8]; 13] = [
        b"X: a\x00b",
        b"X: a\rb",
        b"X: a\x07b",
        b"X: a\x7fb",
        b"X: a\nY: b",
        b"X: a\r\n b",
        b"X: a\r\n\tb",
        b" X: a",
        b"foo",
        b": a",
        b"X y: a",
        b"X\t: a",
        b"\xefoo: bar",
    ];
    let request = |field: &[u8]| [b"POST / HTTP/1.1\r\nHost: a.test\r\n", field, b"\r\n\r\n"].concat();
    let named: Vec<_> =
        cases.iter().map(|field| (String::from_utf8_lossy(field).into_owned(), request(field))).collect();
    let cases: Vec<_> = named.iter().map(|(what, bytes)| (what.as_str(), bytes.as_slice())).collect();
    refused(&cases).await;
}

#[tokio::test]
async fn expectations_other_than_100_continue_are_refused() {
    let (server, proxy) = scene().await;
    let answer = exchange(&proxy, &with_fields("Expect: 200-ok\r\nContent-Length: 2", ""), false).await;
    let answer = answer.expect("closed");
    assert!(answer.starts_with("HTTP/1.1 417 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(server.connections().is_empty());
}

#[tokio::test]
async fn what_is_merely_unusual_passes_as_one_request() {
    let chunked = |chunks: &str| with_fields("Transfer-Encoding: chunked", chunks);
    for (what, bytes) in [
        ("an empty line before", b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec()),
        ("a length with a zero before", with_fields("Content-Length: 010", "0123456789")),
        ("a tab before a value", with_fields("Content-Length:\t5", "01234")),
        ("chunked after a tab", with_fields("Transfer-Encoding:\tchunked", "0\r\n\r\n")),
        ("Chunked in capitals", with_fields("TRANSFER-ENCODING: CHUNKED", "0\r\n\r\n")),
        ("chunks", chunked("2\r\n{}\r\n0\r\n\r\n")),
        ("a chunk extension", chunked("2;a=b\r\n{}\r\n0\r\n\r\n")),
        ("a size in capitals, with zeros before", chunked("000A\r\n0123456789\r\n0\r\n\r\n")),
        ("a trailer", chunked("2\r\n{}\r\n0\r\nX: POST / HTTP/1.1\r\n\r\n")),
        ("an empty value", b"GET / HTTP/1.1\r\nHost: a.test\r\nX:\r\n\r\n".to_vec()),
        ("the target in absolute form", b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec()),
        ("letters outside ASCII in a value", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: \xc3\xa9\r\n\r\n".to_vec()),
    ] {
        for split in [false, true] {
            let (server, proxy) = scene().await;
            let mut client = H1::connect(proxy.address()).await;
            for piece in bytes.chunks(if split { 1 } else { bytes.len() }) {
                client.send(piece).await;
            }
            let answer = client.reader.answer().await;
            assert_eq!((answer.head.status, answer.text().as_str()), (200, "ok"), "{what}, byte by byte: {split}");
            eventually("one request", async || {
                let all = server.connections().concat();
                String::from_utf8_lossy(&all).matches(" HTTP/1.1\r\n").count() == 1
            })
            .await;
            assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.text(), "ok", "{what}: the next");
        }
    }
}

#[tokio::test]
async fn what_follows_a_refused_request_is_never_read_as_another() {
    let (server, proxy) = scene().await;
    let body = "5\r\nGET /canary HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let bad = with_fields("Content-Length: 3\r\nTransfer-Encoding: chunked", body);
    let answer = exchange(&proxy, &bad, false).await.expect("closed");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(server.connections().is_empty());
    assert_eq!(proxy.metric("arriero_heads_refused_total{reason=\"bad_request\"}").await, 1.0);
}
