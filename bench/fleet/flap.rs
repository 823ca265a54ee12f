//! A flapping server: one of four dies every twenty seconds and is back ten seconds later, for ten minutes. After that
//! every server refuses with 503, and the attempts are counted.
//!
//! Asked: it is left alone after a few rounds (an ejection is a change from "may be chosen" to "may not", by the
//! metrics), clients hardly notice, and when all are busy nobody asks them again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arriero::clock;
use arriero::demo::{Fault, Fleet};
use tokio::task::JoinSet;

use crate::arriero_yaml::Wanted;
use crate::client::{self, Answer};
use crate::figures::{mark, percentile, short};
use crate::proxies::Proxy;
use crate::random::Random;
use crate::simple::{self, Simple};
use crate::{Options, ready};

/// Servers, and requests that each answers at once.
const SERVERS: (usize, usize) = (4, 4);
/// Seconds of a request, and requests a second.
const SERVICE: f64 = 0.5;
const RATE: f64 = 6.0;
/// Seconds up and seconds down, and seconds in all.
const HALF: f64 = 10.0;
const LONG: f64 = 600.0;
/// Requests while all servers are busy.
const BUSY: usize = 500;

/// Plays it.
pub async fn play(options: &Options) -> Result<bool, String> {
    let scale = options.scale;
    let wall = |seconds: f64| Duration::from_secs_f64(seconds / scale);
    let due = arrivals(options.seed.first().copied().unwrap_or(1));
    let plan = simple::plan(due.len() + BUSY, 1);
    let tokens = (1, Duration::ZERO);
    let simple = Simple { servers: SERVERS.0, parallel: SERVERS.1, service: wall(SERVICE), tokens, models: &["m:1b"] };
    let fleet = simple.start(&plan).await?;
    let mut wanted = Wanted::new(options.scene_policy(), scale);
    wanted.upstream = upstream(scale);
    let proxy = Proxy::arriero(&options.arriero(), &wanted.yaml(&simple.behind(&fleet)), &[])?;
    let admin = simple::admin(&proxy)?;
    ready::wait(&proxy, 1).await?;

    let began = clock::now() + Duration::from_millis(300);
    let over = Arc::new(AtomicBool::new(false));
    let watch = tokio::spawn(watch(admin, fleet.hosts[0].name().to_owned(), Arc::clone(&over)));
    let mut running = JoinSet::new();
    for (number, due) in due.iter().enumerate() {
        let (address, moment) = (proxy.address, began + wall(*due));
        let timeout = Duration::from_secs_f64(options.timeout);
        running.spawn(async move {
            client::ask(address, simple::chat("m:1b", number, String::new()), moment, timeout).await
        });
    }
    let mut at = began;
    while at < began + wall(LONG) {
        tokio::time::sleep_until((at + wall(HALF)).into()).await;
        fleet.hosts[0].kill().await;
        tokio::time::sleep_until((at + wall(2.0 * HALF)).into()).await;
        fleet.hosts[0].restart().await.map_err(|error| format!("cannot restart a server: {error}"))?;
        at += wall(2.0 * HALF);
    }
    let mut answers: Vec<Answer> = Vec::new();
    while let Some(done) = running.join_next().await {
        answers.push(done.expect("a client does not panic"));
    }
    over.store(true, Ordering::Relaxed);
    let ejections = watch.await.map_err(|error| error.to_string())?;
    let failed = answers.iter().filter(|answer| !answer.good()).count();
    let times: Vec<f64> = answers.iter().filter_map(|answer| Some(answer.first? * scale)).collect();
    let (asked, attempts) = busy(&fleet, proxy.address, due.len()).await;
    let twice: usize = plan.observed().iter().map(|seen| seen.begun.saturating_sub(1)).sum();

    let (share, ratio) = (failed as f64 / answers.len() as f64, attempts as f64 / asked as f64);
    println!("flap, {}: {} requests, p99 {} s", wanted.policy, answers.len(), short(percentile(&times, 0.99)));
    let good = [
        mark(&format!("ejections at most 6: {ejections}"), ejections <= 6),
        mark(&format!("failed requests at most 1 %: {failed} ({:.2} %)", share * 100.0), share <= 0.01),
        mark(&format!("requests begun twice: {twice}"), twice == 0),
        mark(&format!("all busy: {attempts} attempts for {asked} requests, at most 1.1 times"), ratio <= 1.1),
    ];
    Ok(good.iter().all(|good| *good))
}

/// Health checks and circuit in the fleet's time: their defaults, that many times shorter.
fn upstream(scale: f64) -> String {
    let wall = |seconds: f64| format!("{}ms", (seconds * 1000.0 / scale).ceil());
    format!(
        "    health: {{ active: {{ interval: {}, timeout: {} }} }}\n    circuit: {{ open_for: {}, max_open_for: {} }}\n",
        wall(5.0),
        wall(2.0),
        wall(30.0),
        wall(300.0)
    )
}

fn arrivals(seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    let (mut due, mut at) = (Vec::new(), 0.0);
    while at < LONG {
        due.push(at);
        at += random.exponential(1.0 / RATE);
    }
    due
}

/// Counts how often a server stops being one that may be chosen.
async fn watch(admin: SocketAddr, server: String, over: Arc<AtomicBool>) -> usize {
    let name = format!("server=\"{server}\"");
    let (mut ejections, mut was) = (0, true);
    while !over.load(Ordering::Relaxed) {
        if let Some(page) = client::get(admin, "/metrics").await {
            let up = client::metric(&page, "arriero_server_up", &[&name]).unwrap_or(1.0) > 0.0;
            let open = client::metric(&page, "arriero_server_circuit_state", &[&name, "state=\"open\""]);
            let may = up && open.unwrap_or(0.0) == 0.0;
            ejections += usize::from(was && !may);
            was = may;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ejections
}

/// Asks while every server says 503. Returns requests and attempts.
async fn busy(fleet: &Fleet, address: SocketAddr, first: usize) -> (usize, usize) {
    let attempts = || fleet.hosts.iter().map(|host| host.ledger().inference().len()).sum::<usize>();
    for host in &fleet.hosts {
        host.faults().always(Fault::Busy);
    }
    let before = attempts();
    for number in first..first + BUSY {
        let chat = simple::chat("m:1b", number, String::new());
        client::ask(address, chat, clock::now(), Duration::from_secs(30)).await;
    }
    (BUSY, attempts() - before)
}
