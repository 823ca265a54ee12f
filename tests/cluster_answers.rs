//! Answers that several instances keep together over a real Redis or Valkey.

#[path = "response_cache/origin.rs"]
#[allow(dead_code, reason = "each test uses its own part")]
mod origin;
mod support;

use std::time::Duration;

use origin::{Gate, Origin, Step, good};
use support::fleet::{request, send_with};
use support::redis::{Redis, Relay, Way};
use support::wire::{Answer, proxy};
use support::{Proxy, eventually, http_yaml};
use tokio::task::JoinSet;

const FIELDS: &str = "Cache-Control: max-age=60, stale-if-error=60\r\nCache-Tag: red\r\n";

async fn instance(origin: &Origin, redis: &str, name: &str, cache: &str) -> Proxy {
    let yaml = http_yaml(&[origin.url()], cache, "health: { active: off }");
    proxy(yaml + &format!("\ncluster: {{ redis: \"{redis}\", instance: {name} }}\n")).await
}

async fn three(origin: &Origin, redis: &str) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for name in ["a", "b", "c"] {
        proxies.push(instance(origin, redis, name, "cache: {}").await);
    }
    linked(&proxies).await;
    proxies
}

async fn linked(proxies: &[Proxy]) {
    for proxy in proxies {
        eventually("answers are shared", || async {
            let snapshot = proxy.running().store.load();
            let cache = snapshot.routes[0].cache.as_ref().expect("a cache");
            cache.store.share().expect("a share").is_linked()
        })
        .await;
    }
}

async fn get(proxy: &Proxy, path: &str) -> Answer {
    send_with(proxy.address(), "GET", path, "Host: a.test\r\n", "").await
}

fn told(answer: &Answer) -> String {
    answer.head.field("cache-status").unwrap_or_default().split("; ").take(2).collect::<Vec<_>>().join("; ")
}

async fn purge(proxy: &Proxy, body: &str) {
    let fields = "Host: localhost\r\nContent-Type: application/json\r\n";
    let arriero::admin::AdminAddress::Tcp(address) = proxy.running().admin.clone() else { panic!("admin on TCP") };
    let answer = send_with(address, "POST", "/api/orchestrator/caches/purge", fields, body).await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_has_fetched_is_there_for_all() {
    let redis = Redis::start().await;
    let origin = Origin::start(|_| good(FIELDS, "x".repeat(5000))).await;
    let proxies = three(&origin, &redis.url()).await;
    let first = get(&proxies[0], "/page").await;
    assert_eq!(told(&first), "arriero; fwd=uri-miss");
    for proxy in &proxies[1..] {
        let answer = get(proxy, "/page").await;
        assert_eq!((answer.head.status, told(&answer).as_str()), (200, "arriero; hit"));
        assert_eq!(answer.body, first.body);
        assert!(answer.head.field("age").is_some());
    }
    // A fourth one, which comes later, finds it too.
    let late = instance(&origin, &redis.url(), "d", "cache: {}").await;
    linked(std::slice::from_ref(&late)).await;
    assert_eq!(told(&get(&late, "/page").await), "arriero; hit");
    assert_eq!(origin.count(), 1);
    // One whose rules are others does not.
    let other = instance(&origin, &redis.url(), "e", "cache: { cookies: ignore }").await;
    linked(std::slice::from_ref(&other)).await;
    assert_eq!(told(&get(&other, "/page").await), "arriero; fwd=uri-miss");
    // And where sharing is off, nothing is asked for.
    let alone = instance(&origin, &redis.url(), "f", "cache: { cluster: false }").await;
    assert_eq!(told(&get(&alone, "/page").await), "arriero; fwd=uri-miss");
    assert_eq!(origin.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_at_three_instances_one_asks_the_server() {
    let redis = Redis::start().await;
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |_| {
        let mut steps = vec![Step::Wait(waits.clone())];
        steps.extend(good(FIELDS, "the answer"));
        steps
    })
    .await;
    let proxies = three(&origin, &redis.url()).await;
    let mut all = JoinSet::new();
    for number in 0..999 {
        let address = proxies[number % 3].address();
        all.spawn(async move { send_with(address, "GET", "/", "Host: a.test\r\n", "").await });
    }
    for proxy in &proxies {
        eventually("all are there", || async {
            proxy.metric("arriero_requests_in_flight{route=\"all\"}").await == 333.0
        })
        .await;
    }
    gate.open();
    while let Some(answer) = all.join_next().await {
        let answer = answer.expect("answered");
        assert_eq!((answer.head.status, answer.text().as_str()), (200, "the answer"));
    }
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_everywhere_at_once() {
    let redis = Redis::start().await;
    let origin = Origin::start(|seen| good(FIELDS, seen.number.to_string())).await;
    let proxies = three(&origin, &redis.url()).await;
    for (number, body) in
        [r#"{"key":"http://a.test/page"}"#, r#"{"prefix":"/"}"#, r#"{"tag":"red"}"#, "{}"].iter().enumerate()
    {
        for proxy in &proxies {
            assert_eq!(get(proxy, "/page").await.text(), number.to_string(), "{body}");
        }
        purge(&proxies[0], body).await;
        let since = arriero::clock::now();
        for proxy in &proxies[1..] {
            let store = &proxy.running().store.load().routes[0].cache.as_ref().expect("a cache").store.clone();
            eventually(body, || async { store.figures().entries == 0 }).await;
        }
        let took = since.elapsed();
        eprintln!("{body}: {took:?}");
        // Nor does it come back from Redis.
        let late = get(&proxies[2], "/page").await;
        assert_eq!((told(&late).as_str(), late.text()), ("arriero; fwd=uri-miss", (number + 1).to_string()), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_through_one_instance_is_known_to_all() {
    let redis = Redis::start().await;
    let origin = Origin::start(|seen| good(FIELDS, seen.number.to_string())).await;
    let proxies = three(&origin, &redis.url()).await;
    for proxy in &proxies {
        assert_eq!(get(proxy, "/page").await.text(), "0");
    }
    let answer = send_with(proxies[1].address(), "PUT", "/page", "Host: a.test\r\n", "new").await;
    assert_eq!(answer.head.status, 200);
    eventually("the others ask anew", || async { get(&proxies[2], "/page").await.text() != "0" }).await;
    assert_ne!(get(&proxies[0], "/page").await.text(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_varies_is_found_by_what_it_varies_by() {
    let redis = Redis::start().await;
    let fields = "Cache-Control: max-age=60\r\nVary: Accept-Language\r\n";
    let origin = Origin::start(move |seen| good(fields, seen.field("accept-language").unwrap_or("none"))).await;
    let proxies = three(&origin, &redis.url()).await;
    let ask = async |proxy: &Proxy, language: &str| {
        let fields = format!("Host: a.test\r\nAccept-Language: {language}\r\n");
        send_with(proxy.address(), "GET", "/", &fields, "").await.text()
    };
    for language in ["de", "fr"] {
        for proxy in &proxies {
            assert_eq!(ask(proxy, language).await, language);
        }
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_value_is_never_served() {
    let redis = Redis::start().await;
    let origin = Origin::start(|_| good(FIELDS, "the answer")).await;
    let proxies = three(&origin, &redis.url()).await;
    let _ = get(&proxies[0], "/").await;
    let keys = async || redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:answer:*"]).await;
    eventually("it is there", || async { keys().await.len() == 1 }).await;
    let key = keys().await.remove(0);
    let length: usize = redis.call(&["STRLEN", &key]).await;
    let _: usize = redis.call(&["SETRANGE", &key, &(length - 3).to_string(), "!"]).await;
    assert_eq!(get(&proxies[1], "/").await.text(), "the answer");
    assert_eq!(origin.count(), 2);
    // Something else altogether, under our name.
    for key in redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:*"]).await {
        redis.spoil(&key).await;
    }
    assert_eq!(get(&proxies[2], "/").await.text(), "the answer");
    assert_eq!(get(&proxies[2], "/other").await.text(), "the answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_credentials_stays_where_it_was_fetched() {
    let redis = Redis::start().await;
    let origin = Origin::start(|_| good(FIELDS, "a secret")).await;
    let proxies = three(&origin, &redis.url()).await;
    for (who, count) in [("Authorization: Bearer one", 1), ("X-API-Key: one", 4), ("Authorization: Bearer two", 7)] {
        let fields = format!("Host: a.test\r\n{who}\r\n");
        for (number, proxy) in proxies.iter().enumerate() {
            for wanted in ["arriero; fwd=uri-miss", "arriero; hit"] {
                let answer = send_with(proxy.address(), "GET", "/", &fields, "").await;
                assert_eq!((answer.text().as_str(), told(&answer).as_str()), ("a secret", wanted), "{who} {number}");
            }
            assert_eq!(origin.count(), count + number);
        }
    }
    assert_eq!(redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:answer:*"]).await, Vec::<String>::new());
    // What is the same for everybody is shared all the same.
    assert_eq!(told(&get(&proxies[0], "/").await), "arriero; fwd=uri-miss");
    assert_eq!(told(&get(&proxies[1], "/").await), "arriero; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_an_instance_that_died_asks_itself() {
    let redis = Redis::start().await;
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| {
        let mut steps = if seen.number == 0 { vec![Step::Wait(waits.clone())] } else { Vec::new() };
        steps.extend(good(FIELDS, "the answer"));
        steps
    })
    .await;
    let proxies = three(&origin, &redis.url()).await;
    // Its client leaves while the others wait for what it fetches.
    let mut client = tokio::net::TcpStream::connect(proxies[0].address()).await.expect("connected");
    let ask = request("GET", "/", "Host: a.test\r\n", "");
    tokio::io::AsyncWriteExt::write_all(&mut client, &ask).await.expect("written");
    eventually("it is fetched", || async { origin.count() == 1 }).await;
    let address = proxies[1].address();
    let other = tokio::spawn(async move { send_with(address, "GET", "/", "Host: a.test\r\n", "").await });
    eventually("the other one waits", || async {
        proxies[1].metric("arriero_requests_in_flight{route=\"all\"}").await == 1.0
    })
    .await;
    assert_eq!(origin.count(), 1);
    drop(client);
    assert_eq!(other.await.expect("answered").text(), "the answer");
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_keeps_its_own_and_what_was_purged_meanwhile_stays_so() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let origin = Origin::start(|seen| good(FIELDS, seen.number.to_string())).await;
    let proxies = three(&origin, &relay.url()).await;
    for proxy in &proxies {
        assert_eq!(get(proxy, "/page").await.text(), "0");
    }
    relay.set(Way::Closed);
    for proxy in &proxies {
        eventually("noticed", || async { !proxy.running().store.load().lasting.cluster.is_linked() }).await;
        assert_eq!(get(proxy, "/page").await.text(), "0", "what is in memory is");
    }
    purge(&proxies[0], "{}").await;
    assert_eq!(get(&proxies[0], "/page").await.text(), "1");
    relay.set(Way::Open);
    linked(&proxies).await;
    eventually("the others hear of it", || async { get(&proxies[1], "/page").await.text() != "0" }).await;
    eventually("all of them", || async { get(&proxies[2], "/page").await.text() != "0" }).await;
    let since = arriero::clock::now();
    relay.set(Way::Hole);
    assert_eq!(get(&proxies[0], "/new").await.head.status, 200);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}
