//! Token quotas that several instances share by way of a real Redis or Valkey.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arriero::clock;
use arriero::demo::{Host, HostConfig};
use serde_json::Value;
use support::admin::{json as parsed, order, show};
use support::edge::{H2C, upstream};
use support::fleet::{generate, send};
use support::redis::{Redis, Relay, Way};
use support::wire::{Answer, proxy};
use support::{Proxy, eventually};

async fn host() -> Host {
    let config = HostConfig::new("gpu").small_model("llava").tokens(5).parallel(16);
    Host::start(config).await.expect("a host")
}

/// An instance, with its sums in a folder or in memory.
async fn instance(redis: &str, name: &str, host: &Host, limit: &str, folder: Option<&Path>) -> Proxy {
    proxy(yaml(redis, name, host, limit, folder)).await
}

fn yaml(redis: &str, name: &str, host: &Host, limit: &str, folder: Option<&Path>) -> String {
    let server = folder.map_or_else(String::new, |folder| format!("server: {{ data_dir: {} }}\n", folder.display()));
    format!(
        "version: 1\n{H2C}routes: [{{ name: all, upstream: fleet }}]\n{}{server}\
         quotas: [{{ name: house, key: all, limit: {limit}, every: month }}]\n\
         cluster: {{ redis: \"{redis}\", instance: {name}, timeout: 1s }}\n",
        upstream(&host.url(), "ollama")
    )
}

async fn three(redis: &str, host: &Host, limit: &str, folders: &[tempfile::TempDir]) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        proxies.push(instance(redis, name, host, limit, folders.get(number).map(tempfile::TempDir::path)).await);
    }
    eventually("each sees three", || async { proxies.iter().all(|proxy| state(proxy).instances() == 3) }).await;
    proxies
}

fn folders() -> Vec<tempfile::TempDir> {
    (0..3).map(|_| tempfile::tempdir().expect("a folder")).collect()
}

fn state(proxy: &Proxy) -> Arc<arriero::fleet::cluster::ClusterState> {
    Arc::clone(&proxy.running().store.load().lasting.cluster)
}

async fn stop(mut proxy: Proxy) {
    let running = proxy.running.take().expect("running");
    tokio::task::spawn_blocking(move || running.stop()).await.expect("stopped");
}

async fn ask(proxy: &Proxy) -> Answer {
    send(proxy.address(), "POST", "/api/generate", generate("llava")).await
}

/// Asks, and tells the tokens that it cost; `None` where the quota refused it.
async fn cost(proxy: &Proxy) -> Option<u64> {
    let answer = ask(proxy).await;
    if answer.head.status == 429 {
        assert_eq!(answer.reason(), Some("quota_exceeded"), "{}", answer.text());
        return None;
    }
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    let body = parsed(&answer);
    Some(body["prompt_eval_count"].as_u64().unwrap_or(0) + body["eval_count"].as_u64().unwrap_or(0))
}

async fn costs(proxy: &Proxy, times: usize) -> u64 {
    let mut all = 0;
    for _ in 0..times {
        all += cost(proxy).await.expect("it is let in");
    }
    all
}

/// What is used by way of all and by way of this one; zero where nothing is.
async fn used(proxy: &Proxy) -> (u64, u64) {
    let row: Value = show(proxy, "/quotas?quota=house").await["quotas"][0].clone();
    (row["used"].as_u64().unwrap_or(0), row["usedHere"].as_u64().unwrap_or(0))
}

async fn all_know(what: &str, proxies: &[Proxy], wanted: u64) {
    let told = || async {
        for proxy in proxies {
            let (all, _) = used(proxy).await;
            assert!(all <= wanted, "{what}: {all} of {wanted}: counted twice");
            if all != wanted {
                return false;
            }
        }
        true
    };
    eventually(&format!("{what}: all know of {wanted}"), told).await;
}

/// What Redis has of the only window.
async fn in_redis(redis: &Redis) -> u64 {
    let keys: Vec<String> = redis.call(&["KEYS", "arriero:1:{arriero}:quota:*"]).await;
    let mut all = 0;
    for key in keys {
        let fields: Vec<String> = redis.try_call(&["HGETALL", &key]).await.unwrap_or_default();
        let sums = fields.chunks(2).filter(|pair| pair[0].starts_with('@'));
        all +=
            sums.flat_map(|pair| pair[1].split(' ')).map(|number| number.parse::<u64>().expect("a sum")).sum::<u64>();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_is_one_sum_whatever_is_lost() {
    let (mut redis, host, folders) = (Redis::start().await, host().await, folders());
    let mut proxies = three(&redis.url(), &host, "1M", &folders).await;
    let mut each = Vec::new();
    for (proxy, times) in proxies.iter().zip([3, 2, 1]) {
        each.push(costs(proxy, times).await);
    }
    let mut sum = each.iter().sum();
    all_know("charged", &proxies, sum).await;
    for (proxy, own) in proxies.iter().zip(&each) {
        assert_eq!(used(proxy).await, (sum, *own));
    }
    assert_eq!(in_redis(&redis).await, sum);

    let lost: String = redis.call(&["FLUSHALL"]).await;
    assert_eq!(lost, "OK");
    eventually("written again", || async { in_redis(&redis).await == sum }).await;
    all_know("flushed", &proxies, sum).await;

    // One is stopped and comes again.
    stop(proxies.remove(0)).await;
    sum += costs(&proxies[0], 1).await;
    proxies.push(instance(&redis.url(), "a", &host, "1M", Some(folders[0].path())).await);
    all_know("restarted", &proxies, sum).await;
    assert_eq!(used(&proxies[2]).await, (sum, each[0]));
    // Under another name, as hosts of containers have.
    stop(proxies.remove(2)).await;
    proxies.push(instance(&redis.url(), "renamed", &host, "1M", Some(folders[0].path())).await);
    sum += costs(&proxies[2], 1).await;
    all_know("renamed", &proxies, sum).await;

    // A key of another type.
    let keys: Vec<String> = redis.call(&["KEYS", "arriero:1:{arriero}:quota*"]).await;
    for key in &keys {
        let _: String = redis.call(&["SET", key, "7"]).await;
    }
    sum += costs(&proxies[1], 1).await;
    eventually("healed", || async { in_redis(&redis).await == sum }).await;
    all_know("healed", &proxies, sum).await;

    // Another, empty Redis; what is used meanwhile counts once.
    redis.kill();
    eventually("noticed", || async { proxies.iter().all(|proxy| !state(proxy).is_linked()) }).await;
    for proxy in &proxies {
        sum += costs(proxy, 1).await;
    }
    redis.start_again().await;
    all_know("replaced", &proxies, sum).await;
    eventually("all is in the new one", || async { in_redis(&redis).await == sum }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_counts_when_instance_and_redis_begin_anew() {
    let (redis, host, folders) = (Redis::start().await, host().await, folders());
    let url = redis.url();
    let begin = || instance(&url, "a", &host, "1M", Some(folders[0].path()));
    let mut proxies = vec![begin().await];
    let mut sum = costs(&proxies[0], 3).await;
    all_know("charged", &proxies, sum).await;
    for _ in 0..2 {
        stop(proxies.remove(0)).await;
        let _: String = redis.call(&["FLUSHALL"]).await;
        proxies.push(begin().await);
        eventually("told from the file", || async { in_redis(&redis).await == sum }).await;
        assert_eq!(used(&proxies[0]).await, (sum, sum));
        sum += costs(&proxies[0], 1).await;
        all_know("goes on", &proxies, sum).await;
    }
    // Who only asks leaves nothing.
    proxies.push(instance(&url, "asks", &host, "1M", Some(folders[1].path())).await);
    eventually("it knows", || async { used(&proxies[1]).await == (sum, 0) }).await;
    let keys: Vec<String> = redis.call(&["KEYS", "arriero:1:{arriero}:quota:*"]).await;
    assert_eq!(redis.call::<u32>(&["HLEN", &keys[0]]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_timeout_leaves_what_others_used() {
    let (redis, host) = (Redis::start().await, host().await);
    let relay = Relay::before(redis.address()).await;
    let proxies =
        [instance(&redis.url(), "a", &host, "1M", None).await, instance(&relay.url(), "b", &host, "1M", None).await];
    let sum = costs(&proxies[0], 2).await;
    all_know("charged", &proxies, sum).await;
    relay.set(Way::Closed);
    eventually("noticed", || async { !state(&proxies[1]).is_linked() }).await;
    let changed = yaml(&relay.url(), "b", &host, "2M", None);
    proxies[1].rewrite(&changed.replace("timeout: 1s", "timeout: 2s"));
    let limit = || async { show(&proxies[1], "/quotas?quota=house").await["quotas"][0]["limit"] == 2_000_000 };
    eventually("taken over", limit).await;
    // Longer than leaving takes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(used(&proxies[1]).await, (sum, 0));
    relay.set(Way::Open);
    let sum = sum + costs(&proxies[0], 1).await;
    all_know("linked again", &proxies, sum).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_a_process_counts_once_however_often_it_joins() {
    let (redis, host) = (Redis::start().await, host().await);
    let (url, quota) = (redis.url(), "1M");
    let proxies = [instance(&url, "a", &host, quota, None).await, instance(&url, "b", &host, quota, None).await];
    eventually("both see both", || async { proxies.iter().all(|proxy| state(proxy).instances() == 2) }).await;
    let mut sum = costs(&proxies[0], 2).await;
    all_know("charged", &proxies, sum).await;
    let first = yaml(&url, "a", &host, quota, None);
    // Another connection, and another name.
    for changed in [first.replace("timeout: 1s", "timeout: 2s"), first.replace("instance: a", "instance: renamed")] {
        let links = state(&proxies[0]).links();
        proxies[0].rewrite(&changed);
        eventually("it joins again", || async { state(&proxies[0]).links() > links }).await;
        assert_eq!(state(&proxies[0]).instances(), 2, "{:?}", state(&proxies[0]).view());
        sum += costs(&proxies[0], 1).await;
        all_know("it joined again", &proxies, sum).await;
        assert_eq!((used(&proxies[0]).await, used(&proxies[1]).await), ((sum, sum), (sum, 0)));
        assert_eq!(in_redis(&redis).await, sum);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_others_used_up_refuses_here() {
    let (redis, host) = (Redis::start().await, host().await);
    let proxies = three(&redis.url(), &host, "40", &[]).await;
    let mut sum = 0;
    // A request each, wherever; each waits until all know.
    for turn in 0.. {
        let Some(cost) = cost(&proxies[turn % 3]).await else { break };
        sum += cost;
        all_know("charged", &proxies, sum).await;
    }
    let one = sum / 40 + 12;
    assert!((40..40 + one).contains(&sum), "{sum}");
    for proxy in &proxies {
        assert_eq!(cost(proxy).await, None);
    }
    assert!(proxies[0].metric("arriero_cluster_settled_total{of=\"quotas\"}").await > 0.0);
    // One that comes later knows, and one of which the sums were in memory leaves them.
    let mut proxies = proxies;
    stop(proxies.remove(0)).await;
    let later = instance(&redis.url(), "later", &host, "40", None).await;
    eventually("it knows", || async { used(&later).await == (sum, 0) }).await;
    assert_eq!(cost(&later).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_has_its_share() {
    let (redis, host) = (Redis::start().await, host().await);
    let relay = Relay::before(redis.address()).await;
    let proxies = three(&relay.url(), &host, "150", &[]).await;
    relay.set(Way::Hole);
    eventually("noticed", || async { proxies.iter().all(|proxy| !state(proxy).is_linked()) }).await;
    let mut sum = 0;
    for proxy in &proxies {
        let mut own = 0;
        while let Some(cost) = cost(proxy).await {
            own += cost;
            assert!(own < 150, "all of it");
            // A charge counts when its request has ended.
            eventually("charged", || async { used(proxy).await.1 == own }).await;
        }
        assert!(own >= 50, "{own}");
        sum += own;
    }
    assert!((150..300).contains(&sum), "{sum}");
    relay.set(Way::Open);
    let since = clock::now();
    eventually("linked", || async { proxies.iter().all(|proxy| state(proxy).is_linked()) }).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    all_know("told", &proxies, sum).await;
    assert_eq!(cost(&proxies[0]).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_reaches_all() {
    let (redis, host, folders) = (Redis::start().await, host().await, folders());
    let relay = Relay::before(redis.address()).await;
    let mut proxies = three(&relay.url(), &host, "1M", &folders).await;
    let reset = r#"{"quota":"house","all":true}"#;
    let mut sum = 0;
    for proxy in &proxies {
        sum += costs(proxy, 2).await;
    }
    all_know("charged", &proxies, sum).await;
    // One is away.
    stop(proxies.remove(2)).await;
    let before = order(&proxies[0], "/quotas/reset", reset).await;
    assert_eq!(before["quotas"][0]["used"], sum, "{before}");
    let none = || async {
        for proxy in &proxies {
            if used(proxy).await != (0, 0) {
                return false;
            }
        }
        true
    };
    eventually("nothing is used", none).await;
    let sum = costs(&proxies[1], 1).await;
    all_know("charged again", &proxies, sum).await;
    proxies.push(instance(&relay.url(), "c", &host, "1M", Some(folders[2].path())).await);
    eventually("who was away forgets it too", || async { used(&proxies[2]).await == (sum, 0) }).await;
    all_know("one sum", &proxies, sum).await;
    // It goes on from there, over a restart too.
    let sum = sum + costs(&proxies[2], 1).await;
    all_know("charged", &proxies, sum).await;
    stop(proxies.remove(2)).await;
    proxies.push(instance(&relay.url(), "c", &host, "1M", Some(folders[2].path())).await);
    all_know("restarted", &proxies, sum).await;

    // Without Redis it holds here at once, and for all when Redis is back.
    relay.set(Way::Closed);
    eventually("noticed", || async { proxies.iter().all(|proxy| !state(proxy).is_linked()) }).await;
    order(&proxies[1], "/quotas/reset", reset).await;
    assert_eq!(used(&proxies[1]).await, (0, 0));
    relay.set(Way::Open);
    eventually("nothing is used", || async {
        for proxy in &proxies {
            if used(proxy).await != (0, 0) {
                return false;
            }
        }
        true
    })
    .await;
}
