//! What one choice costs: 50 servers, 200 models, each on every server, three in memory on each.
//!
//! `cargo bench --bench decision`. Each line is one kind of request: its arrival and its end, the median of many rounds.

use std::hint::black_box;
use std::time::Duration;

use arriero::clock;
use arriero::policy::schedule::residency::Listed;
use arriero::policy::schedule::{Arrival, Moment, Request, Scheduler, ServerFacts, Settings, Usage};

const SERVERS: usize = 50;
const MODELS: usize = 200;
const ROUNDS: usize = 200;
const BATCH: usize = 500;

fn main() {
    println!("{SERVERS} servers, {MODELS} models; time of a choice (arrival) and of an end, median of {ROUNDS} rounds");
    measure("in memory on one server", 0.0, |number| number % 150);
    measure("in memory on three servers", 0.0, |number| number % 50);
    measure("busy fleet, a conversation goes on", 0.5, |number| number % 50);
}

/// A fleet where model `m` is in memory on server `m % SERVERS`; the first 50 on two more.
fn fleet() -> (Scheduler, Vec<String>) {
    let mut scheduler = Scheduler::new(Settings::default());
    let facts: Vec<_> = (0..SERVERS)
        .map(|number| ServerFacts {
            name: format!("server-{number}"),
            max_in_flight: 8,
            max_in_flight_per_model: Some(4),
            max_loaded: 5,
            memory: Some(80_000_000_000),
            weight: 1,
        })
        .collect();
    scheduler.set_servers(&facts);
    let names: Vec<String> = (0..MODELS).map(|number| format!("model-{number}:7b")).collect();
    let row = |number: usize| Listed { name: &names[number], size: 5_000_000_000, digest: None, remote: false };
    let on_disk: Vec<_> = (0..MODELS).map(row).collect();
    let excluded = |_, _| None;
    let moment = Moment { now: 0.0, random: 0, excluded: &excluded };
    for server in 0..SERVERS {
        let in_memory: Vec<_> = (0..150)
            .filter(|number| {
                number % SERVERS == server || *number < 50 && (number + 7 == server || number + 19 == server)
            })
            .map(row)
            .collect();
        scheduler.listed(server, &on_disk, &in_memory, 0.0, &moment);
    }
    (scheduler, names)
}

fn measure(what: &str, busy: f64, model: impl Fn(usize) -> usize) {
    let (mut scheduler, names) = fleet();
    let ids: Vec<_> = names.iter().map(|name| scheduler.model(name)).collect();
    let excluded = |server: usize, _| (server == usize::MAX).then(|| unreachable!());
    let mut now = 1000.0;
    let mut number = 0;
    let running = if busy > 0.0 { 100 } else { 0 };
    for held in 0..running {
        let moment = Moment { now, random: held as u64, excluded: &excluded };
        scheduler.arrive(Request { model: ids[held % 50], ..Request::default() }, &moment);
    }
    let mut arrivals = Vec::with_capacity(ROUNDS);
    let mut ends = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let (mut arriving, mut ending) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..BATCH {
            number += 1;
            now += 0.01;
            let moment = Moment { now, random: number as u64, excluded: &excluded };
            let request = Request {
                model: ids[model(number)],
                bytes: 8000,
                conversation: (busy > 0.0).then_some(number as u64 % 997),
                ..Request::default()
            };
            let start = clock::now();
            let (ticket, arrival) = black_box(scheduler.arrive(request, &moment));
            let arrived = clock::now();
            assert!(matches!(arrival, Arrival::Bound(_)), "{what}: {arrival:?}");
            scheduler.finished(ticket, &Usage { good: true, ..Usage::default() }, &moment);
            ending += clock::now() - arrived;
            arriving += arrived - start;
            black_box(scheduler.take_actions());
        }
        arrivals.push(arriving / BATCH as u32);
        ends.push(ending / BATCH as u32);
    }
    arrivals.sort_unstable();
    ends.sort_unstable();
    println!("{what}: {:?} to choose, {:?} to end", arrivals[ROUNDS / 2], ends[ROUNDS / 2]);
}
