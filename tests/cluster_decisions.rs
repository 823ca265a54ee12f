//! Decisions in a cluster, over a real Redis or Valkey: what is decided on one instance holds on all, whatever fails meanwhile.

mod support;

use std::path::Path;

use arriero::demo::{Fault, FaultRule};
use serde_json::Value;
use support::admin::{address, call, json, order, show};
use support::fleet::{fleet, generate, send};
use support::redis::{Redis, Relay, Way};
use support::wire::proxy;
use support::{Proxy, eventually};

const HASH: &str = "arriero:1:{arriero}:decisions";

/// An instance before these servers, `s0` and so on.
fn yaml(redis: &str, name: &str, urls: &[String], more: &str) -> String {
    let server = |(number, url): (usize, &String)| format!("      - {{ name: s{number}, url: \"{url}\" }}\n");
    let servers: String = urls.iter().enumerate().map(server).collect();
    format!(
        "version: 1\nroutes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers:\n{servers}    \
         balance: {{ policy: round_robin, model_affinity: off }}\n{more}\
         cluster: {{ redis: \"{redis}\", instance: {name} }}\n"
    )
}

async fn instance(redis: &str, name: &str, urls: &[String]) -> Proxy {
    proxy(yaml(redis, name, urls, "")).await
}

fn linked(proxy: &Proxy) -> bool {
    proxy.running().store.load().lasting.cluster.is_linked()
}

async fn all_linked(proxies: &[&Proxy]) {
    eventually("all are linked", || async { proxies.iter().all(|proxy| linked(proxy)) }).await;
}

async fn operation(proxy: &Proxy, server: &str) -> Value {
    show(proxy, &format!("/servers/{server}")).await["server"]["operation"].clone()
}

async fn stands(proxy: &Proxy, server: &str, state: &str) -> bool {
    operation(proxy, server).await["state"] == state
}

async fn bans(proxy: &Proxy) -> Vec<Value> {
    show(proxy, "/bans").await["bans"].as_array().expect("a list").clone()
}

async fn paused(proxy: &Proxy) -> bool {
    show(proxy, "/queue").await["paused"] == true
}

async fn circuit(proxy: &Proxy, path: &str) -> Value {
    show(proxy, &format!("/circuit-breakers/{path}")).await["stats"].clone()
}

/// Whether all see it.
async fn everywhere<F: Future<Output = bool>>(what: &str, proxies: &[&Proxy], seen: impl Fn(usize) -> F) {
    for number in 0..proxies.len() {
        eventually(&format!("{what}, on instance {number}"), || seen(number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_on_one_is_decided_on_all() {
    let (redis, fleet) = (Redis::start().await, fleet(2, &["m"]).await);
    let urls = fleet.urls();
    let (a, b) = (instance(&redis.url(), "a", &urls).await, instance(&redis.url(), "b", &urls).await);
    let both = [&a, &b];
    all_linked(&both).await;

    order(&a, "/servers/s0/drain", r#"{"reason":"new disk","who":"ana"}"#).await;
    everywhere("it drains", &both, |at| stands(both[at], "s0", "draining")).await;
    let seen = operation(&b, "s0").await;
    assert_eq!((&seen["reason"], &seen["who"]), (&"new disk".into(), &"ana via a".into()));
    assert_eq!(operation(&a, "s0").await["who"], "ana");
    order(&b, "/servers/s0/undrain", "{}").await;
    everywhere("it works again", &both, |at| stands(both[at], "s0", "active")).await;

    order(&b, "/servers/s1/maintenance", r#"{"for":"1h","who":"bob"}"#).await;
    everywhere("it rests", &both, |at| stands(both[at], "s1", "maintenance")).await;
    assert!(operation(&a, "s1").await["until"].is_string());
    order(&a, "/servers/s1/maintenance", r#"{"enabled":false}"#).await;
    everywhere("it works again", &both, |at| stands(both[at], "s1", "active")).await;

    order(&a, "/bans", r#"{"server":"s0","model":"m","for":"1h","reason":"too large","who":"ana"}"#).await;
    everywhere("it is banned", &both, |at| async move { bans(both[at]).await.len() == 1 }).await;
    let ban = bans(&b).await.remove(0);
    assert_eq!(
        (&ban["who"], &ban["model"], &ban["reason"]),
        (&"ana via a".into(), &"m:latest".into(), &"too large".into())
    );
    assert_eq!(call(&b, "DELETE", "/bans/s0/m", "").await.head.status, 200);
    everywhere("the ban is lifted", &both, |at| async move { bans(both[at]).await.is_empty() }).await;

    order(&a, "/queue/pause", "{}").await;
    everywhere("it is paused", &both, |at| paused(both[at])).await;
    order(&b, "/queue/resume", "{}").await;
    everywhere("it goes on", &both, |at| async move { !paused(both[at]).await }).await;

    // The circuit of a server, and that of a model which is nowhere: what one instance alone can do is kept all the same.
    order(&a, "/circuit-breakers/s0/open", r#"{"for":"1h"}"#).await;
    order(&a, "/circuit-breakers/s1/x/open", r#"{"for":"1h"}"#).await;
    everywhere("it is held open", &both, |at| async move { circuit(both[at], "s0/server").await["forced"] == true })
        .await;
    everywhere("that of a model too", &both, |at| async move { circuit(both[at], "s1/x").await["state"] == "open" })
        .await;
    order(&b, "/circuit-breakers/s0/close", "{}").await;
    everywhere("it is closed", &both, |at| async move { circuit(both[at], "s0/server").await["state"] == "closed" })
        .await;
    order(&b, "/circuit-breakers/s1/x/half-open", "{}").await;
    everywhere("it is tried", &both, |at| async move { circuit(both[at], "s1/x").await["state"] == "half_open" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_by_rule_is_a_ban_and_an_open_circuit_is_none_elsewhere() {
    let (redis, fleet) = (Redis::start().await, fleet(2, &["m", "n"]).await);
    let more =
        "    bans: { after: 3, for: 1h }\n    circuit: { consecutive_failures: 100 }\n    health: { active: off }\n";
    let a = proxy(yaml(&redis.url(), "a", &fleet.urls(), more)).await;
    let b = proxy(yaml(&redis.url(), "b", &fleet.urls(), &more.replace("100", "1"))).await;
    all_linked(&[&a, &b]).await;
    fleet.hosts[0].faults().add(FaultRule::inference(Fault::Status(500, "boom".to_owned())).on_model("m"));
    eventually("the rule bans", || async {
        send(a.address(), "POST", "/api/generate", generate("m")).await;
        bans(&a).await.len() == 1
    })
    .await;
    eventually("it is banned elsewhere", || async { bans(&b).await.len() == 1 }).await;
    assert_eq!(bans(&b).await[0]["who"], "rule via a");

    fleet.hosts[0].faults().add(FaultRule::inference(Fault::Status(500, "boom".to_owned())).on_model("n"));
    eventually("a circuit opens", || async {
        send(b.address(), "POST", "/api/generate", generate("n")).await;
        circuit(&b, "s0/n").await["state"] == "open"
    })
    .await;
    // A decision that follows is seen, and the circuit is closed there still.
    order(&b, "/servers/s1/drain", "{}").await;
    eventually("what came after it is there", || stands(&a, "s1", "draining")).await;
    assert_eq!(circuit(&a, "s0/n").await["state"], "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_decisions_hold_where_they_are_made_and_are_told_later() {
    let (redis, fleet) = (Redis::start().await, fleet(3, &["m"]).await);
    let urls = fleet.urls();
    let relay = Relay::before(redis.address()).await;
    let (a, b) = (instance(&relay.url(), "a", &urls).await, instance(&redis.url(), "b", &urls).await);
    all_linked(&[&a, &b]).await;
    order(&a, "/servers/s0/drain", r#"{"who":"ana"}"#).await;
    eventually("it drains", || stands(&b, "s0", "draining")).await;

    relay.set(Way::Closed);
    eventually("it is alone", || async { !linked(&a) }).await;
    order(&a, "/servers/s0/undrain", "{}").await;
    order(&a, "/servers/s1/drain", r#"{"who":"ana"}"#).await;
    order(&b, "/servers/s2/drain", r#"{"who":"bob"}"#).await;
    // Both decide about the same: the later one wins, though it hears last of the other.
    order(&a, "/bans", r#"{"model":"m","reason":"first"}"#).await;
    order(&b, "/bans", r#"{"model":"m","reason":"second"}"#).await;
    assert!(stands(&a, "s1", "draining").await && stands(&b, "s0", "draining").await);
    relay.set(Way::Open);
    for proxy in [&a, &b] {
        eventually("lifted", || stands(proxy, "s0", "active")).await;
        eventually("told", || stands(proxy, "s1", "draining")).await;
        eventually("heard", || stands(proxy, "s2", "draining")).await;
        eventually("the later one", || async { bans(proxy).await.iter().all(|ban| ban["reason"] == "second") }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_forgets_gets_everything_back() {
    let (redis, fleet) = (Redis::start().await, fleet(2, &["m"]).await);
    let urls = fleet.urls();
    let (a, b) = (instance(&redis.url(), "a", &urls).await, instance(&redis.url(), "b", &urls).await);
    all_linked(&[&a, &b]).await;
    order(&a, "/servers/s0/drain", "{}").await;
    order(&b, "/bans", r#"{"model":"m"}"#).await;
    eventually("both know both", || async { stands(&b, "s0", "draining").await && bans(&a).await.len() == 1 }).await;
    let version: u64 = redis.call(&["GET", "arriero:1:{arriero}:decisions:version"]).await;
    let _: String = redis.call(&["FLUSHALL"]).await;
    eventually("written again", || async { redis.call::<u32>(&["HLEN", HASH]).await == 2 }).await;
    let _: String = redis.call(&["SET", HASH, "no hash"]).await;
    let _: String = redis.call(&["SET", "arriero:1:{arriero}:decisions:version", "no number"]).await;
    eventually("healed", || async { redis.try_call::<u32>(&["HLEN", HASH]).await.is_ok_and(|all| all == 2) }).await;
    assert!(redis.call::<u64>(&["GET", "arriero:1:{arriero}:decisions:version"]).await >= version);
    assert!(stands(&a, "s0", "draining").await && stands(&b, "s0", "draining").await);
    // What is no version: of an entry, and of the counter.
    let all: Vec<String> = redis.call(&["HGETALL", HASH]).await;
    let mut entry: Value = serde_json::from_str(&all[1]).expect("JSON");
    entry["version"] = 1e30.into();
    let _: u32 = redis.call(&["HSET", HASH, &all[0], &entry.to_string()]).await;
    for wrong in ["nan", "1e30", "18446744073709551615"] {
        let _: String = redis.call(&["SET", "arriero:1:{arriero}:decisions:version", wrong]).await;
        eventually("counted on", || async {
            let now = redis.try_call::<u64>(&["GET", "arriero:1:{arriero}:decisions:version"]).await;
            now.is_ok_and(|now| (version..1000).contains(&now))
        })
        .await;
    }
    let entry: String = redis.call(&["HGET", HASH, &all[0]]).await;
    assert!(serde_json::from_str::<Value>(&entry).expect("JSON")["version"].is_u64(), "{entry}");
    // Whoever comes now learns it, and what is lifted stays so.
    let late = instance(&redis.url(), "late", &urls).await;
    eventually("a late one knows", || async { stands(&late, "s0", "draining").await && bans(&late).await.len() == 1 })
        .await;
    order(&late, "/servers/s0/undrain", "{}").await;
    eventually("lifted", || async { stands(&a, "s0", "active").await && stands(&b, "s0", "active").await }).await;
}

/// An instance with a folder of its own.
async fn kept(redis: &str, name: &str, urls: &[String], folder: &Path) -> Proxy {
    let more = format!("server: {{ data_dir: \"{}\" }}\n", folder.display());
    proxy(yaml(redis, name, urls, &more)).await
}

async fn stopped(mut proxy: Proxy) {
    let running = proxy.running.take().expect("running");
    tokio::task::spawn_blocking(move || running.stop()).await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_cluster_says_what_holds() {
    let (redis, fleet) = (Redis::start().await, fleet(3, &["m"]).await);
    let (urls, folder) = (fleet.urls(), tempfile::tempdir().expect("a folder"));
    let a = kept(&redis.url(), "a", &urls, folder.path()).await;
    let b = instance(&redis.url(), "b", &urls).await;
    all_linked(&[&a, &b]).await;
    order(&a, "/servers/s0/drain", "{}").await;
    order(&a, "/servers/s1/drain", "{}").await;
    eventually("told", || async { stands(&b, "s0", "draining").await && stands(&b, "s1", "draining").await }).await;
    stopped(a).await;
    order(&b, "/servers/s0/undrain", "{}").await;
    order(&b, "/servers/s2/drain", "{}").await;
    let a = kept(&redis.url(), "a", &urls, folder.path()).await;
    eventually("lifted while it was away", || stands(&a, "s0", "active")).await;
    eventually("decided while it was away", || stands(&a, "s2", "draining")).await;
    assert!(stands(&a, "s1", "draining").await);

    // Restarted alone, and Redis comes back empty: what it lifted by itself is lifted for all.
    let mut redis = redis;
    redis.kill();
    order(&a, "/servers/s1/undrain", "{}").await;
    stopped(a).await;
    let a = kept(&redis.url(), "a", &urls, folder.path()).await;
    assert!(stands(&a, "s1", "active").await && stands(&a, "s2", "draining").await);
    redis.start_again().await;
    eventually("lifted", || stands(&b, "s1", "active")).await;
    assert!(stands(&a, "s1", "active").await && stands(&b, "s0", "active").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_an_instance_does_not_have_are_none_of_its_business() {
    let (redis, fleet) = (Redis::start().await, fleet(2, &["m"]).await);
    let urls = fleet.urls();
    let (a, b) = (instance(&redis.url(), "a", &urls).await, instance(&redis.url(), "b", &urls[..1]).await);
    all_linked(&[&a, &b]).await;
    order(&a, "/servers/s1/drain", "{}").await;
    order(&a, "/servers/s0/drain", "{}").await;
    eventually("what it has", || stands(&b, "s0", "draining")).await;
    assert_eq!(redis.call::<u32>(&["HLEN", HASH]).await, 2);
    // It gets the server, and with it what was decided; without it again, nothing is lifted.
    b.rewrite(&yaml(&redis.url(), "b", &urls, ""));
    eventually("it has it", || async { call(&b, "GET", "/servers/s1", "").await.head.status == 200 }).await;
    eventually("what was decided", || stands(&b, "s1", "draining")).await;
    b.rewrite(&yaml(&redis.url(), "b", &urls[..1], ""));
    eventually("it is gone", || async { call(&b, "GET", "/servers/s1", "").await.head.status == 404 }).await;
    order(&b, "/servers/s0/undrain", "{}").await;
    eventually("a later decision is there", || stands(&a, "s0", "active")).await;
    assert!(stands(&a, "s1", "draining").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_decide_at_the_same_time_agree_in_the_end() {
    let (redis, fleet) = (Redis::start().await, fleet(1, &["m"]).await);
    let urls = fleet.urls();
    let (a, b) = (instance(&redis.url(), "a", &urls).await, instance(&redis.url(), "b", &urls).await);
    all_linked(&[&a, &b]).await;
    for round in 0..20 {
        let body = |who: &str| format!(r#"{{"reason":"{round}","who":"{who}"}}"#);
        let (ana, bob) = (body("ana"), body("bob"));
        tokio::join!(order(&a, "/servers/s0/maintenance", &ana), order(&b, "/servers/s0/maintenance", &bob));
    }
    let who = |operation: Value| operation["who"].as_str().unwrap_or_default().split(' ').next().map(str::to_owned);
    let entry = || async {
        let all: Vec<String> = redis.call(&["HVALS", HASH]).await;
        serde_json::from_str::<Value>(&all[0]).expect("JSON")["value"].clone()
    };
    eventually("they agree", || async {
        let (one, other, there) = (operation(&a, "s0").await, operation(&b, "s0").await, entry().await);
        one["reason"] == "19"
            && other["reason"] == "19"
            && who(one.clone()) == who(other)
            && who(one) == who(there)
            && untold(&a) + untold(&b) == 0
    })
    .await;
}

fn untold(proxy: &Proxy) -> usize {
    proxy.running().store.load().lasting.cluster.asking.known().untold
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_lost_is_noticed() {
    let (redis, fleet) = (Redis::start().await, fleet(2, &["m"]).await);
    let urls = fleet.urls();
    let (a, b) = (instance(&redis.url(), "a", &urls).await, instance(&redis.url(), "b", &urls).await);
    all_linked(&[&a, &b]).await;
    order(&a, "/servers/s0/drain", "{}").await;
    eventually("told", || stands(&b, "s0", "draining")).await;
    // As if an instance had told it and nobody had heard.
    let all: Vec<String> = redis.call(&["HGETALL", HASH]).await;
    let mut entry: Value = serde_json::from_str(&all[1]).expect("JSON");
    entry["version"] = 7.into();
    entry.as_object_mut().expect("an entry").remove("value");
    let _: u32 = redis.call(&["HSET", HASH, &all[0], &entry.to_string()]).await;
    let _: String = redis.call(&["SET", "arriero:1:{arriero}:decisions:version", "7"]).await;
    eventually("both find it", || async { stands(&a, "s0", "active").await && stands(&b, "s0", "active").await }).await;
}

/// What is found to differ on an instance, which mends it.
async fn drift(proxy: &Proxy) -> Vec<String> {
    let found = json(&send(address(proxy), "GET", "/api/multihost/monitoring/consistency", "").await);
    assert_eq!(found["data"]["consistent"], true, "{found}");
    let issues = found["data"]["issues"].as_array().expect("a list");
    issues.iter().map(|issue| issue["message"].as_str().expect("text").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_decisions_of_one_version_are_noticed_and_one_of_them_holds_on_all() {
    let (redis, fleet) = (Redis::start().await, fleet(1, &["m"]).await);
    let urls = fleet.urls();
    let (a, b) = (instance(&redis.url(), "a", &urls).await, instance(&redis.url(), "b", &urls).await);
    let members = |proxy: &Proxy| proxy.running().store.load().lasting.cluster.view().members.len();
    eventually("both see both", || async { members(&a) == 2 && members(&b) == 2 }).await;
    order(&a, "/servers/s0/drain", r#"{"who":"ana"}"#).await;
    eventually("told", || stands(&b, "s0", "draining")).await;
    let all: Vec<String> = redis.call(&["HGETALL", HASH]).await;
    let (about, told): (_, Value) = (&all[0], serde_json::from_str(&all[1]).expect("JSON"));
    // As if a Redis that had lost what it counted had given the version to another decision.
    let put = async |by: &str, later: f64| {
        let mut entry = told.clone();
        entry["by"] = by.into();
        entry["at"] = (entry["at"].as_f64().expect("a time") + later).into();
        entry.as_object_mut().expect("an entry").remove("value");
        let _: u32 = redis.call(&["HSET", HASH, about, &entry.to_string()]).await;
    };
    let there =
        async || serde_json::from_str::<Value>(&redis.call::<String>(&["HGET", HASH, about]).await).expect("JSON");
    // An earlier one gives way, and one of an instance with an earlier name, by its bytes and not by any language.
    for (by, later) in [("b", -1.0), ("B", 0.0), ("Z", 0.0)] {
        put(by, later).await;
        let found = drift(&a).await;
        assert!(
            found.iter().any(|message| message.contains("another decision had version")),
            "{by} {later}: {found:?}"
        );
        assert_eq!(there().await, told, "{by} {later}");
        assert_eq!(drift(&b).await, Vec::<String>::new());
        assert!(stands(&a, "s0", "draining").await && stands(&b, "s0", "draining").await);
    }
    // A later one holds.
    for (number, (by, later)) in [("b", 0.0), ("a", 1.0)].into_iter().enumerate() {
        put(by, later).await;
        for proxy in [&a, &b] {
            assert_eq!(drift(proxy).await.len(), 1, "{by} {later}");
            assert!(stands(proxy, "s0", "active").await, "{by} {later}");
            assert_eq!(drift(proxy).await, Vec::<String>::new());
        }
        assert_eq!(there().await["by"], by, "{number}");
    }
    // What comes next comes after both.
    order(&b, "/servers/s0/drain", r#"{"who":"bob"}"#).await;
    eventually("told", || stands(&a, "s0", "draining")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_the_documentation_has_the_rights_that_are_needed() {
    let (redis, fleet) = (Redis::start().await, fleet(1, &["m"]).await);
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").expect("written");
    let page = include_str!("../docs/cluster.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER")).expect("a line about rights");
    let line = line.replace(">PASSWORD", ">secret");
    let _: String = redis.call(&line.split(' ').collect::<Vec<_>>()).await;
    let keys = format!("username: arriero, password_file: \"{}\", instance", password.display());
    let of = |name: &str| yaml(&redis.url(), name, &fleet.urls(), "").replace("instance", &keys);
    let (a, b) = (proxy(of("a")).await, proxy(of("b")).await);
    all_linked(&[&a, &b]).await;
    order(&a, "/servers/s0/drain", "{}").await;
    eventually("told", || stands(&b, "s0", "draining")).await;
    let _: String = redis.call(&["FLUSHALL"]).await;
    eventually("given back", || async { redis.call::<u32>(&["HLEN", HASH]).await == 1 }).await;
    eventually("seen again", || async { redis.call::<u32>(&["ZCARD", "arriero:1:{arriero}:members"]).await == 2 })
        .await;
    assert!(linked(&a) && linked(&b));
    let refused: Vec<redis::Value> = redis.call(&["ACL", "LOG"]).await;
    assert!(refused.is_empty(), "{refused:?}");
    stopped(a).await;
    eventually("it left in order", || async {
        redis.call::<u32>(&["ZCARD", "arriero:1:{arriero}:members"]).await == 1
    })
    .await;
}
