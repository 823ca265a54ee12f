//! The simulated hosts once more, in virtual time: events instead of waiting, so that a run takes milliseconds.
//!
//! The model is the one of `arriero demo`: a model is loaded when it is asked for, one at a time; idle models make room in
//! the order of their names' hashes, which stands for Ollama's order of blob paths; a card shares its time among the
//! prompts that it reads and the models that it answers with, and answers of one model are worked on together, each
//! further one for a quarter of the first; a slot remembers the conversation that used it last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::random::Random;
use crate::setup::{MAX_LOADED, Server, Setup};

/// What each further answer of a batch adds to its step.
const BATCH_COST: f64 = 0.25;
/// The part of a prompt that is read even if the conversation is remembered.
const READ_ANYWAY: f64 = 0.05;

/// A request for a model, or for its load alone.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Place of its model.
    pub model: usize,
    /// Tokens.
    pub prompt: f64,
    pub answer: f64,
    /// Whose prefix it goes on with; `None` when only a load is asked for.
    pub conversation: Option<u64>,
    /// Where it was sent, and when.
    pub server: usize,
    pub sent: f64,
    /// When it got a slot, began to answer and ended.
    pub slot_at: f64,
    pub first_at: f64,
    pub done_at: f64,
    /// From being sent until the model was there, when it was not.
    pub load: f64,
    /// Tokens that the slot remembered.
    pub cached: f64,
    slot: usize,
    answering: bool,
    left: f64,
}

impl Job {
    /// A request.
    pub fn new(model: usize, prompt: f64, answer: f64, conversation: u64) -> Self {
        Self { model, prompt, answer, conversation: Some(conversation), ..Self::default() }
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A time that was asked for has come.
    Timer(u64),
    /// The answer to a job begins.
    First(usize),
    /// It ends.
    Done(usize),
    /// The model that a job wanted loaded is there.
    Loaded(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Inner {
    Out(Event),
    Step { host: usize, version: u64 },
    LoadDone { host: usize, model: usize },
    Unloaded { host: usize, model: usize },
    Send { job: usize },
    Unload { host: usize, model: usize },
}

struct Runner {
    ready: bool,
    active: Vec<usize>,
    waiting: VecDeque<usize>,
    users: usize,
    leaving: bool,
    slots: Vec<Option<(u64, f64, f64)>>,
}

impl Runner {
    fn new(ready: bool, slots: usize) -> Self {
        Self { ready, active: Vec::new(), waiting: VecDeque::new(), users: 0, leaving: false, slots: vec![None; slots] }
    }
}

#[derive(Default)]
struct Host {
    runners: BTreeMap<usize, Runner>,
    pending: VecDeque<usize>,
    loading: bool,
    unloading: usize,
    active: Vec<usize>,
    version: u64,
    last: f64,
}

struct At(f64, u64, Inner);

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for At {}
impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// The hosts and their time.
pub struct Fleet<'s> {
    setup: &'s Setup,
    hosts: Vec<Host>,
    /// All that was sent.
    pub jobs: Vec<Job>,
    /// The present, s.
    pub now: f64,
    /// Loads so far.
    pub loads: usize,
    events: BinaryHeap<Reverse<At>>,
    number: u64,
    order: Vec<usize>,
}

impl<'s> Fleet<'s> {
    /// A fleet that has nothing in memory, or everything if it is to be warm.
    pub fn new(setup: &'s Setup) -> Self {
        let mut random = Random::new(7);
        let order = (0..setup.models.len()).map(|_| random.below(1 << 30)).collect();
        let in_memory = |model: &usize| (*model, Runner::new(true, setup.slots(*model)));
        let host = |server: &Server| Host {
            runners: server.models.iter().filter(|_| setup.warm).map(in_memory).collect(),
            ..Host::default()
        };
        let hosts = setup.servers.iter().map(host).collect();
        let events = BinaryHeap::new();
        Self { setup, hosts, jobs: Vec::new(), now: 0.0, loads: 0, events, number: 0, order }
    }

    /// Asks to be told when a time has come.
    pub fn timer(&mut self, at: f64, mark: u64) {
        self.at(at, Inner::Out(Event::Timer(mark)));
    }

    /// Sends a job, which arrives a moment later.
    pub fn send(&mut self, job: usize, server: usize) {
        (self.jobs[job].server, self.jobs[job].sent) = (server, self.now);
        self.at(self.now, Inner::Send { job });
    }

    /// Asks a server to load a model; after what was asked before.
    pub fn load(&mut self, server: usize, model: usize) {
        let job = self.jobs.len();
        self.jobs.push(Job { model, server, sent: self.now, ..Job::default() });
        self.at(self.now + 0.001, Inner::Send { job });
    }

    /// Asks a server to unload a model.
    pub fn unload(&mut self, server: usize, model: usize) {
        self.at(self.now, Inner::Unload { host: server, model });
    }

    /// Models in a server's memory; `None` while it loads or unloads, when Ollama does not answer.
    pub fn in_memory(&self, server: usize) -> Option<Vec<usize>> {
        let host = &self.hosts[server];
        let ready = host.runners.iter().filter(|(_, runner)| runner.ready);
        (!host.loading && host.unloading == 0).then(|| ready.map(|(model, _)| *model).collect())
    }

    /// What happens next.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let Reverse(At(at, _, inner)) = self.events.pop()?;
            self.now = at;
            match inner {
                Inner::Out(event) => return Some(event),
                Inner::Send { job } => self.arrive(job),
                Inner::Unload { host, model } => self.leave(host, model),
                Inner::Step { host, version } if version == self.hosts[host].version => self.step(host),
                Inner::Step { .. } => {}
                Inner::LoadDone { host, model } => self.load_done(host, model),
                Inner::Unloaded { host, model } => {
                    self.hosts[host].unloading -= 1;
                    self.hosts[host].runners.remove(&model);
                    self.serve_pending(host);
                }
            }
        }
    }

    fn at(&mut self, at: f64, inner: Inner) {
        self.number += 1;
        self.events.push(Reverse(At(at, self.number, inner)));
    }

    fn out(&mut self, event: Event) {
        self.at(self.now, Inner::Out(event));
    }

    fn arrive(&mut self, job: usize) {
        let (host, model) = (self.jobs[job].server, self.jobs[job].model);
        if self.hosts[host].runners.get(&model).is_some_and(|runner| !runner.leaving) {
            self.attach(host, model, job);
        } else {
            self.hosts[host].pending.push_back(job);
            self.serve_pending(host);
        }
    }

    fn attach(&mut self, host: usize, model: usize, job: usize) {
        let slots = self.setup.slots(model);
        let Some(runner) = self.hosts[host].runners.get_mut(&model) else { return };
        if !runner.ready {
            runner.users += 1;
            runner.waiting.push_back(job);
        } else if self.jobs[job].conversation.is_none() {
            self.out(Event::Loaded(job));
        } else {
            runner.users += 1;
            if runner.active.len() < slots { self.start(host, model, job) } else { runner.waiting.push_back(job) }
        }
    }

    fn start(&mut self, host: usize, model: usize, job: usize) {
        self.advance(host);
        let jobs = &mut self.jobs;
        let Some(runner) = self.hosts[host].runners.get_mut(&model) else { return };
        let is_free = |slot: &usize| runner.active.iter().all(|other| jobs[*other].slot != *slot);
        let free: Vec<usize> = (0..runner.slots.len()).filter(is_free).collect();
        let conversation = jobs[job].conversation;
        let known = |slot: &usize| runner.slots[*slot].is_some_and(|(whose, ..)| Some(whose) == conversation);
        let used = |slot: &usize| runner.slots[*slot].map_or(-1.0, |(_, _, used)| used);
        let oldest = free.iter().copied().min_by(|one, other| used(one).total_cmp(&used(other)));
        let slot = free.iter().copied().find(known);
        let prompt = jobs[job].prompt;
        let cached = slot.and_then(|slot| runner.slots[slot]).map_or(0.0, |(_, tokens, _)| tokens);
        let cached = cached.min(((1.0 - READ_ANYWAY) * prompt).floor());
        runner.active.push(job);
        let job_now = &mut jobs[job];
        job_now.slot = slot.or(oldest).unwrap_or(0);
        (job_now.cached, job_now.slot_at, job_now.answering) = (cached, self.now, false);
        job_now.left = self.setup.servers[host]
            .card
            .prefill_seconds(self.setup.models[model].size, ((prompt - cached).max(1.0)) as usize);
        self.hosts[host].active.push(job);
        self.schedule(host);
    }

    /// How many share the card, and how many answers of each model are worked on.
    fn sharing(&self, host: usize) -> (f64, BTreeMap<usize, usize>) {
        let mut answers = BTreeMap::new();
        let mut prompts = 0;
        for job in &self.hosts[host].active {
            if self.jobs[*job].answering {
                *answers.entry(self.jobs[*job].model).or_insert(0) += 1;
            } else {
                prompts += 1;
            }
        }
        ((prompts + answers.len()) as f64, answers)
    }

    /// How much slower than alone a job is.
    fn slowness(&self, job: usize, sharing: f64, answers: &BTreeMap<usize, usize>) -> f64 {
        let job = &self.jobs[job];
        let beside = answers.get(&job.model).map_or(0.0, |count| *count as f64 - 1.0);
        if job.answering { sharing * (1.0 + BATCH_COST * beside) } else { sharing }
    }

    fn advance(&mut self, host: usize) {
        let passed = self.now - std::mem::replace(&mut self.hosts[host].last, self.now);
        if passed <= 0.0 {
            return;
        }
        let (sharing, answers) = self.sharing(host);
        for place in 0..self.hosts[host].active.len() {
            let job = self.hosts[host].active[place];
            self.jobs[job].left -= passed / self.slowness(job, sharing, &answers);
        }
    }

    fn schedule(&mut self, host: usize) {
        self.hosts[host].version += 1;
        let (sharing, answers) = self.sharing(host);
        let left = |job: &usize| self.jobs[*job].left.max(0.0) * self.slowness(*job, sharing, &answers);
        if let Some(next) = self.hosts[host].active.iter().map(left).min_by(f64::total_cmp) {
            self.at(self.now + next, Inner::Step { host, version: self.hosts[host].version });
        }
    }

    fn step(&mut self, host: usize) {
        self.advance(host);
        let mut done: Vec<usize> =
            self.hosts[host].active.iter().copied().filter(|job| self.jobs[*job].left <= 1e-9).collect();
        done.sort_unstable();
        for job in done {
            let model = self.jobs[job].model;
            if !self.jobs[job].answering {
                let seconds = self.setup.servers[host]
                    .card
                    .decode_seconds(self.setup.models[model].size, self.jobs[job].answer as usize);
                let job_now = &mut self.jobs[job];
                (job_now.answering, job_now.first_at, job_now.left) = (true, self.now, seconds);
                self.out(Event::First(job));
                continue;
            }
            self.jobs[job].done_at = self.now;
            let memory = self.jobs[job]
                .conversation
                .map(|conversation| (conversation, self.jobs[job].prompt + self.jobs[job].answer, self.now));
            self.hosts[host].active.retain(|other| *other != job);
            let Some(runner) = self.hosts[host].runners.get_mut(&model) else { continue };
            runner.active.retain(|other| *other != job);
            runner.slots[self.jobs[job].slot] = memory;
            runner.users -= 1;
            let next = runner.waiting.pop_front();
            self.out(Event::Done(job));
            if let Some(next) = next {
                self.start(host, model, next);
            }
            self.idle(host, model);
        }
        self.schedule(host);
    }

    fn idle(&mut self, host: usize, model: usize) {
        let Some(runner) = self.hosts[host].runners.get(&model) else { return };
        if runner.users > 0 {
            return;
        }
        if runner.leaving {
            self.unload_now(host, model);
        }
        self.serve_pending(host);
    }

    fn leave(&mut self, host: usize, model: usize) {
        if let Some(runner) = self.hosts[host].runners.get_mut(&model).filter(|runner| runner.ready && !runner.leaving)
        {
            runner.leaving = true;
            if runner.users == 0 {
                self.unload_now(host, model);
            }
        }
    }

    fn unload_now(&mut self, host: usize, model: usize) {
        self.hosts[host].unloading += 1;
        if let Some(runner) = self.hosts[host].runners.get_mut(&model) {
            runner.leaving = true;
        }
        let takes = self.setup.servers[host].card.unload.as_secs_f64();
        self.at(self.now + takes, Inner::Unloaded { host, model });
    }

    fn serve_pending(&mut self, host: usize) {
        loop {
            let here = &self.hosts[host];
            let Some(job) = here.pending.front().copied().filter(|_| !here.loading && here.unloading == 0) else {
                return;
            };
            let model = self.jobs[job].model;
            if let Some(runner) = here.runners.get(&model) {
                if runner.leaving {
                    return;
                }
                self.hosts[host].pending.pop_front();
                self.attach(host, model, job);
                continue;
            }
            if here.runners.values().any(|runner| runner.leaving) {
                return;
            }
            let used: u64 = here.runners.keys().map(|model| self.setup.models[*model].size).sum();
            let card = &self.setup.servers[host].card;
            if used + self.setup.models[model].size <= card.usable() && here.runners.len() < MAX_LOADED {
                let takes = card.load_time(self.setup.models[model].size).as_secs_f64();
                self.begin_load(host, model, takes);
                return;
            }
            let mut order: Vec<usize> = here.runners.keys().copied().collect();
            order.sort_by_key(|model| self.order[*model]);
            let idle = order.iter().copied().find(|model| {
                let runner = &here.runners[model];
                runner.ready && runner.users == 0
            });
            match (idle, order.first().copied()) {
                (Some(idle), _) => self.unload_now(host, idle),
                (None, Some(first)) => {
                    if let Some(runner) = self.hosts[host].runners.get_mut(&first) {
                        runner.leaving = true;
                    }
                }
                (None, None) => {}
            }
            return;
        }
    }

    fn begin_load(&mut self, host: usize, model: usize, takes: f64) {
        let runner = Runner::new(false, self.setup.slots(model));
        self.loads += 1;
        self.hosts[host].loading = true;
        self.hosts[host].runners.insert(model, runner);
        let job = self.hosts[host].pending.pop_front();
        if let Some(job) = job {
            self.attach(host, model, job);
        }
        self.at(self.now + takes, Inner::LoadDone { host, model });
    }

    fn load_done(&mut self, host: usize, model: usize) {
        self.hosts[host].loading = false;
        let Some(runner) = self.hosts[host].runners.get_mut(&model) else { return };
        runner.ready = true;
        let waiting = std::mem::take(&mut runner.waiting);
        runner.users -= waiting.len();
        for job in waiting {
            self.jobs[job].load = self.now - self.jobs[job].sent;
            self.attach(host, model, job);
        }
        self.idle(host, model);
    }
}
