//! The scheduler of an upstream at work: it gives places to requests, and orders loads.
//!
//! # Problem
//! [`Scheduler`] decides and does nothing. Requests must be woken when their place is free, a place must be free again
//! whatever becomes of its request, and what is to be loaded must be asked for.
//!
//! # Shape
//! One lock around the scheduler of each upstream: choices about a fleet depend on each other (one load at a time, the
//! same victim not twice), and a choice takes microseconds where the request takes seconds. Nothing waits inside it.
//! A request gets a [`Place`], whose end tells the scheduler; or a [`Waiting`], whose end takes it out of the queue.
//! Orders for servers go out as [`Command`]s, which the probes carry out.
//!
//! # Invariants
//! - A place is given back exactly once: by [`Place::settle`], or when it is dropped.
//! - No place is dropped under the lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::explain::{Explanation, explain};
use super::inventory::Inventory;
use super::placement::Book;
use super::server::ServerState;
use super::snapshot::Upstream;
use super::waiting_room::WaitingRoom;
use crate::clock;
use crate::policy::balance::scramble;
use crate::policy::failure::Reason;
use crate::policy::schedule::loads::LoadOutcome;
use crate::policy::schedule::memory::Memory;
use crate::policy::schedule::residency::Listed;
use crate::policy::schedule::{
    Action, Arrival, Eviction, ModelId, Moment, Request, Scheduler, ServerId, Settings, Ticket,
};

mod all;
mod elsewhere;
mod judgement;
mod look;
mod orders;
mod place;

use judgement::Judgement;
use orders::Awaited;

pub use all::Dispatchers;
pub use elsewhere::{Heard, UpstreamLoad};
pub use orders::{Change, Idle, Ordered};
pub use place::{Place, Waiting};

/// What a server is to be asked.
pub struct Command {
    /// Whose order it is; it wants to know what came of a load.
    pub dispatcher: Arc<Dispatcher>,
    /// Which server.
    pub server: Arc<ServerState>,
    /// Its id for the dispatcher.
    pub id: ServerId,
    /// The model by its canonical name.
    pub model: String,
    /// What becomes of it.
    pub change: Change,
    /// Whoever wants to know what came of an unload.
    pub told: Option<oneshot::Sender<Result<(), String>>>,
}

/// Schedules the requests of an upstream, for as long as the process runs.
pub struct Dispatcher {
    /// Name of the upstream.
    pub upstream: String,
    /// Where requests wait that are not scheduled.
    pub room: Arc<WaitingRoom>,
    inner: Mutex<Inner>,
    commands: mpsc::UnboundedSender<Command>,
    epoch: Instant,
    random: AtomicU64,
    /// Whether anything happened since the others were told.
    untold: AtomicBool,
}

struct Inner {
    scheduler: Scheduler,
    /// By server id.
    servers: Vec<Arc<ServerState>>,
    /// By model id.
    models: Vec<Arc<str>>,
    waiting: HashMap<Ticket, Turn>,
    ordered: Awaited,
    /// How many hundredths of a model's holders are left alone because of their circuits.
    max_ejected: u8,
}

type Turn = oneshot::Sender<Turned>;

/// What whoever waits is told.
pub enum Turned {
    /// Here is the place.
    Placed(Place),
    /// There is none.
    Refused(Reason),
    /// The server was taken out in the moment in which it was chosen: another one is to be asked for.
    Again,
}

/// What became of a request that asked for a place.
pub enum Asked {
    /// It has one.
    Placed(Place),
    /// It waits for one.
    Waits(Waiting),
    /// See [`Turned::Again`].
    Again,
    /// There is none.
    Refused {
        /// Why.
        reason: Reason,
        /// When it may be worth asking again.
        retry_after: Option<Duration>,
    },
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Dispatcher({})", self.upstream)
    }
}

impl Dispatcher {
    /// A dispatcher for an upstream.
    pub fn new(upstream: &str, commands: mpsc::UnboundedSender<Command>, now: Instant) -> Self {
        let inner = Inner {
            scheduler: Scheduler::new(Settings::default()),
            servers: Vec::new(),
            models: Vec::new(),
            waiting: HashMap::new(),
            ordered: Awaited::default(),
            max_ejected: 50,
        };
        let random = AtomicU64::new(0);
        let room = Arc::default();
        Self {
            upstream: upstream.to_owned(),
            room,
            inner: Mutex::new(inner),
            commands,
            epoch: now,
            random,
            untold: AtomicBool::new(true),
        }
    }

    /// Takes the servers, numbers and rules of a configuration that is in force from now on.
    pub fn configure(self: &Arc<Self>, upstream: &Upstream) {
        {
            let mut inner = self.inner.lock();
            let facts: Vec<_> = upstream.servers.iter().map(super::placement::facts).collect();
            inner.scheduler.set_settings(upstream.schedule.clone());
            inner.max_ejected = upstream.max_ejected;
            let ids = inner.scheduler.set_servers(&facts);
            for (id, member) in ids.iter().zip(&upstream.servers) {
                match inner.servers.get_mut(*id) {
                    Some(known) => *known = Arc::clone(&member.state),
                    None => inner.servers.push(Arc::clone(&member.state)),
                }
            }
            inner.scheduler.set_rules(Box::new(Book::new(upstream, &ids)));
        }
        upstream.servers.iter().for_each(|member| self.learn(&member.state, None));
    }

    /// Takes what a server told of its models when it was asked; `None` when that was long ago.
    pub fn learn(self: &Arc<Self>, server: &Arc<ServerState>, asked: Option<Instant>) {
        let inventory = server.inventory();
        let Some(id) = self.id_of(server).filter(|_| inventory.is_known()) else { return };
        let (on_disk, in_memory) = lists(&inventory);
        let asked = asked.map_or(f64::NEG_INFINITY, |asked| (asked - self.epoch).as_secs_f64());
        self.event(|scheduler, moment| scheduler.listed(id, &on_disk, &in_memory, asked, moment));
    }

    /// Takes what a source told of the memory of a server's cards, of which `margin` bytes are to stay free.
    pub fn card_memory(&self, server: &Arc<ServerState>, margin: u64) {
        let Some(id) = self.id_of(server) else { return };
        self.inner.lock().scheduler.card_memory(id, server.gpu.card_memory(margin));
    }

    /// Takes which models of a server are not on its cards as a whole.
    pub fn spilled(&self, server: &Arc<ServerState>) {
        let Some(id) = self.id_of(server) else { return };
        let view = server.gpu.view();
        let spilled: Vec<_> = view.verdict.models.iter().map(|model| (model.model.as_str(), model.on_card)).collect();
        let mut inner = self.inner.lock();
        inner.scheduler.set_without_card(id, view.without_card);
        inner.scheduler.set_spilled(id, &spilled);
    }

    /// A server is there, or there again: what is to be warm on it is loaded.
    pub fn appeared(&self, server: &Arc<ServerState>) {
        if let Some(id) = self.id_of(server) {
            self.inner.lock().scheduler.appeared(id);
        }
    }

    /// A place for a request on the best server, now or later. `tried` are servers that it must not go to again;
    /// `why` gets the reasons of the choice.
    pub fn ask(
        self: &Arc<Self>,
        model: &str,
        mut request: Request,
        tried: &[Arc<ServerState>],
        why: Option<&mut Option<Explanation>>,
    ) -> Asked {
        let (sender, turn) = oneshot::channel();
        let answer = self.event_with(|inner, moment| {
            let Some(model) = inner.scheduler.known_model(model) else {
                return Answer::Refused(Reason::NoServer, None);
            };
            request.model = model;
            request.tried = tried.iter().filter_map(|server| id_of(inner.servers, server)).collect();
            let (ticket, arrival) = inner.scheduler.arrive(request, moment);
            if let (Some(why), Some(decision)) = (why, inner.scheduler.decisions().last()) {
                *why = Some(explain(inner.scheduler, decision, moment.now));
            }
            let reason = match arrival {
                Arrival::Bound(server) => return Answer::Bound(inner.bound(ticket, server)),
                Arrival::Waits => {
                    inner.waiting.insert(ticket, sender);
                    return Answer::Waits(ticket);
                }
                Arrival::Full => Reason::QueueFull,
                Arrival::NotLoaded => Reason::NotLoaded,
                Arrival::Nobody => Reason::NoServer,
            };
            Answer::Refused(reason, inner.scheduler.expected_wait(model, moment))
        });
        match answer {
            Answer::Bound(bound) => bound.and_then(|bound| self.place(bound)).map_or(Asked::Again, Asked::Placed),
            Answer::Waits(ticket) => Asked::Waits(Waiting { turn, ticket, dispatcher: Arc::clone(self) }),
            Answer::Refused(reason, wait) => Asked::Refused { reason, retry_after: wait.map(pause) },
        }
    }

    /// When a request for a model may be worth sending again.
    pub fn retry_after(self: &Arc<Self>, model: &str) -> Option<Duration> {
        let wait = self.event(|scheduler, moment| scheduler.expected_wait(scheduler.known_model(model)?, moment))?;
        Some(pause(wait))
    }

    /// A load that was ordered has ended.
    ///
    /// `why` is what the server said when it failed.
    pub fn loaded(self: &Arc<Self>, server: ServerId, model: &str, outcome: LoadOutcome, why: Option<String>) {
        self.event_with(|inner, moment| {
            inner.ordered.why = why;
            if let Some(model) = inner.scheduler.known_model(model) {
                inner.scheduler.loaded(server, model, outcome, moment);
            }
        });
    }

    /// What the clock brings.
    pub fn tick(self: &Arc<Self>) {
        let now = clock::now();
        let servers = self.inner.lock().servers.clone();
        self.event(|scheduler, moment| {
            for (id, server) in servers.iter().enumerate() {
                scheduler.set_share(id, f64::from(server.share(now)));
            }
            scheduler.tick(moment);
        });
        let due = self.event(|scheduler, moment| Some((scheduler.plan_is_due(moment.now)?, moment.random)));
        // The search takes milliseconds, in which requests go on by the plan before.
        if let Some(plan) = due.and_then(|(problem, random)| problem.solve(random)) {
            self.inner.lock().scheduler.set_plan(&plan);
            tracing::info!(upstream = self.upstream, plan = ?self.plan(), "placement planned");
        }
    }

    /// The placement that was learned: server and model.
    pub fn plan(&self) -> Vec<(String, String)> {
        self.look(|scheduler| {
            scheduler.planned().map(|(server, model)| (server.to_owned(), model.to_owned())).collect()
        })
    }

    /// Lets nobody begin until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.room.pause();
        self.inner.lock().scheduler.pause();
    }

    /// Whether nobody may begin.
    pub fn is_paused(&self) -> bool {
        self.room.is_paused()
    }

    /// Lets requests begin again.
    pub fn resume(self: &Arc<Self>) {
        self.room.resume();
        self.event(Scheduler::resume);
    }

    /// What was learned.
    pub fn memory(&self) -> Memory {
        self.look(Scheduler::memory_of_all)
    }

    /// Takes what a process before this one learned.
    pub fn remember(&self, memory: &Memory) {
        self.inner.lock().scheduler.remember(memory);
    }

    fn id_of(&self, server: &Arc<ServerState>) -> Option<ServerId> {
        id_of(&self.inner.lock().servers, server)
    }

    /// Something happened: the scheduler is told, and what it wants is carried out.
    fn event<T>(self: &Arc<Self>, tell: impl FnOnce(&mut Scheduler, &Moment<'_>) -> T) -> T {
        self.event_with(|inner, moment| tell(&mut *inner.scheduler, moment))
    }

    fn event_with<T>(self: &Arc<Self>, tell: impl FnOnce(&mut Reach<'_>, &Moment<'_>) -> T) -> T {
        let now = clock::now();
        let random = scramble(self.random.fetch_add(1, Ordering::Relaxed));
        let (result, turns) = {
            let mut inner = self.inner.lock();
            let Inner { scheduler, servers, models, waiting, ordered, max_ejected } = &mut *inner;
            let (max_ejected, readmitted) = (*max_ejected, RefCell::default());
            let judgement = Judgement { servers, models, max_ejected, now, readmitted };
            let excluded = |server: ServerId, model: ModelId| judgement.exclusion(server, model);
            let moment = Moment { now: (now - self.epoch).as_secs_f64(), random, excluded: &excluded };
            let result = tell(&mut Reach { scheduler, waiting, ordered, servers, models }, &moment);
            for model in models.len()..scheduler.model_count() {
                models.push(scheduler.model_name(model).into());
            }
            let actions = scheduler.take_actions();
            (result, actions.into_iter().filter_map(|action| self.turn(&mut inner, action)).collect::<Vec<_>>())
        };
        self.untold.store(true, Ordering::Relaxed);
        for (turn, outcome) in turns {
            let outcome = match outcome {
                Ok(bound) => bound.and_then(|bound| self.place(bound)).map_or(Turned::Again, Turned::Placed),
                Err(reason) => Turned::Refused(reason),
            };
            // A client that has just left gives its place back by dropping it.
            drop(turn.send(outcome));
        }
        result
    }

    /// Who is to be told what, if it is about somebody who waits; orders go out at once.
    fn turn(self: &Arc<Self>, inner: &mut Inner, action: Action) -> Option<(Turn, Outcome)> {
        match action {
            Action::Bind { ticket, server } => {
                let Inner { scheduler, servers, models, waiting, ordered, .. } = inner;
                let turn = waiting.remove(&ticket)?;
                Some((turn, Ok(Reach { scheduler, waiting, ordered, servers, models }.bound(ticket, server))))
            }
            Action::PushedOut { ticket } => Some((inner.waiting.remove(&ticket)?, Err(Reason::QueueFull))),
            Action::Nobody { ticket } => Some((inner.waiting.remove(&ticket)?, Err(Reason::NoServer))),
            Action::Load { server, model, options } => self.order(inner, server, model, Change::Load(options)),
            Action::Unload { server, model, why } => self.order(inner, server, model, Change::Unload(why)),
            Action::Left { server } => {
                inner.servers.get(server).iter().for_each(|server| server.metrics.evicted(Eviction::Server));
                None
            }
            Action::Ended { order, end } => {
                inner.ordered.end(order, end);
                None
            }
        }
    }

    fn order(self: &Arc<Self>, inner: &Inner, id: ServerId, model: ModelId, change: Change) -> Option<(Turn, Outcome)> {
        let (server, model) = (inner.servers.get(id)?, inner.models.get(model)?);
        let command = Command {
            dispatcher: Arc::clone(self),
            server: Arc::clone(server),
            id,
            model: model.as_ref().to_owned(),
            change,
            told: None,
        };
        // Nobody carries orders out when the process ends.
        drop(self.commands.send(command));
        None
    }

    /// Takes the place that the scheduler gave; `None` when an operator took the server out in that moment.
    fn place(self: &Arc<Self>, bound: Bound) -> Option<Place> {
        let Bound { ticket, server, model } = bound;
        let now = clock::now();
        // The scheduler counts; this one is for all who look at the server.
        let slot = server.take_slot(u32::MAX);
        let standing = server.standing(now);
        // Where its circuits say no it was chosen all the same, because others say no too.
        let permit = server.admit(model.as_deref(), now).unwrap_or_else(|| server.admit_anyway(now));
        let (permit, dispatcher) = (Some(permit), Arc::clone(self));
        let place = Place { server, permit, slot, ticket, dispatcher, settled: false };
        standing.takes_work().then_some(place)
    }
}

/// A request that the scheduler gave a place; a server that is unknown by now is none.
struct Bound {
    ticket: Ticket,
    server: Arc<ServerState>,
    model: Option<Arc<str>>,
}

/// What the scheduler answers to a request.
enum Answer {
    Bound(Option<Bound>),
    Waits(Ticket),
    /// Why, and seconds until it may be worth asking again.
    Refused(Reason, Option<f64>),
}

type Outcome = Result<Option<Bound>, Reason>;

/// What an event may reach.
struct Reach<'r> {
    scheduler: &'r mut Scheduler,
    waiting: &'r mut HashMap<Ticket, Turn>,
    ordered: &'r mut Awaited,
    servers: &'r [Arc<ServerState>],
    models: &'r [Arc<str>],
}

impl Reach<'_> {
    fn bound(&self, ticket: Ticket, server: ServerId) -> Option<Bound> {
        let model = self.scheduler.running_for(ticket).and_then(|model| self.models.get(model).cloned());
        Some(Bound { ticket, server: self.servers.get(server).cloned()?, model })
    }
}

fn id_of(servers: &[Arc<ServerState>], server: &Arc<ServerState>) -> Option<ServerId> {
    servers.iter().position(|known| Arc::ptr_eq(known, server))
}

/// Seconds to wait, as far as anybody would.
fn pause(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))
}

/// What a server has on disk and in memory, in the scheduler's words.
fn lists(inventory: &Inventory) -> (Vec<Listed<'_>>, Vec<Listed<'_>>) {
    let on_disk = inventory.available.iter().flatten().map(|row| Listed {
        name: row.name.as_str(),
        size: row.size,
        digest: row.digest.as_deref(),
        remote: row.remote_host.is_some(),
    });
    let in_memory = inventory.loaded.iter().map(|row| Listed {
        name: row.name.as_str(),
        size: row.size,
        digest: row.digest.as_deref(),
        remote: false,
    });
    let listed =
        || inventory.openai.iter().map(|row| Listed { name: row.name.as_str(), size: 0, digest: None, remote: false });
    if inventory.available.is_some() {
        (on_disk.collect(), in_memory.collect())
    } else {
        // Servers with OpenAI's API alone serve what they have in memory.
        (listed().collect(), listed().collect())
    }
}
