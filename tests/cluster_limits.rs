//! Rate limits that several instances share by way of a real Redis or Valkey: what passes in calm, and while Redis fails.
//!
//! Counts are held against the rate and the time that really passed. The bound in calm is 2 %, and beyond it what each
//! instance may have taken by rounding just before the end.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arriero::clock;
use support::fleet::{Small, request};
use support::redis::{Redis, Relay, Way};
use support::wire::{H1, proxy};
use support::{PATIENCE, Proxy, eventually, http_yaml};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Requests a second, and those that may come early.
const RATE: f64 = 40.0;
const BURST: f64 = 20.0;
const LIMIT: &str = "rate_limits: [{ key: route, rate: 40/s, burst: 20 }]\n";
/// How long a client waits after each answer.
const PAUSE: Duration = Duration::from_millis(8);

fn state(proxy: &Proxy) -> Arc<arriero::fleet::cluster::ClusterState> {
    Arc::clone(&proxy.running().store.load().lasting.cluster)
}

fn linked(proxies: &[Proxy]) -> bool {
    proxies.iter().all(|proxy| state(proxy).is_linked())
}

/// Three instances before one server.
async fn three(redis: &str) -> (Small, Vec<Proxy>) {
    let server = Small::named("one").await;
    let mut proxies = Vec::new();
    for name in ["a", "b", "c"] {
        let cluster = format!("\ncluster: {{ redis: \"{redis}\", instance: {name}, timeout: 1s }}\n");
        proxies.push(proxy(http_yaml(&[server.url()], LIMIT, "") + &cluster).await);
    }
    eventually("each sees three", || async { proxies.iter().all(|proxy| state(proxy).instances() == 3) }).await;
    (server, proxies)
}

/// Clients that ask as long as they are not told to stop.
struct Load {
    clients: JoinSet<(u32, u32)>,
    stop: Arc<AtomicBool>,
    since: Instant,
}

/// What became of a load.
#[derive(Debug)]
struct Outcome {
    passed: f64,
    refused: f64,
    /// What the limit allows in that time.
    allowed: f64,
}

impl Load {
    /// Two clients for each of these.
    fn on<'p>(proxies: impl IntoIterator<Item = &'p Proxy>) -> Self {
        let (mut clients, stop, since) = (JoinSet::new(), Arc::new(AtomicBool::new(false)), clock::now());
        for proxy in proxies {
            for _ in 0..2 {
                clients.spawn(client(proxy.address(), Arc::clone(&stop)));
            }
        }
        Self { clients, stop, since }
    }

    async fn end(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.clients.join_all().await;
        let seconds = self.since.elapsed().as_secs_f64();
        let sum = |count: fn(&(u32, u32)) -> u32| counts.iter().map(count).map(f64::from).sum();
        Outcome { passed: sum(|one| one.0), refused: sum(|one| one.1), allowed: seconds * RATE + BURST + 1.0 }
    }
}

/// How many of a client's requests passed and were refused; nothing else may become of them.
async fn client(address: std::net::SocketAddr, stop: Arc<AtomicBool>) -> (u32, u32) {
    let mut client = H1::connect(address).await;
    let (mut passed, mut refused) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        client.send(request("GET", "/", "", "")).await;
        let answer = client.reader.answer().await;
        match answer.head.status {
            200 => passed += 1,
            429 => refused += 1,
            status => panic!("{status}: {}", answer.text()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    (passed, refused)
}

impl Outcome {
    /// Within so many hundredths, and 3 requests.
    fn is_within(&self, hundredths: f64) -> bool {
        (self.passed - self.allowed).abs() <= self.allowed * hundredths / 100.0 + 3.0
    }

    /// No more than so many times what is allowed.
    fn is_below(&self, times: f64) -> bool {
        self.passed <= self.allowed * times && self.refused > 0.0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_calm_the_limit_is_one_wherever_the_requests_come() {
    let redis = Redis::start().await;
    let (_server, proxies) = three(&redis.url()).await;
    for (what, whose) in [("even", &proxies[..]), ("all on one", &proxies[..1]), ("on two", &proxies[1..])] {
        let load = Load::on(whose);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let outcome = load.end().await;
        eprintln!("{what}: {outcome:?}, off by {:.1} %", (outcome.passed / outcome.allowed - 1.0) * 100.0);
        assert!(outcome.is_within(2.0), "{what}: {outcome:?}");
        // All requests are there again.
        tokio::time::sleep(Duration::from_secs_f64((BURST + 4.0) / RATE)).await;
    }
    let settled = proxies[0].metric("arriero_cluster_settled_total{of=\"rate_limits\"}").await;
    assert!(settled > 0.0, "{settled}");
    let keys: Vec<String> = redis.call(&["KEYS", "arriero:1:{arriero}:rate:*"]).await;
    assert!(keys.len() <= 1, "the same for all: {keys:?}");
    eventually("a limit that nobody uses is forgotten", || async {
        redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:rate:*"]).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_at_one_moment_is_shared() {
    let redis = Redis::start().await;
    let (_server, proxies) = three(&redis.url()).await;
    let mut clients = JoinSet::new();
    let since = clock::now();
    for number in 0..120 {
        let address = proxies[number % 3].address();
        clients.spawn(async move { support::fleet::send(address, "GET", "/", "").await.head.status });
    }
    let statuses = clients.join_all().await;
    let passed = statuses.iter().filter(|status| **status == 200).count() as f64;
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    let allowed = BURST + 1.0 + since.elapsed().as_secs_f64() * RATE;
    // Who begins later than the first one, since it was slow, may give its share of the burst too.
    assert!(passed <= allowed * 2.0, "{passed} of {allowed}");
    // It is paid back.
    let load = Load { since, ..Load::on(&proxies) };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut outcome = load.end().await;
    outcome.passed += passed;
    eprintln!("a burst: {passed} of {allowed}, then {outcome:?}");
    assert!(outcome.is_within(5.0), "{outcome:?}");
}

async fn through(fault: Way) {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let (_server, proxies) = three(&relay.url()).await;
    let load = Load::on(&proxies);
    eventually("the limit is reached", || async {
        proxies[0].metric("arriero_requests_ended_total{reason=\"rate_limited\"}").await > 0.0
    })
    .await;
    for _ in 0..2 {
        relay.set(fault.clone());
        eventually("the fault is noticed", || async { proxies.iter().all(|proxy| !state(proxy).is_linked()) }).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(proxies.iter().all(|proxy| state(proxy).instances() == 3), "as many as before");
        relay.set(Way::Open);
        let since = clock::now();
        eventually("it is over", || async { linked(&proxies) }).await;
        assert!(since.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let outcome = load.end().await;
    eprintln!("{fault:?}: {outcome:?}, {:.2} of what is allowed", outcome.passed / outcome.allowed);
    assert!(outcome.is_below(1.2), "{fault:?}: {outcome:?}");
    // And it is one limit again.
    tokio::time::sleep(Duration::from_secs_f64((BURST + 4.0) / RATE)).await;
    let load = Load::on(&proxies[..1]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let outcome = load.end().await;
    eprintln!("after {fault:?}: {outcome:?}");
    assert!(outcome.is_within(2.0), "after {fault:?}: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_connections_costs_nobody_an_error() {
    through(Way::Closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_says_nothing_costs_nobody_an_error() {
    through(Way::Hole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_late_costs_nobody_an_error() {
    through(Way::Late(Duration::from_secs(5))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_answers_errors_costs_nobody_an_error() {
    for error in [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "NOAUTH Authentication required.",
        "OOM command not allowed when used memory > 'maxmemory'.",
    ] {
        through(Way::Error(error)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_comes_and_goes_costs_nobody_an_error() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let (_server, proxies) = three(&relay.url()).await;
    let load = Load::on(&proxies);
    for round in 0..8 {
        relay.set(if round % 2 == 0 { Way::Closed } else { Way::Hole });
        tokio::time::sleep(Duration::from_millis(200)).await;
        relay.set(Way::Open);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let outcome = load.end().await;
    eprintln!("flapping: {outcome:?}, {:.2} of what is allowed", outcome.passed / outcome.allowed);
    assert!(outcome.is_below(1.2), "{outcome:?}");
    eventually("linked", || async { linked(&proxies) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_address_while_redis_is_gone_leaves_each_its_share() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let (server, proxies) = three(&relay.url()).await;
    let limiter = Arc::clone(&proxies[0].running().store.load().lasting.limiter);
    eventually("it shares with both", || async { limiter.shared_among() == 3 }).await;
    relay.set(Way::Closed);
    eventually("it is gone", || async { proxies.iter().all(|proxy| !state(proxy).is_linked()) }).await;
    // Once it tries the new address it has begun anew whatever it begins anew.
    let next = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let cluster = format!("\ncluster: {{ redis: \"redis://{}\", instance: a }}\n", next.local_addr().expect("bound"));
    proxies[0].rewrite(&(http_yaml(&[server.url()], LIMIT, "") + &cluster));
    let tried = tokio::time::timeout(PATIENCE, next.accept()).await.expect("it tries the new address");
    assert!(tried.is_ok());
    assert_eq!((state(&proxies[0]).instances(), limiter.shared_among()), (3, 3));
    let load = Load::on(&proxies[..1]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let outcome = load.end().await;
    eprintln!("another address: {outcome:?}, {:.2} of what is allowed", outcome.passed / outcome.allowed);
    assert!(outcome.is_below(0.5), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_keys_and_keys_of_another_type_are_written_again() {
    let redis = Redis::start().await;
    let (_server, proxies) = three(&redis.url()).await;
    let load = Load::on(&proxies);
    let keys = || async { redis.call::<Vec<String>>(&["KEYS", "arriero:1:{arriero}:rate:*"]).await };
    eventually("a key", || async { !keys().await.is_empty() }).await;
    let key = keys().await.remove(0);
    for round in 0..6 {
        match round % 3 {
            0 => drop(redis.call::<String>(&["FLUSHALL"]).await),
            1 => drop(redis.call::<String>(&["SET", &key, "7"]).await),
            _ => drop(redis.try_call::<i64>(&["HSET", &key, "due", "9e300", "part", "x", "born", "-"]).await),
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let outcome = load.end().await;
    eprintln!("lost and wrong: {outcome:?}, {:.2} of what is allowed", outcome.passed / outcome.allowed);
    assert!(outcome.is_below(1.2), "{outcome:?}");
    assert!(linked(&proxies));
    let load = Load::on(&proxies);
    eventually("healed", || async {
        redis.try_call::<u32>(&["HEXISTS", &key, "due"]).await.is_ok_and(|there| there == 1)
    })
    .await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_replaced_by_an_empty_one_learns_the_limit_again() {
    let mut redis = Redis::start().await;
    let (_server, proxies) = three(&redis.url()).await;
    let load = Load::on(&proxies);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        redis.kill();
        eventually("it is gone", || async { proxies.iter().all(|proxy| !state(proxy).is_linked()) }).await;
        redis.start_again().await;
        let since = clock::now();
        eventually("linked", || async { linked(&proxies) }).await;
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }
    let outcome = load.end().await;
    eprintln!("replaced: {outcome:?}, {:.2} of what is allowed", outcome.passed / outcome.allowed);
    assert!(outcome.is_below(1.2), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_leaves_its_share() {
    let redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let (_server, mut proxies) = three(&relay.url()).await;
    for left in [2_u32, 1] {
        let running = proxies.pop().and_then(|mut proxy| proxy.running.take()).expect("running");
        tokio::task::spawn_blocking(move || running.stop()).await.expect("stopped");
        eventually("fewer", || async { proxies.iter().all(|proxy| state(proxy).instances() == left) }).await;
    }
    // Alone, and without Redis, it has all to itself.
    relay.set(Way::Closed);
    let limiter = Arc::clone(&proxies[0].running().store.load().lasting.limiter);
    eventually("it knows that it is alone", || async { limiter.shared_among() == 1 }).await;
    eventually("the fault is noticed", || async { !linked(&proxies) }).await;
    let load = Load::on(&proxies);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let outcome = load.end().await;
    eprintln!("alone: {outcome:?}");
    assert!(outcome.is_within(2.0), "{outcome:?}");
}
