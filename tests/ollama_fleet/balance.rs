//! Who of those that have the model: slots, turns, the fewest requests, the same for the same key.

use std::net::{Ipv4Addr, SocketAddr};

use arriero::demo::{Fleet, Host, Ledger};
use tokio::net::TcpSocket;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::fleet::{fleet, generate, of_server, request, send, send_with, weighted_yaml};
use crate::support::wire::{Answer, H1, proxy};
use crate::support::{PATIENCE, Proxy, eventually};
use crate::{assert_dialect, before, count, post};

/// A proxy before a fleet whose servers have keys of their own.
async fn weighted(fleet: &Fleet, keys: &[&str], upstream: &str) -> Proxy {
    let servers: Vec<_> = fleet.hosts.iter().map(Host::url).zip(keys.iter().copied()).collect();
    proxy(weighted_yaml("ollama", &servers, "", &format!("health: {{ active: off }}\n{upstream}"))).await
}

fn counts(fleet: &Fleet) -> Vec<usize> {
    fleet.hosts.iter().map(count).collect()
}

/// Sends a request and leaves it running; returns once one more has come to a host.
async fn held(proxy: &Proxy, fleet: &Fleet) -> JoinHandle<Answer> {
    let (address, before) = (proxy.address(), counts(fleet).iter().sum::<usize>());
    let task = tokio::spawn(async move { send(address, "POST", "/api/generate", generate("m")).await });
    eventually("it has come", || async { counts(fleet).iter().sum::<usize>() == before + 1 }).await;
    task
}

fn hold(fleet: &Fleet) {
    fleet.hosts.iter().for_each(|host| host.token_gate().close());
}

fn release(fleet: &Fleet) {
    fleet.hosts.iter().for_each(|host| host.token_gate().open());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_full_is_passed_over_and_when_all_are_the_client_is_told() {
    for policy in ["round_robin", "least_requests", "consistent_hash"] {
        let fleet = fleet(2, &["m"]).await;
        let hash = if policy == "consistent_hash" { ", hash_on: model" } else { "" };
        let limits = ["max_in_flight: 1", "max_in_flight: 1"];
        let proxy =
            weighted(&fleet, &limits, &format!("balance: {{ policy: {policy}{hash} }}\nqueue: {{ max_pending: 0 }}"))
                .await;
        hold(&fleet);
        let one = held(&proxy, &fleet).await;
        let two = held(&proxy, &fleet).await;
        assert_eq!(counts(&fleet), [1, 1], "{policy}");
        for path in ["/api/generate", "/v1/completions"] {
            let answer = post(&proxy, path, generate("m")).await;
            assert_eq!((answer.head.status, answer.reason()), (503, Some("server_busy")), "{}", answer.text());
            let after: Option<u32> = answer.head.field("retry-after").and_then(|text| text.parse().ok());
            assert!(after.is_some_and(|seconds| (1..=60).contains(&seconds)), "{}", answer.head.text);
            assert_dialect(path, &answer);
        }
        assert_eq!(counts(&fleet), [1, 1], "{policy}");
        release(&fleet);
        assert_eq!((one.await.expect("done").head.status, two.await.expect("done").head.status), (200, 200));
        assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_client_that_leaves_is_free_again() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = weighted(&fleet, &["max_in_flight: 1"], "").await;
    let host = &fleet.hosts[0];
    hold(&fleet);
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("POST", "/api/generate", "", generate("m"))).await;
    let runs = |ledger: &Ledger| ledger.inference().first().is_some_and(|entry| entry.slot_at.is_some());
    host.ledger().wait_until(PATIENCE, runs).await.expect("it runs");
    assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 503);
    drop(client);
    let free = || async { of_server(&proxy, "arriero_server_in_flight", host.address(), "").await == 0.0 };
    eventually("its slot is free", free).await;
    release(&fleet);
    assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_are_taken_exactly_by_weight() {
    for (weights, shares) in [([1, 1, 1], [10, 10, 10]), ([5, 2, 1], [20, 8, 4]), ([3, 1, 1], [12, 4, 4])] {
        let fleet = fleet(3, &["m"]).await;
        let keys = weights.map(|weight| format!("weight: {weight}"));
        let balance = "balance: { policy: round_robin, model_affinity: off }";
        let proxy = weighted(&fleet, &keys.each_ref().map(String::as_str), balance).await;
        for _ in 0..shares.iter().sum::<usize>() {
            assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 200);
        }
        assert_eq!(counts(&fleet), shares, "{weights:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_affinity_turns_ignore_what_is_in_memory() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "balance: { policy: round_robin, model_affinity: off }").await;
    crate::direct(&fleet.hosts[1], "POST", "/api/generate", generate("m")).await;
    crate::support::fleet::knows(&proxy, &fleet.hosts[1], "memory", 1).await;
    for _ in 0..8 {
        assert_eq!(post(&proxy, "/api/generate", generate("m")).await.head.status, 200);
    }
    assert_eq!(counts(&fleet), [4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fewest_requests_win_and_weight_counts() {
    let fleet = fleet(3, &["m"]).await;
    let balance = "balance: { policy: least_requests, model_affinity: off }";
    let proxy = weighted(&fleet, &["weight: 3", "weight: 1", "weight: 1"], balance).await;
    hold(&fleet);
    let mut running = Vec::new();
    for _ in 0..5 {
        running.push(held(&proxy, &fleet).await);
    }
    assert_eq!(counts(&fleet), [3, 1, 1]);
    // One that has finished makes its server the least busy one.
    fleet.hosts[1].token_gate().open();
    let (address, gauge) = (fleet.hosts[1].address(), "arriero_server_in_flight");
    eventually("it is idle", || async { of_server(&proxy, gauge, address, "").await == 0.0 }).await;
    fleet.hosts[1].token_gate().close();
    running.push(held(&proxy, &fleet).await);
    assert_eq!(counts(&fleet), [3, 2, 1]);
    release(&fleet);
    for task in running {
        assert_eq!(task.await.expect("done").head.status, 200);
    }
}

/// The host to which a request with these fields goes.
async fn place(proxy: &Proxy, fleet: &Fleet, fields: &str, model: &str) -> usize {
    let before = counts(fleet);
    let answer = send_with(proxy.address(), "POST", "/api/generate", fields, generate(model)).await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    let after = counts(fleet);
    (0..after.len()).find(|&index| after[index] > before[index]).expect("somewhere")
}

const USERS: u32 = 24;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_header_goes_to_the_same_server_and_to_another_while_that_is_down() {
    let fleet = fleet(3, &["m"]).await;
    let balance = "balance: { policy: consistent_hash, hash_on: \"header:X-User\", model_affinity: off }";
    let proxy = weighted(&fleet, &["", "", ""], balance).await;
    let user = |number: u32| format!("X-User: user-{number}\r\n");
    let mut homes = Vec::new();
    for number in 0..USERS {
        homes.push(place(&proxy, &fleet, &user(number), "m").await);
    }
    assert!((0..3).all(|host| homes.contains(&host)), "24 users on less than three servers: {homes:?}");
    for (number, home) in (0..USERS).zip(&homes) {
        assert_eq!(place(&proxy, &fleet, &user(number), "m").await, *home);
    }
    fleet.hosts[0].kill().await;
    for (number, home) in (0..USERS).zip(&homes) {
        let now = place(&proxy, &fleet, &user(number), "m").await;
        assert!(if *home == 0 { now != 0 } else { now == *home }, "user {number}: from {home} to {now}");
    }
    fleet.hosts[0].restart().await.expect("the port is ours");
    let circuit = format!(
        "arriero_server_circuit_state{{upstream=\"fleet\",server=\"{}\",state=\"open\"}}",
        fleet.hosts[0].address()
    );
    if proxy.metric(&circuit).await == 0.0 {
        for (number, home) in (0..USERS).zip(&homes) {
            assert_eq!(place(&proxy, &fleet, &user(number), "m").await, *home, "back home");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_model_goes_to_the_same_server() {
    let models: Vec<_> = (0..12).map(|number| format!("model-{number}")).collect();
    let names: Vec<_> = models.iter().map(String::as_str).collect();
    let fleet = fleet(3, &names).await;
    let balance = "balance: { policy: consistent_hash, hash_on: model, model_affinity: off }";
    let proxy = weighted(&fleet, &["", "", ""], balance).await;
    let mut homes = Vec::new();
    for model in &models {
        let home = place(&proxy, &fleet, "", model).await;
        for spelling in [model.to_uppercase(), format!("{model}:latest"), format!("library/{model}")] {
            assert_eq!(place(&proxy, &fleet, "", &spelling).await, home, "{spelling}");
        }
        homes.push(home);
    }
    assert!((0..3).all(|host| homes.contains(&host)), "{homes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_client_goes_to_the_same_server() {
    let fleet = fleet(3, &["m"]).await;
    let balance = "balance: { policy: consistent_hash, hash_on: client_ip, model_affinity: off }";
    let proxy = weighted(&fleet, &["", "", ""], balance).await;
    let from = async |last: u8| {
        let before = counts(&fleet);
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).expect("a loopback address");
        let mut stream = socket.connect(proxy.address()).await.expect("connected");
        let fields = "Connection: close\r\n";
        let bytes = request("POST", "/api/generate", fields, generate("m"));
        tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.expect("sent");
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
        tokio::time::timeout(PATIENCE, read).await.expect("it ends").expect("read");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let after = counts(&fleet);
        (0..3).find(|&index| after[index] > before[index]).expect("somewhere")
    };
    let mut homes = Vec::new();
    for last in 1..=16 {
        let home = from(last).await;
        assert_eq!((from(last).await, from(last).await), (home, home), "127.0.0.{last}");
        homes.push(home);
    }
    assert!((0..3).all(|host| homes.contains(&host)), "{homes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_never_exceeded_however_many_come_at_once() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = weighted(&fleet, &["max_in_flight: 3", "max_in_flight: 2"], "queue: { max_pending: 0 }").await;
    hold(&fleet);
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let address = proxy.address();
        clients.spawn(async move { send(address, "POST", "/api/generate", generate("m")).await.head.status });
    }
    let mut refused = 0;
    while refused < 35 {
        let done = tokio::time::timeout(PATIENCE, clients.join_next()).await.expect("35 are refused at once");
        assert_eq!(done.expect("forty").expect("no panic"), 503);
        refused += 1;
    }
    eventually("five have come", || async { counts(&fleet) == [3, 2] }).await;
    release(&fleet);
    while let Some(done) = clients.join_next().await {
        assert_eq!(done.expect("no panic"), 200);
    }
    assert_eq!(counts(&fleet), [3, 2]);
}
