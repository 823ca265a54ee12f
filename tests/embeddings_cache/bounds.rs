//! How much is kept, how long, and who may look and throw away.

use super::support::admin::{call, json, order, problem, show};
use super::support::eventually;
use super::support::process::{arriero, finish};
use super::*;

fn numbered(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("text {number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_no_more_memory_than_it_may() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "embeddings_cache: { max_size: 1MiB }")).await;
    // Three times what fits: one takes some 3.2 KiB.
    for part in numbered(0, 1000).chunks(100) {
        assert_eq!(embed(&proxy, part).await.head.status, 200);
    }
    let cache = &show(&proxy, "/caches").await["caches"][0];
    let (entries, bytes) = (cache["entries"].as_u64().expect("a number"), cache["bytes"].as_u64().expect("a number"));
    assert!((200..=330).contains(&entries) && bytes <= 1 << 20 && cache["maxBytes"] == 1 << 20, "{cache}");
    assert!(proxy.metric("arriero_embeddings_cache_evictions_total{route=\"all\"}").await >= 670.0);
    assert_eq!(proxy.metric("arriero_embeddings_cache_bytes{route=\"all\"}").await, bytes as f64);
    assert_eq!(proxy.metric("arriero_embeddings_cache_entries{route=\"all\"}").await, entries as f64);
    assert_eq!(proxy.metric("arriero_embeddings_cache_max_bytes{route=\"all\"}").await, f64::from(1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_reloads_and_shrinks_with_them() {
    let fleet = fleet(1, &["m"]).await;
    let text = |size: &str, more: &str| yaml(&fleet, &format!("embeddings_cache: {{ max_size: {size} }}\n{more}"));
    let proxy = proxy(text("64MiB", "")).await;
    let texts = numbered(0, 1000);
    embed(&proxy, &texts).await;
    let before = embedded(&fleet.hosts[0]);
    let entries = async || show(&proxy, "/caches").await["caches"][0]["entries"].as_u64();
    proxy.rewrite(&text("64MiB", "timeouts: { connect: 7s }"));
    order(&proxy, "/config/reload", "{}").await;
    assert_eq!((told(&embed(&proxy, &texts).await), entries().await), ("arriero; hit", Some(1000)));
    proxy.rewrite(&text("1MiB", "timeouts: { connect: 7s }"));
    order(&proxy, "/config/reload", "{}").await;
    let left = entries().await;
    assert!((200..=330).contains(&left.unwrap_or(0)), "{left:?}");
    assert_eq!(embedded(&fleet.hosts[0]), before);
    proxy.rewrite(&yaml(&fleet, ""));
    order(&proxy, "/config/reload", "{}").await;
    let answer = embed(&proxy, &texts[..1]).await;
    assert_eq!((answer.head.field("cache-status"), embedded(&fleet.hosts[0])), (None, before + 1));
    assert_eq!(show(&proxy, "/caches").await["count"], 0);
    proxy.rewrite(&text("64MiB", ""));
    order(&proxy, "/config/reload", "{}").await;
    assert_eq!(told(&embed(&proxy, &texts[..1]).await), "arriero; fwd=miss; stored", "a new one begins empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_asked_for_again() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "embeddings_cache: { ttl: 1s }")).await;
    embed(&proxy, &["a"]).await;
    eventually("it is too old", || async { told(&embed(&proxy, &["a"]).await) == "arriero; fwd=miss; stored" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_it_and_throw_away_what_they_want() {
    let fleet = fleet(1, &["m", "n"]).await;
    let upstream =
        format!("upstreams: {{ fleet: {{ kind: ollama, servers: [{{ url: \"{}\" }}] }} }}\n", fleet.hosts[0].url());
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().display();
    let text = format!(
        "routes:\n  - {{ name: one, match: {{ header: {{ x-one: \"*\" }} }}, upstream: fleet, embeddings_cache: {{}} }}\n  - {{ name: two, upstream: fleet, embeddings_cache: {{ max_size: 2MiB, ttl: 1h, scope: shared, max_body: 1MiB }} }}\n{upstream}server: {{ data_dir: \"{data}\" }}\n"
    );
    let proxy = proxy(text).await;
    let fill = async || {
        for (fields, model) in [("X-One: 1\r\n", "m"), ("", "m"), ("", "n")] {
            let body = format!(r#"{{"model":"{model}","input":["a","b"]}}"#);
            assert_eq!(send_with(proxy.address(), "POST", "/api/embed", fields, body).await.head.status, 200);
        }
    };
    fill().await;
    fill().await;
    let seen = show(&proxy, "/caches").await;
    assert_eq!(seen["count"], 2);
    let two = &seen["caches"][1];
    assert_eq!((&two["route"], &two["kind"], &two["scope"]), (&"two".into(), &"embeddings".into(), &"shared".into()));
    assert_eq!((two["entries"].as_u64(), two["hits"].as_u64(), two["misses"].as_u64()), (Some(4), Some(4), Some(4)));
    assert_eq!((two["hitRate"].as_f64(), two["ttlSeconds"].as_f64()), (Some(0.5), Some(3600.0)));
    let purge = async |body: &str| order(&proxy, "/caches/purge", body).await["purged"].as_u64();
    assert_eq!(purge(r#"{"route":"two","model":"N:latest"}"#).await, Some(2));
    assert_eq!(purge(r#"{"model":"m","who":"me"}"#).await, Some(4));
    assert_eq!(purge("{}").await, Some(0));
    let missing = call(&proxy, "POST", "/caches/purge", r#"{"route":"none"}"#).await;
    assert_eq!(problem(&missing).0, 404);
    // Who may not is in it too; the refusal came last.
    eventually("the audit has it", || async {
        let audit = show(&proxy, "/audit").await;
        let line = |row: usize| (audit["audit"][row]["path"].clone(), audit["audit"][row]["status"].clone());
        let path = Value::from("/api/orchestrator/caches/purge");
        audit["count"] == 4 && line(0) == (path.clone(), 404.into()) && line(3) == (path, 200.into())
    })
    .await;
    fill().await;
    let admin = support::admin::address(&proxy).to_string();
    let run = async |words: &[&str]| {
        let words = [&["cache"], words, &["--admin", &admin]].concat();
        finish(arriero(&words, folder.path())).await
    };
    let shown = run(&["show"]).await;
    assert!(shown.code == Some(0) && shown.out.contains("ROUTE") && shown.out.contains("two"), "{shown:?}");
    let purged = run(&["purge", "--route", "two"]).await;
    assert!(purged.code == Some(0) && purged.out.contains("4 embeddings thrown away"), "{purged:?}");
    let refused = run(&["purge"]).await;
    assert!(refused.code != Some(0), "what is not said is not thrown away: {refused:?}");
    let all = run(&["purge", "--all"]).await;
    assert!(all.out.contains("2 embeddings thrown away"), "{all:?}");
    let answer = call(&proxy, "GET", "/caches", "").await;
    assert_eq!(json(&answer)["caches"][0]["entries"], 0);
}
