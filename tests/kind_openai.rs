//! Servers that speak OpenAI's API and nothing else, like llama.cpp's: known by `/v1/models` alone.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arriero::demo::{Fault, Host, HostConfig};
use serde_json::{Value, json};
use support::fleet::{Got, Small, fleet, generate, of_server, reply, send, send_with, sha256};
use support::keys::{KeysFile, bearer};
use support::wire::{Answer, Chunk, H1, post, proxy};
use support::{Proxy, eventually, upstream_yaml};

/// A server that has these models, in exactly this spelling, once it is ready.
async fn llama(models: &'static [&'static str], ready: &Arc<AtomicBool>) -> Small {
    let ready = Arc::clone(ready);
    Small::start(move |got: &Got| match (got.method.as_str(), got.path.as_str()) {
        ("GET", "/health") if ready.load(Ordering::Relaxed) => reply(200, "application/json", r#"{"status":"ok"}"#),
        ("GET", "/health") => {
            let body = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
            reply(503, "application/json", body)
        }
        ("GET", "/v1/models") => reply(200, "application/json; charset=utf-8", list(models)),
        ("POST", "/v1/chat/completions") => {
            let body: Value = serde_json::from_slice(&got.body).unwrap_or_default();
            match body["model"].as_str() {
                Some(name) if models.contains(&name) => {
                    let answer = json!({ "object": "chat.completion", "model": name, "sha256": sha256(&got.body) });
                    reply(200, "application/json; charset=utf-8", answer.to_string())
                }
                _ => reply(
                    404,
                    "application/json",
                    r#"{"error":{"code":404,"message":"no such model here","type":"own"}}"#,
                ),
            }
        }
        _ => reply(
            404,
            "application/json",
            r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#,
        ),
    })
    .await
}

/// The list of models as llama.cpp writes it, spaces and own keys included.
fn list(models: &[&str]) -> String {
    let row = |name: &&str| {
        format!(
            r#"{{"id":"{name}", "object":"model","created":1767225600,"owned_by":"llamacpp","meta":{{"n_ctx_train":131072}}}}"#
        )
    };
    let rows: Vec<_> = models.iter().map(row).collect();
    format!(r#"{{"object":"list","data":[{}]}}"#, rows.join(","))
}

fn ready() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

async fn before(servers: &[&Small], upstream: &str) -> Proxy {
    let urls: Vec<_> = servers.iter().map(|server| server.url()).collect();
    proxy(upstream_yaml("openai", &urls, "", upstream)).await
}

fn chat(model: &str, filler: usize) -> String {
    let content = "x".repeat(filler);
    format!(r#"{{"messages":[{{"role":"user","content":"{content}"}}], "model":"{model}" }}"#)
}

async fn ask(proxy: &Proxy, body: &str) -> Answer {
    send(proxy.address(), "POST", "/v1/chat/completions", body).await
}

fn completions(server: &Small) -> usize {
    server.got().iter().filter(|got| got.path == "/v1/chat/completions").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_by_the_models_that_servers_list_and_bodies_are_not_touched() {
    let (one, two) =
        (llama(&["Org/Model-Name"], &ready()).await, llama(&["Qwen/Qwen3-8B-GGUF", "phi"], &ready()).await);
    let proxy = before(&[&one, &two], "").await;
    for (model, server, other) in
        [("Org/Model-Name", &one, &two), ("Qwen/Qwen3-8B-GGUF", &two, &one), ("phi", &two, &one)]
    {
        for filler in [1, 30_000, 2_000_000] {
            let (mine, theirs) = (completions(server), completions(other));
            let body = chat(model, filler);
            let answer = ask(&proxy, &body).await;
            assert_eq!(answer.head.status, 200, "{model}: {}", answer.text());
            let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(json["sha256"], sha256(body.as_bytes()), "{model}, {filler}: changed on the way");
            assert_eq!(answer.head.field("content-type"), Some("application/json; charset=utf-8"));
            assert_eq!((completions(server), completions(other)), (mine + 1, theirs), "{model}");
        }
    }
    let known = ["/v1/models", "/health", "/v1/chat/completions"];
    for got in one.got().iter().chain(&two.got()) {
        assert!(known.contains(&got.path.as_str()), "it was asked for {} {}", got.method, got.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_finds_the_server_which_judges_it_itself() {
    let (one, two) = (llama(&["Org/Model-Name"], &ready()).await, llama(&["phi"], &ready()).await);
    let proxy = before(&[&one, &two], "").await;
    for spelling in ["org/model-name", "ORG/MODEL-NAME", "Org/Model-Name:latest"] {
        let before = completions(&one);
        let answer = ask(&proxy, &chat(spelling, 10)).await;
        assert_eq!((answer.head.status, completions(&one)), (404, before + 1), "{spelling}: {}", answer.text());
        assert!(answer.text().contains("no such model here"), "the server's own words: {}", answer.text());
        let all = one.got();
        // The last of them may be the proxy's own look at the list of models.
        let got = all.iter().rfind(|got| got.path == "/v1/chat/completions").expect("it came");
        assert_eq!(got.body, chat(spelling, 10), "{spelling}: changed on the way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_told_in_openais_words() {
    let server = llama(&["Org/Model-Name"], &ready()).await;
    let proxy = before(&[&server], "").await;
    for (path, body) in [
        ("/v1/chat/completions", chat("Other/Model", 10)),
        ("/v1/completions", generate("Other/Model")),
        ("/v1/embeddings", r#"{"input":"x","model":"Other/Model"}"#.to_owned()),
    ] {
        let answer = send(proxy.address(), "POST", path, &body).await;
        assert_eq!((answer.head.status, answer.reason()), (404, Some("model_not_found")), "{path}: {}", answer.text());
        let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(json["error"]["message"].as_str().is_some_and(|text| text.contains("Other/Model")), "{path}: {json}");
        assert!(json["error"]["type"].is_string() && json["error"]["param"].is_null(), "{path}: {json}");
        assert_eq!(answer.head.field("content-type"), Some("application/json"), "{path}");
    }
    let none = ask(&proxy, r#"{"messages":[]}"#).await;
    assert_eq!((none.head.status, none.reason()), (400, Some("model_required")), "{}", none.text());
    assert_eq!(completions(&server), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_merged_in_the_servers_own_spelling() {
    let (one, two) =
        (llama(&["Org/Model-Name", "phi"], &ready()).await, llama(&["org/model-name", "Other"], &ready()).await);
    let single = before(&[&one], "").await;
    let answer = send(single.address(), "GET", "/v1/models", "").await;
    let (through, own): (Value, Value) = (
        serde_json::from_slice(&answer.body).expect("JSON"),
        serde_json::from_str(&list(&["Org/Model-Name", "phi"])).expect("JSON"),
    );
    assert_eq!(through, own);
    let proxy = before(&[&one, &two], "").await;
    let answer = send(proxy.address(), "GET", "/v1/models", "").await;
    let merged: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let ids: Vec<_> = merged["data"].as_array().expect("rows").iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["Org/Model-Name", "phi", "Other"], "{merged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_by_its_path_is_told_though_the_server_has_no_such_path() {
    let server = llama(&["Org/Model-Name"], &ready()).await;
    let proxy = before(&[&server], "").await;
    for path in ["/v1/models/Org/Model-Name", "/v1/models/Org%2FModel-Name"] {
        let answer = send(proxy.address(), "GET", path, "").await;
        assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
        let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!((&json["id"], &json["object"]), (&json!("Org/Model-Name"), &json!("model")), "{json}");
    }
    let answer = send(proxy.address(), "GET", "/v1/models/Org/Other", "").await;
    assert_eq!((answer.head.status, answer.reason()), (404, Some("model_not_found")), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_may_be_the_servers_health_path() {
    let (loading, other) = (Arc::new(AtomicBool::new(false)), ready());
    let (one, two) = (llama(&["m"], &loading).await, llama(&["m"], &other).await);
    let check = "health: { active: { path: /health, interval: 30ms, timeout: 2s, healthy: 1, unhealthy: 2 } }\nbalance: { policy: round_robin }";
    let proxy = before(&[&one, &two], check).await;
    let up = async || of_server(&proxy, "arriero_server_up", one.address, "").await == 1.0;
    eventually("it is down while it loads", async || !up().await).await;
    for _ in 0..4 {
        assert_eq!(ask(&proxy, &chat("m", 1)).await.head.status, 200);
    }
    assert_eq!((completions(&one), completions(&two)), (0, 4));
    loading.store(true, Ordering::Relaxed);
    eventually("it is up", up).await;
    for _ in 0..4 {
        assert_eq!(ask(&proxy, &chat("m", 1)).await.head.status, 200);
    }
    assert_eq!((completions(&one), completions(&two)), (2, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_stream_through_as_they_come() {
    let host = Host::start(HostConfig::new("vllm").small_model("m").tokens(5)).await.expect("a host");
    let proxy = proxy(upstream_yaml("openai", &[host.url()], "", "")).await;
    // The second stream falls silent after three events: they must come all the same.
    for (tokens, stalls) in [(5, false), (3, true)] {
        if stalls {
            host.faults().next(1, Fault::StallAfterTokens(tokens));
        }
        let mut client = H1::connect(proxy.address()).await;
        let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#;
        client.send(post("/v1/chat/completions", body)).await;
        let head = client.reader.head().await;
        assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")), "{}", head.text);
        let mut text = String::new();
        while !stalls || text.matches("data: ").count() < tokens {
            match client.reader.chunk().await {
                Chunk::Data(data) => text.push_str(std::str::from_utf8(&data).expect("text")),
                end => {
                    assert_eq!((end, stalls), (Chunk::End, false), "{text}");
                    break;
                }
            }
        }
        assert_eq!(text.ends_with("data: [DONE]\n\n"), !stalls, "{text}");
    }
    let paths: Vec<_> = host.ledger().entries().into_iter().map(|entry| entry.path).collect();
    assert!(paths.iter().all(|path| path.starts_with("/v1/")), "{paths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_stand_side_by_side_and_the_model_decides() {
    let fleet = fleet(1, &["mistral"]).await;
    let server = llama(&["Qwen/Qwen3-8B"], &ready()).await;
    let text = format!(
        r#"version: 1
routes:
  - {{ name: large, match: {{ path: /v1/, model: "*qwen*" }}, upstream: llama }}
  - {{ name: rest, upstream: fleet }}
upstreams:
  llama:
    kind: openai
    servers: [{{ url: "{}" }}]
  fleet:
    kind: ollama
    servers: [{{ url: "{}" }}]
"#,
        server.url(),
        fleet.hosts[0].url()
    );
    let proxy = proxy(text).await;
    assert_eq!(ask(&proxy, &chat("Qwen/Qwen3-8B", 10)).await.head.status, 200);
    assert_eq!((completions(&server), fleet.hosts[0].ledger().inference().len()), (1, 0));
    assert_eq!(ask(&proxy, &chat("mistral", 10)).await.head.status, 200);
    assert_eq!((completions(&server), fleet.hosts[0].ledger().inference().len()), (1, 1));
    let fields = "Authorization: Bearer secret\r\nContent-Type: application/json\r\n";
    let body = chat("Qwen/Qwen3-8B", 10);
    assert_eq!(send_with(proxy.address(), "POST", "/v1/chat/completions", fields, &body).await.head.status, 200);
    let got = server.got().into_iter().rfind(|got| got.method == "POST").expect("it came");
    assert_eq!(got.fields.get("authorization").and_then(|value| value.to_str().ok()), Some("Bearer secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tokens_or_models_are_limited_unknown_paths_are_refused() {
    let one = Small::start(|got: &Got| match got.path.as_str() {
        "/v1/models" => reply(200, "application/json", list(&["phi"])),
        _ => reply(200, "application/json", r#"{"content":"x"}"#),
    })
    .await;
    let keys = KeysFile::new(&[("0000000a", ""), ("0000000b", "models: [phi]")]);
    let text = upstream_yaml("openai", &[one.url()], "", "") + &keys.yaml();
    let came = |path: &str| one.got().iter().filter(|got| got.path == path).count();
    let proxy = proxy(text.clone()).await;
    let body = r#"{"prompt":"x","model":"phi"}"#;
    for path in ["/completion", "/chat/completions", "/infill", "/v1/rerank"] {
        let all = send_with(proxy.address(), "POST", path, &bearer("0000000a"), body).await;
        assert_eq!((all.head.status, came(path)), (200, 1), "{path}: {}", all.text());
        let some = send_with(proxy.address(), "POST", path, &bearer("0000000b"), body).await;
        assert_eq!((some.head.status, some.reason(), came(path)), (403, Some("endpoint_denied"), 1), "{path}");
    }
    let quota = "quotas: [{ name: daily, limit: 1M, every: day }]\n";
    proxy.rewrite(&(text + quota));
    proxy.running().reloader.reload("test").expect("it loads");
    for path in ["/completion", "/v1/rerank"] {
        let all = send_with(proxy.address(), "POST", path, &bearer("0000000a"), body).await;
        assert_eq!((all.head.status, all.reason(), came(path)), (403, Some("endpoint_denied"), 1), "{path}");
        assert!(all.text().contains("tokens are limited here"), "{}", all.text());
    }
    let known = send_with(proxy.address(), "POST", "/v1/chat/completions", &bearer("0000000a"), chat("phi", 1)).await;
    assert_eq!(known.head.status, 200);
    let looks = send_with(proxy.address(), "GET", "/props", &bearer("0000000b"), "").await;
    assert_eq!((looks.head.status, came("/props")), (200, 1));
}
