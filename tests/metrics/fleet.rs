//! Slots, queues, loads, models that leave memory, and connections.

use arriero::demo::{DemoModel, Host, HostConfig};

use crate::support::admin::order;
use crate::support::fleet::{fleet, generate, knows, of_server, send};
use crate::support::wire::{H1, post, proxy};
use crate::support::{Proxy, eventually, http_yaml, ollama_yaml, scheduled_yaml};

const GB: u64 = 1_000_000_000;

async fn ask(proxy: &Proxy, model: &str) {
    let answer = send(proxy.address(), "POST", "/api/generate", generate(model)).await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
}

async fn evictions(proxy: &Proxy, host: &Host) -> [u32; 4] {
    let mut counts = [0; 4];
    for (count, why) in counts.iter_mut().zip(["room", "idle", "operator", "server"]) {
        let labels = format!(",why=\"{why}\"");
        *count = of_server(proxy, "arriero_model_evictions_total", host.address(), &labels).await as u32;
    }
    counts
}

async fn of_upstream(proxy: &Proxy, metric: &str) -> u32 {
    proxy.metric(&format!("{metric}{{upstream=\"fleet\"}}")).await as u32
}

/// The value of a series, where it is there.
async fn told(proxy: &Proxy, series: &str) -> Option<u32> {
    proxy.admin("/metrics").await.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_told_where_they_are_known() {
    let host = Host::start(HostConfig::new("one").small_model("a").small_model("b")).await.unwrap();
    let series = format!("arriero_server_slots{{upstream=\"fleet\",server=\"{}\"}}", host.address());
    let of = |keys: &str| scheduled_yaml(&[host.url()], "", "").replace("url: ", &format!("{keys}url: "));

    let limited = proxy(of("max_in_flight: 3, max_in_flight_per_model: 2, ")).await;
    assert_eq!(told(&limited, &series).await, Some(3));
    drop(limited);

    let free = proxy(of("")).await;
    knows(&free, &host, "disk", 2).await;
    ask(&free, "a").await;
    assert_eq!(told(&free, &series).await, None, "nothing is known of it");
    drop(free);

    let per_model = proxy(of("max_in_flight_per_model: 2, ")).await;
    knows(&per_model, &host, "disk", 2).await;
    ask(&per_model, "a").await;
    eventually("one model has two", || async { told(&per_model, &series).await == Some(2) }).await;
    ask(&per_model, "b").await;
    eventually("two have four", || async { told(&per_model, &series).await == Some(4) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_shows_while_it_goes_on_and_when_it_is_done() {
    let host = Host::start(HostConfig::new("one").small_model("a").small_model("b")).await.unwrap();
    host.load_gate().close();
    let proxy = proxy(scheduled_yaml(&[host.url()], "", "queue: { max_pending: 7 }")).await;
    knows(&proxy, &host, "disk", 2).await;
    assert_eq!(of_upstream(&proxy, "arriero_queue_limit_requests").await, 7);
    let mut clients = Vec::new();
    for model in ["a", "a", "b"] {
        let mut client = H1::connect(proxy.address()).await;
        client.send(post("/api/generate", generate(model))).await;
        clients.push(client);
    }
    eventually("all of them wait", || async { of_upstream(&proxy, "arriero_queue_requests").await == 3 }).await;
    // One load at a time: of `a`, for which two wait, or of `b`.
    let loading = of_server(&proxy, "arriero_server_models_loading", host.address(), "").await;
    let longest = of_upstream(&proxy, "arriero_queue_longest_requests").await;
    let for_loads = of_upstream(&proxy, "arriero_queue_loading_requests").await;
    assert_eq!((loading as u32, longest), (1, 2));
    assert!((1..=2).contains(&for_loads), "{for_loads}");
    assert_eq!(of_server(&proxy, "arriero_model_load_duration_seconds_count", host.address(), "").await, 0.0);
    host.load_gate().open();
    for client in &mut clients {
        assert_eq!(client.reader.answer().await.head.status, 200);
    }
    eventually("both loads", || async {
        of_server(&proxy, "arriero_model_load_duration_seconds_count", host.address(), "").await == 2.0
    })
    .await;
    assert_eq!(of_server(&proxy, "arriero_server_models_loading", host.address(), "").await, 0.0);
    assert_eq!(of_upstream(&proxy, "arriero_queue_loading_requests").await, 0);
}

/// A host on which one of its two models has room at a time, and a proxy that knows that.
async fn one_at_a_time(upstream: &str) -> (Host, Proxy) {
    let mut config = HostConfig::new("one").vram(10 * GB);
    for model in ["a", "b"] {
        config = config.model(DemoModel::new(model, 8 * GB));
    }
    let host = Host::start(config).await.unwrap();
    let yaml = scheduled_yaml(&[host.url()], "", &format!("inventory: {{ interval: 50ms }}\n{upstream}"));
    let proxy = proxy(yaml.replace("url: ", "name: one, gpu: { memory: 10GB }, url: ")).await;
    let known = "arriero_server_models{upstream=\"fleet\",server=\"one\",in=\"disk\"}";
    eventually("it is known", || async { proxy.metric(known).await == 2.0 }).await;
    (host, proxy)
}

async fn evictions_of_one(proxy: &Proxy) -> [u32; 4] {
    let mut counts = [0; 4];
    for (count, why) in counts.iter_mut().zip(["room", "idle", "operator", "server"]) {
        let series = format!("arriero_model_evictions_total{{upstream=\"fleet\",server=\"one\",why=\"{why}\"}}");
        *count = proxy.metric(&series).await as u32;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_memory_is_counted_once_by_why() {
    let (host, proxy) = one_at_a_time("").await;
    ask(&proxy, "a").await;
    ask(&proxy, "b").await;
    eventually("room was made", || async { evictions_of_one(&proxy).await == [1, 0, 0, 0] }).await;
    order(&proxy, "/models/b/unload?wait=20s", r#"{"force":true}"#).await;
    assert_eq!(evictions_of_one(&proxy).await, [1, 0, 1, 0]);
    // A client sends it away.
    ask(&proxy, "a").await;
    let known = "arriero_server_models{upstream=\"fleet\",server=\"one\",in=\"memory\"}";
    eventually("it is seen", || async { proxy.metric(known).await == 1.0 }).await;
    let unload = r#"{"model":"a","keep_alive":0}"#;
    assert_eq!(send(proxy.address(), "POST", "/api/generate", unload).await.head.status, 200);
    assert!(host.loaded().is_empty());
    eventually("that is seen", || async { evictions_of_one(&proxy).await == [1, 0, 1, 1] }).await;
    // Looks at the lists that come later count nothing again.
    let looks = "arriero_probes_total{kind=\"inventory\",result=\"same\"}";
    let before = proxy.metric(looks).await;
    eventually("more looks", || async { proxy.metric(looks).await >= before + 3.0 }).await;
    assert_eq!(evictions_of_one(&proxy).await, [1, 0, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_nobody_uses_leaves_as_its_rule_says() {
    let (host, proxy) = one_at_a_time("models: [{ match: a, idle_unload: 200ms }]").await;
    ask(&proxy, "a").await;
    eventually("it is gone", || async { host.loaded().is_empty() }).await;
    eventually("and counted", || async { evictions_of_one(&proxy).await == [0, 1, 0, 0] }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_unload_is_one_where_nothing_is_scheduled_too() {
    let host = Host::start(HostConfig::new("one").small_model("a")).await.unwrap();
    let proxy = proxy(ollama_yaml(&[host.url()], "inventory: { interval: 50ms }")).await;
    knows(&proxy, &host, "disk", 1).await;
    ask(&proxy, "a").await;
    knows(&proxy, &host, "memory", 1).await;
    order(&proxy, "/models/a/unload?wait=20s", "").await;
    knows(&proxy, &host, "memory", 0).await;
    assert_eq!(evictions(&proxy, &host).await, [0, 0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_new_or_used_again() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(http_yaml(&[host.url()], "", "health: { active: off }")).await;
    let used = |how: &'static str| {
        let proxy = &proxy;
        async move {
            let labels = format!(",how=\"{how}\"");
            of_server(proxy, "arriero_server_connections_used_total", host.address(), &labels).await as u32
        }
    };
    for _ in 0..3 {
        assert_eq!(send(proxy.address(), "GET", "/api/version", "").await.head.status, 200);
    }
    assert_eq!((used("new").await, used("reused").await), (1, 2));
    let connects = |end: &'static str| {
        let proxy = &proxy;
        let name = format!("arriero_server_connect_duration_seconds_{end}");
        async move { of_server(proxy, &name, host.address(), "").await }
    };
    assert_eq!(connects("count").await, 1.0);
    assert!(connects("sum").await > 0.0);
    // One that cannot be opened is none.
    host.stop_listening().await;
    host.reset_connections();
    eventually("it is refused", || async { send(proxy.address(), "GET", "/api/version", "").await.head.status == 502 })
        .await;
    assert_eq!((used("new").await, connects("count").await), (1, 1.0));
}
