//! What `/health` and the paths of the health score say, and that the score falls with what breaks.

mod support;

use arriero::demo::Fault;
use serde_json::{Value, json};
use support::admin::{json as json_of, order, show};
use support::fleet::{fleet, generate, send};
use support::wire::proxy;
use support::{Proxy, admin, eventually};

const CALM: &str = "server: { thresholds: { memory: 100%, disk: 100%, cpu: 100%, files: 100% } }\n";

fn yaml(urls: &[String], more: &str) -> String {
    let line = |(number, url): (usize, &String)| format!("      - {{ name: s{number}, url: \"{url}\" }}\n");
    let servers: String = urls.iter().enumerate().map(line).collect();
    format!(
        "{CALM}routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers:\n{servers}{more}"
    )
}

async fn health(proxy: &Proxy) -> (u16, Value) {
    let answer = send(admin::address(proxy), "GET", "/health", "").await;
    (answer.head.status, json_of(&answer))
}

fn points(health: &Value, name: &str) -> u64 {
    let parts = health["parts"].as_array().expect("a list");
    let part = parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no `{name}`: {health:#}"));
    part["points"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn health_has_the_fields_that_runbooks_read() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet.urls(), "")).await;
    let (status, seen) = health(&proxy).await;
    assert_eq!(
        (status, &seen["status"], &seen["version"]),
        (200, &json!("healthy"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(
        (&seen["servers"]["healthy"], &seen["servers"]["total"], &seen["queue"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert!(seen["uptime"].is_u64() && seen["uptime"] == seen["uptime_seconds"], "{seen:#}");
    assert_eq!((&seen["score"], &seen["band"]), (&json!(100), &json!("excellent")), "{seen:#}");
    let services = seen["services"].as_object().expect("a map");
    assert!(services.len() >= 6 && services.values().all(|state| state == "up"), "{seen:#}");
    let detailed = || async { show(&proxy, "/health").await };
    eventually("it looked at itself", || async { detailed().await["process"]["memory"].is_object() }).await;
    let seen = detailed().await;
    assert_eq!(
        (&seen["status"], &seen["score"], &seen["queue"]["waiting"]),
        (&json!("healthy"), &json!(100), &json!(0))
    );
    let process = &seen["process"];
    assert!(process["memory"]["limit"].as_u64() > process["memory"]["used"].as_u64(), "{process:#}");
    assert!(process["files"]["used"].as_u64().is_some_and(|open| open > 3), "{process:#}");
    assert_eq!((&process["disks"][0]["folder"], &process["exceeded"]), (&json!("temp_dir"), &json!([])), "{process:#}");
    let score = show(&proxy, "/health-score").await;
    assert_eq!((&score["score"], score["parts"].as_array().map(Vec::len)), (&json!(100), Some(7)), "{score:#}");
    for (name, labels) in [("arriero_memory_bytes", "{of=\"used\"}"), ("arriero_process_files", "{of=\"open\"}")] {
        assert!(proxy.metric(&format!("{name}{labels}")).await > 1.0, "{name}");
    }
    assert!(proxy.metric("arriero_disk_bytes{folder=\"temp_dir\",of=\"free\"}").await > 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_score_falls_with_what_breaks_and_comes_back() {
    let fleet = fleet(2, &["m"]).await;
    let check = "    health: { active: { interval: 50ms, timeout: 2s, healthy: 1, unhealthy: 1 } }\n";
    let proxy = proxy(yaml(&fleet.urls(), check)).await;
    order(&proxy, "/circuit-breakers/s0/open", r#"{"for":"1h"}"#).await;
    assert_eq!(points(&health(&proxy).await.1, "circuits"), 5);
    order(&proxy, "/circuit-breakers/s0/reset", "").await;
    order(&proxy, "/queue/pause", "").await;
    let (_, seen) = health(&proxy).await;
    assert_eq!((points(&seen, "queue"), &seen["services"]["queue"]), (0, &json!("down")), "{seen:#}");
    order(&proxy, "/queue/resume", "").await;
    // What an operator took out is not missing.
    order(&proxy, "/servers/s0/drain", "").await;
    assert_eq!(health(&proxy).await.1["score"], 100);
    order(&proxy, "/servers/s1/drain", "").await;
    let (status, seen) = health(&proxy).await;
    assert_eq!((status, &seen["score"], &seen["band"]), (503, &json!(40), &json!("critical")), "{seen:#}");
    order(&proxy, "/servers/s0/undrain", "").await;
    order(&proxy, "/servers/s1/undrain", "").await;
    fleet.hosts[1].kill().await;
    eventually("one is down", || async { health(&proxy).await.1["status"] == "degraded" }).await;
    let (status, seen) = health(&proxy).await;
    assert_eq!(
        (status, points(&seen, "servers"), &seen["services"]["fleet"]),
        (200, 20, &json!("degraded")),
        "{seen:#}"
    );
    assert_eq!((&seen["score"], &seen["band"]), (&json!(80), &json!("good")), "{seen:#}");
    fleet.hosts[0].kill().await;
    eventually("both are down", || async { health(&proxy).await.0 == 503 }).await;
    let (_, seen) = health(&proxy).await;
    assert_eq!((&seen["score"], &seen["services"]["fleet"]), (&json!(40), &json!("down")), "{seen:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_requests_of_the_last_minutes_lower_the_score() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet.urls(), "    quarantine: 0s\n    circuit: { consecutive_failures: 100 }\n")).await;
    let ask = || async { send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status };
    for _ in 0..9 {
        assert_eq!(ask().await, 200);
    }
    fleet.hosts[0].faults().next(1, Fault::RunnerCrash);
    assert_eq!(ask().await, 500);
    let counted = || async { show(&proxy, "/health").await["requests"].clone() };
    eventually("all ended", || async { counted().await["ended"] == 10 }).await;
    let seen = counted().await;
    assert_eq!((&seen["failed"], &seen["byReason"]), (&json!(1), &json!({ "upstream_error": 1 })), "{seen:#}");
    // Half of what costs all points.
    assert_eq!(points(&health(&proxy).await.1, "errors"), 7);
}
