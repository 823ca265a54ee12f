//! What is answered without a server, and in whose words.

use crate::support::eventually;
use crate::support::fleet::{fleet, generate, mixed_fleet, of_server, send};
use crate::support::upstream_yaml;
use crate::support::wire::proxy;
use crate::{arrived, assert_dialect, before, calls, direct, json, post};

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_has_is_told_in_the_words_of_each_call() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let mut wrong = Vec::new();
    for name in ["nope", "nope:7b", "m:other", "nope:latest", "NOPE", "library/nope", "org/Nope:1b"] {
        for (path, body) in calls(name, name) {
            let own = direct(&fleet.hosts[0], "POST", path, &body).await;
            let before = fleet.hosts[0].ledger().inference().len();
            let answer = post(&proxy, path, &body).await;
            assert_eq!((answer.head.status, answer.reason()), (404, Some("model_not_found")), "{path} {name}");
            assert_eq!(answer.head.field("content-type"), own.head.field("content-type"), "{path} {name}");
            assert_dialect(path, &answer);
            assert_eq!(fleet.hosts[0].ledger().inference().len(), before, "{path} {name}");
            // Real servers (0.9.3 and later) leave it to the scheduler to miss a model for embeddings.
            let wanted = if path.contains("embed") {
                let plain = own.text().replace("\\\"", "'").replace(", try pulling it first", "");
                let (quoted, named) = (
                    format!("model \\\"{name}\\\" not found, try pulling it first"),
                    format!("model '{name}' not found"),
                );
                plain.replace(&named, &quoted)
            } else {
                own.text()
            };
            if answer.text().trim_end() != wanted.trim_end() {
                wrong.push((path, answer.text(), wanted));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_holders_are_down_is_unavailable_and_not_unknown() {
    let fleet = mixed_fleet(&[&["only", "only-embed"], &["m"]]).await;
    let check = "health: { active: { interval: 30ms, timeout: 2s, unhealthy: 1 } }\ninventory: { interval: 30ms }";
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", check)).await;
    fleet.hosts[0].kill().await;
    let (down, up) = (fleet.hosts[0].address(), "arriero_server_up");
    eventually("it is down", || async { of_server(&proxy, up, down, "").await == 0.0 }).await;
    for (path, body) in calls("only", "only-embed") {
        let answer = post(&proxy, path, body).await;
        assert_eq!((answer.head.status, answer.reason()), (503, Some("no_server")), "{path}: {}", answer.text());
        assert_dialect(path, &answer);
    }
    assert_eq!(post(&proxy, "/api/generate", generate("nope")).await.head.status, 404);
    assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_model_is_a_bad_request() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let mut wrong = Vec::new();
    for (path, _) in calls("m", "m") {
        for body in [
            "{}",
            r#"{"prompt":"x","stream":false}"#,
            r#"{"model":""}"#,
            r#"{"model":null,"prompt":"x"}"#,
            r#"{"model":5}"#,
            r#"{"model":["m"]}"#,
            r#"{"model":{"model":"m"}}"#,
            r#"{"options":{"model":"m"}}"#,
        ] {
            let answer = post(&proxy, path, body).await;
            if answer.head.status != 400 {
                wrong.push((path, body, answer.head.status, answer.text()));
                continue;
            }
            assert_dialect(path, &answer);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(fleet.hosts.iter().map(crate::count).sum::<usize>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_json_is_a_bad_request() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let mut wrong = Vec::new();
    for (path, _) in calls("m", "m") {
        for body in [
            "",
            "hello",
            "[1,2]",
            "\"model\"",
            "{\"model\":",
            "{\"prompt\":\"x",
            "{model:\"m\"}",
            "model=m",
            "{} {\"model\":\"m\"}",
            "null",
        ] {
            let answer = post(&proxy, path, body).await;
            if answer.head.status != 400 {
                wrong.push((path, body, answer.head.status, answer.text()));
                continue;
            }
            assert_dialect(path, &answer);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(fleet.hosts.iter().map(crate::count).sum::<usize>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_change_a_server_are_refused_and_reach_none() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let digest = format!("/api/blobs/sha256:{}", "0".repeat(64));
    let calls = [
        ("POST", "/api/pull", r#"{"model":"m"}"#),
        ("POST", "/api/pull", r#"{"name":"m","stream":false}"#),
        ("POST", "/api/push", r#"{"model":"m"}"#),
        ("POST", "/api/create", r#"{"model":"n","from":"m"}"#),
        ("POST", "/api/copy", r#"{"source":"m","destination":"n"}"#),
        ("DELETE", "/api/delete", r#"{"model":"m"}"#),
        ("POST", &digest, "blob"),
        ("HEAD", &digest, ""),
        ("POST", "/api/me", ""),
        ("POST", "/api/signout", ""),
        ("DELETE", "/api/user/keys/abc", ""),
        ("POST", "/api/experimental/web_search", "{}"),
    ];
    for (method, path, body) in calls {
        let answer = send(proxy.address(), method, path, body).await;
        assert_eq!((answer.head.status, answer.reason()), (403, Some("endpoint_denied")), "{method} {path}");
        if method != "HEAD" {
            assert_dialect(path, &answer);
        }
        assert_eq!(arrived(&fleet, path), 0, "{method} {path}");
    }
    // A large one is not waited for either.
    let answer = send(proxy.address(), "POST", &digest, vec![b'x'; 5_000_000]).await;
    assert_eq!((answer.head.status, arrived(&fleet, &digest)), (403, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_api_has_is_not_found() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    for path in [
        "/nope",
        "/api",
        "/api/nope",
        "/api/chat/",
        "/api/chat/x",
        "/API/chat",
        "/v1",
        "/v1/nope",
        "/v2/models",
        "/metrics",
    ] {
        for (method, body) in [("GET", String::new()), ("POST", generate("m"))] {
            let answer = send(proxy.address(), method, path, &body).await;
            assert_eq!(answer.head.status, 404, "{method} {path}: {}", answer.text());
            assert_eq!(arrived(&fleet, path), 0, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_told_the_right_ones() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    for (method, path, allow) in [
        ("GET", "/api/chat", "POST"),
        ("PUT", "/api/generate", "POST"),
        ("HEAD", "/api/embed", "POST"),
        ("DELETE", "/api/tags", "GET, HEAD"),
        ("POST", "/api/version", "GET, HEAD"),
        ("POST", "/api/ps", "GET"),
        ("PUT", "/", "GET, HEAD"),
        ("GET", "/api/show", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/m", "GET"),
        ("GET", "/v1/chat/completions", "POST"),
        ("GET", "/v1/messages", "POST"),
    ] {
        let before = arrived(&fleet, path);
        let answer = send(proxy.address(), method, path, "").await;
        assert_eq!((answer.head.status, answer.head.field("allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(answer.reason(), Some("method_not_allowed"), "{method} {path}");
        let more = fleet.hosts.iter().flat_map(|host| host.ledger().by_path(path)).skip(before);
        assert!(more.into_iter().all(|entry| entry.method != method), "{method} {path} reached a host");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_our_own_are_escaped() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let answer = post(&proxy, "/api/chat", r#"{"model":"a\"b\\<c>\u00e9"}"#).await;
    assert_eq!(answer.head.status, 404);
    assert_eq!(json(&answer)["error"], "model 'a\"b\\<c>é' not found", "{}", answer.text());
}
