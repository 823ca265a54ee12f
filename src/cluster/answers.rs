//! Answers that instances keep together: what routes ask of [`crate::fleet::shared_answers`], carried to Redis.
//!
//! A value is the number of its fetch and the moment of its birth by Redis's clock, in 20 digits each, then `A` and an answer
//! or `V` and names of fields. Purges are written down in the order of Redis's clock too, so whether one came after an answer
//! does not depend on any instance's clock. Each instance knows them all; it reads them when Redis comes back, before it
//! believes anything it finds there.
//!
//! - [`looking`]: what requests wait for, and for how long. [`comparing`]: what was missed while Redis was gone. [`scans`]: what
//!   others threw away is thrown away here.

mod comparing;
mod looking;
mod scans;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{FromRedisValue, Script};
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};

use super::Around;
use super::fault::Fault;
use super::keys::Topic;
use super::link::Event;
use super::purges::{DAY, Known, MOST_PURGES, Said, place};
use crate::fleet::response_cache::ResponseCache;
use crate::fleet::shared_answers::{Gone, Order, Pending, Tier};
use crate::fleet::store::Store;
use crate::policy::http_cache::key::Purge;
use looking::{Owed, Waiting};
use scans::Scans;

/// Part of the time in which Redis has to answer that a request waits for a look there.
const PATIENCE: u32 = 10;
/// Longest text of a purge; a longer one throws away everything. All of them are read in one go.
const LONGEST_PURGE: usize = 1 << 10;
/// Looks at a time; who comes meanwhile does without.
const AT_ONCE: usize = 64;
/// KiB of answers that are on their way at a time, beside short ones that are found: Redis closes connections of which much waits
/// to be read, and all else that instances tell each other would come late.
const ROOM: usize = 2 << 10;
/// Time between two looks at what could not be told.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest time that anything is kept there, in milliseconds: purges are remembered as long.
const LONGEST_LIFE: u64 = DAY;

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Message {
    Purge { at: u64, purge: Said },
    Change { changed: String, space: String, by: String },
    Ready { ready: String },
}

/// Carries what routes ask.
pub struct Answers {
    around: Around,
    own: String,
    tier: Arc<Tier>,
    known: Mutex<Known>,
    waiting: Waiting,
    scripts: Scripts,
    scans: Scans,
    /// How long a request waits for a look.
    patience: Duration,
    /// How many looks there were.
    looks: AtomicU64,
    /// Until when nobody looks.
    resting: Mutex<Option<Instant>>,
    owed: Mutex<Vec<Owed>>,
    few: Semaphore,
    room: Semaphore,
    throwing: tokio::sync::Mutex<()>,
    comparing: tokio::sync::Mutex<()>,
}

struct Scripts {
    find: Script,
    keep: Script,
    give_back: Script,
    purge: Script,
    change: Script,
    compare: Script,
}

impl Answers {
    /// Nothing is known yet.
    pub fn new(around: Around, own: &str) -> Self {
        let scripts = Scripts {
            find: script!("find"),
            keep: script!("keep"),
            give_back: script!("give_back"),
            purge: script!("purge"),
            change: script!("change"),
            compare: script!("compare"),
        };
        Self {
            own: own.to_owned(),
            tier: Arc::clone(&around.store.load().lasting.answers),
            known: Mutex::default(),
            waiting: Mutex::default(),
            scripts,
            scans: Scans::new(Arc::clone(&around.store)),
            patience: around.link.plan().timeout / PATIENCE,
            looks: AtomicU64::new(0),
            resting: Mutex::default(),
            owed: Mutex::default(),
            few: Semaphore::new(AT_ONCE),
            room: Semaphore::new(ROOM),
            throwing: tokio::sync::Mutex::default(),
            comparing: tokio::sync::Mutex::default(),
            around,
        }
    }

    /// Carries orders for as long as the cluster is configured.
    pub async fn run(self, mut events: Receiver<Event>) {
        let Some(orders) = self.tier.take_orders() else { return };
        // Whatever ends this, the next one finds them.
        let mut orders = Orders { tier: Arc::clone(&self.tier), orders: Some(orders) };
        let this = Arc::new(self);
        let mut tasks = tokio::task::JoinSet::new();
        let mut again = tokio::time::interval(AGAIN);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    event @ (Ok(Event::Up) | Err(RecvError::Lagged(_))) => {
                        this.is_behind(event.is_ok());
                        let this = Arc::clone(&this);
                        tasks.spawn(async move { this.compare().await });
                    }
                    Ok(Event::Down) => this.is_behind(true),
                    Ok(Event::Told(Topic::Answers, message)) => this.told(&message),
                    Ok(Event::Told(..)) => {}
                    Err(RecvError::Closed) => return,
                },
                order = orders.next() => {
                    let Some(order) = order else { return };
                    let this = Arc::clone(&this);
                    tasks.spawn(async move { this.carry(order).await });
                }
                _ = again.tick() => {
                    if this.around.link.is_up() {
                        let this = Arc::clone(&this);
                        tasks.spawn(async move { this.tell_again().await });
                    }
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    async fn carry(&self, order: Order) {
        match order {
            Order::Find { wanted, seen, reply } => self.find(&wanted, seen, reply).await,
            Order::Keep { key, token, born, values } => self.keep(&key, token, born, values).await,
            Order::GiveBack { key, token } => self.give_back(&key, token).await,
            Order::Throw => self.throw_all().await,
        }
    }

    /// Something may be missed from now on, so nobody asks, and whoever waits is told nothing more.
    fn is_behind(&self, all_heard: bool) {
        let mut known = self.known.lock();
        known.is_behind(all_heard);
        self.tier.set_linked(false);
        drop(known);
        self.waiting.lock().clear();
    }

    /// Tells and compares what could not be before.
    async fn tell_again(&self) {
        let is_behind = !self.known.lock().complete && self.comparing.try_lock().is_ok();
        if is_behind {
            self.compare().await;
        } else {
            self.throw_all().await;
            self.give_back_owed().await;
        }
    }

    fn changes(&self, space: &str) -> String {
        self.key(&format!("changes:{space}"))
    }

    fn key(&self, rest: &str) -> String {
        self.around.link.keys().key(rest)
    }

    fn channel(&self) -> String {
        self.around.link.keys().channel(Topic::Answers)
    }

    /// Tells what is to be thrown away and was not told yet, in its order.
    async fn throw_all(&self) {
        let throwing = self.throwing.lock().await;
        for pending in self.tier.pending() {
            let told = match &pending.gone {
                Gone::Purged(purge) => self.tell_purge(&pending, purge).await,
                Gone::Changed(uri) => self.tell_change(&pending, uri).await,
            };
            if let Err(fault) = told {
                tracing::debug!(%fault, "what is thrown away could not be told yet");
                break;
            }
            self.tier.told(pending.number);
        }
        drop(throwing);
    }

    async fn tell_purge(&self, pending: &Pending, purge: &Purge) -> Result<(), Fault> {
        let said = |p: Purge| Said { s: pending.space.to_string(), p, i: self.own.clone(), n: pending.number };
        let unreadable = |_| Fault::Refused("a purge that cannot be written".to_owned());
        let mut said_so = said(purge.clone());
        let mut text = serde_json::to_string(&said_so).map_err(unreadable)?;
        if text.len() > LONGEST_PURGE {
            said_so = said(Purge::All);
            text = serde_json::to_string(&said_so).map_err(unreadable)?;
        }
        let mut call = self.scripts.purge.prepare_invoke();
        call.key(self.key("purges")).key(self.key("purges-lost")).arg(text).arg(MOST_PURGES).arg(self.channel());
        let at = self.around.link.run(&call).await?;
        let at = u64::from_redis_value(at).map_err(|_| Fault::Refused("an unknown form".to_owned()))?;
        self.known.lock().add(at, said_so);
        Ok(())
    }

    async fn tell_change(&self, pending: &Pending, uri: &str) -> Result<(), Fault> {
        let message = serde_json::json!({ "changed": uri, "space": &*pending.space, "by": self.own }).to_string();
        let mut call = self.scripts.change.prepare_invoke();
        call.key(self.changes(&pending.space)).arg(place(uri)).arg(self.channel()).arg(message);
        self.around.link.run(&call).await.map(|_| ())
    }

    fn told(&self, message: &Bytes) {
        match serde_json::from_slice(message) {
            Ok(Message::Ready { ready }) => {
                // Whoever was waiting has left, or looks now.
                for one in self.waiting.lock().remove(&ready).into_iter().flatten() {
                    let _ = one.send(());
                }
            }
            Ok(Message::Purge { at, purge }) => {
                // First what is found in Redis, which would come back otherwise.
                self.known.lock().add(at, purge.clone());
                if purge.i != self.own {
                    self.scans.add(&purge.s, &purge.p);
                }
            }
            Ok(Message::Change { changed, space, by }) => {
                if by != self.own {
                    stores(&self.around.store, |store, own| {
                        if own == space {
                            store.invalidate_here(&changed);
                        }
                    });
                }
            }
            Err(error) => tracing::debug!(%error, "a message about answers is not understood"),
        }
    }
}

/// What routes keep that share it, each with its space.
fn stores(store: &Store, mut what: impl FnMut(&ResponseCache, &str)) {
    let snapshot = store.load();
    for cache in snapshot.routes.iter().filter_map(|route| route.cache.as_ref()) {
        if let Some(share) = cache.store.share() {
            what(&cache.store, share.space());
        }
    }
}

/// Orders, which are given back whatever happens.
struct Orders {
    tier: Arc<Tier>,
    orders: Option<mpsc::Receiver<Order>>,
}

impl Orders {
    async fn next(&mut self) -> Option<Order> {
        match &mut self.orders {
            Some(orders) => orders.recv().await,
            None => None,
        }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        if let Some(orders) = self.orders.take() {
            self.tier.give_orders_back(orders);
        }
    }
}
