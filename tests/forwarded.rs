//! What a server learns about a request from its head, and what it must not learn.

mod support;

use arriero::demo::{Entry, Host, HostConfig, RawUpstream, Script};
use support::wire::{Answer, H1, H2, Head, Upload, ask, proxy};
use support::{PATIENCE, Proxy, http_yaml, ollama_yaml};

const LISTENER: &str = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn ollama() -> (Host, Proxy) {
    let host = Host::start(HostConfig::new("gpu").small_model("llava:13b").tokens(1)).await.expect("a host");
    let proxy = proxy(ollama_yaml(&[host.url()], "") + LISTENER).await;
    (host, proxy)
}

async fn plain(answer: &'static str) -> (RawUpstream, Proxy) {
    let server = RawUpstream::start(Script::answer(answer)).await.expect("a server");
    let proxy = proxy(http_yaml(&[server.url()], "", "") + LISTENER).await;
    (server, proxy)
}

/// The heads that a plain server got, in order.
fn heads(server: &RawUpstream) -> Vec<Head> {
    let all = server.connections();
    let text: String = all.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    // A request line has its status where an answer has it not: any number will do for the parser.
    let heads = text.split_terminator("\r\n\r\n").filter(|head| head.contains(" HTTP/1.1"));
    heads.map(|head| Head::parse(&format!("HTTP/1.1 200 {head}"))).collect()
}

/// Sends a generate request with these fields; what the host got.
async fn generated(host: &Host, proxy: &Proxy, fields: &str) -> (Entry, Answer) {
    let body = r#"{"model":"llava:13b","prompt":"hi"}"#;
    let length = body.len();
    let answer = ask(
        proxy.address(),
        format!(
            "POST /api/generate HTTP/1.1\r\nHost: arriero.test:8080\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        ),
    )
    .await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    (host.ledger().inference().pop().expect("the request"), answer)
}

/// All values of a field.
fn all<'a>(entry: &'a Entry, name: &str) -> Vec<&'a str> {
    entry.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
}

fn elements(value: &str) -> Vec<String> {
    let mut parts: Vec<_> = value.split(';').map(|part| part.trim().replace('"', "").to_ascii_lowercase()).collect();
    parts.sort_unstable();
    parts
}

#[tokio::test]
async fn a_server_learns_who_asked_and_how() {
    let (host, proxy) = ollama().await;
    let (entry, _) = generated(&host, &proxy, "").await;
    assert_eq!(all(&entry, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all(&entry, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(all(&entry, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&entry, "x-forwarded-host"), ["arriero.test:8080"]);
    let [forwarded] = all(&entry, "forwarded")[..] else { panic!("{:?}", entry.headers) };
    assert_eq!(elements(forwarded), ["for=127.0.0.1", "host=arriero.test:8080", "proto=http"]);
    let [via] = all(&entry, "via")[..] else { panic!("{:?}", entry.headers) };
    assert!(via.starts_with("1.1 "), "{via}");
}

#[tokio::test]
async fn a_server_learns_the_same_of_an_http2_request() {
    let (host, proxy) = ollama().await;
    let mut request = H2::request("POST", "/api/generate", Upload::new(None).1);
    request.headers_mut().insert("x-forwarded-host", "evil.test".parse().expect("a value"));
    let body = r#"{"model":"llava:13b","prompt":"hi"}"#;
    let answer = H2::connect(proxy.address()).await.ask(request, body.into()).await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    let entry = host.ledger().inference().pop().expect("the request");
    assert_eq!(all(&entry, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all(&entry, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&entry, "x-forwarded-host"), ["arriero.test"], "{:?}", entry.headers);
    assert_eq!(all(&entry, "host"), [host.address().to_string()]);
    let [via] = all(&entry, "via")[..] else { panic!("{:?}", entry.headers) };
    assert!(via.starts_with("2"), "{via}");
    assert!(answer.head.field("x-request-id").is_some(), "{}", answer.head.text);
    assert_eq!(answer.head.field("x-request-id"), entry.request_id.as_deref());
}

#[tokio::test]
async fn an_ipv6_client_is_told_in_brackets() {
    let host = Host::start(HostConfig::new("gpu").small_model("llava:13b").tokens(1)).await.expect("a host");
    let proxy = proxy(ollama_yaml(&[host.url()], "") + "\nlisteners: [{ address: \"[::1]:0\" }]\n").await;
    let (entry, _) = generated(&host, &proxy, "").await;
    assert_eq!((all(&entry, "x-forwarded-for"), all(&entry, "x-real-ip")), (vec!["::1"], vec!["::1"]));
    let forwarded = all(&entry, "forwarded")[0];
    assert!(forwarded.contains("for=\"[::1]\""), "{forwarded}");
}

#[tokio::test]
async fn what_a_client_says_about_itself_is_replaced() {
    let (host, proxy) = ollama().await;
    let lies = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Real-IP: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n\
                X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n";
    let (entry, _) = generated(&host, &proxy, lies).await;
    assert_eq!(all(&entry, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all(&entry, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(all(&entry, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&entry, "x-forwarded-host"), ["arriero.test:8080"]);
    assert_eq!(all(&entry, "forwarded").len(), 1);
    assert!(!format!("{:?}", entry.headers).contains("1.2.3.4"), "{:?}", entry.headers);
}

#[tokio::test]
async fn what_a_client_says_about_itself_is_replaced_even_where_there_is_nothing_to_put_in_its_place() {
    let (server, proxy) = plain(OK).await;
    let answer = ask(proxy.address(), "GET / HTTP/1.0\r\nX-Forwarded-Host: evil.test\r\n\r\n").await;
    assert_eq!(answer.text(), "ok");
    let head = heads(&server).pop().expect("the request");
    assert!(!head.text.contains("evil.test"), "{}", head.text);
}

#[tokio::test]
async fn via_keeps_those_who_were_there_before() {
    let (host, proxy) = ollama().await;
    let (entry, _) = generated(&host, &proxy, "Via: 1.0 squid\r\n").await;
    let via = all(&entry, "via").join(", ");
    assert!(via.starts_with("1.0 squid, 1.1 "), "{via}");
}

#[tokio::test]
async fn host_is_that_of_the_server_for_ollama_and_that_of_the_client_for_a_plain_server() {
    let (host, proxy) = ollama().await;
    let (entry, _) = generated(&host, &proxy, "").await;
    assert_eq!(all(&entry, "host"), [host.address().to_string()]);
    let (server, proxy) = plain(OK).await;
    ask(proxy.address(), "GET / HTTP/1.1\r\nHost: app.test:99\r\n\r\n").await;
    H2::connect(proxy.address()).await.ask(H2::request("GET", "/", Upload::empty()), "".into()).await;
    let hosts: Vec<_> = heads(&server).iter().map(|head| head.all("host").join("|")).collect();
    assert_eq!(hosts, ["app.test:99", "arriero.test"]);
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_comes_back() {
    let (host, proxy) = ollama().await;
    for id in ["client-42", "0af7651916cd43dd8448eb211c80319c", "550e8400-e29b-41d4-a716-446655440000"] {
        let (entry, answer) = generated(&host, &proxy, &format!("X-Request-Id: {id}\r\n")).await;
        assert_eq!(all(&entry, "x-request-id"), [id]);
        assert_eq!(answer.head.all("x-request-id"), [id]);
    }
}

#[tokio::test]
async fn a_request_id_is_made_where_there_is_none_or_no_sane_one() {
    let (host, proxy) = ollama().await;
    let long = "a".repeat(5000);
    let mut seen = std::collections::BTreeSet::new();
    for id in ["", "\r\n", "two words", "caf\u{e9}", "a\tb", &long] {
        let field = if id.is_empty() { String::new() } else { format!("X-Request-Id: {}\r\n", id.trim()) };
        let (entry, answer) = generated(&host, &proxy, &field).await;
        let [made] = all(&entry, "x-request-id")[..] else { panic!("{:?}", entry.headers) };
        assert!(made != id && made.len() >= 8 && made.bytes().all(|byte| byte.is_ascii_graphic()), "{made:?}");
        assert_eq!(answer.head.all("x-request-id"), [made]);
        assert!(seen.insert(made.to_owned()), "{made} twice");
    }
}

#[tokio::test]
async fn an_answer_of_our_own_has_the_request_id_too() {
    let (_host, proxy) = ollama().await;
    let body = r#"{"model":"nowhere"}"#;
    let head = "POST /api/chat HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: mine";
    let answer = ask(proxy.address(), format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!((answer.head.status, answer.head.all("x-request-id")), (404, vec!["mine"]));
    assert_eq!(answer.reason(), Some("model_not_found"));
}

#[tokio::test]
async fn fields_of_the_connection_stop_at_the_proxy() {
    let (server, proxy) = plain(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nUpgrade: foo\r\nX-Public: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok",
    )
    .await;
    let answer = ask(
        proxy.address(),
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, TE\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nTE: trailers\r\nTrailer: X-Sum\r\nUpgrade: foo\r\nProxy-Authorization: Basic eA==\r\n\
         Authorization: Bearer k\r\nCookie: a=1\r\nX-Empty:\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n\
         User-Agent: curl/8\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n",
    )
    .await;
    assert_eq!(answer.head.status, 200, "{} {}", answer.head.text, answer.text());
    let head = heads(&server).pop().expect("the request");
    for gone in ["keep-alive", "proxy-connection", "te", "upgrade", "proxy-authorization"] {
        assert_eq!(head.field(gone), None, "{}", head.text);
    }
    for (name, values) in [
        ("authorization", vec!["Bearer k"]),
        ("cookie", vec!["a=1"]),
        ("x-empty", vec![""]),
        ("accept", vec!["text/html"]),
        ("accept-encoding", vec!["gzip"]),
        ("user-agent", vec!["curl/8"]),
        ("x-twice", vec!["1", "2"]),
    ] {
        assert_eq!(head.all(name), values, "{}", head.text);
    }
    let request = H2::request("GET", "/", Upload::empty());
    let over_http2 = H2::connect(proxy.address()).await.ask(request, "".into()).await;
    for answer in [answer, over_http2] {
        assert_eq!((answer.head.field("x-public"), answer.head.all("set-cookie")), (Some("2"), vec!["a=1", "b=2"]));
        for gone in ["x-secret", "keep-alive", "proxy-connection", "upgrade"] {
            assert_eq!(answer.head.field(gone), None, "{}", answer.head.text);
        }
    }
}

/// RFC 9110, 7.6.1: a proxy removes the fields that `Connection` names, known to it or not.
#[tokio::test]
async fn a_field_that_connection_names_stops_at_the_proxy() {
    let (server, proxy) = plain(OK).await;
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n";
    let answer = ask(proxy.address(), request).await;
    assert_eq!(answer.head.status, 200, "{} {}", answer.head.text, answer.text());
    let head = heads(&server).pop().expect("the request");
    assert_eq!(head.field("x-hop"), None, "{}", head.text);
    assert!(!head.all("connection").join(",").to_ascii_lowercase().contains("x-hop"), "{}", head.text);
}

#[tokio::test]
async fn a_client_cannot_strip_what_matters_by_naming_it_in_connection() {
    let (server, proxy) = plain(OK).await;
    for field in ["Authorization", "X-Forwarded-For", "X-Request-Id", "Host", "Content-Length", "X-Real-IP"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: {field}\r\nAuthorization: Bearer k\r\nContent-Length: 0\r\n\r\n"
        );
        let before = heads(&server).len();
        let answer = ask(proxy.address(), request).await;
        // Both are right: to refuse it, or to pass on what matters all the same.
        if answer.head.status == 400 {
            assert_eq!(heads(&server).len(), before, "{field}");
            continue;
        }
        let head = heads(&server).pop().expect("the request");
        assert_eq!((head.field("authorization"), head.field("host")), (Some("Bearer k"), Some("a.test")), "{field}");
        assert_eq!(head.field("x-forwarded-for"), Some("127.0.0.1"), "{field}: {}", head.text);
        assert!(head.field("x-request-id").is_some() && head.field("x-real-ip").is_some(), "{field}: {}", head.text);
    }
}

#[tokio::test]
async fn a_server_that_closes_its_connection_does_not_cost_the_client_its_own() {
    let (server, proxy) = plain("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    let mut client = H1::connect(proxy.address()).await;
    for _ in 0..3 {
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(answer.text(), "ok");
        assert_ne!(answer.head.field("connection"), Some("close"), "{}", answer.head.text);
    }
    assert_eq!(server.connections().len(), 3, "a closed connection is not used again");
}

#[tokio::test]
async fn a_client_that_closes_its_connection_does_not_cost_the_server_its_own() {
    let (server, proxy) = plain(OK).await;
    for _ in 0..3 {
        let mut client = H1::connect(proxy.address()).await;
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
        assert_eq!((answer.text().as_str(), answer.head.field("connection")), ("ok", Some("close")));
        let rest = tokio::time::timeout(PATIENCE, client.reader.rest()).await;
        assert_eq!(rest.expect("it is closed"), b"");
    }
    assert_eq!((server.connections().len(), heads(&server).len()), (1, 3), "one connection for all");
    assert!(!heads(&server).iter().any(|head| head.field("connection") == Some("close")));
}

#[tokio::test]
async fn path_and_query_reach_the_server_as_they_were_sent() {
    let (server, proxy) = plain(OK).await;
    for target in ["/a%20b?x=%2F&y=a+b", "/a?", "/%C3%A9", "/a//b", "/a/?q=/../c", "/~x:y@z!$&'()*+,;="] {
        assert_eq!(ask(proxy.address(), format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await.text(), "ok");
        // Requests may come on several connections, so the newest need not be the last in the list.
        let line = format!("HTTP/1.1 200 GET {target} HTTP/1.1");
        let heads = heads(&server);
        let lines: Vec<_> = heads.iter().filter_map(|head| head.text.lines().next()).collect();
        assert!(lines.contains(&line.as_str()), "{line}: {lines:?}");
    }
}
