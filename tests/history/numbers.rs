//! Requests, usage and analytics of real requests to a simulated fleet.

use std::collections::BTreeMap;

use arriero::demo::{Fault, FaultRule, Fleet, HostConfig};
use serde_json::Value;

use crate::support::admin::{call, problem, show};
use crate::support::fleet::{generate, send, send_with};
use crate::support::keys::{KeysFile, bearer};
use crate::support::wire::proxy;
use crate::support::{PATIENCE, Proxy, eventually};

/// Ids of keys.
const ANA: &str = "a11ce0a0";
const BEN: &str = "be11be11";

/// Two servers with the models `m` and `n`, each answer four tokens long; two keys.
pub struct Scene {
    pub fleet: Fleet,
    pub proxy: Proxy,
    last: parking_lot::Mutex<Vec<Value>>,
    _keys: KeysFile,
}

pub async fn scene(more: &str) -> Scene {
    let host = |name| HostConfig::new(name).small_model("m").small_model("n").tokens(4).parallel(8);
    let fleet = Fleet::start(vec![host("a"), host("b")]).await.expect("a fleet");
    let keys = KeysFile::new(&[(ANA, ""), (BEN, "")]);
    let urls = fleet.urls();
    // An address of its own: what another test still sends to a port that it had before would be counted here.
    let yaml = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.77:0\" }}]\n\
         routes: [{{ name: all, upstream: fleet, auth: optional }}]\nupstreams:\n  fleet:\n    kind: ollama\n    \
         servers:\n      - {{ name: s0, url: \"{}\", max_in_flight: 4 }}\n      - {{ name: s1, url: \"{}\" }}\n    \
         balance: {{ policy: round_robin, model_affinity: off }}\n    health: {{ active: off }}\n{}{more}\n",
        urls[0],
        urls[1],
        keys.yaml()
    );
    Scene { proxy: proxy(yaml).await, fleet, last: parking_lot::Mutex::default(), _keys: keys }
}

impl Scene {
    async fn ask(&self, model: &str, key: Option<&str>) -> u16 {
        let field = key.map(bearer).unwrap_or_default();
        let body = format!(r#"{{"model":"{model}","prompt":"a secret","stream":false}}"#);
        send_with(self.proxy.address(), "POST", "/api/generate", &field, body).await.head.status
    }

    /// Ten requests that go well, two that fail at a server, one for a model that nobody has, one path that is not passed on.
    async fn traffic(&self) {
        for key in [Some(ANA), Some(ANA), Some(BEN), None] {
            assert_eq!(self.ask("m", key).await, 200);
            assert_eq!(self.ask("m", key).await, 200);
        }
        assert_eq!(self.ask("n", Some(ANA)).await, 200);
        assert_eq!(self.ask("library/N:latest", Some(ANA)).await, 200);
        for host in &self.fleet.hosts {
            host.faults().add(FaultRule::inference(Fault::Status(500, "broken".to_owned())).on_model("n").times(1));
        }
        assert_eq!(self.ask("n", Some(BEN)).await, 500);
        assert_eq!(self.ask("n", Some(BEN)).await, 500);
        assert_eq!(self.ask("made-up", None).await, 404);
        let denied = send(self.proxy.address(), "POST", "/api/pull?token=a-secret", r#"{"model":"m"}"#).await;
        assert_eq!(denied.head.status, 403, "{}", denied.text());
    }

    async fn rows(&self, query: &str) -> Vec<Value> {
        let seen = show(&self.proxy, &format!("/requests?{query}")).await;
        let rows = seen["requests"].as_array().expect("a list").clone();
        assert_eq!(seen["count"], rows.len(), "{seen}");
        rows
    }

    /// Waits until this many requests are written.
    pub async fn written(&self, count: usize) {
        let wait = async {
            loop {
                let rows = self.rows("limit=1000").await;
                if rows.len() == count {
                    return;
                }
                self.last.lock().clone_from(&rows);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let written = tokio::time::timeout(PATIENCE, wait).await;
        assert!(written.is_ok(), "{count} wanted, there are {:#?}", self.last.lock());
    }

    async fn refused(&self, path: &str) -> String {
        let (status, detail) = problem(&call(&self.proxy, "GET", path, "").await);
        assert_eq!(status, 400, "{path}: {detail}");
        detail
    }
}

const SENT: usize = 14;

fn texts<'v>(rows: &'v [Value], key: &str) -> Vec<&'v str> {
    rows.iter().map(|row| row[key].as_str().unwrap_or("-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_kept_with_their_facts_and_found_by_them() {
    let scene = scene("").await;
    scene.traffic().await;
    scene.written(SENT).await;
    let all = scene.rows("limit=1000").await;
    assert!(all.windows(2).all(|pair| pair[0]["seq"].as_i64() > pair[1]["seq"].as_i64()), "{all:?}");
    assert!(!format!("{all:?}").contains("secret"), "{all:?}");
    let first = all.iter().rfind(|row| row["key"] == ANA && row["model"] == "m:latest").expect("a row");
    assert_eq!(
        (&first["method"], &first["path"], &first["status"], &first["reason"], &first["route"], &first["upstream"]),
        (&"POST".into(), &"/api/generate".into(), &200.into(), &"ok".into(), &"all".into(), &"fleet".into())
    );
    assert_eq!((&first["model"], &first["key"], &first["attempts"]), (&"m:latest".into(), &ANA.into(), &1.into()));
    assert_eq!((&first["outputTokens"], &first["clientIp"]), (&4.into(), &"127.0.0.1".into()));
    assert!(first["promptTokens"].as_u64() > Some(0) && first["bytesIn"].as_u64() > Some(0), "{first}");
    assert!(
        first["durationMs"].as_f64() >= first["ttfbMs"].as_f64() && first["ttfbMs"].as_f64() > Some(0.0),
        "{first}"
    );
    // Requests on connections of their own may end in another order than their clients see.
    let ended = |reason: &str| all.iter().find(|row| row["reason"] == reason).expect("a row");
    let (denied, unknown) = (ended("endpoint_denied"), ended("model_not_found"));
    assert_eq!(
        (&denied["path"], &denied["server"], &denied["model"]),
        (&"/api/pull".into(), &Value::Null, &Value::Null)
    );
    assert_eq!((&unknown["reason"], &unknown["model"]), (&"model_not_found".into(), &"made-up:latest".into()));
    // By each of its facts.
    let count = async |query: &str| scene.rows(&format!("limit=1000&{query}")).await.len();
    for (query, wanted) in [
        ("model=m", 8),
        ("model=library/M:latest", 8),
        ("model=n&status=500", 2),
        ("key=a11ce0a0", 6),
        ("key=be11be11&model=m", 2),
        ("reason=upstream_error", 2),
        ("status=403", 1),
        ("route=all", 14),
        ("upstream=fleet", 14),
        ("server=fleet/s0&model=m", 4),
        ("server=gone", 0),
        ("since=1h", 14),
        ("since=2100-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(count(query).await, wanted, "{query}");
    }
    let served: usize = count("server=s0").await + count("server=s1").await;
    assert_eq!(served, scene.fleet.hosts.iter().map(|host| host.ledger().inference().len()).sum::<usize>());
    // Page by page.
    let mut pages = Vec::new();
    let mut before = String::new();
    loop {
        let page = scene.rows(&format!("limit=5{before}")).await;
        let Some(last) = page.last() else { break };
        before = format!("&before={}", last["seq"]);
        pages.extend(page);
    }
    assert_eq!(texts(&pages, "id"), texts(&all, "id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_makes_no_sense_is_told_what_would() {
    let scene = scene("").await;
    for (path, part) in [
        ("/requests?reason=broken", "`reason` is one of `ok`, `client_closed`"),
        ("/requests?limit=0", "`limit` is from 1 to 1000"),
        ("/requests?limit=1001", "`limit` is from 1 to 1000"),
        ("/requests?since=yesterday", "`since` is a moment such as"),
        ("/requests?status=many", "status"),
        ("/requests?server_name=s0", "expected one of"),
        ("/requests?server=fleet/s0&upstream=other", "`upstream` is `other`"),
        ("/usage?by=user", "`by` is one of `key,model`, `key`, `model`"),
        ("/usage?per=year", "`per` is one of `hour`, `day`, `month`, `total`"),
        ("/usage?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "`from` is after `to`"),
        ("/analytics/summary?timeRange=2h", "`timeRange` is one of `1m`, `5m`, `15m`, `1h`, `6h`, `24h`, `7d`, `30d`"),
        ("/analytics/trends/happiness", "`metric` is one of `latency`"),
        ("/analytics/top-models?limit=0", "`limit` is from 1"),
        ("/logs?level=loud", "`level` is one of `error`, `warn`, `info`, `debug`"),
        ("/logs/stream?kind=all", "`kind` is one of `requests`, `messages`"),
    ] {
        let detail = scene.refused(path).await;
        assert!(detail.contains(part), "{path}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_each_key_and_model_had() {
    let scene = scene("").await;
    scene.traffic().await;
    scene.written(SENT).await;
    let rows = scene.rows("limit=1000").await;
    let usage = async |query: &str| {
        let seen = show(&scene.proxy, &format!("/usage?{query}")).await;
        seen["usage"].as_array().expect("a list").clone()
    };
    // The same, counted from the single requests.
    let sum = |rows: &[&Value], key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
    let mut wanted: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for row in &rows {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let model = if row["reason"] == "model_not_found" { "-".to_owned() } else { text("model") };
        wanted.entry((text("key"), model)).or_default().push(row);
    }
    let told = usage("").await;
    assert_eq!(told.len(), wanted.len(), "{told:?}");
    for row in &told {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let requests = &wanted[&(text("key"), text("model"))];
        assert_eq!(row["requests"], requests.len(), "{row}");
        assert_eq!(row["errors"], requests.iter().filter(|one| one["status"].as_u64() >= Some(400)).count(), "{row}");
        for key in ["promptTokens", "outputTokens", "bytesIn", "bytesOut"] {
            assert_eq!(row[key], sum(requests, key), "{key}: {row}");
        }
    }
    let by_key = usage("by=key&per=hour&from=2h").await;
    let ana: u64 = by_key.iter().filter(|row| row["key"] == ANA).filter_map(|row| row["requests"].as_u64()).sum();
    assert_eq!(ana, 6, "{by_key:?}");
    assert!(by_key.iter().all(|row| row["period"].as_str().is_some_and(|at| at.ends_with(":00:00Z"))), "{by_key:?}");
    let by_model = usage("by=model&per=month").await;
    assert_eq!(by_model.iter().filter(|row| row["model"] == "m:latest").count(), 1, "{by_model:?}");
    assert_eq!(usage("to=2020-01-01T00:00:00Z").await, Vec::<Value>::new());
}

/// The value that a share of the sorted ones does not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    values[(values.len() * percent).div_ceil(100).max(1) - 1]
}

#[tokio::test(flavor = "multi_thread")]
async fn analytics_say_what_was_sent() {
    let scene = scene("").await;
    scene.fleet.hosts[1]
        .faults()
        .add(FaultRule::inference(Fault::Delay(std::time::Duration::from_millis(60))).on_model("m"));
    scene.traffic().await;
    scene.written(SENT).await;
    let rows = scene.rows("limit=1000").await;
    for range in ["1m", "5m", "15m", "1h", "6h", "24h", "7d", "30d"] {
        // The last whole slot of ten seconds, a minute or an hour may not reach back to the first request.
        let seen = show(&scene.proxy, &format!("/analytics/summary?timeRange={range}")).await;
        assert_eq!((&seen["timeRange"], &seen["requests"]), (&range.into(), &SENT.into()), "{seen}");
    }
    let seen = show(&scene.proxy, "/analytics/summary").await;
    assert_eq!((&seen["errors"], &seen["servers"], &seen["models"]), (&4.into(), &2.into(), &2.into()), "{seen}");
    assert_eq!(seen["outputTokens"], 40, "{seen}");
    assert_eq!((&seen["byReason"]["ok"], &seen["byReason"]["upstream_error"]), (&10.into(), &2.into()), "{seen}");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("a number: {value}"));
    let near = |told: &Value, wanted: f64| {
        let off = number(told) / wanted;
        assert!((0.95..1.05).contains(&off), "told {told}, wanted {wanted}");
    };
    near(&seen["errorRate"], 4.0 / 14.0);
    near(&seen["requestsPerSecond"], 14.0 / number(&seen["seconds"]));
    let mut times: Vec<f64> = rows.iter().map(|row| number(&row["durationMs"])).collect();
    times.sort_by(f64::total_cmp);
    near(&seen["avgLatency"], times.iter().sum::<f64>() / 14.0);
    for (key, percent) in [("p50Ms", 50), ("p95Ms", 95), ("p99Ms", 99)] {
        near(&seen["latency"][key], percentile(&times, percent));
    }
    let mut first: Vec<f64> = rows.iter().filter_map(|row| row["ttfbMs"].as_f64()).collect();
    first.sort_by(f64::total_cmp);
    assert_eq!(first.len(), 12);
    near(&seen["ttfb"]["p50Ms"], percentile(&first, 50));

    let seen = show(&scene.proxy, "/analytics/server-performance?timeRange=1h").await;
    let servers = seen["servers"].as_array().expect("a list");
    assert_eq!(texts(servers, "id"), ["s0", "s1"]);
    for (server, host) in servers.iter().zip(&scene.fleet.hosts) {
        assert_eq!(server["requests"], host.ledger().inference().len(), "{server}");
        assert_eq!((&server["healthy"], &server["errors"]), (&true.into(), &1.into()), "{server}");
    }
    assert_eq!((&servers[0]["maxInFlight"], &servers[1]["maxInFlight"]), (&4.into(), &Value::Null));
    assert!(servers[0]["utilization"].is_number() && servers[1]["utilization"].is_null(), "{seen}");
    assert!(number(&servers[1]["latency"]["p50Ms"]) >= 57.0, "the slow one: {seen}");
    assert!(number(&servers[0]["latency"]["p50Ms"]) < number(&servers[1]["latency"]["p50Ms"]), "{seen}");
    let one = show(&scene.proxy, "/analytics/server-performance?serverId=s1").await;
    assert_eq!(one["servers"].as_array().map(Vec::len), Some(1), "{one}");

    let seen = show(&scene.proxy, "/analytics/top-models").await;
    let models = seen["models"].as_array().expect("a list");
    assert_eq!(texts(models, "model"), ["m:latest", "n:latest"], "{seen}");
    assert_eq!(
        (&models[0]["requests"], &models[1]["requests"], &models[1]["errors"]),
        (&8.into(), &4.into(), &2.into())
    );
    let shares: f64 = models.iter().map(|model| number(&model["percentage"])).sum();
    assert!((99.9..100.1).contains(&shares), "{seen}");
    let top = show(&scene.proxy, "/analytics/top-models?limit=1").await;
    assert_eq!(top["models"].as_array().map(Vec::len), Some(1));

    let seen = show(&scene.proxy, "/analytics/errors?includeRecent=true").await;
    assert_eq!((&seen["totalErrors"], &seen["requests"]), (&4.into(), &14.into()), "{seen}");
    assert_eq!(seen["byType"], serde_json::json!({ "endpoint_denied": 1, "model_not_found": 1, "upstream_error": 2 }));
    assert_eq!(seen["byStatus"], serde_json::json!({ "403": 1, "404": 1, "500": 2 }));
    assert_eq!(seen["byServer"], serde_json::json!({ "fleet/s0": 1, "fleet/s1": 1 }));
    assert_eq!(seen["byModel"]["n:latest"], 2, "{seen}");
    let recent = seen["recentErrors"].as_array().expect("a list");
    let mut reasons = texts(recent, "reason");
    reasons.sort_unstable();
    assert_eq!(reasons, ["endpoint_denied", "model_not_found", "upstream_error", "upstream_error"]);
    assert!(show(&scene.proxy, "/analytics/errors").await["recentErrors"].is_null());

    let seen = show(&scene.proxy, "/analytics/capacity").await;
    let fleet = &seen["upstreams"][0];
    assert_eq!((&fleet["upstream"], &fleet["servers"], &fleet["healthy"]), (&"fleet".into(), &2.into(), &2.into()));
    assert_eq!((&fleet["current"]["inFlight"], &fleet["current"]["queued"]), (&0.into(), &0.into()), "{seen}");
    assert!(fleet["current"]["maxInFlight"].is_null() && fleet["used"]["utilization"].is_null(), "{seen}");
    let busy: f64 = rows.iter().filter(|row| row["upstream"] == "fleet").map(|row| number(&row["durationMs"])).sum();
    near(&fleet["used"]["avgInFlight"], busy / 1000.0 / number(&seen["seconds"]));

    for (range, step) in [("1m", 10), ("1h", 60), ("24h", 1440), ("30d", 43_200)] {
        let seen = show(&scene.proxy, &format!("/analytics/requests?timeRange={range}")).await;
        let steps = seen["steps"].as_array().expect("a list");
        let counted: u64 = steps.iter().filter_map(|step| step["requests"].as_u64()).sum();
        assert_eq!(counted, 14, "{range}: {seen}");
        assert!(steps.len() <= 61 && seen["stepSeconds"].as_i64() <= Some(step), "{range}: {seen}");
        assert!(seen["from"].as_str() <= steps[0]["at"].as_str(), "{seen}");
    }
    let only = show(&scene.proxy, "/analytics/requests?timeRange=5m&model=n&serverId=s0").await;
    let counted: u64 = only["steps"].as_array().expect("a list").iter().filter_map(|s| s["requests"].as_u64()).sum();
    assert_eq!(counted, scene.rows("server=s0&model=n").await.len() as u64);

    for metric in ["latency", "ttfb", "queue", "errors", "throughput", "tokens"] {
        let seen = show(&scene.proxy, &format!("/analytics/trends/{metric}?timeRange=1m")).await;
        let points = seen["points"].as_array().expect("points");
        assert!(!points.is_empty() && seen["direction"].is_string(), "{seen}");
        let of: u64 = points.iter().filter_map(|point| point["requests"].as_u64()).sum();
        assert_eq!(of, 14, "{metric}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_is_not_told_as_nothing_and_a_reload_changes_what_is_kept() {
    let mut scene = scene("history: { requests: 0s, aggregates: 0s, usage: 0s }\n").await;
    assert_eq!(scene.ask("m", None).await, 200);
    for path in ["/requests", "/usage", "/analytics/summary"] {
        let (status, detail) = problem(&call(&scene.proxy, "GET", path, "").await);
        assert!(status == 409 && detail.contains("`history."), "{path}: {detail}");
    }
    let text = std::fs::read_to_string(&scene.proxy.file).expect("a text");
    scene.proxy.rewrite(&text.replace("requests: 0s, aggregates: 0s, usage: 0s", "max_requests: 3"));
    eventually("kept from now on", || async { call(&scene.proxy, "GET", "/requests", "").await.head.status == 200 })
        .await;
    for _ in 0..8 {
        assert_eq!(scene.ask("m", Some(ANA)).await, 200);
    }
    let summed = || async { show(&scene.proxy, "/analytics/summary").await["requests"] == 8 };
    eventually("the eight are summed up", summed).await;
    scene.written(3).await;
    scene.proxy.running.take().map(|running| std::thread::spawn(move || running.stop()));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_where_runbooks_look_for_them() {
    let scene = scene("").await;
    assert_eq!(send(scene.proxy.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
    let answer = call(&scene.proxy, "GET", "/metrics", "").await;
    let text = answer.text();
    for (word, line) in [
        ("circuit_breaker", "arriero_circuit_breakers{upstream=\"fleet\",of=\"server\",state=\"closed\"} 2"),
        ("circuit_breaker", "arriero_circuit_breakers{upstream=\"fleet\",of=\"server\",state=\"open\"} 0"),
        ("server", "arriero_server_up{upstream=\"fleet\",server=\"s0\"} 1"),
    ] {
        assert!(text.lines().any(|found| found.contains(word) && found == line), "{line}:\n{text}");
    }
    let memory = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let memory: u64 = memory.and_then(|bytes| bytes.parse().ok()).expect("a number");
    assert!(memory > 1 << 20, "{memory}");
}
