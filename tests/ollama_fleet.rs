//! A fleet of Ollama servers behind one address: lists for all of them, requests to who has the model.

mod support;

#[path = "ollama_fleet/balance.rs"]
mod balance;
#[path = "ollama_fleet/lists.rs"]
mod lists;
#[path = "ollama_fleet/models.rs"]
mod models;
#[path = "ollama_fleet/refusals.rs"]
mod refusals;

use arriero::demo::{Fleet, Host};
use serde_json::Value;
use support::fleet::send;
use support::wire::{Answer, proxy};
use support::{Proxy, upstream_yaml};

/// A proxy that looks at the models often, with keys for its upstream.
async fn before(fleet: &Fleet, upstream: &str) -> Proxy {
    let more = format!("inventory: {{ interval: 50ms }}\nhealth: {{ active: off }}\n{upstream}");
    proxy(upstream_yaml("ollama", &fleet.urls(), "", &more)).await
}

async fn get(proxy: &Proxy, path: &str) -> Answer {
    send(proxy.address(), "GET", path, "").await
}

async fn post(proxy: &Proxy, path: &str, body: impl AsRef<[u8]>) -> Answer {
    send(proxy.address(), "POST", path, body).await
}

/// The same, to a host itself.
async fn direct(host: &Host, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
    send(host.address(), method, path, body).await
}

#[track_caller]
fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error}: {} {}", answer.head.text, answer.text()))
}

/// How many requests for inference a host began.
fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

/// Requests that any host began on a path.
fn arrived(fleet: &Fleet, path: &str) -> usize {
    fleet.hosts.iter().map(|host| host.ledger().by_path(path).len()).sum()
}

/// Every call that runs a model, with a body that its server answers: the second name is of a model for
/// embeddings.
fn calls(model: &str, embedding: &str) -> Vec<(&'static str, String)> {
    let chat = r#""messages":[{"role":"user","content":"x"}]"#;
    vec![
        ("/api/generate", format!(r#"{{"model":"{model}","prompt":"x","stream":false}}"#)),
        ("/api/chat", format!(r#"{{"model":"{model}",{chat},"stream":false}}"#)),
        ("/api/embed", format!(r#"{{"model":"{embedding}","input":["x"]}}"#)),
        ("/api/embeddings", format!(r#"{{"prompt":"x","model":"{embedding}"}}"#)),
        ("/v1/chat/completions", format!(r#"{{{chat},"model":"{model}"}}"#)),
        ("/v1/completions", format!(r#"{{"prompt":"x","model":"{model}"}}"#)),
        ("/v1/embeddings", format!(r#"{{"input":"x","model":"{embedding}"}}"#)),
        ("/v1/responses", format!(r#"{{"input":"x","model":"{model}"}}"#)),
        ("/v1/messages", format!(r#"{{"max_tokens":5,{chat},"model":"{model}"}}"#)),
    ]
}

/// Whether an error is written as its path's API writes errors.
#[track_caller]
fn assert_dialect(path: &str, answer: &Answer) {
    let body = json(answer);
    let text = |pointer: &str| body.pointer(pointer).is_some_and(Value::is_string);
    let right = if path.starts_with("/v1/messages") {
        body["type"] == "error" && text("/error/type") && text("/error/message")
    } else if path.starts_with("/v1/") {
        text("/error/message") && text("/error/type") && body["error"].get("param").is_some_and(Value::is_null)
    } else {
        text("/error") && body.as_object().is_some_and(|object| object.len() == 1)
    };
    assert!(right, "{path}: {body}");
    let content_type = answer.head.field("content-type").unwrap_or_default();
    assert!(content_type.starts_with("application/json"), "{path}: {content_type}");
}
