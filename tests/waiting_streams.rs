//! Clients of `/v1` streams are told that they wait; nobody else is.

mod support;

use std::time::Duration;

use arriero::demo::{Fault, Host, HostConfig, RawUpstream, Script, Step};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use support::fleet::{ended, generate, knows, request, send};
use support::h2::{H2, Upload};
use support::wire::{Answer, Chunk, H1, LIMIT, post, proxy};
use support::{Proxy, eventually, scheduled_yaml, upstream_yaml};
use tokio::time::timeout;

const COMMENT: &str = ": waiting\n\n";
const H2C: &str = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";
const CALM: &str = "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: off }
circuit: { consecutive_failures: 1000000 }\nqueue: { keepalive: 20ms }";
const CHAT: &str = "/v1/chat/completions";
const EVENTS: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
const WAITING: &str = "arriero_queue_requests{upstream=\"fleet\"}";

fn stream(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":true,"max_tokens":9,"messages":[{{"role":"user","content":"x"}}]}}"#)
}

/// A stream that has begun, over either protocol.
enum Begun {
    Http1(H1, support::wire::Head),
    Http2(H2, Incoming),
}

impl Begun {
    /// Sends a request and waits for the head of its answer, which must be that of a stream.
    async fn ask(proxy: &Proxy, http2: bool, path: &str, body: String) -> Self {
        if http2 {
            let mut client = H2::connect(proxy.address()).await;
            let (feeder, upload) = Upload::new(Some(body.len() as u64));
            feeder.send(body.into()).await.expect("room");
            drop(feeder);
            let (head, incoming) = client.send(H2::request("POST", path, upload)).await.into_parts();
            assert_eq!(
                (head.status.as_u16(), &head.headers["content-type"]),
                (200, &"text/event-stream".parse().unwrap())
            );
            return Self::Http2(client, incoming);
        }
        let mut client = H1::connect(proxy.address()).await;
        client.send(post(path, body)).await;
        let head = client.reader.head().await;
        assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")), "{}", head.text);
        assert_eq!(head.field("cache-control"), Some("no-cache"));
        assert!(head.field("x-request-id").is_some(), "{}", head.text);
        Self::Http1(client, head)
    }

    /// The next piece; `None` at the end, `Err` when it is cut off.
    async fn piece(&mut self) -> Result<Option<Bytes>, ()> {
        match self {
            Self::Http1(client, _) => match client.reader.chunk().await {
                Chunk::Data(data) => Ok(Some(data.into())),
                Chunk::End => Ok(None),
                Chunk::Cut => Err(()),
            },
            Self::Http2(_, incoming) => match timeout(LIMIT, incoming.frame()).await.expect("more in time") {
                Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
                Some(Err(_)) => Err(()),
                None => Ok(None),
            },
        }
    }

    /// Waits for so many comments.
    async fn comments(&mut self, count: usize) {
        let wanted = COMMENT.repeat(count);
        let mut text = String::new();
        while text.len() < wanted.len() {
            let piece = self.piece().await.expect("not cut off").expect("no end");
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        assert_eq!(text.replace(COMMENT, ""), "");
    }

    /// Everything to the end, which must be one in due form, without the comments that come first.
    async fn rest(&mut self) -> String {
        let mut text = Vec::new();
        let read = async {
            while let Some(piece) = self.piece().await.expect("an end in due form") {
                text.extend_from_slice(&piece);
            }
        };
        // Comments could come for ever.
        timeout(LIMIT, read).await.expect("an end in time");
        let text = String::from_utf8(text).unwrap();
        let begin = text.len() - text.trim_start_matches(COMMENT).len();
        text[begin..].to_owned()
    }
}

/// A server that goes on with a request when its gate is open, as it is at first.
async fn gated(step: Step) -> RawUpstream {
    let answers = matches!(step, Step::Write(_));
    let script = Script::new(vec![Step::ReadRequest, Step::Gate, step]);
    // A connection that has answered may be asked again.
    RawUpstream::start(if answers { script.repeated() } else { script }).await.expect("a server")
}

fn events() -> String {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Late: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    format!("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{head}{:x}\r\n{EVENTS}\r\n0\r\n\r\n", EVENTS.len())
}

fn answer(status: &str, content_type: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A proxy before servers whose gates are closed when it has begun.
async fn before(servers: &[&RawUpstream], route: &str) -> Proxy {
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    let proxy = proxy(upstream_yaml("ollama", &urls, route, CALM) + H2C).await;
    servers.iter().for_each(|server| server.gate().close());
    proxy
}

/// A host with one slot, taken by a request that has begun, and a proxy with this queue before it.
async fn full(queue: &str, is_scheduled: bool) -> (Host, Proxy, H1) {
    let host = Host::start(HostConfig::new("one").small_model("a").tokens(2)).await.unwrap();
    host.token_gate().close();
    let queue = format!("queue: {{ {queue} }}\n");
    let rule = if is_scheduled { "expected_wait" } else { "least_requests" };
    let yaml = scheduled_yaml(&[host.url()], "", &format!("balance: {{ policy: {rule} }}\n{queue}"));
    let proxy = proxy(yaml.replace("url: ", "max_in_flight: 1, url: ") + H2C).await;
    knows(&proxy, &host, "disk", 1).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send(post("/api/generate", generate("a"))).await;
    host.ledger().wait_until(Duration::from_secs(20), |ledger| ledger.inference().len() == 1).await.unwrap();
    (host, proxy, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_the_queue_gets_comments_and_then_its_answer() {
    for is_scheduled in [true, false] {
        for http2 in [false, true] {
            let (host, proxy, mut first) = full("keepalive: 20ms", is_scheduled).await;
            let mut waiting = Begun::ask(&proxy, http2, CHAT, stream("a")).await;
            waiting.comments(3).await;
            assert_eq!(host.ledger().inference().len(), 1, "it is in the queue");
            host.token_gate().open();
            let text = waiting.rest().await;
            let case = format!("scheduled {is_scheduled}, HTTP/2 {http2}: {text}");
            assert!(text.starts_with("data: {\"id\"") && text.ends_with("data: [DONE]\n\n"), "{case}");
            assert_eq!(first.reader.answer().await.head.status, 200);
            eventually("both ended well", || async { ended(&proxy, "ok").await as u32 == 2 }).await;
            assert_eq!(host.ledger().inference().len(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_its_time_is_followed_to_the_byte() {
    let long = format!("{{\"model\":\"m\",\"user\":\"{}\",\"stream\":true}}", "x".repeat(300_000));
    for http2 in [false, true] {
        for body in [stream("m"), long.clone()] {
            let server = gated(Step::Write(events().into())).await;
            let proxy = before(&[&server], "").await;
            let mut waiting = Begun::ask(&proxy, http2, CHAT, body).await;
            waiting.comments(2).await;
            server.gate().open();
            assert_eq!(waiting.rest().await, EVENTS);
            if let Begun::Http1(mut client, head) = waiting {
                assert_eq!((head.field("x-late"), head.field("connection")), (None, None), "{}", head.text);
                assert!(client.ask(support::wire::get("/v1/models")).await.whole, "the connection goes on");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_event_in_the_clients_dialect() {
    let openai = "data: {\"error\":{\"message\":\"server busy, please try again: no slot was free in time\",\"type\":\"api_error\",\"param\":null,\"code\":null}}\n\n";
    let anthropic = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"server busy, please try again: no slot was free in time\"}}\n\n";
    let calls = [(CHAT, openai), ("/v1/responses", openai), ("/v1/messages", anthropic)];
    for is_scheduled in [true, false] {
        let (host, proxy, _first) = full("keepalive: 20ms, timeout: 300ms", is_scheduled).await;
        for http2 in [false, true] {
            for (path, event) in calls {
                let mut waiting = Begun::ask(&proxy, http2, path, stream("a")).await;
                waiting.comments(1).await;
                assert_eq!(waiting.rest().await, event, "{path}");
                if let Begun::Http1(client, _) = &mut waiting {
                    let next = client.ask(support::wire::get("/v1/models")).await;
                    assert_eq!(next.head.status, 200, "the connection goes on");
                }
            }
        }
        assert_eq!(ended(&proxy, "queue_timeout").await as u32, 6);
        // With the three lists.
        let answered = "arriero_requests_total{route=\"all\",upstream=\"fleet\",code=\"200\"}";
        assert_eq!(proxy.metric(answered).await as u32, 9);
        assert_eq!(host.ledger().inference().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_answers_instead_of_a_stream_is_told_as_an_error() {
    let not_found =
        r#"{"error":{"message":"model \"m\" not found","type":"not_found_error","param":null,"code":null}}"#;
    let no_stream = r#"{"error":{"message":"the server's answer is not a stream of events","type":"api_error","param":null,"code":null}}"#;
    let crash = r#"{"error":{"message":"cannot","type":"api_error","param":null,"code":null}}"#;
    let cases = [
        (answer("404 Not Found", "application/json", not_found), not_found, "ok"),
        (answer("500 Oh", "application/json", "{\"error\":\"cannot\"}"), crash, "upstream_error"),
        (answer("400 No", "text/plain", "cannot\n"), &crash.replace("api_error", "invalid_request_error"), "ok"),
        (answer("200 OK", "application/json", "\"late\""), no_stream, "upstream_protocol"),
        (answer("200 OK", "text/event-stream\r\nContent-Encoding: gzip", "not really"), no_stream, "upstream_protocol"),
    ];
    for (bytes, error, reason) in cases {
        let server = gated(Step::Write(bytes.clone().into())).await;
        let proxy = before(&[&server], "").await;
        let mut waiting = Begun::ask(&proxy, false, CHAT, stream("m")).await;
        waiting.comments(1).await;
        server.gate().open();
        assert_eq!(waiting.rest().await, format!("data: {error}\n\n"), "{bytes}");
        eventually(reason, || async { ended(&proxy, reason).await as u32 == 1 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_off_before_it_answers_is_told_as_an_error() {
    let server = gated(Step::Close).await;
    let proxy = before(&[&server], "").await;
    let mut waiting = Begun::ask(&proxy, false, CHAT, stream("m")).await;
    waiting.comments(1).await;
    server.gate().open();
    let text = waiting.rest().await;
    assert!(text.starts_with("data: {\"error\":{\"message\":\"the server closed") && !text.contains("DONE"), "{text}");
    eventually("it is counted", || async { ended(&proxy, "upstream_reset").await as u32 == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_after_its_first_byte_is_cut_off_still() {
    let host = Host::start(HostConfig::new("one").small_model("m").tokens(9)).await.unwrap();
    host.load_gate().close();
    let proxy = proxy(upstream_yaml("ollama", &[host.url()], "", CALM) + H2C).await;
    knows(&proxy, &host, "disk", 1).await;
    host.faults().next(1, Fault::CloseAfterTokens(3));
    let mut waiting = Begun::ask(&proxy, false, CHAT, stream("m")).await;
    waiting.comments(2).await;
    host.load_gate().open();
    let mut text = String::new();
    while let Ok(piece) = waiting.piece().await {
        text.push_str(std::str::from_utf8(&piece.expect("no end in due form")).unwrap());
    }
    assert!(text.contains("\n\ndata: {\"error\":{\"message\":\"the server's answer broke off\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_are_no_answer_so_another_attempt_may_be_made() {
    let (broken, good) = (gated(Step::Reset).await, gated(Step::Write(events().into())).await);
    let route = "retry: { attempts: 2, on: [reset], replay_post: true }";
    let proxy = before(&[&broken, &good], route).await;
    // Each server in turn: one of two asks the broken one first.
    let mut both = Vec::new();
    for http2 in [false, true] {
        let mut waiting = Begun::ask(&proxy, http2, CHAT, stream("m")).await;
        waiting.comments(1).await;
        both.push(waiting);
    }
    broken.gate().open();
    good.gate().open();
    for waiting in &mut both {
        assert_eq!(waiting.rest().await, EVENTS);
    }
    let retries = proxy.metric("arriero_retries_total{upstream=\"fleet\",reason=\"upstream_reset\"}").await;
    assert_eq!(retries as u32, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_leaves_the_queue() {
    for http2 in [false, true] {
        let (host, proxy, mut first) = full("keepalive: 20ms", true).await;
        let mut waiting = Begun::ask(&proxy, http2, CHAT, stream("a")).await;
        waiting.comments(2).await;
        eventually("it waits", || async { proxy.metric(WAITING).await > 0.0 }).await;
        match waiting {
            Begun::Http1(client, _) => client.reset(),
            Begun::Http2(client, _) => drop(client),
        }
        eventually("it is out", || async { proxy.metric(WAITING).await < 1.0 }).await;
        eventually("it is counted", || async { ended(&proxy, "client_closed").await as u32 == 1 }).await;
        host.token_gate().open();
        assert_eq!(first.reader.answer().await.head.status, 200);
        assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("a")).await.head.status, 200);
        assert_eq!(host.ledger().inference().len(), 2, "it never reached the server");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_those_who_do_not_read_events() {
    let (_host, proxy, _first) = full("keepalive: 20ms, timeout: 1s", true).await;
    let plain = stream("a").replace("true", "false");
    let unsaid = stream("a").replace("\"stream\":true,", "");
    let old = String::from_utf8(request("POST", CHAT, "", stream("a"))).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    let asked = [
        post("/api/chat", stream("a")),
        post("/api/generate", r#"{"model":"a","prompt":"x","stream":true}"#),
        post("/v1/embeddings", r#"{"model":"a","input":"x","stream":true}"#),
        post(CHAT, plain),
        post(CHAT, unsaid),
        old.into_bytes(),
    ];
    let mut clients = Vec::new();
    for request in &asked {
        let mut client = H1::connect(proxy.address()).await;
        client.send(request).await;
        clients.push(client);
    }
    eventually("they wait", || async { proxy.metric(WAITING).await as usize == asked.len() }).await;
    // Meanwhile another one is told.
    let mut waiting = Begun::ask(&proxy, false, CHAT, stream("a")).await;
    waiting.comments(3).await;
    for (mut client, request) in clients.into_iter().zip(asked) {
        let answer: Answer = client.reader.answer().await;
        let request = String::from_utf8_lossy(&request).into_owned();
        assert_eq!((answer.head.status, answer.reason()), (503, Some("queue_timeout")), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_nobody_is_told() {
    let (_host, proxy, _first) = full("timeout: 300ms", true).await;
    let answer = send(proxy.address(), "POST", CHAT, stream("a")).await;
    assert_eq!((answer.head.status, answer.reason()), (503, Some("queue_timeout")), "{}", answer.text());
}
