//! The page of the admin listener: what is sent with it, and from which pages orders are taken.

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use support::admin::{PREFIX, address, problem, show};
use support::fleet::{fleet, send_with};
use support::wire::Answer;
use support::{Proxy, http_yaml};

async fn page(proxy: &Proxy, fields: &str) -> Answer {
    send_with(address(proxy), "GET", "/", fields, "").await
}

/// What stands between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let from = text.find(begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
    &text[from..from + text[from..].find(end).unwrap_or_else(|| panic!("no {end}"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_run_its_own_script_and_style_and_nothing_else() {
    let proxy = support::wire::proxy(http_yaml(&["http://127.0.0.1:1".to_owned()], "", "")).await;
    let answer = page(&proxy, "").await;
    assert_eq!((answer.head.status, answer.head.field("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = answer.head.field("content-security-policy").expect("a policy");
    let html = answer.text();
    for (kind, begin, end) in
        [("style-src", "<style>", "</style>"), ("script-src", "<script type=\"module\">", "</script>")]
    {
        let hash = STANDARD.encode(Sha256::digest(between(&html, begin, end).as_bytes()));
        assert!(policy.contains(&format!("{kind} 'sha256-{hash}';")), "{kind} in {policy}");
        assert_eq!(html.matches(begin).count(), 1);
    }
    for words in
        ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]
    {
        assert!(policy.contains(words), "{words} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(answer.head.field(name), Some(value), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_known_already_is_not_sent_again() {
    let proxy = support::wire::proxy(http_yaml(&["http://127.0.0.1:1".to_owned()], "", "")).await;
    let first = page(&proxy, "").await;
    let tag = first.head.field("etag").expect("a tag");
    for known in [tag.to_owned(), format!("\"other\", {tag}"), format!("W/{tag}")] {
        let again = page(&proxy, &format!("If-None-Match: {known}\r\n")).await;
        assert_eq!((again.head.status, again.body.len()), (304, 0), "{known}");
        assert_eq!(again.head.field("etag"), Some(tag));
        assert!(again.head.field("content-security-policy").is_some());
    }
    assert_eq!(page(&proxy, "If-None-Match: \"other\"\r\n").await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_taken_from_this_page_and_from_no_other() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = support::wire::proxy(format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet: {{ kind: ollama, servers: [{{ name: s0, url: \"{}\" }}] }}\n",
        fleet.urls()[0]
    ))
    .await;
    let own = address(&proxy);
    let drain = |fields: String| {
        let path = format!("{PREFIX}/servers/s0/drain");
        async move { send_with(own, "POST", &path, &format!("Host: {own}\r\n{fields}"), "").await }
    };
    let operation = || async { show(&proxy, "/servers/s0").await["server"]["operation"]["state"].clone() };
    for fields in [
        "Origin: http://evil.test\r\nX-Arriero-Request: dashboard\r\n".to_owned(),
        format!("Origin: http://{own}\r\n"),
        format!("Origin: http://{own}\r\nSec-Fetch-Site: same-site\r\nX-Arriero-Request: dashboard\r\n"),
        "Sec-Fetch-Site: same-origin\r\n".to_owned(),
    ] {
        let answer = drain(fields.clone()).await;
        assert_eq!(problem(&answer).0, 403, "{fields}");
        assert_eq!(answer.head.field("access-control-allow-origin"), None);
    }
    assert_eq!(operation().await, "active");
    let page = format!("Origin: http://{own}\r\nSec-Fetch-Site: same-origin\r\nX-Arriero-Request: dashboard\r\n");
    assert_eq!(drain(page).await.head.status, 200);
    assert_eq!(operation().await, "draining");
    // Another site cannot take the seats of those who listen.
    let events = format!("{PREFIX}/events");
    let answer = send_with(own, "GET", &events, &format!("Host: {own}\r\nSec-Fetch-Site: cross-site\r\n"), "").await;
    assert_eq!(problem(&answer).0, 403);
}
