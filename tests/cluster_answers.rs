//! Answers that several instances keep together over a real Redis or Valkey.

#[path = "response_cache/origin.rs"]
#[allow(dead_code, reason = "each test uses its own part")]
mod origin;
mod support;

use std::sync::Arc;
use std::time::Duration;

use arriero::fleet::response_cache::Stored;
use arriero::policy::http_cache::Life;
use arriero::policy::http_cache::form::Kept;
use arriero::policy::http_cache::key::base;
use origin::{Gate, Origin, Step, good};
use rustix::process::Signal;
use support::fleet::{request, send_with};
use support::redis::{Redis, Relay, Way};
use support::wire::{Answer, proxy};
use support::{Proxy, eventually, http_yaml};
use tokio::task::JoinSet;

const FIELDS: &str = "Cache-Control: max-age=60, stale-if-error=60\r\nCache-Tag: red\r\n";

/// One that is patient: what it shares is tested, not how fast the machine is.
async fn instance(origin: &Origin, redis: &str, name: &str, cache: &str) -> Proxy {
    let yaml = http_yaml(&[origin.url()], cache, "health: { active: off }");
    proxy(yaml + &format!("\ncluster: {{ redis: \"{redis}\", instance: {name}, timeout: 2s }}\n")).await
}

async fn three(origin: &Origin, redis: &str) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for name in ["a", "b", "c"] {
        proxies.push(instance(origin, redis, name, "cache: {}").await);
    }
    linked(&proxies).await;
    proxies
}

/// A server whose first answer waits until the gate is open.
async fn held_at_first() -> (Origin, Gate) {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| {
        let mut steps = if seen.number == 0 { vec![Step::Wait(waits.clone())] } else { Vec::new() };
        steps.extend(good(FIELDS, "the answer"));
        steps
    })
    .await;
    (origin, gate)
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
    let mut shortest = Duration::MAX;
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
        shortest = shortest.min(since.elapsed());
        // Nor does it come back from Redis.
        let late = get(&proxies[2], "/page").await;
        assert_eq!((told(&late).as_str(), late.text()), ("arriero; fwd=uri-miss", (number + 1).to_string()), "{body}");
    }
    // Whatever else this machine does.
    assert!(shortest < Duration::from_millis(100), "{shortest:?}");
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
    let (origin, gate) = held_at_first().await;
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

/// Of something that is soon stale, the first time; what comes later waits for the gate.
async fn soon_stale(fields: &'static str, gate: &Gate) -> Origin {
    let waits = gate.clone();
    Origin::start(move |seen| match seen.number {
        0 => good(&format!("{fields}Age: 58\r\n"), "old"),
        _ => {
            let mut steps = vec![Step::Wait(waits.clone())];
            steps.extend(good("Cache-Control: max-age=60\r\n", "new"));
            steps
        }
    })
    .await
}

/// All have the old answer, and it is not fresh any more.
async fn all_have_it_stale(proxies: &[Proxy]) {
    for proxy in proxies {
        assert_eq!(get(proxy, "/").await.text(), "old");
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_that_want_something_stale_anew_one_asks_the_server() {
    let redis = Redis::start().await;
    let gate = Gate::new();
    let origin = soon_stale("Cache-Control: max-age=60, stale-if-error=60\r\n", &gate).await;
    let proxies = three(&origin, &redis.url()).await;
    all_have_it_stale(&proxies).await;
    let mut all = JoinSet::new();
    for number in 0..30 {
        let address = proxies[number % 3].address();
        all.spawn(async move { send_with(address, "GET", "/", "Host: a.test\r\n", "").await });
    }
    for proxy in &proxies {
        eventually("all are there", || async {
            proxy.metric("arriero_requests_in_flight{route=\"all\"}").await == 10.0
        })
        .await;
    }
    // However long it takes.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(origin.count(), 2);
    gate.open();
    while let Some(answer) = all.join_next().await {
        assert_eq!(answer.expect("answered").text(), "new");
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_give_stale_one_asks_for_anew() {
    let redis = Redis::start().await;
    let gate = Gate::new();
    let origin = soon_stale("Cache-Control: max-age=60, stale-while-revalidate=60\r\n", &gate).await;
    let proxies = three(&origin, &redis.url()).await;
    all_have_it_stale(&proxies).await;
    for proxy in &proxies {
        let answer = get(proxy, "/").await;
        assert_eq!((answer.text().as_str(), told(&answer).as_str()), ("old", "arriero; hit"));
    }
    eventually("it is asked for", || async { origin.count() == 2 }).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    gate.open();
    for proxy in &proxies {
        eventually("it is there", || async { get(proxy, "/").await.text() == "new" }).await;
    }
    assert_eq!(origin.count(), 2);
    let late = instance(&origin, &redis.url(), "d", "cache: {}").await;
    linked(std::slice::from_ref(&late)).await;
    assert_eq!((get(&late, "/").await.text().as_str(), origin.count()), ("new", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_redis_keeps_nobody_waiting() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let origin = Origin::start(|_| good(FIELDS, "the answer")).await;
    let mut proxies = Vec::new();
    for name in ["a", "b"] {
        proxies.push(instance(&origin, &relay.url(), name, "cache: {}").await);
    }
    linked(&proxies).await;
    for proxy in &proxies {
        assert_eq!(get(proxy, "/").await.head.status, 200);
    }
    // Later than anybody waits for a look, and in time for the connection.
    relay.set(Way::Late(Duration::from_millis(150)));
    let since = arriero::clock::now();
    let mut all = JoinSet::new();
    for number in 0..400 {
        let address = proxies[0].address();
        let path = format!("/{number}");
        all.spawn(async move { send_with(address, "GET", &path, "Host: a.test\r\n", "").await });
    }
    while let Some(answer) = all.join_next().await {
        assert_eq!(answer.expect("answered").head.status, 200);
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    // The rights to fetch that came too late are there for others.
    let held = async || redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:fetch:*"]).await.len();
    eventually("nobody holds anything", || async { held().await == 0 }).await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    // One in a second finds out whether it is still slow.
    let since = arriero::clock::now();
    for number in 0..40 {
        assert_eq!(get(&proxies[1], &format!("/more/{number}")).await.head.status, 200);
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    relay.set(Way::Open);
    let number = std::sync::atomic::AtomicUsize::new(0);
    eventually("answers are shared again", || async {
        let path = format!("/again/{}", number.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        drop(get(&proxies[0], &path).await);
        told(&get(&proxies[1], &path).await) == "arriero; hit"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_fetch_that_nobody_heard_of_is_given_back() {
    let redis = Redis::start().await;
    let origin = Origin::start(|_| good(FIELDS, "the answer")).await;
    let proxies = [instance(&origin, &redis.url(), "a", "cache: {}").await];
    linked(&proxies).await;
    assert_eq!(get(&proxies[0], "/").await.head.status, 200);
    // Redis stands still until the connection is given up, and does then what it was asked before.
    redis.signal(Signal::STOP);
    assert_eq!(get(&proxies[0], "/stuck").await.head.status, 200);
    let cluster = &proxies[0].running().store.load().lasting.cluster.clone();
    eventually("noticed", || async { !cluster.is_linked() }).await;
    redis.signal(Signal::CONT);
    let since = arriero::clock::now();
    linked(&proxies).await;
    let held = async || redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:fetch:*"]).await.len();
    eventually("nobody holds anything", || async { held().await == 0 }).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_something_else_while_nobody_looked_is_mended() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let origin = Origin::start(|_| good(FIELDS, "the answer")).await;
    let proxies = [instance(&origin, &relay.url(), "a", "cache: {}").await];
    linked(&proxies).await;
    purge(&proxies[0], "{}").await;
    assert_eq!(send_with(proxies[0].address(), "PUT", "/", "Host: a.test\r\n", "").await.head.status, 200);
    let changes = async || redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:changes:*"]).await;
    eventually("it is told", || async { changes().await.len() == 1 }).await;
    relay.set(Way::Closed);
    let cluster = &proxies[0].running().store.load().lasting.cluster.clone();
    eventually("noticed", || async { !cluster.is_linked() }).await;
    let mut keys = changes().await;
    keys.extend(["arriero:1:{arriero}:purges".to_owned(), "arriero:1:{arriero}:purges-lost".to_owned()]);
    for key in &keys {
        redis.spoil(key).await;
    }
    // Nor is it too late for whoever was refused at first.
    redis.call::<String>(&["ACL", "SETUSER", "default", "-zremrangebyscore"]).await;
    relay.set(Way::Open);
    eventually("linked", || async { cluster.is_linked() }).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let snapshot = proxies[0].running().store.load();
    let share = snapshot.routes[0].cache.as_ref().expect("a cache").store.share().expect("a share");
    assert!(cluster.is_linked() && !share.is_linked());
    redis.call::<String>(&["ACL", "SETUSER", "default", "+zremrangebyscore"]).await;
    linked(&proxies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_is_older_than_a_day_is_no_loss() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let origin = Origin::start(|_| good(FIELDS, "the answer")).await;
    let proxies = [instance(&origin, &relay.url(), "a", "cache: {}").await];
    linked(&proxies).await;
    // As if it had been heard of then: Redis has forgotten it.
    let then = arriero::clock::unix_time().as_millis() - 90_000_000;
    let message = format!(r#"{{"at":{then},"purge":{{"s":"other","p":"all","i":"b","n":1}}}}"#);
    assert_eq!(redis.call::<usize>(&["PUBLISH", "arriero:1:{arriero}:told:answers", &message]).await, 1);
    assert_eq!(told(&get(&proxies[0], "/").await), "arriero; fwd=uri-miss");
    let cluster = &proxies[0].running().store.load().lasting.cluster.clone();
    for _ in 0..2 {
        relay.set(Way::Closed);
        eventually("noticed", || async { !cluster.is_linked() }).await;
        relay.set(Way::Open);
        linked(&proxies).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let store = &proxies[0].running().store.load().routes[0].cache.as_ref().expect("a cache").store.clone();
        assert_eq!(store.figures().entries, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_fetches_grow_whatever_becomes_of_the_counter() {
    let redis = Redis::start().await;
    let origin =
        Origin::start(|seen| good("Cache-Control: max-age=2, stale-if-error=60\r\n", seen.number.to_string())).await;
    let proxies = three(&origin, &redis.url()).await;
    let fetches = "arriero:1:{arriero}:fetches";
    let _: String = redis.call(&["SET", fetches, "no number"]).await;
    for round in 0..2 {
        let wanted = round.to_string();
        eventually("one has fetched it", || async { get(&proxies[0], "/").await.text() == wanted }).await;
        let other = get(&proxies[1], "/").await;
        assert_eq!((other.text(), told(&other)), (wanted, "arriero; hit".to_owned()));
        let number: u64 = redis.call(&["GET", fetches]).await;
        assert!(number > 1_700_000_000_000, "{number}");
        // It is lost, and what it counted is not.
        let _: usize = redis.call(&["DEL", fetches]).await;
        tokio::time::sleep(Duration::from_millis(2100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_what_redis_does_not_take() {
    let redis = Redis::start().await;
    let (origin, gate) = held_at_first().await;
    let proxies = three(&origin, &redis.url()).await;
    let mut all = JoinSet::new();
    for proxy in &proxies {
        let address = proxy.address();
        all.spawn(async move { send_with(address, "GET", "/", "Host: a.test\r\n", "").await });
        eventually("it is asked", || async {
            proxy.metric("arriero_requests_in_flight{route=\"all\"}").await == 1.0 && origin.count() == 1
        })
        .await;
    }
    // They know that it is fetched.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _: String = redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let since = arriero::clock::now();
    gate.open();
    while let Some(answer) = all.join_next().await {
        assert_eq!(answer.expect("answered").text(), "the answer");
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(origin.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_when_redis_goes_asks_at_once() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| {
        let mut steps = if seen.number < 5 { vec![Step::Wait(waits.clone())] } else { Vec::new() };
        steps.extend(good(FIELDS, "the answer"));
        steps
    })
    .await;
    let fetching = instance(&origin, &redis.url(), "a", "cache: {}").await;
    let waiting = instance(&origin, &relay.url(), "b", "cache: {}").await;
    let proxies = [fetching, waiting];
    linked(&proxies).await;
    let mut fetches = JoinSet::new();
    for number in 0..5 {
        let address = proxies[0].address();
        fetches.spawn(async move { send_with(address, "GET", &format!("/{number}"), "Host: a.test\r\n", "").await });
    }
    eventually("all are fetched", || async { origin.count() == 5 }).await;
    // One after the other, so that not all of them look again at the same moment.
    let mut others = JoinSet::new();
    for number in 0..5 {
        let address = proxies[1].address();
        others.spawn(async move { send_with(address, "GET", &format!("/{number}"), "Host: a.test\r\n", "").await });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(origin.count(), 5);
    relay.set(Way::Closed);
    let since = arriero::clock::now();
    while let Some(answer) = others.join_next().await {
        assert_eq!(answer.expect("answered").text(), "the answer");
    }
    assert!(since.elapsed() < Duration::from_millis(250), "{:?}", since.elapsed());
    gate.open();
    while let Some(answer) = fetches.join_next().await {
        assert_eq!(answer.expect("answered").head.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_purges_at_once_hold_up_nobody_and_all_of_them_hold() {
    let redis = Redis::start().await;
    let origin = Origin::start(|_| good(FIELDS, "the answer")).await;
    let proxies = three(&origin, &redis.url()).await;
    let store = &proxies[1].running().store.load().routes[0].cache.as_ref().expect("a cache").store.clone();
    for number in 0..30_000 {
        let uri = format!("http://a.test/{number}");
        let (key, received) = (base(&uri, &[]), arriero::clock::unix_time().as_millis() as u64);
        let kept = Kept {
            uri,
            life: Life { received, fresh: 60_000, ..Life::default() },
            tags: vec!["blue".to_owned()],
            vary: Vec::new(),
            status: http::StatusCode::OK,
            phrase: None,
            headers: http::HeaderMap::new(),
            length: 0,
            is_compressed: false,
            body: bytes::Bytes::new(),
        };
        store.keep(&key, &key, &Arc::new(Stored::new(&kept, store.begun())));
    }
    assert_eq!(get(&proxies[1], "/1").await.text(), "");
    // As another instance would tell them.
    let space = store.share().expect("a share").space().to_string();
    let then = arriero::clock::unix_time().as_millis();
    let script =
        "for n = 1, 200 do redis.call('PUBLISH', KEYS[1], string.format(ARGV[1], n == 200 and 'blue' or n, n)) end";
    let message = format!(r#"{{"at":{then},"purge":{{"s":"{space}","p":{{"tag":"%s"}},"i":"x","n":%d}}}}"#);
    let _: redis::Value = redis.call(&["EVAL", script, "1", "arriero:1:{arriero}:told:answers", &message]).await;
    let since = arriero::clock::now();
    assert_eq!(get(&proxies[1], "/new").await.text(), "the answer");
    assert!(since.elapsed() < Duration::from_millis(400), "{:?}", since.elapsed());
    eventually("they are purged", || async { get(&proxies[1], "/1").await.text() == "the answer" }).await;
    eventually("all of them", || async { store.figures().entries < 10 }).await;
}
