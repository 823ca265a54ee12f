//! How often, how many at a time, how fast: limits through the proxy.

mod support;

use std::time::Duration;

use arriero::clock;
use arriero::demo::{Fleet, Host, HostConfig, RawUpstream, Script};
use support::edge::{H2C, both, inference, plain, upstream};
use support::fleet::{Small, ended, fleet, generate, request, send, send_with};
use support::frames::{self, DATA, END_STREAM, Raw};
use support::keys::{KeysFile, bearer};
use support::wire::{Answer, H1, H2, Upload, proxy};
use support::{PATIENCE, Proxy, eventually};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// A plain server behind limits, with trusted proxies so that a test can be many clients.
async fn limited(limits: &str) -> (Small, Proxy) {
    plain(", trusted_proxies: [127.0.0.1]", &format!(", {limits}")).await
}

/// Asks as this client with these fields.
async fn as_client(proxy: &Proxy, client: &str, fields: &str) -> Answer {
    send_with(proxy.address(), "GET", "/", &format!("X-Forwarded-For: {client}\r\n{fields}"), "").await
}

async fn status(proxy: &Proxy, client: &str, fields: &str) -> u16 {
    as_client(proxy, client, fields).await.head.status
}

fn number(answer: &Answer, field: &str) -> u64 {
    let text = answer.head.field(field).unwrap_or_else(|| panic!("no {field}: {}", answer.head.text));
    text.parse().expect("a number")
}

/// nginx: `rate=100r/m`, `burst=20 nodelay`. One request and the burst pass at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_passes_at_once_and_the_next_is_told_when_to_come_again() {
    for limit in ["rate: 100/m, burst: 20", "preset: general"] {
        let (server, proxy) = limited(&format!("rate_limits: [{{ key: client_ip, {limit} }}]")).await;
        let mut client = H1::connect(proxy.address()).await;
        let one = request("GET", "/", "", "");
        client.send(one.repeat(21)).await;
        for left in (0..21).rev() {
            let answer = client.reader.answer().await;
            assert_eq!((answer.head.status, number(&answer, "ratelimit-limit")), (200, 21), "{left} left");
            // One more may have come back meanwhile, each 600 ms.
            assert!(number(&answer, "ratelimit-remaining") >= left, "{}", answer.head.text);
            assert!(number(&answer, "ratelimit-reset") <= 13);
            assert_eq!(answer.head.field("retry-after"), None);
        }
        let refused = async {
            loop {
                let answer = client.ask(&one).await;
                if answer.head.status != 200 {
                    return answer;
                }
            }
        };
        let refused = timeout(PATIENCE, refused).await.expect("the burst is used up");
        assert_eq!((refused.head.status, refused.reason()), (429, Some("rate_limited")));
        assert_eq!((number(&refused, "retry-after"), number(&refused, "ratelimit-remaining")), (1, 0));
        assert!((12..=13).contains(&number(&refused, "ratelimit-reset")), "{}", refused.head.text);
        assert!(refused.text().contains("too many requests"), "{}", refused.text());
        // Another client has a burst of its own; an IPv6 network is one client.
        assert_eq!(status(&proxy, "192.0.2.7", "").await, 200);
        // Whoever waits passes again.
        let again = async { while client.ask(&one).await.head.status != 200 {} };
        timeout(PATIENCE, again).await.expect("it passes again");
        assert!(server.got().len() >= 23);
        assert!(ended(&proxy, "rate_limited").await >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_what_the_key_says() {
    let once = |key: &str| format!("rate_limits: [{{ key: {key}, rate: 1/h }}]");
    let (_server, proxy) = limited(&once("client_ip")).await;
    for (client, wanted) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("::ffff:192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("2001:db8::1", 200),
        ("2001:db8::ffff:1", 429),
        ("2001:db8:0:1::1", 200),
        // What a client invents before its own address changes nothing.
        ("203.0.113.9, 192.0.2.1", 429),
    ] {
        assert_eq!(status(&proxy, client, "").await, wanted, "{client}");
    }
    let (_server, proxy) = limited(&once("\"header:X-Team\"")).await;
    for (fields, wanted) in
        [("X-Team: a\r\n", 200), ("x-team: a\r\n", 429), ("X-Team: b\r\n", 200), ("", 200), ("", 429)]
    {
        assert_eq!(status(&proxy, "192.0.2.1", fields).await, wanted, "{fields:?}");
    }
    let (_server, proxy) = limited(&once("host")).await;
    for (host, wanted) in
        [("a.test", 200), ("A.TEST:80", 429), ("a.test.", 429), ("b.test", 200), ("[::1]", 200), ("[0:0::1]:81", 429)]
    {
        assert_eq!(status(&proxy, "192.0.2.1", &format!("Host: {host}\r\n")).await, wanted, "{host}");
    }
    let (_server, proxy) = limited(&once("route")).await;
    assert_eq!((status(&proxy, "192.0.2.1", "").await, status(&proxy, "192.0.2.2", "").await), (200, 429));
    let (_server, proxy) = limited(&once("[client_ip, \"header:X-Team\"]")).await;
    for (client, team, wanted) in
        [("192.0.2.1", "a", 200), ("192.0.2.1", "b", 200), ("192.0.2.2", "a", 200), ("192.0.2.2", "a", 429)]
    {
        assert_eq!(status(&proxy, client, &format!("X-Team: {team}\r\n")).await, wanted, "{client} {team}");
    }
    // Each must allow it, and what one refuses is counted by none.
    let two = "rate_limits: [{ key: client_ip, rate: 2/h, burst: 1 }, { key: \"header:X-Team\", rate: 1/h }]";
    let (_server, proxy) = limited(two).await;
    for (team, wanted) in [("a", 200), ("a", 429), ("a", 429), ("b", 200), ("c", 429)] {
        assert_eq!(status(&proxy, "192.0.2.1", &format!("X-Team: {team}\r\n")).await, wanted, "{team}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_keys_are_counted_by_their_own_names() {
    let fleet = fleet(1, &["llava", "mistral"]).await;
    let keys = KeysFile::new(&[("0000000a", ""), ("0000000b", "")]);
    let before = |limits: &str, auth: &str| {
        let route = format!("routes: [{{ name: all, upstream: fleet, rate_limits: [{limits}] }}]\n");
        proxy(format!("version: 1\n{H2C}{route}{}{auth}", upstream(&fleet.hosts[0].url(), "ollama")))
    };
    let by_model = before("{ key: model, rate: 1/h }", "").await;
    for (name, wanted) in [("llava", 200), ("LLaVA:latest", 429), ("library/llava", 429), ("mistral", 200)] {
        for path in ["/api/generate", "/v1/completions"] {
            let wanted = if path == "/v1/completions" { 429 } else { wanted };
            let answer = send(by_model.address(), "POST", path, generate(name)).await;
            assert_eq!(answer.head.status, wanted, "{path} {name}: {}", answer.text());
            assert_eq!(answer.head.field("retry-after").is_some(), wanted == 429);
        }
    }
    assert_eq!(send(by_model.address(), "GET", "/api/tags", "").await.head.status, 200, "it has no model");
    let by_key = before("{ key: [api_key, model], rate: 1/h }", &keys.yaml()).await;
    for (id, name, wanted) in [
        ("0000000a", "llava", 200),
        ("0000000a", "llava", 429),
        ("0000000a", "mistral", 200),
        ("0000000b", "llava", 200),
    ] {
        let answer = send_with(by_key.address(), "POST", "/api/generate", &bearer(id), generate(name)).await;
        assert_eq!(answer.head.status, wanted, "{id} {name}");
    }
    assert_eq!(inference(&fleet.hosts[0]), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_keys_is_limited_before_any_key_is_looked_at() {
    let keys = KeysFile::new(&[("0000000a", "")]);
    let server = Small::named("web").await;
    let yaml = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", h2c: true, trusted_proxies: [127.0.0.1] }}]\n\
         routes: [{{ name: all, upstream: fleet, rate_limits: [{{ key: client_ip, rate: 1/h, burst: 4 }}] }}]\n{}{}",
        upstream(&server.url(), "http"),
        keys.yaml()
    );
    let proxy = proxy(yaml).await;
    let wrong = [bearer("0000000b"), String::new(), bearer("0000000c"), "Authorization: Basic !!\r\n".to_owned()];
    for (fields, wanted) in wrong.iter().zip([401, 401, 401, 400]) {
        assert_eq!(status(&proxy, "192.0.2.1", fields).await, wanted, "{fields}");
    }
    assert_eq!(status(&proxy, "192.0.2.1", &bearer("0000000a")).await, 200, "the fifth");
    for fields in [&wrong[0], &bearer("0000000a")] {
        assert_eq!(status(&proxy, "192.0.2.1", fields).await, 429, "now also with a good key: {fields}");
    }
    assert_eq!(status(&proxy, "192.0.2.2", &bearer("0000000a")).await, 200);
    assert_eq!(server.got().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_request_waits_and_is_gone_when_its_client_is() {
    // One goes at once, two wait for 250 and 500 ms.
    let (server, proxy) = limited("rate_limits: [{ key: client_ip, rate: 4/s, burst: 2, delay: all }]").await;
    let start = clock::now();
    let ask = || async { (status(&proxy, "192.0.2.1", "").await, clock::now() - start) };
    let (first, second, third) = tokio::join!(ask(), ask(), ask());
    let mut answers = [first, second, third];
    answers.sort_by_key(|(_, at)| *at);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    for (number, (_, at)) in (0..).zip(answers) {
        assert!(at >= Duration::from_millis(250) * number, "{answers:?}");
    }
    assert_eq!(server.got().len(), 3);
    let (server, proxy) = limited("rate_limits: [{ key: client_ip, rate: 1/h, burst: 1, delay: all }]").await;
    assert_eq!(status(&proxy, "192.0.2.1", "").await, 200);
    let mut waiting = H1::connect(proxy.address()).await;
    waiting.send(request("GET", "/", "X-Forwarded-For: 192.0.2.1\r\n", "")).await;
    let series = "arriero_requests_in_flight{route=\"all\"}";
    eventually("it waits", async || proxy.metric(series).await == 1.0).await;
    assert_eq!(status(&proxy, "192.0.2.1", "").await, 429, "there is one place to wait in");
    drop(waiting);
    eventually("its client has left", async || ended(&proxy, "client_closed").await == 1.0).await;
    assert_eq!(server.got().len(), 1, "the server hears nothing of it");
}

/// A host whose answers go on until its gate opens.
async fn slow(route: &str, listener: &str) -> (Host, Proxy) {
    let host = Host::start(HostConfig::new("gpu").small_model("llava").parallel(8).tokens(3)).await.expect("a host");
    host.token_gate().close();
    let yaml = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", h2c: true{listener} }}]\n\
         routes: [{{ name: all, upstream: fleet{route} }}]\n{}",
        upstream(&host.url(), "ollama")
    );
    (host, proxy(yaml).await)
}

const LONG: &str = r#"{"model":"llava","prompt":"x"}"#;

/// Begins a request that will not end. The place of one before it is free a moment after its answer has come.
async fn begun(host: &Host, proxy: &Proxy) -> H1 {
    let ledger = host.ledger();
    let before = inference(host);
    let attempt = async {
        loop {
            let mut client = H1::connect(proxy.address()).await;
            client.send(request("POST", "/api/generate", "", LONG)).await;
            tokio::select! {
                began = ledger.wait_until(PATIENCE, |ledger| ledger.inference().len() > before) => {
                    began.expect("it began");
                    return client;
                }
                head = client.reader.head() => assert_eq!(head.status, 429, "{}", head.text),
            }
        }
    };
    timeout(PATIENCE, attempt).await.expect("there is a place")
}

#[tokio::test]
async fn a_place_is_free_before_the_last_byte_is_sent() {
    let one = "concurrency: [{ key: client_ip, max: 1 }]";
    let (_server, plain) = plain("", &format!(", {one}")).await;
    let head = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\nroutes:\n";
    let own = format!("  - {{ name: own, respond: {{ status: 200, body: own }}, {one} }}\n");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("index.html"), "file").expect("written");
    let files = format!("  - {{ name: files, files: {{ root: \"{}\" }}, {one} }}\n", folder.path().display());
    for proxy in [plain, proxy(head.to_owned() + &own).await, proxy(head.to_owned() + &files).await] {
        // A client that takes one byte of an answer of several.
        let mut slow = Raw::with_window(proxy.address(), 1).await;
        slow.send(frames::get(1, "/")).await;
        let data = slow.next(DATA).await.expect("an answer");
        assert_eq!((data.payload.len(), data.flags & END_STREAM), (1, 0));
        assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_free_again_when_its_client_has_left() {
    let (host, proxy) = slow(", concurrency: [{ key: client_ip, max: 2 }]", "").await;
    let (first, mut second) = (begun(&host, &proxy).await, begun(&host, &proxy).await);
    for answer in both(&proxy, "POST", "/api/generate", "", LONG).await {
        assert_eq!((answer.head.status, answer.reason()), (429, Some("concurrency_limited")));
        assert!(answer.head.field("retry-after").is_some(), "{}", answer.head.text);
    }
    assert_eq!(inference(&host), 2);
    // The limit has counted right if exactly one more fits after one left.
    drop(first);
    let version = async || send(proxy.address(), "GET", "/api/version", "").await.head.status;
    eventually("a place is free", async || version().await == 200).await;
    let third = begun(&host, &proxy).await;
    assert_eq!(version().await, 429);
    host.token_gate().open();
    let answer = second.reader.answer().await;
    assert_eq!((answer.head.status, answer.whole), (200, true));
    drop(third);
    eventually("all places are free", async || version().await == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_takes_so_many_requests_and_connections_and_no_more() {
    let (host, proxy) = slow("", ", limits: { requests: 1 }").await;
    let first = begun(&host, &proxy).await;
    for answer in both(&proxy, "GET", "/api/version", "", "").await {
        assert_eq!((answer.head.status, answer.reason()), (503, Some("overloaded")));
        assert!(answer.head.field("retry-after").is_some());
    }
    drop(first);
    let version = async || send(proxy.address(), "GET", "/api/version", "").await.head.status == 200;
    eventually("the place is free", version).await;

    let (_server, proxy) = plain(", limits: { connections: 2, connections_per_ip: 2 }", "").await;
    let one = request("GET", "/", "", "");
    let (mut first, mut second) = (H1::connect(proxy.address()).await, H1::connect(proxy.address()).await);
    assert_eq!((first.ask(&one).await.head.status, second.ask(&one).await.head.status), (200, 200));
    let third = async || {
        let mut client = H1::connect(proxy.address()).await;
        // It may be closed before the request is written.
        let _ = client.try_send(&one).await;
        client.reader.try_head().await.map(|head| head.status)
    };
    assert_eq!(third().await, None, "closed without a word");
    assert_eq!(first.ask(&one).await.head.status, 200, "those that are open stay so");
    drop(second);
    eventually("there is room again", async || third().await == Some(200)).await;
    assert!(proxy.metric("arriero_connections_refused_total{limit=\"listener\"}").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_connections_and_no_more() {
    let listener = ", proxy_protocol: accept, trusted_proxies: [127.0.0.1], limits: { connections_per_ip: 2 }";
    let (_server, proxy) = plain(listener, "").await;
    let open = async |client: &str| {
        let mut connection = H1::connect(proxy.address()).await;
        let family = if client.contains(':') { "TCP6" } else { "TCP4" };
        let bytes = [format!("PROXY {family} {client} {client} 1 1\r\n").into_bytes(), request("GET", "/", "", "")];
        let _ = connection.try_send(bytes.concat()).await;
        let head = connection.reader.try_head().await?;
        connection.reader.body(&head).await;
        Some(connection)
    };
    let kept = [open("192.0.2.1").await, open("192.0.2.1").await, open("2001:db8::1").await, open("2001:db8::2").await];
    assert!(kept.iter().all(Option::is_some));
    assert!(open("192.0.2.1").await.is_none() && open("2001:db8::3").await.is_none());
    assert!(open("192.0.2.2").await.is_some() && open("2001:db8:0:1::1").await.is_some());
    drop(kept);
    eventually("it may come back", async || open("192.0.2.1").await.is_some()).await;
}

/// The first ten seconds are free, whatever the rate.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_too_slow_is_cut_off_and_no_model_runs() {
    let (host, proxy) = slow("", ", limits: { body_rate: 1MiB }, timeouts: { request_body: 60s }").await;
    let server = RawUpstream::start(Script::answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")).await;
    let server = server.expect("a server");
    let yaml = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", limits: {{ body_rate: 1MiB }} }}]\n\
         routes: [{{ name: all, upstream: fleet }}]\n{}",
        upstream(&server.url(), "http")
    );
    let web = support::wire::proxy(yaml).await;
    let start = clock::now();
    let trickle = async |address, path: &str, begin: &str| {
        let mut client = H1::connect(address).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1000000\r\n\r\n{begin}");
        client.send(head).await;
        let H1 { mut reader, mut writer } = client;
        let feed = async {
            while writer.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let answer = tokio::select! {
            answer = reader.answer() => answer,
            () = feed => reader.answer().await,
        };
        (answer, clock::now() - start)
    };
    let [held, streamed, plain] = [
        (proxy.address(), "/api/generate", r#"{"prompt":""#),
        (proxy.address(), "/api/generate", r#"{"model":"llava","prompt":""#),
        (web.address(), "/", ""),
    ];
    let fast = async {
        let body =
            [r#"{"model":"llava","stream":false,"options":{"num_predict":0},"prompt":""#, &"x".repeat(100_000), "\"}"];
        let mut client = H1::connect(proxy.address()).await;
        client.send(request("POST", "/api/show", "", body.concat())).await;
        client.reader.answer().await
    };
    let (one, two, three, fast) = tokio::join!(
        trickle(held.0, held.1, held.2),
        trickle(streamed.0, streamed.1, streamed.2),
        trickle(plain.0, plain.1, plain.2),
        fast
    );
    assert_eq!(fast.head.status, 200, "{}", fast.text());
    for (answer, after) in [one, two, three] {
        assert_eq!((answer.head.status, answer.reason()), (408, Some("body_timeout")), "{}", answer.text());
        assert!(after >= Duration::from_secs(10), "{after:?}");
    }
    assert!(host.ledger().inference().iter().all(|entry| entry.body_sha256.is_none() && entry.tokens == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_limits_count_goes_on_over_a_reload() {
    let server = Small::named("web").await;
    let yaml = |limits: &str, more: &str| {
        format!(
            "version: 1\n{H2C}routes: [{{ name: all, upstream: fleet, {limits}{more} }}]\n{}",
            upstream(&server.url(), "http")
        )
    };
    let two = "rate_limits: [{ key: client_ip, rate: 1/h, burst: 1 }]";
    let proxy = proxy(yaml(two, "")).await;
    let ask = async || send(proxy.address(), "GET", "/", "").await.head.status;
    let reload = |text: &str| {
        proxy.rewrite(text);
        proxy.running().reloader.reload("test").expect("it loads");
    };
    assert_eq!(ask().await, 200);
    reload(&yaml(two, ", headers: { response: { set: { x-new: \"1\" } } }"));
    let second = send(proxy.address(), "GET", "/", "").await;
    assert_eq!((second.head.status, second.head.field("x-new")), (200, Some("1")), "the new file is in force");
    assert_eq!(ask().await, 429);
    reload(&yaml(two, ""));
    assert_eq!(ask().await, 429);
    // Another limit begins anew.
    reload(&yaml("rate_limits: [{ key: client_ip, rate: 2/h, burst: 1 }]", ""));
    assert_eq!((ask().await, ask().await, ask().await), (200, 200, 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_for_the_streams_of_one_connection_too() {
    let fleet: Fleet = fleet(1, &["llava"]).await;
    let route = "routes: [{ name: all, upstream: fleet, rate_limits: [{ key: client_ip, rate: 1/h, burst: 2 }] }]\n";
    let proxy = proxy(format!("version: 1\n{H2C}{route}{}", upstream(&fleet.hosts[0].url(), "ollama"))).await;
    let mut client = H2::connect(proxy.address()).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let answer = client.ask(H2::request("GET", "/api/version", Upload::empty()), "".into()).await;
        statuses.push(answer.head.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
}
