//! Framing, headers, bodies and access.

use super::*;
use crate::demo::{Framing, Outcome, RawUpstream, Script, Step};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

#[tokio::test]
async fn a_stream_is_one_json_object_to_a_chunk() {
    let host = host(3).await;
    let answer = post(&host, "/api/chat", r#"{"model":"LLaVA:13b","messages":[{"role":"user","content":"hi"}]}"#).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nDate: "),
        "{}",
        answer.head
    );
    assert!(answer.whole);
    assert_eq!(answer.chunks.len(), 4);
    assert!(answer.chunks[0].starts_with(r#"{"model":"LLaVA:13b","created_at":"2"#));
    assert!(
        answer.chunks[0].ends_with("Z\",\"message\":{\"role\":\"assistant\",\"content\":\" the\"},\"done\":false}\n")
    );
    assert!(answer.chunks[3].contains(r#""done":true,"done_reason":"stop","total_duration":"#));
    assert!(answer.chunks[3].contains(r#""eval_count":3"#));
    let entry = &host.ledger().by_model("llava:13b")[0];
    assert_eq!((entry.outcome(), entry.tokens, entry.status), (Some(Outcome::Completed), 3, Some(200)));
}

#[tokio::test]
async fn short_answers_have_a_length_and_long_ones_are_chunked() {
    let host = host(3).await;
    let short = post(&host, "/api/generate", r#"{"model":"llava:13b","prompt":"hi","stream":false}"#).await;
    assert!(short.head.contains("Content-Type: application/json; charset=utf-8\r\nDate: "));
    assert!(short.head.contains("Content-Length: ") && short.whole);
    assert_eq!(short.json()["response"], " the arriero leads");
    let body = r#"{"model":"llava:13b","prompt":"hi","stream":false,"options":{"num_predict":500}}"#;
    let long = post(&host, "/api/generate", body).await;
    assert!(long.whole && long.chunks.len() == 1, "{}", long.head);
    assert_eq!(long.json()["done_reason"], "length");
    assert_eq!(long.json()["eval_count"], 500);
}

#[tokio::test]
async fn liveness_is_answered_as_ollama_does() {
    let host = host(1).await;
    let answer = get(&host, "/").await;
    assert_eq!(answer.text(), "Ollama is running");
    assert!(answer.head.contains("Content-Type: text/plain; charset=utf-8\r\n"));
    let head = receive(send(&host, "HEAD", "/", "", "").await, true).await;
    assert!(head.head.contains("Content-Length: 17") && head.body.is_empty());
    assert_eq!(get(&host, "/api/version").await.text(), r#"{"version":"0.33.0"}"#);
    assert_eq!(get(&host, "/nowhere").await.text(), "404 page not found");
    let wrong = get(&host, "/api/chat").await;
    assert_eq!((wrong.status, wrong.text()), (405, "405 method not allowed".to_owned()));
    host.ledger().wait_until(LIMIT, |ledger| ledger.in_flight() == 0).await.unwrap();
    assert!(host.ledger().find(|entry| entry.outcome() != Some(Outcome::Completed)).is_empty());
}

#[tokio::test]
async fn a_foreign_host_or_origin_gets_an_empty_403() {
    let host = host(1).await;
    let mut stream = TcpStream::connect(host.address()).await.unwrap();
    let request = b"GET /api/tags HTTP/1.1\r\nHost: ollama.example.com\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = receive(stream, false).await;
    assert_eq!((answer.status, answer.body.len()), (403, 0));
    assert!(answer.head.contains("Content-Length: 0"));
    let stream = send(&host, "GET", "/api/tags", "Origin: https://evil.example\r\n", "").await;
    assert_eq!(receive(stream, false).await.status, 403);
    let stream = send(&host, "GET", "/api/tags", "Origin: http://localhost:3000\r\n", "").await;
    let answer = receive(stream, false).await;
    assert!(answer.head.contains("Access-Control-Allow-Origin: http://localhost:3000"), "{}", answer.head);
}

#[tokio::test]
async fn a_large_upload_is_hashed_and_its_model_found_behind_the_image() {
    use sha2::Digest;
    let host = host(1).await;
    let image = "QUJD".repeat(1_000_000);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"?","images":["{image}"]}}],"model":"llava:13b","stream":false}}"#
    );
    let answer = post(&host, "/api/chat", &body).await;
    assert_eq!((answer.status, &answer.json()["done"]), (200, &serde_json::Value::Bool(true)));
    let entry = &host.ledger().by_path("/api/chat")[0];
    assert_eq!(entry.body_bytes, body.len() as u64);
    assert_eq!(entry.framing, Framing::ContentLength(body.len() as u64));
    let hash = crate::demo::model::hex(&sha2::Sha256::digest(body.as_bytes()));
    assert_eq!(entry.body_sha256.as_deref(), Some(hash.as_str()));
}

#[tokio::test]
async fn chunked_bodies_and_request_ids_are_recorded() {
    let host = host(1).await;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(host.address()).await.unwrap();
        let head = "POST /api/show HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: seven\r\nConnection: close\r\n";
        let body = "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"name\":\r\nc\r\n\"llava:13b\"}\r\n0\r\n\r\n";
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let answer = receive(stream, false).await;
        assert_eq!((answer.status, &answer.json()["details"]["family"]), (200, &"llama".into()));
    }
    let entries = host.ledger().by_model("llava:13b");
    assert_eq!((entries[0].framing, entries[0].body_bytes), (Framing::Chunked, 20));
    assert_ne!(entries[0].connection, entries[1].connection);
    assert_eq!(host.ledger().duplicates(), [("seven".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_with_prior_knowledge_is_served_beside_http1() {
    let host = Host::start(HostConfig::new("h2").tokens(3).small_model("llava").http2()).await.unwrap();
    let stream = TcpStream::connect(host.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let body = Full::new(bytes::Bytes::from_static(br#"{"model":"llava","prompt":"hi"}"#));
    let request = http::Request::post(format!("{}/api/generate", host.url())).body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 4);
    assert_eq!(host.ledger().entries()[0].http_version, "HTTP/2.0");
    assert_eq!(get(&host, "/").await.text(), "Ollama is running");
    host.faults().next(1, crate::demo::Fault::ResetAfterTokens(2));
    let body = Full::new(bytes::Bytes::from_static(br#"{"model":"llava","prompt":"hi"}"#));
    let request = http::Request::post(format!("{}/api/generate", host.url())).body(body).unwrap();
    let mut cut = sender.send_request(request).await.unwrap().into_body();
    let mut lines = 0;
    while let Some(Ok(frame)) = cut.frame().await {
        lines += frame.into_data().unwrap().iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, 2);
    assert!(driver.await.unwrap().is_err());
}

#[tokio::test]
async fn a_raw_upstream_keeps_every_byte() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let raw = RawUpstream::start(Script::answer(answer)).await.unwrap();
    let mut stream = TcpStream::connect(raw.address()).await.unwrap();
    let requests = [
        "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ];
    for request in requests {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = vec![0; answer.len()];
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer, answer.as_bytes());
    }
    assert_eq!(raw.connections(), [requests.concat().into_bytes()]);
    let script = Script::new(vec![Step::ReadUntil("\r\n\r\n".into()), Step::Write("half".into()), Step::Reset]);
    let raw = RawUpstream::start(script).await.unwrap();
    let mut stream = TcpStream::connect(raw.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    raw.wait_until(LIMIT, |all| all.first().is_some_and(|bytes| bytes.ends_with(b"\r\n\r\n"))).await.unwrap();
    let mut bytes = Vec::new();
    assert_eq!(stream.read_to_end(&mut bytes).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(bytes, b"half");
}
