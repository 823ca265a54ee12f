//! What one choice costs: 50 servers, 200 models, each on every server's disk, three in memory on each.
//!
//! `cargo bench --bench decision`. Timed is the arrival of a request, from its scores to its place; what puts the fleet back
//! as it was is not.

use std::hint::black_box;
use std::time::Duration;

use arriero::clock;
use arriero::policy::schedule::loads::LoadOutcome;
use arriero::policy::schedule::residency::Listed;
use arriero::policy::schedule::{
    Action, Arrival, ModelId, Moment, Request, Scheduler, ServerFacts, ServerId, Settings, Ticket, Usage,
};
use criterion::{Criterion, criterion_group, criterion_main};

const SERVERS: usize = 50;
const MODELS: usize = 200;
/// In memory on one server at least; the others nowhere.
const WARM: usize = 150;
/// In memory on three servers; the first of them on all.
const POPULAR: usize = 50;

criterion_group!(benches, choices);
criterion_main!(benches);

fn choices(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choice, 50 servers x 200 models");
    group.bench_function("in memory on one server", |bencher| {
        let mut fleet = Fleet::new();
        bencher.iter_custom(|rounds| fleet.time(rounds, |number| POPULAR + number % (WARM - POPULAR)));
    });
    group.bench_function("in memory on three servers", |bencher| {
        let mut fleet = Fleet::new();
        bencher.iter_custom(|rounds| fleet.time(rounds, |number| 1 + number % (POPULAR - 1)));
    });
    group.bench_function("busy fleet, a conversation goes on", |bencher| {
        let mut fleet = Fleet::new();
        fleet.hold(100);
        bencher.iter_custom(|rounds| fleet.time(rounds, |number| 1 + number % (POPULAR - 1)));
    });
    group.bench_function("in memory on all servers", |bencher| {
        let mut fleet = Fleet::new();
        bencher.iter_custom(|rounds| fleet.time(rounds, |_| 0));
    });
    group.bench_function("in memory nowhere", |bencher| {
        let mut fleet = Fleet::new();
        bencher.iter_custom(|rounds| fleet.time(rounds, |number| WARM + number % (MODELS - WARM)));
    });
}

struct Fleet {
    scheduler: Scheduler,
    names: Vec<String>,
    ids: Vec<ModelId>,
    now: f64,
    number: usize,
}

impl Fleet {
    fn new() -> Self {
        let mut scheduler = Scheduler::new(Settings::default());
        let facts: Vec<_> = (0..SERVERS)
            .map(|number| ServerFacts {
                name: format!("server-{number}"),
                max_in_flight: 8,
                max_in_flight_per_model: Some(4),
                max_loaded: 5,
                memory: Some(30_000_000_000),
                weight: 1,
            })
            .collect();
        scheduler.set_servers(&facts);
        let names: Vec<String> = (0..MODELS).map(|number| format!("model-{number}:7b")).collect();
        let ids = names.iter().map(|name| scheduler.model(name)).collect();
        let mut fleet = Self { scheduler, names, ids, now: 1000.0, number: 0 };
        (0..SERVERS).for_each(|server| fleet.list(server));
        fleet
    }

    /// A server tells what it has.
    fn list(&mut self, server: ServerId) {
        let row =
            |number: usize| Listed { name: &self.names[number], size: 5_000_000_000, digest: None, remote: false };
        let on_disk: Vec<_> = (0..MODELS).map(row).collect();
        let is_here = |number: &usize| {
            number % SERVERS == server
                || *number == 0
                || *number < POPULAR && (number + 7 == server || number + 19 == server)
        };
        let in_memory: Vec<_> = (0..WARM).filter(is_here).map(row).collect();
        let excluded = |_, _| None;
        self.now += 0.001;
        let moment = Moment { now: self.now, random: 0, excluded: &excluded };
        self.scheduler.listed(server, &on_disk, &in_memory, self.now, &moment);
    }

    /// So many requests run.
    fn hold(&mut self, running: usize) {
        for number in 0..running {
            self.arrive(1 + number % (POPULAR - 1));
        }
    }

    fn arrive(&mut self, model: usize) -> (Ticket, Arrival, Duration) {
        self.number += 1;
        self.now += 0.01;
        let conversation = Some(self.number as u64 % 997);
        let request = Request { model: self.ids[model], bytes: 8000, conversation, ..Request::default() };
        let excluded = |_, _| None;
        let moment = Moment { now: self.now, random: self.number as u64, excluded: &excluded };
        let start = clock::now();
        let (ticket, arrival) = black_box(self.scheduler.arrive(request, &moment));
        (ticket, arrival, clock::now() - start)
    }

    /// Time of so many arrivals.
    fn time(&mut self, rounds: u64, model: impl Fn(usize) -> usize) -> Duration {
        let excluded = |_, _| None;
        let mut time = Duration::ZERO;
        for _ in 0..rounds {
            let (ticket, arrival, took) = self.arrive(model(self.number));
            time += took;
            let moment = Moment { now: self.now, random: 0, excluded: &excluded };
            match arrival {
                Arrival::Bound(_) => {
                    self.scheduler.finished(ticket, &Usage { good: true, ..Usage::default() }, &moment);
                }
                Arrival::Waits => self.scheduler.leave(ticket),
                other => panic!("{other:?}"),
            }
            for action in self.scheduler.take_actions() {
                if let Action::Load { server, model, .. } = action {
                    self.scheduler.loaded(server, model, LoadOutcome::Done { seconds: 5.0 }, &moment);
                    self.list(server);
                }
            }
        }
        time
    }
}
