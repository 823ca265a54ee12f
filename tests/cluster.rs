//! Several instances before a real Redis or Valkey: who sees whom, who leads, and what becomes of that when Redis fails.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::admin::json;
use support::fleet::{Small, send};
use support::process::{Program, arriero, complete};
use support::redis::{Redis, Relay, Way};
use support::wire::proxy;
use support::{Proxy, eventually, http_yaml};

/// An instance of a cluster before one server.
fn yaml(redis: &str, name: &str, server: &str) -> String {
    let cluster = format!("\ncluster: {{ redis: \"{redis}\", instance: {name} }}\n");
    http_yaml(&[server.to_owned()], "", "") + &cluster
}

fn view(proxy: &Proxy) -> std::sync::Arc<arriero::fleet::cluster::View> {
    proxy.running().store.load().lasting.cluster.view()
}

fn leads(proxy: &Proxy) -> bool {
    proxy.running().store.load().lasting.cluster.leads(arriero::clock::now())
}

fn linked(proxy: &Proxy) -> bool {
    proxy.running().store.load().lasting.cluster.is_linked()
}

async fn three(redis: &str) -> (Small, Vec<Proxy>) {
    let server = Small::named("one").await;
    let mut proxies = Vec::new();
    for name in ["a", "b", "c"] {
        proxies.push(proxy(yaml(redis, name, &server.url())).await);
    }
    eventually("each sees three", || async { proxies.iter().all(|proxy| view(proxy).members.len() == 3) }).await;
    (server, proxies)
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_see_each_other_and_one_leads() {
    let redis = Redis::start().await;
    let (_server, mut proxies) = three(&redis.url()).await;
    eventually("one leads", || async { proxies.iter().filter(|proxy| leads(proxy)).count() == 1 }).await;
    let leader = view(&proxies[0]).leader.clone().expect("a leader");
    for proxy in &proxies {
        assert!(linked(proxy));
        assert_eq!(proxy.metric("arriero_cluster_instances{cluster=\"arriero\"}").await, 3.0);
        assert_eq!(
            proxy.metric("arriero_cluster_configurations{cluster=\"arriero\"}").await,
            1.0,
            "names are their own"
        );
    }
    // The leader leaves in order: the others know at once, and another one leads with a higher token.
    let index = proxies.iter().position(leads).expect("one leads");
    let mut gone = proxies.remove(index);
    let running = gone.running.take().expect("running");
    tokio::task::spawn_blocking(move || running.stop()).await.expect("stopped");
    eventually("two are left", || async { proxies.iter().all(|proxy| view(proxy).members.len() == 2) }).await;
    eventually("another one leads", || async { proxies.iter().filter(|proxy| leads(proxy)).count() == 1 }).await;
    let next = view(proxies.iter().find(|proxy| leads(proxy)).expect("one leads")).leader.clone().expect("a leader");
    assert!(next.token > leader.token, "{leader:?} {next:?}");
    assert_ne!(next.id, leader.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_is_forgotten() {
    let redis = Redis::start().await;
    let server = Small::named("one").await;
    let kept = proxy(yaml(&redis.url(), "kept", &server.url())).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    std::fs::write(&file, complete(&yaml(&redis.url(), "killed", &server.url()))).expect("written");
    let killed = Program::serving(arriero(&["run", "--config", file.to_str().expect("text")], folder.path())).await;
    eventually("two", || async { view(&kept).members.len() == 2 }).await;
    killed.signal(Signal::KILL);
    let since = arriero::clock::now();
    eventually("one", || async { view(&kept).members.len() == 1 }).await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    eventually("it leads", || async { leads(&kept) }).await;
    let about = async || redis.call::<Vec<String>>(&["HKEYS", "arriero:1:{arriero}:about"]).await;
    eventually("no key of it is left", || async { about().await.iter().all(|id| id.starts_with("kept.")) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_and_lost_keys_are_healed() {
    let redis = Redis::start().await;
    let (_server, proxies) = three(&redis.url()).await;
    let token = view(&proxies[0]).leader.as_ref().map(|leader| leader.token);
    for key in ["members", "about", "leader"] {
        let _: String = redis.call(&["SET", &format!("arriero:1:{{arriero}}:{key}"), "7"]).await;
    }
    let seen = || async { redis.call::<u32>(&["EXISTS", "arriero:1:{arriero}:members"]).await == 1 };
    let healed = || async {
        seen().await && redis.try_call::<u32>(&["ZCARD", "arriero:1:{arriero}:members"]).await.is_ok_and(|all| all == 3)
    };
    eventually("healed", healed).await;
    let _: String = redis.call(&["FLUSHALL"]).await;
    eventually("written again", healed).await;
    eventually("one leads", || async { proxies.iter().filter(|proxy| leads(proxy)).count() == 1 }).await;
    let after = proxies.iter().filter_map(|proxy| view(proxy).leader.as_ref().map(|leader| leader.token)).max();
    assert!(after > token, "what an old leader did can be told: {token:?} {after:?}");
    assert!(proxies.iter().all(linked));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_redis_is_told_and_overcome() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let server = Small::named("one").await;
    let proxy = proxy(yaml(&relay.url(), "a", &server.url())).await;
    eventually("linked", || async { linked(&proxy) }).await;
    let faults = [
        (Way::Closed, ""),
        (Way::Hole, "no answer within"),
        (Way::Late(Duration::from_secs(5)), "no answer within"),
        (Way::Error("LOADING Redis is loading the dataset in memory"), "LOADING"),
        (Way::Error("READONLY You can't write against a read only replica."), "READONLY"),
        (Way::Error("NOAUTH Authentication required."), "NOAUTH"),
        (Way::Error("OOM command not allowed when used memory > 'maxmemory'."), "OOM"),
    ];
    for (way, told) in faults {
        relay.set(way.clone());
        eventually(&format!("{way:?} is noticed"), || async { !linked(&proxy) }).await;
        eventually(&format!("{way:?} is told"), || async {
            view(&proxy).fault.as_ref().is_some_and(|fault| fault.contains(told))
        })
        .await;
        assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200, "{way:?}");
        relay.set(Way::Open);
        let since = arriero::clock::now();
        eventually(&format!("{way:?} is over"), || async { linked(&proxy) }).await;
        assert!(since.elapsed() < Duration::from_secs(5), "{way:?}: {:?}", since.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_does_not_go_on_leading() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let server = Small::named("one").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    // A link that breaks late: until then it has what it knew before.
    let patient = yaml(&relay.url(), "still", &server.url()).replace("instance:", "timeout: 2s, instance:");
    std::fs::write(&file, complete(&patient)).expect("written");
    let still = Program::run(&file).await;
    let link =
        async || json(&send(still.admin(), "GET", "/api/multihost/coordination/health", "").await)["data"].clone();
    eventually("it leads", || async {
        let link = link().await;
        link["linked"] == true && link["leads"] == true
    })
    .await;
    let other = proxy(yaml(&redis.url(), "other", &server.url())).await;
    eventually("two", || async { view(&other).members.len() == 2 }).await;
    assert!(!leads(&other));

    still.signal(Signal::STOP);
    eventually("the other one leads", || async { leads(&other) }).await;
    // Nobody tells it when it goes on.
    relay.set(Way::Hole);
    still.signal(Signal::CONT);
    eventually("it notices that it hears nothing", || async {
        let link = link().await;
        assert_eq!(link["leads"], false, "{link}");
        link["linked"] == false
    })
    .await;
    relay.set(Way::Open);
    eventually("it follows", || async {
        let link = link().await;
        assert_eq!(link["leads"], false, "{link}");
        link["linked"] == true && link["leader"] == view(&other).own.as_str()
    })
    .await;
    assert!(leads(&other));
}
