//! Loading, memory and slots, as Ollama's scheduler has them.
//!
//! A request for a loaded model goes to its slots, in order of arrival and without a bound. Any
//! other waits for its turn (bounded: beyond `max_queue` it is refused). Whose turn it is makes
//! room, by unloading idle models or waiting for a busy one, and loads; a load goes on when its
//! client has left. So there is one load at a time, and the turn is held until it is done.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, Semaphore, watch};

use super::gate::Gate;
use super::keep_alive::KeepAlive;
use super::model::DemoModel;
use super::runner::{Lease, Row, Runner, User};
use super::settings::HostConfig;
use crate::clock;

/// Too many requests wait for a load.
#[derive(Debug)]
pub(super) struct Busy;

pub(super) struct Scheduler {
    config: HostConfig,
    load_gate: Gate,
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
    pub(super) fn new(config: &HostConfig, load_gate: Gate) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            load_gate,
            state: Mutex::new(State::default()),
            changed: watch::Sender::new(0),
            turn: Arc::new(Turn::new(())),
            runtime: Handle::current(),
        })
    }

    /// Waits until the model is loaded and a slot is free.
    pub(super) async fn acquire(self: &Arc<Self>, model: &DemoModel, keep_alive: KeepAlive) -> Result<Lease, Busy> {
        let began = clock::now();
        let user = self.ready(model, keep_alive).await?;
        // A slot is never refused: the semaphore is not closed while it has a user.
        let slot = Arc::clone(&user.slots).acquire_owned().await.ok();
        Ok(Lease { waited: clock::now().saturating_duration_since(began), _slot: slot, _user: user })
    }

    /// Waits until the model is loaded, and keeps it so.
    pub(super) async fn ready(self: &Arc<Self>, model: &DemoModel, keep_alive: KeepAlive) -> Result<User, Busy> {
        if let Some(user) = self.join(&mut self.state.lock(), model, keep_alive) {
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
        self.until(|state| state.runners.iter().all(|runner| runner.instance != user.instance || !runner.loading))
            .await;
        Ok(user)
    }

    /// Unloads a model: now if it is idle, else when it next is.
    pub(super) fn unload(&self, model: &DemoModel) {
        self.change(|state| {
            state.runners.retain(|runner| !runner.is(model) || runner.users > 0 || runner.loading);
            for runner in state.runners.iter_mut().filter(|runner| runner.is(model)) {
                runner.keep_alive = KeepAlive::For(std::time::Duration::ZERO);
            }
        });
    }

    /// The rows of `/api/ps`, longest to live first; waits for a load in progress if so configured.
    pub(super) async fn rows(&self) -> Vec<Row> {
        if self.config.ps_waits_for_load {
            self.until(|state| state.runners.iter().all(|runner| !runner.loading)).await;
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
            let Some(at) = state.runners.iter().position(|runner| runner.instance == instance) else {
                return;
            };
            if let Some(runner) = state.runners.get_mut(at) {
                runner.users = runner.users.saturating_sub(1);
                if runner.users > 0 || runner.loading {
                    return;
                }
                if !runner.leaving && !runner.keep_alive.is_zero() {
                    return self.idle(runner);
                }
            }
            state.runners.remove(at);
        });
    }

    fn join(self: &Arc<Self>, state: &mut State, model: &DemoModel, keep_alive: KeepAlive) -> Option<User> {
        let runner = state.runners.iter_mut().find(|runner| runner.is(model) && runner.is_ready())?;
        runner.users += 1;
        runner.keep_alive = keep_alive;
        Some(self.user(runner))
    }

    fn user(self: &Arc<Self>, runner: &Runner) -> User {
        User { scheduler: Arc::clone(self), instance: runner.instance, slots: Arc::clone(&runner.slots) }
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
            let used: u64 = state.runners.iter().map(|runner| runner.size_vram).sum();
            let fits = used.saturating_add(size_vram) <= self.config.vram
                && state.runners.len() < self.config.max_loaded.max(1)
                && !state.runners.iter().any(|runner| runner.is(model));
            if fits {
                break;
            }
            let idle = state.runners.iter().enumerate().filter(|(_, runner)| runner.users == 0);
            if let Some((at, _)) = idle.min_by_key(|(_, runner)| runner.keep_alive) {
                state.runners.remove(at);
                continue;
            }
            if !state.runners.iter().any(|runner| runner.leaving)
                && let Some(busy) = state.runners.iter_mut().min_by_key(|runner| runner.keep_alive)
            {
                busy.leaving = true;
            }
            return Room::Wait;
        }
        state.instances += 1;
        let runner = Runner {
            instance: state.instances,
            model: model.clone(),
            size_vram,
            slots: Arc::new(Semaphore::new(self.config.parallel.max(1))),
            users: 1,
            keep_alive,
            expires: None,
            loading: true,
            leaving: false,
            idle_times: 0,
        };
        let user = self.user(&runner);
        state.runners.push(runner);
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
                    state.runners.retain(|runner| {
                        runner.instance != instance || runner.users > 0 || runner.idle_times != idle_times
                    });
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

/// A place in the pending queue.
struct Pending {
    scheduler: Arc<Scheduler>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.scheduler.change(|state| state.pending = state.pending.saturating_sub(1));
    }
}
