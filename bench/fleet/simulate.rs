//! A trace in virtual time: the scheduler itself, without sockets, against [`virtual_fleet`](crate::virtual_fleet).
//!
//! A run of 300 requests takes milliseconds, so that an idea can be tried on hundreds of workloads. What wins here is then
//! shown through real sockets, by the scene `replay`.

use std::collections::BTreeMap;

use arriero::policy::balance::scramble;
use arriero::policy::schedule::loads::LoadOutcome;
use arriero::policy::schedule::residency::Listed;
use arriero::policy::schedule::{
    Action, Arrival, ModelId, Moment, Request, Scheduler, ServerFacts, Settings, Ticket, Usage,
};

use crate::capacity::{self, Traffic};
use crate::figures::{mean, percentile};
use crate::setup::{MAX_LOADED, Setup};
use crate::trace;
use crate::virtual_fleet::{Event, Fleet, Job};
use crate::workload;

/// Seconds between two lists of what is in memory, and two ticks of the scheduler.
const POLL: f64 = 2.0;
/// The first requests are not scored: the fleet has nothing in memory.
const WARM_UP: f64 = 0.1;
/// The timer's mark for [`POLL`]; other marks are requests.
const LOOK: u64 = u64::MAX;

/// Who chooses servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Arriero's scheduler; what it learns of speeds is this many times off, up or down.
    ExpectedWait {
        /// 1 for what is right.
        off: u32,
        /// Whether a placement is learned.
        plan: bool,
    },
    /// Each model's servers in turn, as nginx does it with one group for each model.
    RoundRobin,
    /// The one of each model's servers with the fewest requests for it.
    LeastConnections,
    /// What home-made orchestrators do: the server that answered soonest for this model (0.6 of the last answer's time, 0.4 of the
    /// 95th percentile), slowed by its requests and halved where the model is in memory.
    FastestResponse,
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Time to the first token, seconds: 99th percentile and mean.
    pub p99: f64,
    pub mean: f64,
    /// Models loaded.
    pub loads: usize,
    /// Requests that were answered.
    pub answered: usize,
}

/// Requests a second of the best fixed placement, for the lengths of a trace; and the share of each model.
pub fn capacity(setup: &Setup, trace: &[trace::Arrival]) -> (f64, Vec<f64>) {
    let weights = crate::random::zipf(setup.models.len(), 0.9);
    let all: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| weight / all).collect();
    let traffic = Traffic { shares: shares.clone(), means: trace::means(trace) };
    (capacity::best(setup, &traffic).rate, shares)
}

/// A workload: a fleet and the requests for it.
pub struct Workload<'s> {
    /// The fleet.
    pub setup: &'s Setup,
    /// The requests.
    pub requests: Vec<workload::Request>,
}

impl Workload<'_> {
    /// Plays it.
    pub fn play(&self, policy: Policy, seed: u64) -> Outcome {
        let mut run = Run::new(self, policy, seed);
        while run.left > 0 {
            let Some(event) = run.fleet.next() else { break };
            run.happens(event);
        }
        let skipped = (self.requests.len() as f64 * WARM_UP) as usize;
        let scored = run.fleet.jobs[..self.requests.len()].iter().zip(&self.requests).skip(skipped);
        let times: Vec<f64> =
            scored.filter(|(job, _)| job.done_at > 0.0).map(|(job, request)| job.first_at - request.due).collect();
        Outcome {
            p99: percentile(&times, 0.99),
            mean: mean(&times),
            loads: run.fleet.loads,
            answered: self.requests.len() - run.left,
        }
    }
}

struct Run<'s> {
    workload: &'s Workload<'s>,
    fleet: Fleet<'s>,
    policy: Policy,
    scheduler: Scheduler,
    /// By place of the model.
    ids: Vec<ModelId>,
    /// Requests by ticket, and back.
    jobs: BTreeMap<Ticket, usize>,
    tickets: Vec<Ticket>,
    /// Requests of each model on each server, for balancers.
    in_flight: Vec<Vec<usize>>,
    turns: Vec<usize>,
    /// Times of answers, by server and model, and what is in memory as far as servers told.
    times: BTreeMap<(usize, usize), Vec<f64>>,
    told: Vec<Vec<usize>>,
    random: u64,
    left: usize,
}

impl<'s> Run<'s> {
    fn new(workload: &'s Workload<'s>, policy: Policy, seed: u64) -> Self {
        let setup = workload.setup;
        let plan = matches!(policy, Policy::ExpectedWait { plan: true, .. });
        let mut scheduler = Scheduler::new(Settings { max_pending: usize::MAX, plan, ..Settings::default() });
        let facts: Vec<ServerFacts> = setup
            .servers
            .iter()
            .map(|server| ServerFacts {
                name: server.name.clone(),
                max_in_flight: setup.parallel as u32,
                max_in_flight_per_model: None,
                max_loaded: MAX_LOADED as u32,
                memory: Some(server.card.memory),
                weight: 1,
            })
            .collect();
        scheduler.set_servers(&facts);
        let ids = setup.models.iter().map(|model| scheduler.model(&model.name)).collect();
        let mut fleet = Fleet::new(setup);
        fleet.timer(0.0, LOOK);
        for request in &workload.requests {
            let planned = &request.planned;
            let (prompt, answer) = (planned.prompt as f64, planned.answer as f64);
            fleet.jobs.push(Job::new(request.model, prompt, answer, planned.conversation));
            fleet.timer(request.due, request.number as u64);
        }
        let count = workload.requests.len();
        Self {
            workload,
            fleet,
            policy,
            scheduler,
            ids,
            jobs: BTreeMap::new(),
            tickets: vec![0; count],
            in_flight: vec![vec![0; setup.models.len()]; setup.servers.len()],
            turns: vec![0; setup.models.len()],
            times: BTreeMap::new(),
            told: vec![Vec::new(); setup.servers.len()],
            random: seed,
            left: count,
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Timer(LOOK) => self.look(),
            Event::Timer(request) => self.arrives(request as usize),
            Event::First(job) => {
                let ticket = self.tickets[job];
                self.tell(|scheduler, moment| scheduler.first_byte(ticket, moment));
            }
            Event::Done(job) => self.ends(job),
            Event::Loaded(job) => {
                let job = &self.fleet.jobs[job];
                let (server, model) = (job.server, self.ids[job.model]);
                let outcome = LoadOutcome::Done { seconds: self.fleet.now - job.sent };
                self.tell(|scheduler, moment| scheduler.loaded(server, model, outcome, moment));
            }
        }
    }

    fn arrives(&mut self, request: usize) {
        let model = self.fleet.jobs[request].model;
        match self.policy {
            Policy::ExpectedWait { .. } => {
                let planned = &self.workload.requests[request].planned;
                let asked = Request {
                    model: self.ids[model],
                    bytes: planned.prompt as u64 * 4,
                    conversation: Some(scramble(planned.conversation)),
                    ..Request::default()
                };
                let (ticket, arrival) = self.tell(|scheduler, moment| scheduler.arrive(asked, moment));
                self.tickets[request] = ticket;
                self.jobs.insert(ticket, request);
                match arrival {
                    Arrival::Bound(server) => self.fleet.send(request, server),
                    Arrival::Waits => {}
                    other => panic!("a request is never turned away here: {other:?}"),
                }
            }
            Policy::RoundRobin => {
                let holders = self.workload.setup.holders(model);
                self.turns[model] += 1;
                self.fleet.send(request, holders[self.turns[model] % holders.len()]);
            }
            Policy::LeastConnections => self.balance(request, |run, server| run.in_flight[server][model] as f64),
            Policy::FastestResponse => self.balance(request, |run, server| run.response_score(server, model)),
        }
    }

    /// Sends a request to the server with the least score, a random one among equals.
    fn balance(&mut self, request: usize, score: impl Fn(&Self, usize) -> f64) {
        let model = self.fleet.jobs[request].model;
        let scored: Vec<(usize, f64)> =
            self.workload.setup.holders(model).into_iter().map(|server| (server, score(self, server))).collect();
        let least = scored.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
        let near: Vec<usize> =
            scored.into_iter().filter(|(_, score)| *score <= least).map(|(server, _)| server).collect();
        self.random = scramble(self.random);
        let server = near[self.random as usize % near.len()];
        self.in_flight[server][model] += 1;
        self.fleet.send(request, server);
    }

    fn response_score(&self, server: usize, model: usize) -> f64 {
        let times = self.times.get(&(server, model)).map_or(&[][..], |times| &times[times.len().saturating_sub(200)..]);
        let time = times.last().map_or(1.0, |last| 0.6 * last + 0.4 * percentile(times, 0.95));
        let requests: usize = self.in_flight[server].iter().sum();
        let slowed = time * (1.0 + requests as f64 / self.workload.setup.parallel as f64 * 0.5);
        slowed * if self.told[server].contains(&model) { 0.5 } else { 1.1 }
    }

    fn ends(&mut self, job: usize) {
        self.left -= 1;
        let ended = &self.fleet.jobs[job];
        if matches!(self.policy, Policy::LeastConnections | Policy::FastestResponse) {
            self.in_flight[ended.server][ended.model] -= 1;
            self.times.entry((ended.server, ended.model)).or_default().push(ended.done_at - ended.sent);
        }
        let off = |salt: u64| match self.policy {
            Policy::ExpectedWait { off, .. } if off > 1 => {
                let place = (ended.server * 1000 + ended.model) as u64;
                if scramble(place * 7 + salt) & 1 == 0 { f64::from(off) } else { 1.0 / f64::from(off) }
            }
            _ => 1.0,
        };
        let usage = Usage {
            good: true,
            total: ended.done_at - ended.sent,
            load: ended.load,
            prompt_tokens: ended.prompt - ended.cached,
            prompt: (ended.first_at - ended.slot_at) * off(1),
            output_tokens: ended.answer,
            output: (ended.done_at - ended.first_at) * off(2),
        };
        let ticket = self.tickets[job];
        self.tell(|scheduler, moment| scheduler.finished(ticket, &usage, moment));
    }

    /// Servers are asked what they have, and the clock ticks.
    fn look(&mut self) {
        self.fleet.timer(self.fleet.now + POLL, LOOK);
        let setup = self.workload.setup;
        let row = |model: &usize| {
            let model = &setup.models[*model];
            Listed { name: &model.name, size: model.size, digest: None, remote: false }
        };
        for server in 0..setup.servers.len() {
            let Some(in_memory) = self.fleet.in_memory(server) else { continue };
            self.told[server].clone_from(&in_memory);
            let on_disk: Vec<_> = setup.servers[server].models.iter().map(row).collect();
            let in_memory: Vec<_> = in_memory.iter().map(row).collect();
            self.tell(|scheduler, moment| scheduler.listed(server, &on_disk, &in_memory, moment.now, moment));
        }
        let due = self.tell(|scheduler, moment| {
            scheduler.tick(moment);
            Some((scheduler.plan_is_due(moment.now)?, moment.random))
        });
        if let Some(plan) = due.and_then(|(problem, random)| problem.solve(random)) {
            self.scheduler.set_plan(&plan);
        }
    }

    /// Tells the scheduler, and carries out what it wants.
    fn tell<T>(&mut self, tell: impl FnOnce(&mut Scheduler, &Moment<'_>) -> T) -> T {
        self.random = scramble(self.random);
        let excluded = |_, _| None;
        let moment = Moment { now: self.fleet.now, random: self.random, excluded: &excluded };
        let told = tell(&mut self.scheduler, &moment);
        for action in self.scheduler.take_actions() {
            let place = |id: ModelId| self.ids.iter().position(|known| *known == id).expect("a model of the fleet");
            match action {
                Action::Bind { ticket, server } => self.fleet.send(self.jobs[&ticket], server),
                Action::Load { server, model, .. } => self.fleet.load(server, place(model)),
                Action::Unload { server, model, .. } => self.fleet.unload(server, place(model)),
                // There is no operator here, and what leaves memory by itself is nobody's business.
                Action::Ended { .. } | Action::Left { .. } => {}
                lost @ (Action::PushedOut { .. } | Action::Nobody { .. }) => panic!("nobody is turned away: {lost:?}"),
            }
        }
        told
    }
}
