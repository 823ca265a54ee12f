//! The first token and the gaps between tokens, as the client sees them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arriero::clock;
use arriero::demo::{Fault, FaultRule, Host, HostConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::fleet::{ended, knows, send};
use crate::support::process::{Program, complete};
use crate::support::wire::{Chunk, H1, post, proxy};
use crate::support::{PATIENCE, Proxy, eventually, ollama_yaml, scheduled_yaml};

const FIRST: &str = "arriero_time_to_first_token_seconds";
const GAP: &str = "arriero_inter_token_gap_seconds";

async fn host(tokens: usize) -> Host {
    Host::start(HostConfig::new("gpu").small_model("m").tokens(tokens)).await.expect("a host")
}

/// How many first tokens were counted, and seconds until them in all.
async fn firsts(proxy: &Proxy) -> (u32, f64) {
    let labels = "{route=\"all\",upstream=\"fleet\"}";
    let sum = proxy.metric(&format!("{FIRST}_sum{labels}")).await;
    (proxy.metric(&format!("{FIRST}_count{labels}")).await as u32, sum)
}

/// The same of gaps.
async fn gaps(proxy: &Proxy, host: &Host) -> (u32, f64) {
    let labels = format!("{{upstream=\"fleet\",server=\"{}\"}}", host.address());
    let sum = proxy.metric(&format!("{GAP}_sum{labels}")).await;
    (proxy.metric(&format!("{GAP}_count{labels}")).await as u32, sum)
}

/// A server with the model `m` whose answer to a POST is what the test hands over, each piece in a chunk of its own.
struct Scripted {
    address: SocketAddr,
    pieces: UnboundedSender<Option<String>>,
    task: JoinHandle<()>,
}

impl Scripted {
    async fn start(content_type: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (pieces, said) = unbounded_channel();
        let said = Arc::new(Mutex::new(said));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(stream, content_type, Arc::clone(&said)));
            }
        });
        Self { address, pieces, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next piece, or the end.
    fn say(&self, piece: Option<&str>) {
        self.pieces.send(piece.map(str::to_owned)).expect("somebody listens");
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What comes piece by piece, and whether a piece brings a token.
type Pieces = Vec<(String, bool)>;
type Said = Arc<Mutex<UnboundedReceiver<Option<String>>>>;

/// Answers the requests of a connection until it ends, however it does.
async fn converse(mut stream: TcpStream, content_type: &'static str, said: Said) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let head = Head::parse_request(&input[..end]);
        while input.len() < end + head.length {
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
        input.drain(..end + head.length);
        if head.method == "POST" {
            let start =
                format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n");
            stream.write_all(start.as_bytes()).await?;
            let mut said = said.lock().await;
            while let Some(Some(piece)) = said.recv().await {
                stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
            continue;
        }
        let body = match head.path.as_str() {
            "/api/tags" => r#"{"models":[{"name":"m:latest","model":"m:latest","size":1}]}"#,
            "/api/version" => r#"{"version":"0.33.0"}"#,
            "/v1/models" => r#"{"data":[]}"#,
            _ => r#"{"models":[]}"#,
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// What a server must know of a request.
struct Head {
    method: String,
    path: String,
    length: usize,
}

impl Head {
    fn parse_request(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let text = String::from_utf8_lossy(bytes);
        let mut words = text.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Self { method, path, length: length.unwrap_or(0) }
    }
}

fn made(host: &Host) -> usize {
    host.ledger().inference().iter().map(|entry| entry.tokens).sum()
}

/// Reads until so many marks have come.
async fn read_marks(client: &mut H1, seen: &mut String, mark: &str, count: usize) {
    while seen.matches(mark).count() < count {
        match client.reader.chunk().await {
            Chunk::Data(data) => seen.push_str(std::str::from_utf8(&data).expect("text")),
            end => panic!("{end:?} after {seen}"),
        }
    }
}

/// A stream of five tokens of a simulated Ollama: one first token, which counts as soon as its client has it. How many gaps
/// there are depends on how many tokens come at once.
async fn one_of_five_is_the_first(path: &str, mark: &str) {
    let host = host(5).await;
    let proxy = proxy(ollama_yaml(&[host.url()], "")).await;
    host.token_gate().close();
    let body = json!({ "model": "m", "stream": true, "max_tokens": 5, "prompt": "x", "input": "x",
                       "messages": [{ "role": "user", "content": "x" }] });
    let mut client = H1::connect(proxy.address()).await;
    client.send(post(path, body.to_string())).await;
    let (mut seen, mut begun) = (String::new(), false);
    for token in 1..=5 {
        assert_eq!(firsts(&proxy).await.0, u32::from(token > 1), "{path}: before token {token}");
        host.token_gate().open();
        let next = host.ledger().wait_until(PATIENCE, |_| made(&host) >= token).await;
        if token < 5 {
            host.token_gate().close();
        }
        next.unwrap_or_else(|error| panic!("{error}"));
        if !std::mem::replace(&mut begun, true) {
            assert_eq!(client.reader.head().await.status, 200);
        }
        read_marks(&mut client, &mut seen, mark, token).await;
    }
    while let Chunk::Data(data) = client.reader.chunk().await {
        seen.push_str(std::str::from_utf8(&data).expect("text"));
    }
    eventually("it ended", || async { ended(&proxy, "ok").await == 1.0 }).await;
    assert_eq!(firsts(&proxy).await.0, 1, "{path}: {seen}");
    assert!(gaps(&proxy, &host).await.0 <= 4, "{path}: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_ollama_count() {
    one_of_five_is_the_first("/api/generate", r#""done":false"#).await;
    one_of_five_is_the_first("/api/chat", r#""done":false"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_openai_count() {
    one_of_five_is_the_first("/v1/chat/completions", r#""finish_reason":null"#).await;
    one_of_five_is_the_first("/v1/completions", r#""finish_reason":null"#).await;
    one_of_five_is_the_first("/v1/responses", "event: response.output_text.delta").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_anthropic_count() {
    one_of_five_is_the_first("/v1/messages", "event: content_block_delta").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gap_between_tokens_counts_once_and_nothing_else_does() {
    let chat = |delta: &str| format!("data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
    let block = |delta: &str| {
        let data = format!("{{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{delta}}}");
        format!("event: content_block_delta\ndata: {data}\n\n")
    };
    let line = |text: &str| format!("{{\"model\":\"m\",\"response\":\"{text}\",\"done\":false}}\n");
    let event = |name: &str, rest: &str| format!("event: {name}\ndata: {{{rest},\"type\":\"{name}\"}}\n\n");
    let (text, delta) = ("\"text\":\"ab\"", "response.output_text.delta");
    let cases: [(&str, &str, Pieces); 4] = [
        (
            "/api/generate",
            "application/x-ndjson",
            vec![
                (line(""), false),
                (line("a"), true),
                (line("b") + &line("c"), true),
                (line("d")[..20].to_owned(), false),
                (line("d")[20..].to_owned(), true),
                ("\n".to_owned(), false),
                ("{\"model\":\"m\",\"response\":\"\",\"done\":true,\"eval_count\":4}\n".to_owned(), false),
            ],
        ),
        (
            "/v1/chat/completions",
            "text/event-stream",
            vec![
                (": ping\n\n".to_owned(), false),
                (chat("{\"role\":\"assistant\",\"content\":\"\"}"), false),
                (chat("{\"reasoning_content\":\"hm\"}"), true),
                (chat("{\"content\":\"a\"}"), true),
                (": ping\n\n".to_owned(), false),
                (chat("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\"}}]}"), true),
                (chat("{}"), false),
                ("data: {\"choices\":[],\"usage\":{\"completion_tokens\":3}}\n\n".to_owned(), false),
                ("data: [DONE]\n\n".to_owned(), false),
            ],
        ),
        (
            "/v1/messages",
            "text/event-stream",
            vec![
                (event("message_start", "\"message\":{\"content\":[]}"), false),
                (event("content_block_start", "\"content_block\":{\"text\":\"\"}"), false),
                (event("ping", "\"a\":1"), false),
                (block("{\"type\":\"text_delta\",\"text\":\"a\"}"), true),
                (block("{\"type\":\"text_delta\",\"text\":\"b\"}"), true),
                (block("{\"type\":\"signature_delta\",\"signature\":\"x\"}"), false),
                (event("message_delta", "\"delta\":{\"stop_reason\":\"end_turn\"}"), false),
                (event("message_stop", "\"a\":1"), false),
            ],
        ),
        (
            "/v1/responses",
            "text/event-stream",
            vec![
                (event("response.created", "\"response\":{}"), false),
                (event(delta, "\"delta\":\"a\""), true),
                (event(delta, "\"delta\":\"b\""), true),
                (event("response.output_text.done", text), false),
                (event("response.content_part.done", &format!("\"part\":{{{text}}}")), false),
                (event("response.completed", &format!("\"response\":{{\"output\":[{{{text}}}]}}")), false),
            ],
        ),
    ];
    for (path, content_type, pieces) in cases {
        let server = Scripted::start(content_type).await;
        let proxy = proxy(ollama_yaml(&[server.url()], "")).await;
        eventually("the model is known", || async { proxy.admin("/metrics").await.contains("in=\"disk\"} 1") }).await;
        let mut client = H1::connect(proxy.address()).await;
        client.send(post(path, r#"{"model":"m","stream":true,"prompt":"x"}"#)).await;
        assert_eq!(client.reader.head().await.status, 200);
        let labels = format!("{{upstream=\"fleet\",server=\"{}\"}}", server.address);
        let mut tokens = 0;
        for (piece, is_token) in pieces {
            server.say(Some(&piece));
            assert_eq!(client.reader.chunk().await, Chunk::Data(piece.clone().into_bytes()));
            tokens += u32::from(is_token);
            let gaps = proxy.metric(&format!("{GAP}_count{labels}")).await as u32;
            let counted = (firsts(&proxy).await.0, gaps);
            assert_eq!(counted, (tokens.min(1), tokens.saturating_sub(1)), "{path}: after {piece}");
        }
        server.say(None);
        assert_eq!(client.reader.chunk().await, Chunk::End);
        eventually("it ended", || async { ended(&proxy, "ok").await == 1.0 }).await;
        let (first, sum) = (firsts(&proxy).await, proxy.metric(&format!("{GAP}_sum{labels}")).await);
        assert!(first.0 == 1 && first.1 > 0.0 && sum > 0.0, "{path}: {first:?}, {sum}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_and_the_load_are_in_the_time_and_a_sign_of_life_is_no_token() {
    let host = host(3).await;
    host.load_gate().close();
    let proxy = proxy(scheduled_yaml(&[host.url()], "", "queue: { keepalive: 20ms }")).await;
    knows(&proxy, &host, "disk", 1).await;
    let began = clock::now();
    let mut client = H1::connect(proxy.address()).await;
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    client.send(post("/v1/chat/completions", body)).await;
    // The head has gone out, and comments.
    assert_eq!(client.reader.head().await.status, 200);
    let here = clock::now();
    assert_eq!(client.reader.chunk().await, Chunk::Data(b": waiting\n\n".to_vec()));
    assert_eq!(client.reader.chunk().await, Chunk::Data(b": waiting\n\n".to_vec()));
    assert_eq!(proxy.metric("arriero_queue_loading_requests{upstream=\"fleet\"}").await, 1.0);
    assert_eq!(firsts(&proxy).await.0, 0);
    let waited = clock::now() - here;
    host.load_gate().open();
    let mut seen = String::new();
    while let Chunk::Data(data) = client.reader.chunk().await {
        seen.push_str(std::str::from_utf8(&data).expect("text"));
    }
    let whole = clock::now() - began;
    assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    let (count, seconds) = firsts(&proxy).await;
    let all = waited.as_secs_f64()..=whole.as_secs_f64();
    assert!(count == 1 && all.contains(&seconds), "{count} in {seconds} s, {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_stream_has_neither() {
    let host = host(12).await;
    let proxy = proxy(ollama_yaml(&[host.url()], "")).await;
    for (path, body) in [
        ("/api/generate", r#"{"model":"m","prompt":"x","stream":false}"#),
        ("/v1/chat/completions", r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#),
        ("/api/embed", r#"{"model":"m","input":"x"}"#),
        ("/api/show", r#"{"model":"m"}"#),
    ] {
        send(proxy.address(), "POST", path, body).await;
    }
    assert_eq!((firsts(&proxy).await.0, gaps(&proxy, &host).await.0), (0, 0));
    let text = proxy.admin("/metrics").await;
    assert!(!text.contains(FIRST) && !text.contains(GAP), "no series without a sample");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_counts_what_came_and_no_more() {
    let host = host(8).await;
    let proxy = proxy(ollama_yaml(&[host.url()], "circuit: { consecutive_failures: 1000000 }")).await;
    let next = |fault: Fault| host.faults().add(FaultRule::inference(fault).times(1));
    // None is like another one: what made a runner crash is not tried again.
    let body = |number: u32| format!(r#"{{"model":"m","prompt":"{number}"}}"#);
    // Before the first token: the server refuses or breaks off, or the client leaves.
    let faults = [Fault::Status(500, "no".to_owned()), Fault::ResetAfterTokens(0), Fault::StreamErrorAfterTokens(0)];
    for (number, fault) in (0..).zip(faults) {
        next(fault);
        send(proxy.address(), "POST", "/api/generate", body(number)).await;
    }
    next(Fault::StallAfterTokens(0));
    let mut client = H1::connect(proxy.address()).await;
    client.send(post("/api/generate", body(3))).await;
    eventually("it runs", || async { proxy.metric("arriero_requests_in_flight{route=\"all\"}").await == 1.0 }).await;
    client.reset();
    eventually("the client is gone", || async { ended(&proxy, "client_closed").await == 1.0 }).await;
    assert_eq!((firsts(&proxy).await.0, gaps(&proxy, &host).await.0), (0, 0));
    // After the third: what follows is no token.
    next(Fault::ResetAfterTokens(3));
    let answer = send(proxy.address(), "POST", "/api/generate", body(4)).await;
    assert!(!answer.whole && answer.text().contains("\"error\""), "{}", answer.text());
    next(Fault::StreamErrorAfterTokens(3));
    send(proxy.address(), "POST", "/api/generate", body(5)).await;
    next(Fault::StallAfterTokens(1));
    let mut client = H1::connect(proxy.address()).await;
    client.send(post("/api/generate", body(6))).await;
    client.reader.head().await;
    assert!(matches!(client.reader.chunk().await, Chunk::Data(_)));
    client.reset();
    eventually("the client is gone", || async { ended(&proxy, "client_closed").await == 2.0 }).await;
    assert_eq!(firsts(&proxy).await.0, 3);
    assert!(gaps(&proxy, &host).await.0 <= 4, "two gaps each between three tokens at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_tried_again_has_one_first_token() {
    let (bad, good) = (host(4).await, host(4).await);
    bad.faults().add(FaultRule::inference(Fault::Busy));
    let yaml = ollama_yaml(&[bad.url(), good.url()], "").replace(
        "    upstream: fleet\n",
        "    upstream: fleet\n    retry: { attempts: 2, on: [\"503\"], replay_post: true }\n",
    );
    let proxy = proxy(yaml).await;
    for _ in 0..2 {
        let answer = send(proxy.address(), "POST", "/api/generate", r#"{"model":"m","prompt":"x"}"#).await;
        assert_eq!(answer.head.status, 200, "{}", answer.text());
    }
    assert_eq!(firsts(&proxy).await.0, 2);
    assert_eq!(gaps(&proxy, &bad).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_speed_is_the_servers_own_word_and_short_answers_say_nothing() {
    let labels = |host: &Host| format!("_count{{upstream=\"fleet\",server=\"{}\"}}", host.address());
    let config = HostConfig::new("gpu").small_model("m").tokens(12).token_interval(Duration::from_millis(1));
    let host = Host::start(config).await.expect("a host");
    let proxy = proxy(ollama_yaml(&[host.url()], "")).await;
    let speeds = "arriero_decode_tokens_per_second";
    let ask = |tokens: u32| {
        let address = proxy.address();
        let body = format!(r#"{{"model":"m","prompt":"x","stream":false,"options":{{"num_predict":{tokens}}}}}"#);
        async move { send(address, "POST", "/api/generate", body).await }
    };
    let short = ask(3).await;
    assert!(short.text().contains("\"eval_count\":3"), "{}", short.text());
    assert_eq!(proxy.metric(&format!("{speeds}{}", labels(&host))).await, 0.0);
    let long: Value = serde_json::from_slice(&ask(12).await.body).expect("an answer");
    // A client has its answer before it is counted.
    eventually("it is counted", async || proxy.metric(&format!("{speeds}{}", labels(&host))).await == 1.0).await;
    let told = long["eval_count"].as_f64().expect("tokens") / long["eval_duration"].as_f64().expect("a time") * 1e9;
    let sum = proxy.metric(&format!("{speeds}{}", labels(&host).replace("_count", "_sum"))).await;
    assert!((sum - told).abs() < 1e-6 * told, "{sum} and not {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_the_time_of_streams_alone() {
    let host = host(4).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    let yaml = ollama_yaml(&[host.url()], "") + "telemetry: { access_log: json, log_level: warn }\n";
    std::fs::write(&file, complete(&yaml)).expect("written");
    let program = Program::run(&file).await;
    for stream in [true, false] {
        let body = format!(r#"{{"model":"m","prompt":"x","stream":{stream}}}"#);
        assert_eq!(send(program.address(), "POST", "/api/generate", body).await.head.status, 200);
    }
    eventually("both are logged", async || program.out.text().lines().count() == 2).await;
    let text = program.out.text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let times = |line: &Value| ["ttfb_ms", "ttft_ms", "duration_ms"].map(|name| line[name].as_f64());
    let [Some(byte), Some(token), Some(whole)] = times(&lines[0]) else { panic!("{text}") };
    assert!(0.0 < byte && byte <= token && token <= whole, "{text}");
    assert!(matches!(times(&lines[1]), [Some(_), None, Some(_)]), "{text}");
}
