//! Whatever Redis does, clients of three instances do not notice: reliability.md's row of faults, under load.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::Signal;
use support::fleet::{Small, send};
use support::process::{Program, arriero, complete};
use support::redis::{Redis, Relay, Way};
use support::wire::proxy;
use support::{Proxy, eventually, http_yaml};
use tokio::task::JoinSet;

/// How long each fault lasts.
const FAULT: Duration = Duration::from_secs(3);
/// Requests at a time at each instance.
const CLIENTS: usize = 2;

fn yaml(redis: &str, name: &str, server: &str) -> String {
    let limits = "rate_limits: [{ key: client_ip, rate: 100000/s, burst: 100000 }]\n";
    http_yaml(&[server.to_owned()], limits, "") + &format!("\ncluster: {{ redis: \"{redis}\", instance: {name} }}\n")
}

fn linked(proxy: &Proxy) -> bool {
    proxy.running().store.load().lasting.cluster.is_linked()
}

fn members(proxy: &Proxy) -> usize {
    proxy.running().store.load().lasting.cluster.view().members.len()
}

/// Clients that ask all the time.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    bad: Arc<Mutex<Vec<String>>>,
    times: Arc<Mutex<Vec<(Instant, Duration)>>>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(proxies: &[&Proxy]) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            good: Arc::default(),
            bad: Arc::default(),
            times: Arc::default(),
            clients: JoinSet::new(),
        };
        for proxy in proxies {
            for _ in 0..CLIENTS {
                let (address, stop, good) = (proxy.address(), Arc::clone(&load.stop), Arc::clone(&load.good));
                let (bad, times) = (Arc::clone(&load.bad), Arc::clone(&load.times));
                load.clients.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let began = arriero::clock::now();
                        let answer = send(address, "GET", "/", "").await;
                        times.lock().push((began, began.elapsed()));
                        if answer.head.status == 200 {
                            good.fetch_add(1, Ordering::Relaxed);
                        } else {
                            bad.lock().push(format!("{} {:?}", answer.head.status, answer.reason()));
                        }
                    }
                });
            }
        }
        load
    }

    /// The 99th percentile of what began in this time, in milliseconds.
    fn p99(&self, from: Instant, until: Instant) -> f64 {
        let times = self.times.lock();
        let within = times.iter().filter(|(began, _)| *began >= from && *began < until);
        let mut all: Vec<f64> = within.map(|(_, took)| took.as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        all.get((all.len() * 99 / 100).min(all.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }

    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client does not panic");
        }
        let bad = self.bad.lock();
        assert!(bad.is_empty(), "{} requests failed: {:?}", bad.len(), &bad[..bad.len().min(5)]);
        self.good.load(Ordering::Relaxed)
    }
}

/// What is done to Redis, and undone.
#[derive(Clone, Copy)]
enum Fault {
    Is(fn() -> Way),
    WrongType,
    Flushed,
    Failover,
    Flapping,
}

/// Refused, swallowed, five seconds late, and four answers that say that nothing can be written; then what stands there.
const FAULTS: [Fault; 11] = [
    Fault::Is(|| Way::Closed),
    Fault::Is(|| Way::Hole),
    Fault::Is(|| Way::Late(Duration::from_secs(5))),
    Fault::Is(|| Way::Error("LOADING Redis is loading the dataset in memory")),
    Fault::Is(|| Way::Error("READONLY You can't write against a read only replica.")),
    Fault::Is(|| Way::Error("NOAUTH Authentication required.")),
    Fault::Is(|| Way::Error("OOM command not allowed when used memory > 'maxmemory'.")),
    Fault::WrongType,
    Fault::Flushed,
    Fault::Failover,
    Fault::Flapping,
];

impl std::fmt::Debug for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Is(way) => write!(formatter, "{:?}", way()),
            Self::WrongType => formatter.write_str("WrongType"),
            Self::Flushed => formatter.write_str("Flushed"),
            Self::Failover => formatter.write_str("Failover"),
            Self::Flapping => formatter.write_str("Flapping"),
        }
    }
}

impl Fault {
    async fn begin(self, redis: &mut Redis, relay: &Relay) {
        match self {
            Self::Is(way) => relay.set(way()),
            Self::WrongType => {
                let keys: Vec<String> = redis.call(&["KEYS", "arriero:*"]).await;
                assert!(!keys.is_empty());
                for key in keys {
                    redis.spoil(&key).await;
                }
            }
            Self::Flushed => drop(redis.call::<String>(&["FLUSHALL"]).await),
            // What comes after it knows nothing of what was.
            Self::Failover => {
                redis.kill();
                redis.start_again().await;
            }
            Self::Flapping => {
                let until = arriero::clock::now() + FAULT;
                while arriero::clock::now() < until {
                    relay.set(Way::Closed);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    relay.set(Way::Open);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_redis_reaches_a_client() {
    let mut redis = Redis::start().await;
    let relay = Relay::before(redis.address()).await;
    let server = Small::named("one").await;
    let mut proxies = Vec::new();
    for name in ["a", "b", "c"] {
        proxies.push(proxy(yaml(&relay.url(), name, &server.url())).await);
    }
    eventually("three", || async { proxies.iter().all(|proxy| members(proxy) == 3) }).await;
    let load = Load::start(&proxies.iter().collect::<Vec<_>>());
    let calm = arriero::clock::now();
    tokio::time::sleep(FAULT).await;
    let usual = load.p99(calm, arriero::clock::now());
    for fault in FAULTS {
        let began = arriero::clock::now();
        fault.begin(&mut redis, &relay).await;
        tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
        let p99 = load.p99(began + Duration::from_secs(1), arriero::clock::now());
        let good = load.good.load(Ordering::Relaxed);
        relay.set(Way::Open);
        let over = arriero::clock::now();
        eventually(&format!("{fault:?} is over"), || async {
            proxies.iter().all(|proxy| linked(proxy) && members(proxy) == 3)
        })
        .await;
        let back = over.elapsed();
        eprintln!("{fault:?}: p99 {p99:.1} ms ({:+.1}), back after {back:?}", p99 - usual);
        assert!(back < Duration::from_secs(5), "{fault:?}: {back:?}");
        eventually("it goes on", || async { load.good.load(Ordering::Relaxed) > good }).await;
    }
    assert!(load.end().await > 100);
}

/// `ARRIERO_KILLS` says how often; five times by default.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_killed_again_and_again_costs_the_others_nothing() {
    let kills = std::env::var("ARRIERO_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let redis = Redis::start().await;
    let server = Small::named("one").await;
    let (one, two) =
        (proxy(yaml(&redis.url(), "one", &server.url())).await, proxy(yaml(&redis.url(), "two", &server.url())).await);
    let load = Load::start(&[&one, &two]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    std::fs::write(
        &file,
        complete(
            &(yaml(&redis.url(), "killed", &server.url()) + "\ntelemetry: { access_log: off, log_level: info }\n"),
        ),
    )
    .expect("written");
    for _ in 0..kills {
        let killed = Program::serving(arriero(&["run", "--config", file.to_str().expect("text")], folder.path())).await;
        assert_eq!(send(killed.address(), "GET", "/", "").await.head.status, 200);
        eventually("it has joined", || async { killed.err.has("linked") }).await;
        killed.signal(Signal::KILL);
    }
    let since = arriero::clock::now();
    eventually("all of them are forgotten", || async { members(&one) == 2 && members(&two) == 2 }).await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    let about = async || redis.call::<Vec<String>>(&["HKEYS", "arriero:1:{arriero}:about"]).await;
    eventually("by Redis too", || async { about().await.len() == 2 }).await;
    assert!(load.end().await > 100);
}
