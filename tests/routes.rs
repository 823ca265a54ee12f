//! Which route takes a request, and what else a listener and a plain upstream are for.

mod support;

use arriero::demo::{RawUpstream, Script, Step};
use bytes::Bytes;
use serde_json::Value;
use support::Proxy;
use support::fleet::{Small, fleet, generate, request, send, send_with, sha256, sized};
use support::wire::{Answer, H1, proxy};

/// Plain servers that answer with their own names, as upstreams of these names.
struct Named {
    servers: Vec<(&'static str, Small)>,
}

impl Named {
    async fn start(names: &[&'static str]) -> Self {
        let mut servers = Vec::new();
        for name in names {
            servers.push((*name, Small::named(name).await));
        }
        Self { servers }
    }

    /// `upstreams:` and what stands below it.
    fn yaml(&self) -> String {
        let one = |(name, server): &(&str, Small)| {
            format!("  {name}:\n    kind: http\n    servers: [{{ url: \"{}\" }}]\n", server.url())
        };
        format!("upstreams:\n{}", self.servers.iter().map(one).collect::<String>())
    }
}

/// The name of the server that answered.
fn who(answer: &Answer) -> String {
    answer.text().split(' ').next().unwrap_or_default().to_owned()
}

const MIXED: &str = r#"version: 1
routes:
  - { name: host, match: { host: api.example.com }, upstream: api }
  - { name: hosts, match: { host: ["*.ai.example.com", "[::7]"] }, upstream: wild }
  - { name: exact, match: { path: [/exact, /also/exact] }, upstream: exact }
  - { name: writes, match: { path: /files/, method: [PUT, DELETE] }, upstream: writes }
  - { name: reads, match: { path: /files/ }, upstream: reads }
  - { name: team, match: { header: { X-Team: research*, X-Beta: "on" } }, upstream: team }
  - { name: vision, match: { path: [/api/, /v1/], model: ["llava*", "*-vl*", exactly] }, upstream: vision }
  - { name: fleet, match: { path: [/api/, /v1/] }, upstream: fleet }
  - { name: app, match: { path: / }, upstream: web }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_route_that_matches_wins_over_all_conditions_and_kinds() {
    let fleet = fleet(1, &["mistral", "exactly:7b"]).await;
    let named = Named::start(&["api", "wild", "exact", "writes", "reads", "team", "vision", "web"]).await;
    let ollama = format!("  fleet:\n    kind: ollama\n    servers: [{{ url: \"{}\" }}]\n", fleet.hosts[0].url());
    let proxy = proxy(format!("{MIXED}{}{ollama}", named.yaml())).await;
    let chat =
        |model: &str| format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"stream":false,"model":"{model}"}}"#);
    let cases: Vec<(&str, &str, &str, String, &str)> = vec![
        // Hosts.
        ("GET", "/any", "Host: api.example.com\r\n", String::new(), "api"),
        ("GET", "/any", "Host: API.Example.COM:8080\r\n", String::new(), "api"),
        ("POST", "/api/chat", "Host: api.example.com\r\n", chat("llava"), "api"),
        ("GET", "/exact", "Host: a.ai.example.com\r\n", String::new(), "wild"),
        ("GET", "/any", "Host: b.a.AI.example.com:1\r\n", String::new(), "wild"),
        ("GET", "/any", "Host: [::7]:80\r\n", String::new(), "wild"),
        ("GET", "/any", "Host: ai.example.com\r\n", String::new(), "web"),
        ("GET", "/any", "Host: xai.example.com\r\n", String::new(), "web"),
        ("GET", "/any", "Host: xapi.example.com\r\n", String::new(), "web"),
        // Paths.
        ("GET", "/exact", "", String::new(), "exact"),
        ("GET", "/exact?more=1", "", String::new(), "exact"),
        ("POST", "/also/exact", "", chat("llava"), "exact"),
        ("GET", "/exact/", "", String::new(), "web"),
        ("GET", "/exactly", "", String::new(), "web"),
        ("GET", "/Exact", "", String::new(), "web"),
        ("GET", "/files/", "", String::new(), "reads"),
        ("GET", "/files/a/b", "", String::new(), "reads"),
        ("GET", "/filesystem", "", String::new(), "web"),
        // Methods.
        ("PUT", "/files/a", "", "new".to_owned(), "writes"),
        ("DELETE", "/files/a", "", String::new(), "writes"),
        ("POST", "/files/a", "", "new".to_owned(), "reads"),
        // Header fields: all of them, names in any case.
        ("GET", "/any", "x-team: research-7\r\nX-BETA: on\r\n", String::new(), "team"),
        ("POST", "/api/chat", "X-Team: research\r\nX-Beta: on\r\n", chat("llava"), "team"),
        ("GET", "/any", "X-Team: research-7\r\n", String::new(), "web"),
        ("GET", "/any", "X-Team: sales\r\nX-Beta: on\r\n", String::new(), "web"),
        // Models, over kinds.
        ("POST", "/api/chat", "", chat("llava"), "vision"),
        ("POST", "/api/chat", "", chat("LLaVA:13b"), "vision"),
        ("POST", "/v1/chat/completions", "", chat("library/llava-next:7b"), "vision"),
        ("POST", "/v1/chat/completions", "", chat("qwen2.5-VL:7b"), "vision"),
        ("POST", "/v1/chat/completions", "", chat("exactly:latest"), "vision"),
        ("POST", "/api/chat", "", chat("mistral"), "fleet"),
        ("POST", "/v1/chat/completions", "", chat("exactly:7b"), "fleet"),
        ("GET", "/api/tags", "", String::new(), "fleet"),
        // The rest.
        ("GET", "/", "", String::new(), "web"),
        ("POST", "/chat", "", chat("llava"), "web"),
    ];
    let mut wrong = Vec::new();
    for (method, path, fields, body, wanted) in cases {
        let answer = send_with(proxy.address(), method, path, fields, &body).await;
        let by = match answer.head.field("content-type") {
            Some("text/plain") => who(&answer),
            _ => "fleet".to_owned(),
        };
        if answer.head.status != 200 || by != wanted {
            wrong.push(format!("{method} {path} {fields:?} {body}: {} {by}, not {wanted}", answer.head.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_takes_is_not_found() {
    let named = Named::start(&["one"]).await;
    let routes = "version: 1\nroutes:\n  - { name: one, match: { path: /one/, method: GET }, upstream: one }\n  - { name: two, match: { path: /v1/, model: only }, upstream: one }\n";
    let proxy = proxy(format!("{routes}{}", named.yaml())).await;
    assert_eq!(who(&send(proxy.address(), "GET", "/one/x", "").await), "one");
    assert_eq!(who(&send(proxy.address(), "POST", "/v1/completions", generate("only")).await), "one");
    for (method, path, body, message) in [
        ("GET", "/two", "", "/error"),
        ("POST", "/one/x", "", "/error"),
        ("GET", "/one", "", "/error"),
        ("POST", "/api/chat", r#"{"model":"only"}"#, "/error"),
        ("POST", "/v1/completions", r#"{"model":"other"}"#, "/error/message"),
        ("POST", "/v1/messages", r#"{"model":"other"}"#, "/error/message"),
        ("POST", "/v1/completions", "", "/error/message"),
        ("POST", "/v1/completions", "no JSON", "/error/message"),
        ("GET", "/v1/models", "", "/error/message"),
    ] {
        let answer = send(proxy.address(), method, path, body).await;
        assert_eq!(
            (answer.head.status, answer.reason()),
            (404, Some("no_route")),
            "{method} {path} {body}: {}",
            answer.text()
        );
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{path}: {}", answer.text()));
        assert!(json.pointer(message).is_some_and(Value::is_string), "{path}: {json}");
    }
    assert_eq!(named.servers[0].1.got().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_routes_to_plain_servers_and_the_body_arrives_whole() {
    let named = Named::start(&["llava", "mistral", "rest"]).await;
    let routes = r#"version: 1
routes:
  - { name: llava, match: { model: "llava*" }, upstream: llava }
  - { name: mistral, match: { model: mistral }, upstream: mistral }
  - { name: rest, upstream: rest }
"#;
    let proxy = proxy(format!("{routes}{}", named.yaml())).await;
    for (model, wanted) in
        [("llava:13b", "llava"), ("mistral", "mistral"), ("Library/Mistral:latest", "mistral"), ("phi", "rest")]
    {
        for size in [100, 30_000, 2_000_000] {
            for first in [true, false] {
                let body = sized(model, size, first);
                let answer = send(proxy.address(), "POST", "/v1/anything", &body).await;
                let case = format!("{model}, {} bytes, model first: {first}", body.len());
                assert_eq!((answer.head.status, answer.text()), (200, format!("{wanted} {}", sha256(&body))), "{case}");
            }
        }
    }
    // What names no model is for the route without a condition, untouched.
    let noise: Vec<u8> = (0..2_000_000_u32).map(|number| number.to_le_bytes()[1] ^ number.to_le_bytes()[0]).collect();
    for body in [b"hello".to_vec(), b"{\"model\":".to_vec(), b"{\"a\":[{\"model\":\"llava\"}]}".to_vec(), noise] {
        let answer = send(proxy.address(), "POST", "/v1/anything", &body).await;
        assert_eq!(
            (answer.head.status, answer.text()),
            (200, format!("rest {}", sha256(&body))),
            "{} bytes",
            body.len()
        );
    }
    for method in ["GET", "POST"] {
        assert_eq!(who(&send(proxy.address(), method, "/", "").await), "rest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_listeners_of_both_families_take_requests() {
    let named = Named::start(&["one"]).await;
    let head = "version: 1
listeners:
  - { address: \"127.0.0.1:0\" }
  - { address: \"[::1]:0\" }
  - { address: \"127.0.0.1:0\" }
routes: [{ name: all, upstream: one }]
";
    let proxy: Proxy = proxy(format!("{head}{}", named.yaml())).await;
    let addresses = &proxy.running().addresses;
    assert_eq!(addresses.iter().map(std::net::SocketAddr::is_ipv6).collect::<Vec<_>>(), [false, true, false]);
    assert_ne!(addresses[0], addresses[2]);
    for address in addresses {
        for body in [&b"x"[..], &[b'x'; 300_000]] {
            let answer = send(*address, "POST", "/", body).await;
            assert_eq!((answer.head.status, answer.text()), (200, format!("one {}", sha256(body))), "{address}");
        }
        let last = named.servers[0].1.got().pop().expect("it came");
        let client = last.fields.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        assert_eq!(client, Some(if address.is_ipv6() { "::1" } else { "127.0.0.1" }));
    }
}

/// A proxy before one plain server.
async fn before(url: &str) -> Proxy {
    proxy(support::http_yaml(&[url.to_owned()], "", "")).await
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_through_a_plain_upstream() {
    let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    // Every byte value, more than any buffer.
    let large: Bytes = (0..400_000_u32).map(|number| number.to_le_bytes()[0]).collect::<Vec<_>>().into();
    let server = RawUpstream::start(Script::new(vec![
        Step::ReadUntil("\r\n\r\n".into()),
        Step::Write(accept.into()),
        Step::Write("\x01from the server".into()),
        Step::ReadUntil("\x02from the client".into()),
        Step::Write(large.clone()),
        Step::ReadBytes(large.len()),
        Step::Write("\x03the end".into()),
        Step::Close,
    ]))
    .await
    .expect("a server");
    let proxy = before(&server.url()).await;
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("GET", "/socket?room=1", UPGRADE, "")).await;
    let head = client.reader.head().await;
    assert_eq!(head.status, 101, "{}", head.text);
    assert_eq!(head.field("upgrade"), Some("websocket"));
    assert!(head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{}", head.text);
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.send("\x02from the client").await;
    let H1 { mut reader, mut writer } = client;
    let (rest, sent) = tokio::join!(reader.rest(), tokio::io::AsyncWriteExt::write_all(&mut writer, &large));
    sent.expect("sent");
    let wanted = [b"\x01from the server", &large[..], b"\x03the end"].concat();
    assert!(rest == wanted, "{} bytes, not {}", rest.len(), wanted.len());
    let seen = server.connections().concat();
    let text = String::from_utf8_lossy(&seen[..600]).to_ascii_lowercase();
    for line in ["get /socket?room=1 http/1.1", "upgrade: websocket", "sec-websocket-key: dghlihnhbxbszsbub25jzq=="] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.lines().any(|line| line.starts_with("connection:") && line.contains("upgrade")), "{text}");
    assert!(seen.ends_with(&large), "what the client sent did not arrive whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_the_server_refuses_is_an_answer_like_any_other() {
    let refusal = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nno.";
    let server = RawUpstream::start(Script::answer(refusal)).await.expect("a server");
    let proxy = before(&server.url()).await;
    let answer = send_with(proxy.address(), "GET", "/socket", UPGRADE, "").await;
    assert_eq!((answer.head.status, answer.text().as_str(), answer.whole), (426, "no.", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_ends_when_either_side_leaves() {
    let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let script =
        vec![Step::ReadUntil("\r\n\r\n".into()), Step::Write(accept.into()), Step::Write("hello".into()), Step::Gate];
    let server = RawUpstream::start(Script::new(script)).await.expect("a server");
    // The server keeps its side open until the client has left.
    server.gate().close();
    let proxy = before(&server.url()).await;
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("GET", "/socket", UPGRADE, "")).await;
    assert_eq!(client.reader.head().await.status, 101);
    let series = format!("arriero_server_connections{{upstream=\"fleet\",server=\"{}\"}}", server.address());
    assert_eq!(proxy.metric(&series).await, 1.0);
    drop(client);
    support::eventually("the server's connection is closed", || async { proxy.metric(&series).await == 0.0 }).await;
}
