//! Several instances before the same servers: they share the slots, load a model once, and do without each other.

mod support;

use std::time::Duration;

use arriero::demo::{Entry, Host, HostConfig, Ledger};
use rustix::process::Signal;
use support::fleet::{generate, send};
use support::process::{Program, arriero, complete};
use support::redis::{Redis, Relay, Way};
use support::wire::proxy;
use support::{PATIENCE, Proxy, eventually, scheduled_yaml};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Slots of the server.
const SLOTS: u32 = 4;

fn yaml(host: &Host, redis: &str, name: &str) -> String {
    scheduled_yaml(&[host.url()], "", "").replace("url:", &format!("max_in_flight: {SLOTS}, url:"))
        + &format!("\ncluster: {{ redis: \"{redis}\", instance: {name} }}\n")
}

/// A server that never makes anybody wait itself, whose answers take about a third of a second.
async fn host() -> Host {
    let config = HostConfig::new("gpu").small_model("llava").parallel(64).tokens(10);
    Host::start(config.token_interval(Duration::from_millis(30))).await.expect("a host")
}

async fn instances(host: &Host, redis: &str, count: usize) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for number in 0..count {
        proxies.push(proxy(yaml(host, redis, &format!("i{number}"))).await);
    }
    eventually("all see each other", || async {
        proxies.iter().all(|proxy| proxy.running().store.load().lasting.cluster.view().members.len() == count)
    })
    .await;
    proxies
}

/// Requests of clients for models that began, but for the first so many.
fn begun(ledger: &Ledger, after: usize) -> Vec<Entry> {
    ledger.inference().into_iter().filter(|entry| !entry.is_own_account()).skip(after).collect()
}

/// The most of them that ran at a time.
fn peak(ledger: &Ledger, after: usize) -> usize {
    let mut changes = Vec::new();
    for entry in begun(ledger, after) {
        changes.push((entry.started, 1_i64));
        if let Some(finished) = entry.finished {
            changes.push((finished.at, -1));
        }
    }
    // What ends in the moment in which another begins is over.
    changes.sort_by_key(|(at, change)| (*at, *change));
    let (mut running, mut peak) = (0, 0);
    for (_, change) in changes {
        running += change;
        peak = peak.max(running);
    }
    usize::try_from(peak).unwrap_or(0)
}

async fn flood(proxies: &[Proxy], each: usize) -> usize {
    let mut all = JoinSet::new();
    for proxy in proxies {
        for _ in 0..each {
            let address = proxy.address();
            all.spawn(async move { send(address, "POST", "/api/generate", generate("llava")).await.head.status });
        }
    }
    let mut good = 0;
    while let Some(status) = all.join_next().await {
        good += usize::from(status.expect("it ran") == 200);
    }
    good
}

/// Loads the model, so that what is measured later is not a load; how many requests that were.
async fn warm(proxies: &[Proxy]) -> usize {
    for proxy in proxies {
        assert_eq!(flood(std::slice::from_ref(proxy), 1).await, 1);
    }
    proxies.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_slots_of_a_server() {
    let (redis, host) = (Redis::start().await, host().await);
    let proxies = instances(&host, &redis.url(), 3).await;
    let before = warm(&proxies).await;
    assert_eq!(flood(&proxies, 12).await, 36);
    let peak = peak(&host.ledger(), before);
    assert!(peak < SLOTS as usize + proxies.len(), "{peak} at a time with {SLOTS} slots");
    assert!(peak >= SLOTS as usize, "{peak}: all slots are used");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waited_longest_is_next_wherever_it_waits() {
    let (redis, host) = (Redis::start().await, host().await);
    let proxies = instances(&host, &redis.url(), 2).await;
    let before = warm(&proxies).await;
    // One instance has more than it can begin, the other comes with one request, then the first with many more.
    let (crowd, single) = (proxies[0].address(), proxies[1].address());
    let mut all = JoinSet::new();
    let mut come = |count: usize| {
        for _ in 0..count {
            all.spawn(async move { send(crowd, "POST", "/api/generate", generate("llava")).await.head.status });
        }
    };
    host.token_gate().close();
    come(2 * SLOTS as usize);
    let upstream = proxies[1].running().store.upstream("fleet").expect("an upstream");
    eventually("the other one has heard that the slots are taken", || async {
        upstream.dispatcher.look(|scheduler| scheduler.elsewhere(0).running) == SLOTS
    })
    .await;
    let one = tokio::spawn(async move { send(single, "POST", "/api/generate", generate("llava")).await.head.status });
    let waits = |proxy: &Proxy| {
        let upstream = proxy.running().store.upstream("fleet").expect("an upstream");
        upstream.dispatcher.own_load().0.values().map(|load| load.all.waiting()).sum::<u32>()
    };
    eventually("it waits", || async { waits(&proxies[1]) == 1 }).await;
    come(6 * SLOTS as usize);
    host.token_gate().open();
    assert_eq!(one.await.expect("it ran"), 200);
    let count = begun(&host.ledger(), before).len();
    assert!(count <= 5 * SLOTS as usize, "{count} began before the one that came after {}", 2 * SLOTS);
    while let Some(status) = all.join_next().await {
        assert_eq!(status.expect("it ran"), 200);
    }
    assert!(peak(&host.ledger(), before) < SLOTS as usize + proxies.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_instance_had_is_free_again() {
    let (redis, host) = (Redis::start().await, host().await);
    let kept = instances(&host, &redis.url(), 1).await;
    let before = warm(&kept).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    std::fs::write(&file, complete(&yaml(&host, &redis.url(), "killed"))).expect("written");
    let killed = Program::serving(arriero(&["run", "--config", file.to_str().expect("text")], folder.path())).await;
    let state = std::sync::Arc::clone(&kept[0].running().store.load().lasting.cluster);
    eventually("two", || async { state.view().members.len() == 2 }).await;
    // It holds all slots by answers that do not end.
    host.token_gate().close();
    let address = killed.address();
    let mut held = JoinSet::new();
    for _ in 0..SLOTS {
        held.spawn(async move { send(address, "POST", "/api/generate", generate("llava")).await });
    }
    eventually("all slots are taken", || async { begun(&host.ledger(), before).len() == SLOTS as usize }).await;
    host.token_gate().open();
    killed.signal(Signal::KILL);
    held.abort_all();
    let since = arriero::clock::now();
    assert_eq!(flood(&kept, 4).await, 4, "no request fails because another instance died");
    eventually("forgotten", || async { state.view().members.len() == 1 }).await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_goes_on() {
    let (redis, host) = (Redis::start().await, host().await);
    let relay = Relay::before(redis.address()).await;
    let proxies = instances(&host, &relay.url(), 3).await;
    warm(&proxies).await;
    for way in [Way::Hole, Way::Closed] {
        relay.set(way);
        assert_eq!(flood(&proxies, 8).await, 24);
    }
    relay.set(Way::Open);
    eventually("linked again", || async {
        proxies.iter().all(|proxy| proxy.running().store.load().lasting.cluster.is_linked())
    })
    .await;
    let before = begun(&host.ledger(), 0).len();
    assert_eq!(flood(&proxies, 8).await, 24);
    let peak = peak(&host.ledger(), before);
    assert!(peak < SLOTS as usize + proxies.len(), "{peak} at a time with {SLOTS} slots");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_while_redis_is_gone_leaves_the_slots_of_others_taken() {
    let (redis, host) = (Redis::start().await, host().await);
    let relay = Relay::before(redis.address()).await;
    let proxies = [proxy(yaml(&host, &redis.url(), "one")).await, proxy(yaml(&host, &relay.url(), "two")).await];
    let state = std::sync::Arc::clone(&proxies[1].running().store.load().lasting.cluster);
    eventually("it sees the other one", || async { state.view().members.len() == 2 }).await;
    warm(&proxies).await;
    host.token_gate().close();
    let mut held = JoinSet::new();
    for _ in 0..SLOTS {
        let address = proxies[0].address();
        held.spawn(async move { send(address, "POST", "/api/generate", generate("llava")).await.head.status });
    }
    let upstream = proxies[1].running().store.upstream("fleet").expect("an upstream");
    let taken = || upstream.dispatcher.look(|scheduler| scheduler.elsewhere(0).running);
    eventually("it has heard that the slots are taken", || async { taken() == SLOTS }).await;
    relay.set(Way::Closed);
    eventually("it is alone", || async { !state.is_linked() }).await;
    // Once it tries the new address it has begun anew whatever it begins anew.
    let next = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", next.local_addr().expect("bound"));
    proxies[1].rewrite(&yaml(&host, &url, "two"));
    let tried = tokio::time::timeout(PATIENCE, next.accept()).await.expect("it tries the new address");
    assert!(tried.is_ok());
    assert_eq!((taken(), state.instances()), (SLOTS, 2));
    host.token_gate().open();
    while let Some(status) = held.join_next().await {
        assert_eq!(status.expect("it ran"), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_loaded_once_for_all_instances() {
    let redis = Redis::start().await;
    let mut config = HostConfig::new("gpu").small_model("llava").parallel(64).tokens(2);
    config.load_time_per_gb = Duration::from_millis(1500);
    let host = Host::start(config).await.expect("a host");
    let proxies = instances(&host, &redis.url(), 3).await;
    assert_eq!(flood(&proxies, 3).await, 9);
    let ledger = host.ledger();
    assert_eq!(ledger.counts().loads, 1);
    let orders = ledger.find(|entry| entry.is_own_account()).len();
    assert!(orders <= proxies.len(), "{orders} orders to load it");
}
