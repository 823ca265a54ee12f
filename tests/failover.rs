//! What happens when a server fails: which requests another server gets, and which it must not get.

mod support;

use std::time::Duration;

use arriero::demo::{Entry, Fault, FaultRule, Fleet, Host, HostConfig, Outcome, RawUpstream, Script, Step};
use serde_json::Value;
use support::fleet::{ended, fleet, generate, send, sha256, sized};
use support::wire::{Answer, Chunk, H1, proxy};
use support::{PATIENCE, Proxy, eventually, upstream_yaml};

const MB: usize = 1_000_000;

/// Every server in turn, and none ever left out.
const HTTP: &str = "balance: { policy: round_robin }
health: { active: off }
circuit: { consecutive_failures: 1000000 }";
const OLLAMA: &str = "balance: { policy: round_robin, model_affinity: off }
health: { active: off }
circuit: { consecutive_failures: 1000000 }";

/// Everything that may be tried again.
const EVERYTHING: &str = "retry: { attempts: 3, on: [connect, reset, first_byte_timeout, 5xx], replay_post: true }";

/// A proxy before a fleet, with keys for its route.
async fn before(fleet: &Fleet, kind: &str, route: &str) -> Proxy {
    proxy(upstream_yaml(kind, &fleet.urls(), route, if kind == "http" { HTTP } else { OLLAMA })).await
}

/// Strikes all inference of all hosts until it is cleared.
fn strike(fleet: &Fleet, fault: &Fault) {
    for host in &fleet.hosts {
        host.faults().clear();
        host.faults().always(fault.clone());
    }
}

async fn ask(proxy: &Proxy, body: impl AsRef<[u8]>) -> Answer {
    send(proxy.address(), "POST", "/api/generate", body).await
}

fn executions(fleet: &Fleet) -> Vec<Entry> {
    fleet.hosts.iter().flat_map(|host| host.ledger().inference()).collect()
}

async fn retries(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("arriero_retries_total{{upstream=\"fleet\",reason=\"{reason}\"}}")).await
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.head.status, answer.reason()), (status, Some(reason)), "{} {}", answer.head.text, answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_connections_costs_no_post_an_error() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "ollama", "").await;
    fleet.hosts[0].kill().await;
    let small = generate("m").into_bytes();
    let cases = [(small, 10), (sized("m", 20 * MB, true), 2), (sized("m", 20 * MB, false), 2)];
    let mut sent = Vec::new();
    for (body, times) in cases {
        let before = retries(&proxy, "connect_failed").await;
        for _ in 0..times {
            let answer = ask(&proxy, &body).await;
            assert_eq!((answer.head.status, answer.whole), (200, true), "{} {}", answer.head.text, answer.text());
            sent.push(sha256(&body));
        }
        assert!(retries(&proxy, "connect_failed").await > before, "the dead server was never tried");
    }
    let arrived: Vec<_> = executions(&fleet).into_iter().filter_map(|entry| entry.body_sha256).collect();
    assert_eq!(arrived, sent);
    assert_eq!(fleet.duplicates(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_connections_costs_no_get_an_error() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "http", "").await;
    fleet.hosts[0].kill().await;
    for method in ["GET", "HEAD", "GET", "HEAD", "GET", "HEAD"] {
        assert_eq!(send(proxy.address(), method, "/api/tags", "").await.head.status, 200);
    }
    assert_eq!(fleet.hosts[1].ledger().by_path("/api/tags").len(), 6);
    assert!(retries(&proxy, "connect_failed").await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_post_that_was_sent_is_never_sent_again() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "ollama", "timeouts: { first_byte: 3s }").await;
    let cases = [
        (Fault::ResetBeforeBody, 502, Some("upstream_reset")),
        (Fault::ResetBeforeHeaders, 502, Some("upstream_reset")),
        (Fault::CloseBeforeHeaders, 502, Some("upstream_reset")),
        (Fault::Hang, 504, Some("first_byte_timeout")),
        (Fault::Status(500, "boom".to_owned()), 500, None),
        // The last one: from then on these bodies are tried nowhere.
        (Fault::RunnerCrash, 500, None),
    ];
    for (fault, status, reason) in cases {
        for body in [generate("m").into_bytes(), sized("m", 3 * MB, false)] {
            let before = executions(&fleet).len();
            strike(&fleet, &fault);
            let answer = ask(&proxy, &body).await;
            assert_eq!((answer.head.status, answer.whole), (status, true), "{fault:?}: {}", answer.text());
            if reason.is_some() {
                assert_refused(&answer, status, reason.unwrap_or_default());
            }
            assert_eq!(executions(&fleet).len() - before, 1, "{fault:?}");
        }
    }
    assert_eq!(fleet.duplicates(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_post_that_was_sent_on_a_kept_connection_is_not_sent_again_either() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = before(&fleet, "ollama", "").await;
    for fault in [Fault::ResetBeforeHeaders, Fault::CloseBeforeHeaders] {
        assert_eq!(ask(&proxy, generate("m")).await.head.status, 200);
        let before = executions(&fleet).len();
        fleet.hosts[0].faults().next(1, fault.clone());
        let answer = ask(&proxy, generate("m")).await;
        assert_eq!(executions(&fleet).len() - before, 1, "{fault:?}: {}", answer.head.text);
        assert_refused(&answer, 502, "upstream_reset");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replay_post_resets_and_errors_go_to_the_next_server() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "ollama", EVERYTHING).await;
    let tiny = br#"{"model":"m","prompt":"hi there"}"#.to_vec();
    assert_eq!(tiny.len(), 33);
    let bodies = [tiny, sized("m", 300_000, true), sized("m", 300_000, false), sized("m", 5 * MB, true)];
    let faults = [
        Fault::ResetBeforeBody,
        Fault::ResetBeforeHeaders,
        Fault::CloseBeforeHeaders,
        Fault::Status(500, "out of memory".to_owned()),
    ];
    for fault in faults {
        let id = fleet.hosts[0].faults().always(fault.clone());
        for body in &bodies {
            let (bad, good) = (fleet.hosts[0].ledger().inference().len(), fleet.hosts[1].ledger().inference().len());
            for _ in 0..2 {
                let answer = ask(&proxy, body).await;
                let case = format!("{fault:?}, {} bytes", body.len());
                assert_eq!((answer.head.status, answer.whole), (200, true), "{case}: {}", answer.text());
            }
            assert!(fleet.hosts[0].ledger().inference().len() > bad, "{fault:?}: never struck");
            let arrived = fleet.hosts[1].ledger().inference();
            assert_eq!(arrived.len() - good, 2);
            for entry in &arrived[good..] {
                assert_eq!(entry.body_sha256, Some(sha256(body)), "{fault:?}: {} bytes; {entry:?}", body.len());
            }
        }
        fleet.hosts[0].faults().remove(id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replay_post_a_server_that_hangs_is_left_for_the_next_one() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "ollama", &format!("{EVERYTHING}\ntimeouts: {{ first_byte: 1s }}")).await;
    fleet.hosts[0].faults().always(Fault::Hang);
    for body in [generate("m").into_bytes(), sized("m", 300_000, false), sized("m", 5 * MB, true)] {
        for _ in 0..2 {
            let answer = tokio::time::timeout(PATIENCE, ask(&proxy, &body)).await;
            let answer = answer.unwrap_or_else(|_| panic!("no time limit ended it: {} bytes", body.len()));
            assert_eq!((answer.head.status, answer.whole), (200, true), "{}", answer.text());
        }
        let arrived = fleet.hosts[1].ledger().inference();
        let last = arrived.last().and_then(|entry| entry.body_sha256.clone());
        assert_eq!((arrived.len() % 2, last), (0, Some(sha256(&body))));
    }
    assert!(fleet.hosts[0].ledger().inference().len() >= 3, "the server that hangs was never tried");
    let given_up = |ledger: &arriero::demo::Ledger| {
        ledger.inference().iter().all(|entry| entry.outcome() == Some(Outcome::ClientGone))
    };
    fleet.hosts[0].ledger().wait_until(PATIENCE, given_up).await.expect("attempts that were given up are cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_first_byte_nothing_is_sent_again_and_a_cut_shows() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "ollama", EVERYTHING).await;
    let chat = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    let cases = [
        Fault::ResetAfterTokens(3),
        Fault::CloseAfterTokens(3),
        Fault::ResetAfterTokens(1),
        Fault::CloseAfterTokens(1),
    ];
    for (number, fault) in cases.into_iter().enumerate() {
        strike(&fleet, &fault);
        let mut client = H1::connect(proxy.address()).await;
        client.send(support::wire::post("/api/chat", chat)).await;
        let head = client.reader.head().await;
        assert_eq!((head.status, head.field("transfer-encoding")), (200, Some("chunked")), "{fault:?}");
        let mut lines = Vec::new();
        let end = loop {
            match client.reader.chunk().await {
                Chunk::Data(data) => lines.extend(data),
                end => break end,
            }
        };
        let lines = String::from_utf8(lines).expect("text");
        assert_eq!(end, Chunk::Cut, "{fault:?}: {lines}");
        assert!(!lines.contains("\"done\":true"), "{fault:?}: {lines}");
        // A FIN comes after what was sent; a reset may overtake it.
        if let Fault::CloseAfterTokens(tokens) = fault {
            assert_eq!(lines.lines().count(), tokens + 1, "{lines}");
        }
        let last = lines.lines().last().expect("a line");
        assert_eq!(last, r#"{"error":"the server's answer broke off"}"#, "{fault:?}");
        assert_eq!(executions(&fleet).len(), number + 1, "{fault:?}");
        let want = f64::from(u32::try_from(number + 1).expect("few"));
        eventually("upstream_truncated is counted", || async { ended(&proxy, "upstream_truncated").await == want })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_is_sent_again_after_a_reset_where_the_route_says_so_and_a_post_is_not() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "http", "retry: { attempts: 2, on: [reset] }").await;
    for fault in [Fault::ResetBeforeBody, Fault::ResetBeforeHeaders, Fault::CloseBeforeHeaders] {
        fleet.hosts[0].faults().add(FaultRule::everywhere(fault.clone()));
        for method in ["GET", "GET", "HEAD", "HEAD"] {
            let answer = send(proxy.address(), method, "/api/tags", "").await;
            assert_eq!(answer.head.status, 200, "{fault:?} {method}");
        }
        let before = executions(&fleet).len();
        let (one, two) = (ask(&proxy, generate("m")).await, ask(&proxy, generate("m")).await);
        let mut both = [one.head.status, two.head.status];
        both.sort_unstable();
        assert_eq!(both, [200, 502], "{fault:?}");
        assert_eq!(executions(&fleet).len() - before, 2, "{fault:?}");
        fleet.hosts[0].faults().clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_attempts_own_error_is_passed_on_with_the_servers_body() {
    let fleet = fleet(3, &["m"]).await;
    let route = "retry: { attempts: 2, on: [5xx], replay_post: true }";
    let proxy = before(&fleet, "ollama", route).await;
    for (number, host) in fleet.hosts.iter().enumerate() {
        host.faults().always(Fault::Status(500 + 7 * u16::from(number == 2), format!("host {number} is <full>")));
    }
    for path in ["/api/generate", "/v1/completions"] {
        let before = executions(&fleet).len();
        let answer = send(proxy.address(), "POST", path, generate("m")).await;
        let tried = &executions(&fleet)[before..];
        assert_eq!(tried.len(), 2, "{}", answer.text());
        assert!(matches!(answer.head.status, 500 | 507), "{}", answer.head.text);
        let own = (0..3).find(|number| answer.text().contains(&format!("host {number} is \\u003cfull\\u003e")));
        let own = own.unwrap_or_else(|| panic!("no server's own words: {}", answer.text()));
        let direct = send(fleet.hosts[own].address(), "POST", path, generate("m")).await;
        assert_eq!(answer.body, direct.body);
        assert_eq!(answer.head.field("content-type"), direct.head.field("content-type"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_closed_its_idle_connections_does_not_fail_the_next_post() {
    let config = || HostConfig::new("one").small_model("m");
    let mut host = Host::start(config()).await.expect("a host");
    let address = host.address();
    let proxy = proxy(upstream_yaml("ollama", &[host.url()], "", OLLAMA)).await;
    for round in 0..12 {
        let body = if round % 2 == 0 { generate("m").into_bytes() } else { sized("m", MB, true) };
        let before = host.ledger().inference().len();
        let answer = ask(&proxy, &body).await;
        assert_eq!(answer.head.status, 200, "round {round}: {} {}", answer.head.text, answer.text());
        assert_eq!(host.ledger().inference().len() - before, 1, "round {round}");
        match round % 3 {
            // RST, and nobody listens for a moment.
            0 => {
                host.kill().await;
                host.restart().await.expect("the port is ours");
            }
            // RST.
            1 => {
                host.reset_connections();
                let closed = async { host.open_connections().wait_for(|open| *open == 0).await.is_ok() };
                assert!(tokio::time::timeout(PATIENCE, closed).await.expect("they close"));
            }
            // FIN.
            _ => {
                host.stop().await;
                host = Host::start_on(address, config()).await.expect("the port is free");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_capped() {
    let fleet = fleet(4, &["m"]).await;
    let proxy = before(&fleet, "ollama", EVERYTHING).await;
    strike(&fleet, &Fault::ResetBeforeHeaders);
    assert_refused(&ask(&proxy, generate("m")).await, 502, "upstream_reset");
    assert_eq!(executions(&fleet).len(), 3);
    let mut hosts: Vec<_> = fleet.hosts.iter().map(|host| host.ledger().inference().len()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, [0, 1, 1, 1], "each attempt at another server");
    for host in &fleet.hosts {
        host.kill().await;
    }
    assert_refused(&ask(&proxy, generate("m")).await, 502, "connect_failed");
    assert_eq!(retries(&proxy, "connect_failed").await, 2.0);
    let once = before(&fleet, "http", "retry: { attempts: 1 }").await;
    assert_refused(&ask(&once, generate("m")).await, 502, "connect_failed");
    assert_eq!(retries(&once, "connect_failed").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_servers_are_down_the_client_is_told_in_its_own_dialect() {
    let fleet = fleet(2, &["m"]).await;
    let unchecked = before(&fleet, "ollama", "").await;
    let health = "health: { active: { interval: 30ms, timeout: 2s, unhealthy: 1 } }";
    let checked = proxy(upstream_yaml("ollama", &fleet.urls(), "", health)).await;
    for host in &fleet.hosts {
        host.kill().await;
    }
    for host in &fleet.hosts {
        let series = format!("arriero_server_up{{upstream=\"fleet\",server=\"{}\"}}", host.address());
        eventually("it is seen to be down", || async { checked.metric(&series).await == 0.0 }).await;
    }
    for (proxy, status, reason) in [(&unchecked, 502, "connect_failed"), (&checked, 503, "no_server")] {
        for (path, message) in [
            ("/api/chat", "/error"),
            ("/api/embed", "/error"),
            ("/v1/chat/completions", "/error/message"),
            ("/v1/messages", "/error/message"),
        ] {
            let answer = send(proxy.address(), "POST", path, generate("m")).await;
            assert_refused(&answer, status, reason);
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert!(body.pointer(message).is_some_and(Value::is_string), "{path}: {body}");
            assert_eq!(body["type"] == "error", path == "/v1/messages", "{path}: {body}");
            assert_eq!(body["error"].get("code").is_some(), path == "/v1/chat/completions", "{path}: {body}");
            let content_type = answer.head.field("content-type").unwrap_or_default();
            assert!(content_type.starts_with("application/json"), "{path}: {content_type}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_http_is_a_bad_gateway() {
    let answers = [
        "\u{16}\u{3}\u{1} no HTTP at all\r\n\r\n".to_owned(),
        "HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello".to_owned(),
        format!("HTTP/1.1 200 OK\r\nX-Huge: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(2 * MB)),
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X-Many: a\r\n".repeat(5_000)),
    ];
    let mut wrong = Vec::new();
    for bytes in answers {
        let script = Script::new(vec![Step::ReadRequest, Step::Write(bytes.clone().into()), Step::Close]);
        let server = RawUpstream::start(script).await.expect("a server");
        let proxy = proxy(upstream_yaml("http", &[server.url()], "timeouts: { first_byte: 10s }", HTTP)).await;
        for method in ["GET", "POST"] {
            let waited =
                tokio::time::timeout(Duration::from_secs(15), send(proxy.address(), method, "/api/chat", "{}"));
            let seen = match waited.await {
                Ok(answer) => (answer.head.status, answer.reason().map(str::to_owned)),
                Err(_) => (0, None),
            };
            if seen != (502, Some("upstream_protocol".to_owned())) {
                wrong.push((bytes.chars().take(70).collect::<String>(), method, seen));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ollamas_garbage_and_huge_headers_are_a_bad_gateway_in_its_dialect() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = before(&fleet, "ollama", "").await;
    for fault in [Fault::Garbage, Fault::HugeHeader(2 * MB)] {
        fleet.hosts[0].faults().next(1, fault.clone());
        let before = executions(&fleet).len();
        let answer = ask(&proxy, generate("m")).await;
        assert_refused(&answer, 502, "upstream_protocol");
        assert!(answer.text().starts_with(r#"{"error":""#), "{fault:?}: {}", answer.text());
        assert_eq!(executions(&fleet).len() - before, 1, "{fault:?}");
    }
}
