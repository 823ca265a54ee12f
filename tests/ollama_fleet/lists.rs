//! Lists for the whole fleet, and calls about one model.

use std::collections::BTreeSet;

use arriero::demo::{DemoModel, canonical_name};
use serde_json::Value;

use crate::support::eventually;
use crate::support::fleet::{fleet, generate, knows, mixed_fleet, send};
use crate::{arrived, assert_dialect, before, direct, get, json, post};

/// The names in a list, each in its canonical form, sorted; twice when it is there twice.
fn names(list: &Value, key: &str, name: &str) -> Vec<String> {
    let rows = list[key].as_array().unwrap_or_else(|| panic!("no {key}: {list}"));
    let mut names: Vec<_> = rows.iter().map(|row| canonical_name(row[name].as_str().expect("a name"))).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_each_model_of_three_hosts_once() {
    let fleet = mixed_fleet(&[
        &["llama3.2:3b", "nomic-embed-text"],
        &["Llama3.2:3B", "llava:13b"],
        &["library/llava:13b", "mistral:7b", "hf.co/Org/Model-GGUF:Q4_K_M"],
    ])
    .await;
    let proxy = before(&fleet, "").await;
    let all = ["hf.co/org/model-gguf:q4_k_m", "llama3.2:3b", "llava:13b", "mistral:7b", "nomic-embed-text:latest"];
    let tags = json(&get(&proxy, "/api/tags").await);
    assert_eq!(names(&tags, "models", "name"), all, "{tags}");
    for row in tags["models"].as_array().expect("rows") {
        let keys: BTreeSet<_> = row.as_object().expect("a row").keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["name", "model", "modified_at", "size", "digest", "details"]));
    }
    let models = json(&get(&proxy, "/v1/models").await);
    assert_eq!((names(&models, "data", "id"), &models["object"]), (all.map(str::to_owned).to_vec(), &"list".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_memory_of_several_hosts_is_listed_once() {
    let fleet = mixed_fleet(&[&["llava:13b"], &["library/llava:13b", "mistral:7b"], &["llava:13b"]]).await;
    let proxy = before(&fleet, "").await;
    assert_eq!(get(&proxy, "/api/ps").await.text(), r#"{"models":[]}"#);
    for (host, model) in [(0, "llava:13b"), (1, "llava:13b"), (1, "mistral:7b")] {
        assert_eq!(direct(&fleet.hosts[host], "POST", "/api/generate", generate(model)).await.head.status, 200);
    }
    knows(&proxy, &fleet.hosts[0], "memory", 1).await;
    knows(&proxy, &fleet.hosts[1], "memory", 2).await;
    let loaded = json(&get(&proxy, "/api/ps").await);
    assert!(loaded["models"][0]["expires_at"].is_string() && loaded["models"][0]["size_vram"].is_u64(), "{loaded}");
    assert_eq!(names(&loaded, "models", "name"), ["llava:13b", "mistral:7b"], "{loaded}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lists_of_a_single_host_are_its_own_to_the_byte() {
    let fleet = mixed_fleet(&[&["llava:13b", "Mistral:7B", "a<b>&c"]]).await;
    let host = &fleet.hosts[0];
    let proxy = before(&fleet, "").await;
    for model in ["llava:13b", "mistral:7b"] {
        assert_eq!(direct(host, "POST", "/api/generate", generate(model)).await.head.status, 200);
    }
    knows(&proxy, host, "memory", 2).await;
    for path in ["/api/tags", "/api/version", "/"] {
        let (through, own) = (get(&proxy, path).await, direct(host, "GET", path, "").await);
        assert_eq!(through.text(), own.text(), "{path}");
        assert_eq!(through.head.field("content-type"), own.head.field("content-type"), "{path}");
        assert_eq!((through.head.status, through.whole), (200, true), "{path}");
    }
    // The host computes when a model expires anew each time; the last digits differ.
    let blank = |text: String| {
        let mut parts: Vec<_> = text.split("\"expires_at\":\"").map(str::to_owned).collect();
        parts[1..].iter_mut().for_each(|part| drop(part.drain(..19)));
        parts
            .iter_mut()
            .for_each(|part| *part = part.trim_start_matches(|c: char| ".0123456789Z+-:".contains(c)).to_owned());
        parts.join("|")
    };
    let (through, own) = (get(&proxy, "/api/ps").await, direct(host, "GET", "/api/ps", "").await);
    assert_eq!(blank(through.text()), blank(own.text()));
    assert_eq!(through.head.field("content-type"), own.head.field("content-type"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_list_of_a_single_host_is_its_own_to_the_byte() {
    let fleet = mixed_fleet(&[&["llava:13b", "Mistral:7B", "a<b>&c"]]).await;
    let proxy = before(&fleet, "").await;
    let (through, own) = (get(&proxy, "/v1/models").await, direct(&fleet.hosts[0], "GET", "/v1/models", "").await);
    assert_eq!(through.text(), own.text());
    assert_eq!(through.head.field("content-type"), own.head.field("content-type"));
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_as_get_without_a_body() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    for path in ["/", "/api/tags", "/api/version"] {
        let (head, whole) = (send(proxy.address(), "HEAD", path, "").await, get(&proxy, path).await);
        assert_eq!((head.head.status, whole.head.status), (200, 200), "{path}");
        assert_eq!(head.head.field("content-length"), Some(whole.body.len().to_string().as_str()), "{path}");
        assert_eq!(head.head.field("content-type"), whole.head.field("content-type"), "{path}");
    }
    assert_eq!(get(&proxy, "/").await.text(), "Ollama is running");
    assert_eq!(get(&proxy, "/api/version").await.text(), r#"{"version":"0.33.0"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_by_its_path_is_told_by_a_server_that_has_it() {
    let fleet = mixed_fleet(&[&["plain"], &["llava:13b", "hf.co/Org/Model-GGUF:Q4_K_M"]]).await;
    let proxy = before(&fleet, "").await;
    for name in
        ["llava:13b", "LLaVA:13b", "library/llava:13b", "hf.co/Org/Model-GGUF:Q4_K_M", "hf.co/org/model-gguf:q4_k_m"]
    {
        let path = format!("/v1/models/{name}");
        let (through, own) = (get(&proxy, &path).await, direct(&fleet.hosts[1], "GET", &path, "").await);
        assert_eq!(through.head.status, 200, "{path}: {}", through.text());
        assert_eq!(through.text(), own.text(), "{path}");
        assert_eq!(fleet.hosts[0].ledger().by_path(&path).len(), 0, "{path}");
    }
    for name in ["nope", "org/nope:1b"] {
        let path = format!("/v1/models/{name}");
        let (through, own) = (get(&proxy, &path).await, direct(&fleet.hosts[0], "GET", &path, "").await);
        assert_eq!((through.head.status, json(&through)), (404, json(&own)), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn show_goes_to_a_server_that_has_the_model() {
    let fleet = mixed_fleet(&[&["plain"], &["llava:13b"], &["other"]]).await;
    let proxy = before(&fleet, "").await;
    let bodies = [
        r#"{"model":"llava:13b"}"#,
        r#"{"name":"llava:13b"}"#,
        r#"{"model":"","name":"llava:13b"}"#,
        r#"{"name":"llava:13b","model":""}"#,
        r#"{"verbose":true,"name":"Library/LLaVA:13B"}"#,
    ];
    for body in bodies {
        let (through, own) =
            (post(&proxy, "/api/show", body).await, direct(&fleet.hosts[1], "POST", "/api/show", body).await);
        assert_eq!((through.head.status, through.text()), (200, own.text()), "{body}");
    }
    assert_eq!(arrived(&fleet, "/api/show"), 2 * bodies.len());
    assert_eq!(fleet.hosts[1].ledger().by_path("/api/show").len(), 2 * bodies.len());
    let unknown = post(&proxy, "/api/show", r#"{"name":"nope"}"#).await;
    assert_eq!((unknown.head.status, unknown.text().as_str()), (404, r#"{"error":"model 'nope' not found"}"#));
    let none = post(&proxy, "/api/show", r#"{"verbose":true}"#).await;
    assert_eq!(none.head.status, 400);
    assert_dialect("/api/show", &none);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_found_soon_after_it_appears_and_missed_soon_after_it_goes() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let status = async || post(&proxy, "/api/generate", generate("late")).await.head.status;
    assert_eq!(status().await, 404);
    fleet.hosts[1].add_model(DemoModel::new("late", 1_000_000_000));
    eventually("it is found", async || status().await == 200).await;
    assert_eq!(fleet.hosts[0].ledger().by_model("late").len(), 0);
    for (path, key, name) in [("/api/tags", "models", "name"), ("/v1/models", "data", "id")] {
        assert_eq!(names(&json(&get(&proxy, path).await), key, name), ["late:latest", "m:latest"]);
    }
    // In memory it would still be there.
    let body = r#"{"model":"late","keep_alive":0}"#;
    assert_eq!(post(&proxy, "/api/generate", body).await.head.status, 200);
    fleet.hosts[1].remove_model("late");
    eventually("it is missed", async || post(&proxy, "/api/generate", body).await.reason() == Some("model_not_found"))
        .await;
}
