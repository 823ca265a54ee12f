//! Aborts: clients that go away at any moment, ten thousand times.
//!
//! Asked: afterwards nothing is in flight, at Arriero by its own metrics and at the servers by their ledgers, and
//! the fleet answers as before. A slot that leaked is never free again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arriero::clock;
use arriero::demo::Fleet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::arriero_yaml::Wanted;
use crate::client;
use crate::figures::mark;
use crate::proxies::Proxy;
use crate::random::Random;
use crate::simple::{self, Simple};
use crate::{Options, ready};

/// Servers, and requests that each answers at once.
const SERVERS: (usize, usize) = (4, 4);
/// Clients at a time: more than there are slots, so that some wait.
const CLIENTS: usize = 48;
/// Requests afterwards, all of which must be answered.
const AFTERWARDS: usize = 100;
/// How long slots may take to come free.
const PATIENCE: Duration = Duration::from_secs(10);

/// Plays it.
pub async fn play(options: &Options) -> Result<bool, String> {
    let plan = simple::plan(options.aborts + AFTERWARDS, 20);
    let simple = Simple {
        servers: SERVERS.0,
        parallel: SERVERS.1,
        service: Duration::from_millis(5),
        tokens: (20, Duration::from_millis(1)),
        models: &["m:1b"],
    };
    let fleet = simple.start(&plan).await?;
    let wanted = Wanted::new(options.scene_policy(), options.scale);
    let proxy = Proxy::arriero(&options.arriero(), &wanted.yaml(&simple.behind(&fleet)), &[])?;
    let admin = simple::admin(&proxy)?;
    ready::wait(&proxy, 1).await?;

    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (next, address, aborts) = (Arc::clone(&next), proxy.address, options.aborts);
        let mut random = Random::new(client as u64);
        clients.spawn(async move {
            let mut done = [0; 4];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= aborts {
                    return done;
                }
                let stage = random.below(done.len());
                // What fails here has gone away all the same.
                let _ = break_off(address, number, stage, &mut random).await;
                done[stage] += 1;
            }
        });
    }
    let mut done = [0; 4];
    while let Some(each) = clients.join_next().await {
        let each = each.expect("a client does not panic");
        done.iter_mut().zip(each).for_each(|(sum, one)| *sum += one);
    }
    let (leaked, running) = settle(admin, &fleet).await;
    let mut answered = 0;
    for number in options.aborts..options.aborts + AFTERWARDS {
        let chat = simple::chat("m:1b", number, String::new());
        let answer = client::ask(proxy.address, chat, clock::now(), Duration::from_secs(10)).await;
        answered += usize::from(answer.good());
    }
    let twice: usize = plan.observed().iter().map(|seen| seen.begun.saturating_sub(1)).sum();
    println!("abort, {}: {} aborts", wanted.policy, options.aborts);
    println!(
        "  {} within the head or body, {} before the answer, {} at its first bytes, {} in the middle",
        done[0], done[1], done[2], done[3]
    );
    let good = [
        mark(&format!("slots leaked: {leaked}"), leaked == 0.0),
        mark(&format!("requests that the servers still run: {running}"), running == 0),
        mark(&format!("answered afterwards: {answered} of {AFTERWARDS}"), answered == AFTERWARDS),
        mark(&format!("requests begun twice: {twice}"), twice == 0),
    ];
    Ok(good.iter().all(|good| *good))
}

/// One client that goes away.
async fn break_off(address: SocketAddr, number: usize, stage: usize, random: &mut Random) -> std::io::Result<()> {
    let bytes = client::bytes(address, &simple::chat("m:1b", number, String::new()));
    let mut stream = TcpStream::connect(address).await?;
    if stage == 0 {
        stream.write_all(&bytes[..random.below(bytes.len())]).await?;
        tokio::time::sleep(Duration::from_millis(random.below(3) as u64)).await;
    } else {
        stream.write_all(&bytes).await?;
    }
    match stage {
        1 => tokio::time::sleep(Duration::from_millis(random.below(12) as u64)).await,
        2 => drop(stream.read(&mut [0; 64]).await?),
        3 => {
            let mut wanted = 200 + random.below(2_000);
            let mut buffer = [0; 256];
            while wanted > 0 {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    count => wanted = wanted.saturating_sub(count),
                }
            }
        }
        _ => {}
    }
    if random.chance(0.5) {
        // RST instead of FIN.
        stream.set_zero_linger()?;
    }
    Ok(())
}

/// Waits until nothing is in flight. Returns what Arriero, and what the servers, still have after the patience.
async fn settle(admin: SocketAddr, fleet: &Fleet) -> (f64, usize) {
    let began = clock::now();
    loop {
        let page = client::get(admin, "/metrics").await.unwrap_or_default();
        let gauges = ["arriero_server_in_flight", "arriero_requests_in_flight"];
        let leaked = gauges.iter().map(|name| client::metric(&page, name, &[]).unwrap_or(f64::NAN)).sum();
        let unfinished = |host: &arriero::demo::Host| {
            host.ledger().inference().iter().filter(|entry| entry.finished.is_none()).count()
        };
        let running = fleet.hosts.iter().map(unfinished).sum();
        let over = clock::now().saturating_duration_since(began) > PATIENCE;
        if over || (leaked == 0.0 && running == 0) {
            return (leaked, running);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
