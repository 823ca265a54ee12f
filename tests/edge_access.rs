//! Who may, through the proxy: keys, addresses, host names.

mod support;

use std::time::Duration;

use arriero::demo::Fleet;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use support::edge::{H2C, both, inference, plain, upstream};
use support::fleet::{Small, fleet, generate, request, send_with};
use support::keys::{KeysFile, bearer, key, secret};
use support::wire::{H1, H2, Upload, proxy};
use support::{Proxy, eventually};
use tokio::time::timeout;

/// A fleet of one behind a route that asks for keys.
async fn with_keys(route: &str, keys: &KeysFile) -> (Fleet, Proxy) {
    let fleet = fleet(1, &["llava", "mistral"]).await;
    let route = format!("routes: [{{ name: all, upstream: fleet{route} }}]\n");
    let yaml = format!("version: 1\n{H2C}{route}{}{}", upstream(&fleet.hosts[0].url(), "ollama"), keys.yaml());
    (fleet, proxy(yaml).await)
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_in_each_way_and_never_reaches_a_server() {
    let keys = KeysFile::new(&[("0000000a", "")]);
    let (fleet, proxy) = with_keys("", &keys).await;
    let good = key("0000000a");
    let ways = [
        bearer("0000000a"),
        format!("authorization: bearer {good}\r\n"),
        format!("X-API-Key: {good}\r\n"),
        basic("anybody", &good),
        basic("", &good),
        format!("{}X-API-Key: {good}\r\n", bearer("0000000a")),
    ];
    for fields in &ways {
        for answer in both(&proxy, "POST", "/api/generate", fields, &generate("llava")).await {
            assert_eq!(answer.head.status, 200, "{fields}: {}", answer.text());
        }
    }
    let entries = fleet.hosts[0].ledger().inference();
    assert_eq!(entries.len(), 2 * ways.len());
    for entry in entries {
        let text = format!("{:?}", entry.headers);
        assert!(entry.header("authorization").or(entry.header("x-api-key")).is_none(), "{text}");
        assert!(!text.contains(&secret("0000000a")[..16]), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_good_key_is_answered_401_and_whoever_has_two_is_answered_400() {
    let keys = KeysFile::new(&[("0000000a", ""), ("0000000b", ""), ("0000000e", "expires: \"2020-01-01T00:00:00Z\"")]);
    let (fleet, proxy) = with_keys("", &keys).await;
    let (good, other) = (key("0000000a"), key("0000000b"));
    let wrong = format!("ak_0000000a_{}", secret("0000000b"));
    let unauthorized = [
        String::new(),
        "Authorization: Bearer\r\n".to_owned(),
        format!("Authorization: Bearer {wrong}\r\n"),
        format!("Authorization: Bearer {}\r\n", good.to_uppercase()),
        format!("Authorization: Bearer {}\r\n", &good[..good.len() - 1]),
        format!("Authorization: Bearer {}\r\n", secret("0000000a")),
        bearer("0000000c"),
        bearer("0000000e"),
        format!("X-API-Key: {wrong}\r\n"),
        basic(&good, ""),
        format!("Cookie: key={good}\r\n"),
        "Authorization: Negotiate abc\r\n".to_owned(),
    ];
    for fields in unauthorized {
        for answer in both(&proxy, "POST", "/api/generate", &fields, &generate("llava")).await {
            assert_eq!((answer.head.status, answer.reason()), (401, Some("unauthorized")), "{fields}");
            assert_eq!(answer.head.field("www-authenticate"), Some("Bearer realm=\"arriero\""), "{fields}");
            let told = format!("{} {}", answer.head.text, answer.text());
            assert!(!told.contains(&secret("0000000a")[..16]) && !told.contains(&secret("0000000b")[..16]), "{told}");
        }
    }
    let ambiguous = [
        format!("{}{}", bearer("0000000a"), bearer("0000000a")),
        format!("{}X-API-Key: {other}\r\n", bearer("0000000a")),
        format!("Authorization: Bearer {good} {good}\r\n"),
        format!("Authorization: Bearer {good}{}\r\n", "a".repeat(1100)),
        "Authorization: Basic !!\r\n".to_owned(),
    ];
    for fields in ambiguous {
        for answer in both(&proxy, "POST", "/api/generate", &fields, &generate("llava")).await {
            assert_eq!((answer.head.status, answer.reason()), (400, Some("bad_request")), "{fields}");
        }
    }
    for answer in both(&proxy, "POST", &format!("/api/generate?key={good}"), &bearer("0000000a"), "{}").await {
        assert_eq!(answer.head.status, 400, "a key in the query: {}", answer.text());
    }
    let nominated = format!("Connection: Authorization\r\n{}", bearer("0000000a"));
    let answer = send_with(proxy.address(), "POST", "/api/generate", &nominated, generate("llava")).await;
    assert_eq!(answer.head.status, 400, "{}", answer.text());
    assert_eq!(inference(&fleet.hosts[0]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_for_its_models_and_its_scopes_only() {
    let keys = KeysFile::new(&[
        ("0000000a", "models: [\"llava*\"]"),
        ("0000000b", "scopes: [management]"),
        ("0000000c", "scopes: [inference, management]"),
    ]);
    let (fleet, proxy) = with_keys(", management: allow", &keys).await;
    let host = &fleet.hosts[0];
    let ask = async |id: &str, method: &str, path: &str, body: &str| {
        let [one, two] = both(&proxy, method, path, &bearer(id), body).await;
        assert_eq!((one.head.status, one.reason()), (two.head.status, two.reason()), "{path} {body}");
        (one.head.status, one.reason().map(str::to_owned), one.text())
    };
    for name in ["llava", "LLaVA:latest", "library/llava"] {
        assert_eq!(ask("0000000a", "POST", "/api/generate", &generate(name)).await.0, 200, "{name}");
    }
    let before = inference(host);
    let denied = (403, Some("forbidden".to_owned()));
    for name in ["mistral", "Mistral:latest", "library/mistral", "registry.ollama.ai/library/mistral:latest"] {
        for path in ["/api/generate", "/api/chat", "/api/show", "/v1/chat/completions", "/v1/completions"] {
            let (status, reason, text) = ask("0000000a", "POST", path, &generate(name)).await;
            assert_eq!((status, reason), denied, "{path} {name}: {text}");
        }
    }
    assert_eq!(ask("0000000a", "GET", "/v1/models/mistral", "").await.0, 403);
    for path in ["/api/tags", "/v1/models"] {
        let (status, _, text) = ask("0000000a", "GET", path, "").await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("llava") && !text.contains("mistral"), "a list of its own models: {path} {text}");
        let (_, _, all) = ask("0000000c", "GET", path, "").await;
        assert!(all.contains("llava") && all.contains("mistral"), "{path} {all}");
    }
    assert_eq!(ask("0000000b", "POST", "/api/generate", &generate("llava")).await.0, 403, "management alone");
    assert_eq!(inference(host), before, "nothing was run");
    for id in ["0000000a", "0000000b", "0000000c"] {
        let (status, reason, text) = ask(id, "POST", "/api/copy", r#"{"source":"llava","destination":"new"}"#).await;
        let wanted = if id == "0000000a" { 403 } else { 200 };
        assert_eq!(status, wanted, "{id} {reason:?} {text}");
    }
    assert_eq!(host.ledger().by_path("/api/copy").len(), 4, "two keys, over HTTP/1 and HTTP/2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_some_models_gives_none_another_name() {
    let keys = KeysFile::new(&[
        ("0000000a", "models: [\"llava*\"], scopes: [inference, management]"),
        ("0000000b", "scopes: [inference, management]"),
    ]);
    let (fleet, proxy) = with_keys(", management: allow", &keys).await;
    let long = format!(r#"{{"source":"llava","x":"{}","destination":"mine"}}"#, "a".repeat(300_000));
    for (path, body) in [
        ("/api/copy", r#"{"source":"mistral","destination":"llava:mine"}"#),
        ("/api/copy", r#"{"source":"llava","destination":"mine"}"#),
        ("/api/copy", r#"{"destination":"mine","source":"llava"}"#),
        ("/api/copy", r#"{"source":"llava","Destination":"library/mine"}"#),
        ("/api/copy", r#"{"source":"llava","destination":"a b"}"#),
        ("/api/copy", long.as_str()),
        ("/api/create", r#"{"model":"llava:mine","from":"mistral"}"#),
        ("/api/create", r#"{"model":"mine","from":"llava"}"#),
        ("/api/create", r#"{"model":"llava:mine","FROM":"mistral"}"#),
        ("/api/create", r#"{"name":"llava:mine","from":"registry.ollama.ai/library/mistral"}"#),
        ("/api/create", r#"{"model":"llava:mine","modelfile":"FROM mistral"}"#),
        ("/api/pull", r#"{"model":"mistral"}"#),
        ("/api/push", r#"{"name":"mistral"}"#),
    ] {
        let shown = &body[..body.len().min(80)];
        for answer in both(&proxy, "POST", path, &bearer("0000000a"), body).await {
            let told = (answer.head.status, answer.reason());
            assert_eq!(told, (403, Some("forbidden")), "{path} {shown}: {}", answer.text());
        }
        assert_eq!(
            fleet.hosts[0].ledger().by_path(path).iter().filter(|entry| entry.body_sha256.is_some()).count(),
            0,
            "{shown}"
        );
    }
    let good = r#"{"source":"llava","destination":"llava:mine"}"#;
    for (id, body) in [("0000000a", good), ("0000000b", long.as_str())] {
        for answer in both(&proxy, "POST", "/api/copy", &bearer(id), body).await {
            assert_eq!(answer.head.status, 200, "{id}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_runs_elsewhere_gets_no_name_that_hides_it() {
    let keys = KeysFile::new(&[("0000000b", "scopes: [inference, management]")]);
    for (more, status) in [(", management: allow", 403), (", management: allow, cloud_models: allow", 200)] {
        let (fleet, proxy) = with_keys(more, &keys).await;
        for (path, body) in [
            ("/api/copy", r#"{"source":"llava","destination":"mine:cloud"}"#),
            ("/api/create", r#"{"model":"mine","from":"gpt-oss:120b-cloud","stream":false}"#),
            ("/api/create", r#"{"From":"GPT-OSS:Cloud","model":"mine","stream":false}"#),
        ] {
            for answer in both(&proxy, "POST", path, &bearer("0000000b"), body).await {
                let refused = answer.text().contains("models that run elsewhere are not allowed here");
                assert_eq!((answer.head.status == 403, refused), (status == 403, status == 403), "{path} {body}");
            }
        }
        for answer in
            both(&proxy, "POST", "/api/copy", &bearer("0000000b"), r#"{"source":"llava","destination":"mine"}"#).await
        {
            assert_eq!(answer.head.status, 200, "{}", answer.text());
        }
        assert_eq!(fleet.hosts[0].ledger().by_path("/api/create").len(), if status == 403 { 0 } else { 4 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_wants_of_keys_is_its_own() {
    let keys = KeysFile::new(&[("0000000a", "")]);
    let server = Small::named("web").await;
    let routes = "routes:\n  - { name: open, match: { path: /open }, upstream: fleet, auth: none }\n  \
                  - { name: maybe, match: { path: /maybe }, upstream: fleet, auth: optional }\n  \
                  - { name: rest, upstream: fleet }\n";
    let yaml = format!("version: 1\n{H2C}{routes}{}{}", upstream(&server.url(), "http"), keys.yaml());
    let proxy = proxy(yaml).await;
    let wrong = bearer("0000000f");
    for (path, none, good, bad) in [("/open", 200, 200, 200), ("/maybe", 200, 200, 401), ("/rest", 401, 200, 401)] {
        for (fields, wanted) in [("", none), (&*bearer("0000000a"), good), (&*wrong, bad)] {
            for answer in both(&proxy, "GET", path, fields, "").await {
                assert_eq!(answer.head.status, wanted, "{path} {fields}");
            }
        }
    }
    for got in server.got() {
        let shown = got.fields.get("authorization").is_some();
        assert!(got.path == "/open" || !shown, "{got:?}");
    }
    let open = server.got().iter().filter(|got| got.fields.contains_key("authorization")).count();
    assert_eq!(open, 4, "where nobody asks for keys, credentials are the server's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_or_new_counts_within_five_seconds() {
    let keys = KeysFile::new(&[("0000000a", ""), ("0000000b", "")]);
    let (_fleet, proxy) = with_keys("", &keys).await;
    let mut client = H1::connect(proxy.address()).await;
    let tags = |id: &str| request("GET", "/api/tags", &bearer(id), "");
    assert_eq!(client.ask(tags("0000000a")).await.head.status, 200);
    assert_eq!(client.ask(tags("0000000c")).await.head.status, 401);
    keys.write(&[("0000000b", ""), ("0000000c", "")]);
    let changed = async {
        while client.ask(tags("0000000a")).await.head.status != 401 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), changed).await.expect("the revoked key is no good within five seconds");
    assert_eq!(client.ask(tags("0000000c")).await.head.status, 200);
    // A broken file changes nothing, and says so.
    std::fs::write(&keys.path, "keys: {").expect("written");
    eventually("the metric tells", async || proxy.metric("arriero_keys_last_reload_successful").await == 0.0).await;
    assert_eq!(client.ask(tags("0000000b")).await.head.status, 200);
    assert_eq!(client.ask(tags("0000000a")).await.head.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_let_in_by_the_list() {
    let trusted = ", trusted_proxies: [127.0.0.1]";
    let (server, proxy) =
        plain(trusted, ", access: { allow: [10.0.0.0/8, \"2001:db8::/32\"], deny: [10.6.6.6] }").await;
    for (client, status) in [
        ("10.1.2.3", 200),
        ("10.6.6.6", 403),
        ("::ffff:10.6.6.6", 403),
        ("::ffff:10.1.1.1", 200),
        ("11.0.0.1", 403),
        ("2001:db8::7", 200),
        ("2001:db9::7", 403),
        // What stands left of the client's own address is invented.
        ("10.1.2.3, 11.0.0.1", 403),
        ("11.0.0.1, 10.1.2.3", 200),
        ("unknown", 403),
    ] {
        for answer in both(&proxy, "GET", "/", &format!("X-Forwarded-For: {client}\r\n"), "").await {
            assert_eq!(answer.head.status, status, "{client}");
            let reason = (status == 403).then_some("address_denied");
            assert_eq!(answer.reason(), reason, "{client}");
        }
    }
    let before = server.got().len();
    let answer = send_with(proxy.address(), "GET", "/", "", "").await;
    assert_eq!((answer.head.status, server.got().len()), (403, before), "the proxy itself is not on the list");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_hosts_are_answered() {
    let (server, proxy) = plain(", hosts: [a.test, \"*.b.test\", \"[::1]\"]", "").await;
    for (host, wanted) in [
        ("a.test", 200),
        ("A.TEST", 200),
        ("a.test.", 200),
        ("a.test:80", 200),
        ("a.test:8080", 200),
        ("x.b.test", 200),
        ("x.y.b.test", 200),
        ("[::1]", 200),
        ("[::1]:8080", 200),
        ("b.test", 421),
        ("evil.test", 421),
        ("a.test.evil.test", 421),
        ("xa.test", 421),
        ("127.0.0.1.nip.io", 421),
        ("localhost", 421),
        ("127.0.0.1", 421),
        ("xn--a-bja.test", 421),
        ("a.test:99999", 400),
        ("a.test@evil.test", 400),
        ("evil.test@a.test", 400),
        ("a.test, evil.test", 400),
        ("a.test/x", 400),
        ("\u{e4}.test", 400),
    ] {
        let answer = send_with(proxy.address(), "GET", "/", &format!("Host: {host}\r\n"), "").await;
        assert_eq!(answer.head.status, wanted, "{host}: {}", answer.text());
        assert_eq!(answer.reason() == Some("host_denied"), wanted == 421, "{host}");
    }
    for (fields, wanted) in [("Host: \r\n", 421), ("Host: a.test\r\nHost: a.test\r\n", 400)] {
        let answer = send_with(proxy.address(), "GET", "/", fields, "").await;
        assert!([wanted, 400].contains(&answer.head.status), "{fields:?}: {}", answer.head.status);
    }
    let named = answered_over_http2(&proxy, "a.test").await;
    let foreign = answered_over_http2(&proxy, "evil.test").await;
    assert_eq!((named, foreign), (200, 421));
    assert!(server.got().iter().all(|got| !format!("{:?}", got.fields.get("host")).contains("evil")));
    assert_eq!(server.got().len(), 10);
}

async fn answered_over_http2(proxy: &Proxy, host: &str) -> u16 {
    let mut request = H2::request("GET", "/", Upload::empty());
    *request.uri_mut() = format!("http://{host}/").parse().expect("a URI");
    H2::connect(proxy.address()).await.ask(request, Bytes::new()).await.head.status
}
