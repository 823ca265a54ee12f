//! Loading, memory and slots, as Ollama's scheduler has them.
//!
//! A request for a loaded model goes to its slots, in order of arrival and without a bound. Any
//! other waits for its turn (bounded: beyond `max_queue` it is refused). Whose turn it is makes
//! room, by unloading idle models or waiting for a busy one, and loads; a load goes on when its
//! client has left. So there is one load at a time, and the turn is held until it is done.
//!
//! On a host with a card unloading takes time too, and nothing loads meanwhile; a request for the model
//! that is being loaded waits for that load and not for its turn; and of several idle models that may stay
//! equally long, the one with the first blob path goes, not the one that was idle longest, as in Ollama.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, Semaphore, watch};

use super::gate::Gate;
use super::gpu::Gpu;
use super::keep_alive::KeepAlive;
use super::ledger::Ledger;
use super::model::DemoModel;
use super::prefix_cache::PrefixCache;
use super::runner::{Lease, Row, Runner, User};
use super::settings::HostConfig;
use crate::clock;

/// Too many requests wait for a load.
#[derive(Debug)]
pub(super) struct Busy;

pub(super) struct Scheduler {
    config: HostConfig,
    load_gate: Gate,
    ledger: Ledger,
    gpu: Option<Arc<Gpu>>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    turn: Arc<Turn<()>>,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    runners: Vec<Runner>,
    pending: usize,
    instances: u64,
}

/// What whoever has the turn can do about memory.
enum Room {
    Joined(User),
    Loading(User),
    Wait,
}

impl Scheduler {
    pub(super) fn new(config: &HostConfig, load_gate: Gate, ledger: Ledger) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            load_gate,
            ledger,
            gpu: config.card.map(Gpu::new),
            state: Mutex::new(State::default()),
            changed: watch::Sender::new(0),
            turn: Arc::new(Turn::new(())),
            runtime: Handle::current(),
        })
    }

    /// The card, if there is one.
    pub(super) fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref()
    }

    /// Waits until the model is loaded and a slot is free.
    pub(super) async fn acquire(self: &Arc<Self>, model: &DemoModel, keep_alive: KeepAlive) -> Result<Lease, Busy> {
        let began = clock::now();
        let user = self.ready(model, keep_alive).await?;
        let loaded = clock::now().saturating_duration_since(began);
        // A slot is never refused: the semaphore is not closed while it has a user.
        let slot = Arc::clone(&user.slots).acquire_owned().await.ok();
        Ok(Lease { waited: clock::now().saturating_duration_since(began), loaded, _slot: slot, user })
    }

    /// Waits until the model is loaded, and keeps it so.
    pub(super) async fn ready(self: &Arc<Self>, model: &DemoModel, keep_alive: KeepAlive) -> Result<User, Busy> {
        let joined = self.join(&mut self.state.lock(), model, keep_alive);
        if let Some(user) = joined {
            self.loaded(user.instance).await;
            return Ok(user);
        }
        let pending = self.enter_queue()?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        drop(pending);
        let mut changed = self.changed.subscribe();
        let user = loop {
            changed.borrow_and_update();
            match self.make_room(model, keep_alive) {
                Room::Joined(user) => return Ok(user),
                Room::Loading(user) => break user,
                // The sender lives in self.
                Room::Wait => drop(changed.changed().await),
            }
        };
        self.load(turn, model, user.instance);
        let patience = Patience { ledger: &self.ledger, lasted: false };
        self.loaded(user.instance).await;
        patience.lasted();
        Ok(user)
    }

    /// Returns once a load is done.
    async fn loaded(&self, instance: u64) {
        self.until(|state| state.runners.iter().all(|runner| runner.instance != instance || !runner.loading)).await;
    }

    /// Unloads a model: now if it is idle, else when it next is.
    pub(super) fn unload(self: &Arc<Self>, model: &DemoModel) {
        self.change(|state| {
            let runner = state.runners.iter_mut().find(|runner| runner.is(model) && !runner.unloading);
            let Some(runner) = runner else { return };
            runner.keep_alive = KeepAlive::For(std::time::Duration::ZERO);
            self.ledger.count_memory(|counts| counts.unloads += 1);
            if runner.users == 0 && !runner.loading {
                let instance = runner.instance;
                self.remove(state, instance);
            }
        });
    }

    /// The rows of `/api/ps`, longest to live first; waits for a load or unload in progress if so configured.
    pub(super) async fn rows(&self) -> Vec<Row> {
        if self.config.ps_waits_for_load {
            self.until(|state| state.runners.iter().all(|runner| !runner.loading && !runner.unloading)).await;
        }
        let mut rows: Vec<Row> = (self.state.lock().runners.iter())
            .map(|runner| Row {
                model: runner.model.clone(),
                size_vram: runner.size_vram,
                expires_in: runner.expires_in(),
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.expires_in));
        rows
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state.lock().runners.iter().map(|runner| runner.model.name.clone()).collect()
    }

    pub(super) fn pending(&self) -> usize {
        self.state.lock().pending
    }

    /// Called as a user of a runner goes.
    pub(super) fn leave(self: &Arc<Self>, instance: u64) {
        self.change(|state| {
            let Some(runner) = state.runners.iter_mut().find(|runner| runner.instance == instance) else {
                return;
            };
            runner.users = runner.users.saturating_sub(1);
            if runner.users > 0 || runner.loading {
                return;
            }
            if !runner.leaving && !runner.keep_alive.is_zero() {
                return self.idle(runner);
            }
            self.remove(state, instance);
        });
    }

    fn join(self: &Arc<Self>, state: &mut State, model: &DemoModel, keep_alive: KeepAlive) -> Option<User> {
        let runner = state.runners.iter_mut().find(|runner| runner.is(model) && self.may_join(runner))?;
        runner.users += 1;
        runner.keep_alive = keep_alive;
        Some(self.user(runner))
    }

    fn may_join(&self, runner: &Runner) -> bool {
        runner.is_ready() || (self.gpu.is_some() && runner.loading && !runner.is_going())
    }

    fn user(self: &Arc<Self>, runner: &Runner) -> User {
        User {
            scheduler: Arc::clone(self),
            instance: runner.instance,
            slots: Arc::clone(&runner.slots),
            cache: Arc::clone(&runner.cache),
        }
    }

    /// Whose turn it is to be evicted, least first.
    fn order<'a>(&self, runner: &'a Runner) -> (KeepAlive, Option<&'a str>) {
        (runner.keep_alive, self.gpu.as_ref().map(|_| runner.model.digest.as_str()))
    }

    /// Takes a runner that nobody uses out of memory, in the time that takes.
    fn remove(self: &Arc<Self>, state: &mut State, instance: u64) {
        let time = self.config.unload_time();
        if time.is_zero() {
            return state.runners.retain(|runner| runner.instance != instance);
        }
        for runner in state.runners.iter_mut().filter(|runner| runner.instance == instance) {
            runner.unloading = true;
        }
        let scheduler = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.change(|state| state.runners.retain(|runner| runner.instance != instance));
            }
        });
    }

    fn enter_queue(self: &Arc<Self>) -> Result<Pending, Busy> {
        let mut state = self.state.lock();
        if state.pending >= self.config.max_queue {
            return Err(Busy);
        }
        state.pending += 1;
        Ok(Pending { scheduler: Arc::clone(self) })
    }

    fn make_room(self: &Arc<Self>, model: &DemoModel, keep_alive: KeepAlive) -> Room {
        let mut state = self.state.lock();
        if let Some(user) = self.join(&mut state, model, keep_alive) {
            return Room::Joined(user);
        }
        let size_vram = model.size.min(self.config.vram);
        loop {
            if state.runners.iter().any(|runner| runner.unloading) {
                return Room::Wait;
            }
            let used: u64 = state.runners.iter().map(|runner| runner.size_vram).sum();
            let fits = used.saturating_add(size_vram) <= self.config.vram
                && state.runners.len() < self.config.max_loaded.max(1)
                && !state.runners.iter().any(|runner| runner.is(model));
            if fits {
                break;
            }
            let leaving = state.runners.iter().any(|runner| runner.leaving);
            if leaving && self.gpu.is_some() {
                return Room::Wait;
            }
            let least = |one: &&Runner, other: &&Runner| self.order(one).cmp(&self.order(other));
            let idle = state.runners.iter().filter(|runner| runner.users == 0).min_by(least);
            let victim = idle.or_else(|| state.runners.iter().filter(|_| !leaving).min_by(least));
            let Some((victim, busy)) = victim.map(|runner| (runner.instance, runner.users > 0)) else {
                return Room::Wait;
            };
            self.ledger.count_memory(|counts| counts.evictions += 1);
            if busy {
                let chosen = state.runners.iter_mut().filter(|runner| runner.instance == victim);
                chosen.for_each(|runner| runner.leaving = true);
                return Room::Wait;
            }
            self.remove(&mut state, victim);
        }
        state.instances += 1;
        let runner = Runner {
            instance: state.instances,
            model: model.clone(),
            size_vram,
            slots: Arc::new(Semaphore::new(self.config.slots(model))),
            cache: Arc::new(Mutex::new(PrefixCache::new(self.config.slots(model)))),
            users: 1,
            keep_alive,
            expires: None,
            loading: true,
            leaving: false,
            unloading: false,
            idle_times: 0,
        };
        let user = self.user(&runner);
        state.runners.push(runner);
        self.ledger.count_memory(|counts| counts.loads += 1);
        drop(state);
        self.bump();
        Room::Loading(user)
    }

    /// Loads in a task of its own, which holds the turn: a client that leaves does not stop it.
    fn load(self: &Arc<Self>, turn: OwnedMutexGuard<()>, model: &DemoModel, instance: u64) {
        let scheduler = Arc::clone(self);
        let time = self.config.load_time(model.size);
        self.runtime.spawn(async move {
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            scheduler.load_gate.pass().await;
            scheduler.change(|state| {
                let Some(runner) = state.runners.iter_mut().find(|runner| runner.instance == instance) else {
                    return;
                };
                runner.loading = false;
                if runner.users == 0 {
                    scheduler.idle(runner);
                }
            });
            drop(turn);
        });
    }

    /// Starts the idle time of a runner that nobody uses any more.
    fn idle(self: &Arc<Self>, runner: &mut Runner) {
        runner.idle_times += 1;
        let KeepAlive::For(length) = runner.keep_alive else {
            runner.expires = None;
            return;
        };
        runner.expires = clock::now().checked_add(length);
        let (instance, idle_times) = (runner.instance, runner.idle_times);
        let scheduler = Arc::downgrade(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(length).await;
            if let Some(scheduler) = scheduler.upgrade() {
                scheduler.change(|state| {
                    let still_idle = state.runners.iter().any(|runner| {
                        let same = runner.instance == instance && runner.idle_times == idle_times;
                        same && runner.users == 0 && !runner.unloading
                    });
                    if still_idle {
                        scheduler.remove(state, instance);
                    }
                });
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.bump();
    }

    fn bump(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if condition(&self.state.lock()) {
                return;
            }
            // The sender lives in self.
            let _ = changed.changed().await;
        }
    }
}

/// Whether the first request of a load stays until it is done.
struct Patience<'a> {
    ledger: &'a Ledger,
    lasted: bool,
}

impl Patience<'_> {
    fn lasted(mut self) {
        self.lasted = true;
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if !self.lasted {
            self.ledger.count_memory(|counts| counts.cancelled_loads += 1);
        }
    }
}

/// A place in the pending queue.
struct Pending {
    scheduler: Arc<Scheduler>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.scheduler.change(|state| state.pending = state.pending.saturating_sub(1));
    }
}
