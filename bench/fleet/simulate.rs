//! A trace in virtual time: the scheduler itself, without sockets, against [`virtual_fleet`](crate::virtual_fleet).
//!
//! A run of 300 requests takes milliseconds, so that an idea can be tried on hundreds of workloads. What wins here is then
//! shown through real sockets, by the scene `replay`.
//!
//! Several instances are several schedulers, to which requests come in turn; each hears of the others what they said one
//! gossip before.

use std::collections::BTreeMap;

use arriero::policy::balance::scramble;
use arriero::policy::schedule::elsewhere::{Elsewhere, Others, OthersOfPair, Own, OwnOfServer};
use arriero::policy::schedule::loads::LoadOutcome;
use arriero::policy::schedule::residency::Listed;
use arriero::policy::schedule::{
    Action, Arrival, ModelId, Moment, Request, Scheduler, ServerFacts, Settings, Ticket, Usage,
};

use crate::capacity::{self, Placement, Traffic};
use crate::figures::{mean, percentile};
use crate::setup::{MAX_LOADED, Setup};
use crate::trace;
use crate::virtual_fleet::{Event, Fleet, Job};
use crate::workload;

/// Seconds between two lists of what is in memory, and two ticks of the scheduler.
const POLL: f64 = 2.0;
/// The first requests are not scored: the fleet has nothing in memory.
const WARM_UP: f64 = 0.1;
/// Seconds between two messages of an instance: the pause between two, and their way.
const GOSSIP: f64 = 0.02;
/// The timer's mark for [`POLL`]; other marks are requests.
const LOOK: u64 = u64::MAX;
/// The same for [`GOSSIP`].
const TELL: u64 = u64::MAX - 1;

/// Who chooses servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Arriero's scheduler; what it learns of speeds is this many times off, up or down.
    ExpectedWait {
        /// 1 for what is right.
        off: u32,
        /// Whether a placement is learned.
        plan: bool,
        /// How many instances there are.
        instances: usize,
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

/// The best fixed placement for the lengths of a trace; and the share of each model.
pub fn capacity(setup: &Setup, trace: &[trace::Arrival]) -> (Placement, Vec<f64>) {
    let weights = crate::random::zipf(setup.models.len(), 0.9);
    let all: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| weight / all).collect();
    let traffic = Traffic { shares: shares.clone(), means: trace::means(trace) };
    (capacity::best(setup, &traffic), shares)
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
    /// One for each instance.
    schedulers: Vec<Scheduler>,
    /// What each said last.
    said: Vec<Vec<OwnOfServer>>,
    is_telling: bool,
    /// By place of the model, the same for all.
    ids: Vec<ModelId>,
    /// Requests by instance and ticket, and back.
    jobs: BTreeMap<(usize, Ticket), usize>,
    tickets: Vec<(usize, Ticket)>,
    /// Whose load it is, by job.
    loads: BTreeMap<usize, usize>,
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
        let instances = if let Policy::ExpectedWait { instances, .. } = policy { instances } else { 1 };
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
        let mut ids = Vec::new();
        let schedulers: Vec<Scheduler> = (0..instances)
            .map(|_| {
                let mut scheduler = Scheduler::new(Settings {
                    max_pending: usize::MAX,
                    patience: f64::INFINITY,
                    plan,
                    ..Settings::default()
                });
                scheduler.set_servers(&facts);
                ids = setup.models.iter().map(|model| scheduler.model(&model.name)).collect();
                scheduler
            })
            .collect();
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
            said: vec![Vec::new(); schedulers.len()],
            schedulers,
            is_telling: false,
            ids,
            jobs: BTreeMap::new(),
            tickets: vec![(0, 0); count],
            loads: BTreeMap::new(),
            in_flight: vec![vec![0; setup.models.len()]; setup.servers.len()],
            turns: vec![0; setup.models.len()],
            times: BTreeMap::new(),
            told: vec![Vec::new(); setup.servers.len()],
            random: seed,
            left: count,
        }
    }

    fn happens(&mut self, event: Event) {
        if event != Event::Timer(TELL) {
            self.tells();
        }
        match event {
            Event::Timer(LOOK) => self.look(),
            Event::Timer(TELL) => self.gossip(),
            Event::Timer(request) => self.arrives(request as usize),
            Event::First(job) => {
                let (instance, ticket) = self.tickets[job];
                self.tell(instance, |scheduler, moment| scheduler.first_byte(ticket, moment));
            }
            Event::Done(job) => self.ends(job),
            Event::Loaded(number) => {
                let job = &self.fleet.jobs[number];
                let (server, model) = (job.server, self.ids[job.model]);
                let outcome = LoadOutcome::Done { seconds: self.fleet.now - job.sent };
                self.tell(self.loads[&number], |scheduler, moment| scheduler.loaded(server, model, outcome, moment));
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
                let instance = request % self.schedulers.len();
                let (ticket, arrival) = self.tell(instance, |scheduler, moment| scheduler.arrive(asked, moment));
                self.tickets[request] = (instance, ticket);
                self.jobs.insert((instance, ticket), request);
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
        let (instance, ticket) = self.tickets[job];
        self.tell(instance, |scheduler, moment| scheduler.finished(ticket, &usage, moment));
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
            for instance in 0..self.schedulers.len() {
                self.tell(instance, |scheduler, moment| {
                    scheduler.listed(server, &on_disk, &in_memory, moment.now, moment);
                });
            }
        }
        for instance in 0..self.schedulers.len() {
            let due = self.tell(instance, |scheduler, moment| {
                scheduler.tick(moment);
                Some((scheduler.plan_is_due(moment.now)?, moment.random))
            });
            if let Some(plan) = due.and_then(|(problem, random)| problem.solve(random)) {
                self.schedulers[instance].set_plan(&plan);
            }
        }
    }

    /// Each hears what all said one gossip before, and says what has changed since.
    fn gossip(&mut self) {
        self.is_telling = false;
        let said = self.said.clone();
        for instance in 0..self.schedulers.len() {
            let others = others(&said, instance);
            self.tell(instance, |scheduler, moment| scheduler.hear(&others, moment));
        }
        let now = self.fleet.now;
        self.said = self.schedulers.iter().map(|scheduler| scheduler.own(now)).collect();
        // What was said is yet to be heard.
        if self.said != said {
            self.tells();
        }
    }

    fn tells(&mut self) {
        if self.schedulers.len() > 1 && !self.is_telling {
            self.is_telling = true;
            self.fleet.timer(self.fleet.now + GOSSIP, TELL);
        }
    }

    /// Tells the scheduler, and carries out what it wants.
    fn tell<T>(&mut self, instance: usize, tell: impl FnOnce(&mut Scheduler, &Moment<'_>) -> T) -> T {
        self.random = scramble(self.random);
        let excluded = |_, _| None;
        let moment = Moment { now: self.fleet.now, random: self.random, excluded: &excluded };
        let told = tell(&mut self.schedulers[instance], &moment);
        for action in self.schedulers[instance].take_actions() {
            let place = |id: ModelId| self.ids.iter().position(|known| *known == id).expect("a model of the fleet");
            match action {
                Action::Bind { ticket, server } => self.fleet.send(self.jobs[&(instance, ticket)], server),
                Action::Load { server, model, .. } => {
                    self.loads.insert(self.fleet.jobs.len(), instance);
                    self.fleet.load(server, place(model));
                }
                Action::Unload { server, model, .. } => self.fleet.unload(server, place(model)),
                // There is no operator here, and what leaves memory by itself is nobody's business.
                Action::Ended { .. } | Action::Left { .. } => {}
                lost @ (Action::PushedOut { .. } | Action::Nobody { .. }) => panic!("nobody is turned away: {lost:?}"),
            }
        }
        told
    }
}

/// What all but one said, and what they know of that one's own.
fn others(said: &[Vec<OwnOfServer>], own: usize) -> Others {
    let mut servers: BTreeMap<usize, Elsewhere> = BTreeMap::new();
    let mut pairs: BTreeMap<(usize, ModelId), OthersOfPair> = BTreeMap::new();
    for (instance, said) in said.iter().enumerate() {
        let add = |sum: &mut Elsewhere, amount: &Own| {
            if instance == own {
                sum.known = amount.running;
                return;
            }
            sum.running += amount.running;
            for (sum, line) in sum.lines.iter_mut().zip(&amount.lines) {
                sum.add(line);
            }
        };
        for (server, all, models) in said {
            add(servers.entry(*server).or_default(), all);
            for (model, amount) in models {
                let nothing = OthersOfPair {
                    server: *server,
                    model: *model,
                    elsewhere: Elsewhere::default(),
                    load: None,
                    broken_until: 0.0,
                    sent_out: None,
                };
                let pair = pairs.entry((*server, *model)).or_insert(nothing);
                add(&mut pair.elsewhere, amount);
                if instance != own {
                    pair.sent_out = [pair.sent_out, amount.sent_out].into_iter().flatten().max_by(f64::total_cmp);
                }
                if let Some(since) = amount.loading.filter(|_| instance != own) {
                    pair.load = Some(pair.load.map_or(since, |load| load.min(since)));
                }
            }
        }
    }
    Others {
        instances: u32::try_from(said.len()).unwrap_or(u32::MAX),
        deaf: false,
        servers: servers.into_iter().collect(),
        pairs: pairs.into_values().collect(),
    }
}
