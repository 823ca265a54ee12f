//! The model decides the server, wherever its name stands and however it is written.

use arriero::demo::{Fleet, HostConfig};
use serde_json::json;

use crate::support::fleet::{Small, fleet, generate, knows, mixed_fleet, reply, send_with, sha256};
use crate::support::wire::{Chunk, H1, proxy};
use crate::support::{eventually, upstream_yaml};
use crate::{before, calls, count, direct, json, post};

/// Two hosts with models of their own; the right one has `tidy`.
async fn two() -> Fleet {
    mixed_fleet(&[&["other", "other-embed"], &["tidy", "tidy-embed"]]).await
}

/// How many requests each host began.
fn counts(fleet: &Fleet) -> (usize, usize) {
    (count(&fleet.hosts[0]), count(&fleet.hosts[1]))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_goes_to_the_server_that_has_its_model_in_any_spelling() {
    let fleet = two().await;
    let proxy = before(&fleet, "").await;
    let spell = |name: &str| {
        [
            name.to_owned(),
            format!("{name}:latest"),
            format!("library/{name}"),
            format!("registry.ollama.ai/library/{name}:latest"),
            format!("{}:LATEST", name.to_uppercase()),
        ]
    };
    let mut sent = 0;
    for (model, embedding) in spell("tidy").into_iter().zip(spell("tidy-embed")) {
        for (path, body) in calls(&model, &embedding) {
            let answer = post(&proxy, path, &body).await;
            assert_eq!((answer.head.status, answer.whole), (200, true), "{path} {body}: {}", answer.text());
            sent += 1;
            assert_eq!(counts(&fleet), (0, sent), "{path} {body}");
            let last = fleet.hosts[1].ledger().inference().pop().expect("it came");
            assert_eq!(last.body_sha256, Some(sha256(body.as_bytes())), "{path}: changed on the way");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn escapes_are_read_and_decoys_are_not() {
    let fleet = two().await;
    let proxy = before(&fleet, "").await;
    let bodies = [
        r#"{"mod\u0065l":"tid\u0079","prompt":"x"}"#,
        r#"{"\u006d\u006F\u0064\u0065\u006c":"\u0074idy","prompt":"x"}"#,
        r#"{"options":{"model":"other","num_predict":1},"model":"tidy","prompt":"x"}"#,
        r#"{"format":[{"model":"other"},["model","other"]],"prompt":"\"model\":\"other\"","model":"tidy"}"#,
        r#"{"prompt":"x\\","system":"\\\",\"model\":\"other\"","model":"tidy"}"#,
        r#"{"models":"other","Xmodel":"other","model ":"other","prompt":"model","model":"tidy"}"#,
        "\n\t { \"prompt\" : \"x\" , \r\n \"model\"\t:\n\"tidy\" } \n",
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let answer = post(&proxy, "/api/generate", body).await;
        assert_eq!(answer.head.status, 200, "{body}: {}", answer.text());
        assert_eq!(counts(&fleet), (0, number + 1), "{body}");
        let last = fleet.hosts[1].ledger().inference().pop().expect("it came");
        assert_eq!(last.body_sha256, Some(sha256(body.as_bytes())), "{body}: changed on the way");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_type_does_not_matter_and_arrives_as_it_was() {
    let fleet = two().await;
    let proxy = before(&fleet, "").await;
    for content_type in [
        None,
        Some("application/json"),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("nonsense"),
    ] {
        let fields = content_type.map_or_else(String::new, |value| format!("Content-Type: {value}\r\n"));
        for (path, body) in calls("tidy", "tidy-embed") {
            let answer = send_with(proxy.address(), "POST", path, &fields, &body).await;
            assert_eq!(answer.head.status, 200, "{content_type:?} {path}: {}", answer.text());
            let last = fleet.hosts[1].ledger().inference().pop().expect("it came");
            assert_eq!(last.header("content-type"), content_type);
        }
    }
    assert_eq!(counts(&fleet).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcription_goes_by_the_model_of_its_form() {
    let tags = |name: &str| format!(r#"{{"models":[{{"name":"{name}:latest","model":"{name}:latest"}}]}}"#);
    let server = async |name: &'static str| {
        let tags = tags(name);
        Small::start(move |got| match got.path.as_str() {
            "/api/tags" => reply(200, "application/json", tags.clone()),
            "/api/ps" => reply(200, "application/json", r#"{"models":[]}"#),
            "/api/version" => reply(200, "application/json", r#"{"version":"0.33.0"}"#),
            "/v1/audio/transcriptions" => reply(200, "application/json", format!("{name} {}", sha256(&got.body))),
            _ => reply(404, "text/plain", "404 page not found"),
        })
        .await
    };
    let (one, two) = (server("tiny").await, server("whisper").await);
    let proxy = proxy(upstream_yaml("ollama", &[one.url(), two.url()], "", "")).await;
    let part = |head: &str, body: &[u8]| [format!("--b0und\r\n{head}\r\n\r\n").as_bytes(), body, b"\r\n"].concat();
    let model = |name: &str| part("Content-Disposition: form-data; name=\"model\"", name.as_bytes());
    let decoy = b"\"model\":\"tiny\"\r\n--b0un\r\nname=\"model\"\r\n\r\ntiny";
    let file = |size: usize| {
        let audio: Vec<u8> = decoy.iter().copied().cycle().take(size).collect();
        part("Content-Disposition: form-data; name=\"file\"; filename=\"model\"\r\nContent-Type: audio/wav", &audio)
    };
    for size in [100, 30_000, 3_000_000] {
        for model_first in [true, false] {
            let (first, second) = (model("whisper"), file(size));
            let (first, second) = if model_first { (first, second) } else { (second, first) };
            let body = [first, second, b"--b0und--\r\n".to_vec()].concat();
            let fields = "Content-Type: multipart/form-data; boundary=b0und\r\n";
            let answer = send_with(proxy.address(), "POST", "/v1/audio/transcriptions", fields, &body).await;
            let want = format!("whisper {}", sha256(&body));
            assert_eq!((answer.head.status, answer.text()), (200, want), "{size} bytes, model first: {model_first}");
        }
    }
    let body = [model("nope"), b"--b0und--\r\n".to_vec()].concat();
    let fields = "Content-Type: multipart/form-data; boundary=b0und\r\n";
    let answer = send_with(proxy.address(), "POST", "/v1/audio/transcriptions", fields, &body).await;
    assert_eq!((answer.head.status, answer.reason()), (404, Some("model_not_found")), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn preloads_and_unloads_pass() {
    let fleet = two().await;
    let proxy = before(&fleet, "").await;
    for (path, empty) in [("/api/generate", ""), ("/api/chat", r#","messages":[]"#)] {
        let load = post(&proxy, path, format!(r#"{{"model":"tidy"{empty}}}"#)).await;
        assert_eq!((load.head.status, &json(&load)["done_reason"]), (200, &json!("load")), "{path}");
        assert_eq!(fleet.hosts[1].loaded(), ["tidy:latest"]);
        let unload = post(&proxy, path, format!(r#"{{"model":"tidy"{empty},"keep_alive":0}}"#)).await;
        assert_eq!((unload.head.status, &json(&unload)["done_reason"]), (200, &json!("unload")), "{path}");
        let host = &fleet.hosts[1];
        eventually("it is unloaded", || async { host.loaded().is_empty() }).await;
    }
    assert_eq!(counts(&fleet), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn native_answers_stream_unless_told_otherwise_and_v1_answers_do_not() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let chat = r#""messages":[{"role":"user","content":"x"}],"max_tokens":100"#;
    for (path, rest, content_type, streams) in [
        ("/api/generate", r#""prompt":"x""#, "application/x-ndjson", true),
        ("/api/chat", chat, "application/x-ndjson", true),
        ("/api/chat", r#""messages":[{"role":"user","content":"x"}],"stream":false"#, "application/json", false),
        ("/v1/chat/completions", chat, "application/json", false),
        (
            "/v1/chat/completions",
            r#""messages":[{"role":"user","content":"x"}],"stream":true"#,
            "text/event-stream",
            true,
        ),
        ("/v1/messages", chat, "application/json", false),
    ] {
        let mut client = H1::connect(proxy.address()).await;
        client.send(crate::support::wire::post(path, format!(r#"{{"model":"m",{rest}}}"#))).await;
        let head = client.reader.head().await;
        let found = head.field("content-type").unwrap_or_default();
        assert!(head.status == 200 && found.starts_with(content_type), "{path} {rest}: {}", head.text);
        assert_eq!(head.field("transfer-encoding").is_some(), streams, "{path} {rest}: {}", head.text);
        if !streams {
            assert!(client.reader.body(&head).await.1);
            continue;
        }
        let mut text = String::new();
        loop {
            match client.reader.chunk().await {
                Chunk::Data(data) => text.push_str(std::str::from_utf8(&data).expect("text")),
                end => break assert_eq!(end, Chunk::End, "{path}"),
            }
        }
        assert!(text.lines().count() > 16, "{path}: {text}");
        assert!(text.contains("\"done\":true") || text.ends_with("data: [DONE]\n\n"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_an_answer_are_not_touched() {
    let odd = b"{\"response\" :\"\xff\xfe\",\n\n \"done\":false}\r\n{\"error\":\"no\"}\n\0{not json".to_vec();
    let bytes = odd.clone();
    let server = Small::start(move |got| match got.path.as_str() {
        "/api/tags" => reply(200, "application/json", r#"{"models":[{"name":"m:latest","model":"m:latest"}]}"#),
        "/api/ps" => reply(200, "application/json", r#"{"models":[]}"#),
        "/api/generate" => reply(200, "application/x-ndjson; odd=1", bytes.clone()),
        "/api/chat" => reply(418, "image/teapot", bytes.clone()),
        _ => reply(200, "application/json", r#"{"version":"0.1.0"}"#),
    })
    .await;
    let proxy = proxy(upstream_yaml("ollama", &[server.url()], "", "")).await;
    for (path, status, content_type) in
        [("/api/generate", 200, "application/x-ndjson; odd=1"), ("/api/chat", 418, "image/teapot")]
    {
        let answer = post(&proxy, path, generate("m")).await;
        assert_eq!((answer.head.status, answer.head.field("content-type")), (status, Some(content_type)), "{path}");
        assert_eq!(answer.body, odd, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_the_server_that_has_it_in_memory_is_preferred() {
    let fleet = fleet(3, &["m", "n"]).await;
    let proxy = before(&fleet, "balance: { policy: round_robin }").await;
    direct(&fleet.hosts[1], "POST", "/api/generate", generate("m")).await;
    knows(&proxy, &fleet.hosts[1], "memory", 1).await;
    for _ in 0..6 {
        assert_eq!(post(&proxy, "/v1/completions", generate("M")).await.head.status, 200);
    }
    assert_eq!(fleet.hosts.iter().map(count).collect::<Vec<_>>(), [0, 7, 0]);
    // When it cannot be reached, those that have it on disk take over.
    fleet.hosts[1].kill().await;
    assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 200);
    assert_eq!(count(&fleet.hosts[1]), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn require_loaded_waits_for_nobody() {
    let mut hosts = vec![HostConfig::new("one").small_model("m"), HostConfig::new("two").small_model("m")];
    hosts[1].keep_alive = std::time::Duration::from_hours(1);
    let fleet = Fleet::start(hosts).await.expect("a fleet");
    let proxy = before(&fleet, "balance: { model_affinity: require_loaded }").await;
    for (path, body) in calls("m", "m") {
        let answer = post(&proxy, path, body).await;
        assert_eq!((answer.head.status, answer.reason()), (503, Some("not_loaded")), "{path}: {}", answer.text());
        crate::assert_dialect(path, &answer);
    }
    assert_eq!(counts(&fleet), (0, 0));
    direct(&fleet.hosts[1], "POST", "/api/generate", generate("m")).await;
    knows(&proxy, &fleet.hosts[1], "memory", 1).await;
    for _ in 0..4 {
        assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 200);
    }
    assert_eq!(counts(&fleet), (0, 5));
}
