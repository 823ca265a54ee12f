//! What one instance of a cluster does for all, over a real Redis or Valkey: recovery tests, and what is to be warm.

mod support;

use arriero::demo::{Fleet, Host};
use support::admin::show;
use support::fleet::{circuit_is, fleet, generate, send};
use support::redis::Redis;
use support::wire::proxy;
use support::{Proxy, eventually, scheduled_yaml, upstream_yaml};

/// Tests in quick succession; circuits that do not open themselves again while a test runs.
const QUICK: &str = "balance: { policy: round_robin, model_affinity: off }
inventory: { interval: 1h }
circuit: { consecutive_failures: 1, open_for: 1h, max_open_for: 2h }
health: { active: off }
recovery: { interval: 20ms, max_interval: 40ms, quiet: 0s }";

fn leads(proxy: &Proxy) -> bool {
    let cluster = &proxy.running().store.load().lasting.cluster;
    cluster.is_linked() && cluster.leads(arriero::clock::now())
}

/// Two instances: the one that leads, and the other one.
async fn two(redis: &Redis, yaml: &str) -> (Proxy, Proxy) {
    let of = |name: &str| format!("{yaml}\ncluster: {{ redis: \"{}\", instance: {name} }}\n", redis.url());
    let (a, b) = (proxy(of("a")).await, proxy(of("b")).await);
    let members = |proxy: &Proxy| proxy.running().store.load().lasting.cluster.view().members.len();
    eventually("both see both", || async { members(&a) == 2 && members(&b) == 2 }).await;
    eventually("one leads", || async { leads(&a) != leads(&b) }).await;
    if leads(&a) { (a, b) } else { (b, a) }
}

async fn tests(proxy: &Proxy, host: &Host) -> u64 {
    let seen = show(proxy, &format!("/recovery-failures/{}", host.address())).await;
    seen["server"]["totalTests"].as_u64().expect("a number")
}

async fn fails(proxy: &Proxy, host: &Host) {
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status, 502);
    eventually("open", || circuit_is(proxy, host, "open")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_tests_for_all_and_what_it_proves_holds_for_all() {
    let (redis, fleet): (_, Fleet) = (Redis::start().await, fleet(1, &["m"]).await);
    let host = &fleet.hosts[0];
    let (leader, other) = two(&redis, &upstream_yaml("ollama", &fleet.urls(), "", QUICK)).await;
    host.kill().await;
    // Only the one that does not lead had a request: its circuit opens, and no other.
    fails(&other, host).await;
    eventually("the leader tests", || async { tests(&leader, host).await >= 2 }).await;
    assert!(circuit_is(&leader, host, "closed").await, "what another one saw is no order");
    assert_eq!(tests(&other, host).await, 0, "one tests for all");
    host.restart().await.expect("the port is ours");
    assert_eq!(send(host.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
    eventually("half open", || circuit_is(&other, host, "half_open")).await;
    assert_eq!(tests(&other, host).await, 0);
    // A real request decides.
    assert_eq!(send(other.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
    eventually("closed", || circuit_is(&other, host, "closed")).await;

    // The leader leaves, and the other one does it from now on.
    let mut leader = leader;
    let running = leader.running.take().expect("running");
    tokio::task::spawn_blocking(move || running.stop()).await.expect("stopped");
    eventually("the other one leads", || async { leads(&other) }).await;
    host.kill().await;
    fails(&other, host).await;
    eventually("it tests", || async { tests(&other, host).await >= 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_alone_loads_what_is_to_be_warm() {
    let (redis, fleet) = (Redis::start().await, fleet(2, &["m", "n"]).await);
    let yaml = scheduled_yaml(
        &fleet.urls(),
        "",
        &format!("inventory: {{ interval: 50ms }}\nwarm: [m@{}]", fleet.hosts[0].address()),
    );
    let (leader, other) = two(&redis, &yaml).await;
    eventually("it is warm", || async { fleet.hosts[0].loaded().iter().any(|model| model.starts_with('m')) }).await;
    let series = "arriero_model_changes_total{upstream=\"fleet\",kind=\"load\",result=\"ok\"}";
    eventually("the leader loaded it", || async { leader.metric(series).await == 1.0 }).await;
    assert_eq!(other.metric(series).await, 0.0);
    // A request is no such thing: whoever has it loads what it needs.
    assert_eq!(send(other.address(), "POST", "/api/generate", generate("n")).await.head.status, 200);
}
