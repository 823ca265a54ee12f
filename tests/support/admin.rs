//! What tests ask the admin listener, as an operator's script does.

use std::net::SocketAddr;

use serde_json::Value;

use super::Proxy;
use super::fleet::send_with;
use super::wire::Answer;

/// What all of it begins with.
pub const PREFIX: &str = "/api/orchestrator";

/// Where the admin listener is.
pub fn address(proxy: &Proxy) -> SocketAddr {
    let arriero::admin::AdminAddress::Tcp(address) = proxy.running().admin.clone() else { panic!("admin on TCP") };
    address
}

/// The body of an answer.
#[track_caller]
pub fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error}: {} {}", answer.head.text, answer.text()))
}

/// Whatever is answered to a request below the prefix.
pub async fn call(proxy: &Proxy, method: &str, path: &str, body: &str) -> Answer {
    send_with(address(proxy), method, &format!("{PREFIX}{path}"), "", body).await
}

/// What a path shows.
pub async fn show(proxy: &Proxy, path: &str) -> Value {
    let answer = call(proxy, "GET", path, "").await;
    assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
    json(&answer)
}

/// Gives an order, which must be taken.
pub async fn order(proxy: &Proxy, path: &str, body: &str) -> Value {
    let answer = call(proxy, "POST", path, body).await;
    assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
    json(&answer)
}

/// The status and the detail of a problem document.
#[track_caller]
pub fn problem(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.head.field("content-type"), Some("application/problem+json"), "{}", answer.head.text);
    let body = json(answer);
    assert_eq!(body["status"], answer.head.status);
    assert!(body["title"].is_string(), "{body}");
    (answer.head.status, body["detail"].as_str().expect("a detail").to_owned())
}
