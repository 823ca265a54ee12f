//! Answers that instances keep together: what routes ask of [`crate::fleet::shared_answers`], carried to Redis.
//!
//! A value is the number of its fetch and the moment of its birth by Redis's clock, in 20 digits each, then `A` and an answer
//! or `V` and names of fields. Purges are written down in the order of Redis's clock too, so whether one came after an answer
//! does not depend on any instance's clock. Each instance knows them all; it reads them when Redis comes back, before it
//! believes anything it finds there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use parking_lot::Mutex;
use redis::{FromRedisValue, Script, Value as Answer};
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Around;
use super::fault::Fault;
use super::keys::Topic;
use super::link::Event;
use super::purges::{Known, MOST_PURGES, Said, place};
use crate::clock;
use crate::fleet::response_cache::{ResponseCache, uri_of};
use crate::fleet::shared_answers::{Found, Gone, Order, Pending, Tier, Value};
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::key::Purge;

/// How long whoever fetches is waited for, in milliseconds: if it died, that long.
const LEASE: u64 = 10_000;
/// Time between two looks whether it has come, should the message that it has be lost.
const LOOK: Duration = Duration::from_millis(500);
/// Longest text of a purge; a longer one throws away everything. All of them are read in one go.
const LONGEST_PURGE: usize = 1 << 10;
/// Answers that are on their way from or to Redis at a time: it closes connections of which much waits to be read.
const AT_ONCE: usize = 8;
/// Time between two looks at what could not be told.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest time that anything is kept there, in milliseconds: purges are remembered as long.
const LONGEST: u64 = 86_400_000;
/// Where the birth of a value begins, and what follows it.
const BORN: usize = 20;
const KIND: usize = 40;

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
    waiting: Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>,
    find: Script,
    keep: Script,
    give_back: Script,
    purge: Script,
    change: Script,
    few: Semaphore,
    throwing: tokio::sync::Mutex<()>,
}

impl Answers {
    /// Nothing is known yet.
    pub fn new(around: Around, own: &str) -> Self {
        let tier = Arc::clone(&around.store.load().lasting.answers);
        Self {
            around,
            own: own.to_owned(),
            tier,
            known: Mutex::default(),
            waiting: Mutex::default(),
            find: script!("find"),
            keep: script!("keep"),
            give_back: script!("give_back"),
            purge: script!("purge"),
            change: script!("change"),
            few: Semaphore::new(AT_ONCE),
            throwing: tokio::sync::Mutex::default(),
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
                    Ok(Event::Up) | Err(RecvError::Lagged(_)) => {
                        this.tier.set_linked(false);
                        this.known.lock().is_behind();
                        let this = Arc::clone(&this);
                        tasks.spawn(async move { this.compare().await });
                    }
                    Ok(Event::Down) => {
                        this.tier.set_linked(false);
                        this.known.lock().is_behind();
                    }
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
                        tasks.spawn(async move { this.throw_all().await });
                    }
                }
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    async fn carry(&self, order: Order) {
        match order {
            Order::Find { key, anew, reply } => {
                let found = self.find(&key, anew).await.unwrap_or(Found::Nothing);
                // Whoever asked may have left; a ticket that nobody takes is given back.
                if let Err(Found::Fetch(token, _)) = reply.send(found) {
                    self.give_back(&key, token).await;
                }
            }
            Order::Keep { key, token, born, values } => self.keep(&key, token, born, values).await,
            Order::GiveBack { key, token } => self.give_back(&key, token).await,
            Order::Throw => self.throw_all().await,
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

    async fn find(&self, key: &str, anew: bool) -> Result<Found, Fault> {
        let end = clock::now() + Duration::from_millis(LEASE);
        let mut anew = anew;
        loop {
            let (ready, is_ready) = oneshot::channel();
            self.waiting.lock().entry(key.to_owned()).or_default().push(ready);
            let mut call = self.find.prepare_invoke();
            let (space, rest) = key.split_once(':').unwrap_or_default();
            call.key(self.key(&format!("answer:{key}"))).key(self.key(&format!("fetch:{key}")));
            call.key(self.key("fetches")).key(self.changes(space));
            call.arg(LEASE).arg(u8::from(anew)).arg(place(uri_of(rest)));
            let few = self.few.acquire().await;
            let answer = self.around.link.run(&call).await;
            drop(few);
            let parts = answer.and_then(|answer| {
                Vec::<Answer>::from_redis_value(answer).map_err(|_| Fault::Refused("an unknown form".to_owned()))
            });
            let done = match parts {
                Err(fault) => Some(Err(fault)),
                Ok(parts) => match &parts[..] {
                    [_, Answer::Int(now), Answer::BulkString(value), changed] => {
                        match self.read(key, value, *now, changed) {
                            // What is there is of no use: whoever asks may fetch it.
                            Found::Nothing if !anew => {
                                drop(is_ready);
                                self.forget_waiting(key);
                                anew = true;
                                continue;
                            }
                            found => Some(Ok(found)),
                        }
                    }
                    [_, Answer::Int(now), Answer::Int(number)] => {
                        Some(Ok(Found::Fetch(u64::try_from(*number).unwrap_or(0), u64::try_from(*now).unwrap_or(0))))
                    }
                    _ if clock::now() >= end => Some(Ok(Found::Nothing)),
                    _ => None,
                },
            };
            if let Some(done) = done {
                drop(is_ready);
                self.forget_waiting(key);
                return done;
            }
            drop(tokio::time::timeout(LOOK, is_ready).await);
            self.forget_waiting(key);
            // What is there from now on has come since.
            anew = false;
        }
    }

    fn forget_waiting(&self, key: &str) {
        let mut waiting = self.waiting.lock();
        if let Some(all) = waiting.get_mut(key) {
            all.retain(|one| !one.is_closed());
            if all.is_empty() {
                waiting.remove(key);
            }
        }
    }

    /// What a value says, unless it is damaged, or a purge means it.
    fn read(&self, key: &str, value: &[u8], now: i64, changed: &Answer) -> Found {
        let now = u64::try_from(now).unwrap_or(0);
        let changed = String::from_redis_value_ref(changed).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let born = value.get(BORN..KIND).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        let (Some(born), Some((kind, rest))) = (born, value.get(KIND..).and_then(<[u8]>::split_first)) else {
            return Found::Nothing;
        };
        match kind {
            b'V' => {
                let names = std::str::from_utf8(rest).unwrap_or_default().split(',');
                names
                    .map(|name| HeaderName::try_from(name).ok())
                    .collect::<Option<_>>()
                    .map_or(Found::Nothing, Found::Varies)
            }
            b'A' => match Kept::decode(&Bytes::copy_from_slice(rest)) {
                Ok(mut kept) if born > changed && self.is_good(key, born, now, &kept) => {
                    // By this host's clock, whatever that of the one is that fetched it.
                    let unix = u64::try_from(clock::unix_time().as_millis()).unwrap_or(0);
                    kept.life.received = unix.saturating_sub(now.saturating_sub(born));
                    Found::Answer(Box::new(kept))
                }
                Ok(_) => Found::Nothing,
                Err(error) => {
                    tracing::error!(key, %error, "an answer that instances share is left alone");
                    Found::Nothing
                }
            },
            _ => Found::Nothing,
        }
    }

    fn is_good(&self, key: &str, born: u64, now: u64, kept: &Kept) -> bool {
        let mut known = self.known.lock();
        known.now = known.now.max(now);
        let space = key.split(':').next().unwrap_or_default();
        let later = known.purges.iter().rev().take_while(|(at, _)| *at >= born);
        let tags = || kept.tags.iter().map(String::as_str);
        known.complete
            && !self.tier.is_pending(space, &kept.uri, tags)
            && born > known.lost
            && !later.filter(|(_, said)| said.s == space).any(|(_, said)| said.p.means(&kept.uri, tags()))
    }

    async fn keep(&self, key: &str, token: u64, born: u64, values: Vec<(String, Value, u64)>) {
        let mut call = self.keep.prepare_invoke();
        call.key(self.key(&format!("fetch:{key}")));
        call.arg(token).arg(self.channel()).arg(serde_json::json!({ "ready": key }).to_string());
        for (place, value, life) in values {
            let mut bytes = format!("{token:020}{born:020}").into_bytes();
            match value {
                Value::Answer(answer) => {
                    bytes.push(b'A');
                    bytes.extend_from_slice(&answer);
                }
                Value::Varies(names) => {
                    bytes.push(b'V');
                    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
                    bytes.extend_from_slice(names.join(",").as_bytes());
                }
            }
            call.key(self.key(&format!("answer:{place}"))).arg(bytes).arg(life.clamp(1, LONGEST));
        }
        let few = self.few.acquire().await;
        let kept = self.around.link.run(&call).await;
        drop(few);
        if let Err(fault) = kept {
            tracing::debug!(%fault, "an answer could not be shared");
        }
    }

    async fn give_back(&self, key: &str, token: u64) {
        let mut call = self.give_back.prepare_invoke();
        call.key(self.key(&format!("fetch:{key}")));
        call.arg(token).arg(self.channel()).arg(serde_json::json!({ "ready": key }).to_string());
        if let Err(fault) = self.around.link.run(&call).await {
            tracing::debug!(%fault, "a fetch that is over could not be told");
        }
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
        let mut call = self.purge.prepare_invoke();
        call.key(self.key("purges")).key(self.key("purges-lost")).arg(text).arg(MOST_PURGES).arg(self.channel());
        let at = self.around.link.run(&call).await?;
        let at = u64::from_redis_value(at).map_err(|_| Fault::Refused("an unknown form".to_owned()))?;
        self.known.lock().add(at, said_so);
        Ok(())
    }

    async fn tell_change(&self, pending: &Pending, uri: &str) -> Result<(), Fault> {
        let message = serde_json::json!({ "changed": uri, "space": &*pending.space, "by": self.own }).to_string();
        let mut call = self.change.prepare_invoke();
        call.key(self.changes(&pending.space)).arg(place(uri)).arg(self.channel()).arg(message);
        self.around.link.run(&call).await.map(|_| ())
    }

    /// Redis is there, or there again: what was thrown away meanwhile here is told, and what was elsewhere is thrown away here.
    async fn compare(&self) {
        self.throw_all().await;
        let mut spaces = Vec::new();
        self.stores(|_, space| spaces.push(space.to_owned()));
        let mut pipe = redis::pipe();
        pipe.zrange_withscores(self.key("purges"), 0, -1).get(self.key("purges-lost"));
        for space in &spaces {
            pipe.hget(self.changes(space), "last");
        }
        let Ok(answer) = self.around.link.pipe(&pipe).await else { return };
        let [purges, lost, changes @ ..] = &answer[..] else { return };
        let purges = Vec::<(String, f64)>::from_redis_value_ref(purges).unwrap_or_default();
        let number = |value: &Answer| {
            let text = Option::<String>::from_redis_value_ref(value).ok().flatten();
            text.and_then(|text| text.parse::<f64>().ok()).map_or(0, |number| number as u64)
        };
        let (lost, changed) = (number(lost), changes.iter().map(number).collect::<Vec<_>>());
        let (seen, later, is_missing) = {
            let mut known = self.known.lock();
            let before = known.purges.len();
            let seen = known.seen;
            let mut later = Vec::new();
            let mut told = 0;
            for (text, at) in purges {
                let Ok(said) = serde_json::from_str::<Said>(&text) else { continue };
                told += 1;
                if at as u64 > seen && said.i != self.own {
                    later.push(said.clone());
                }
                known.add(at as u64, said);
            }
            // Redis does not know all that was known here: what else it forgot nobody can say.
            let is_missing = before > 0 && known.purges.len() > told;
            if is_missing {
                known.lost = known.lost.max(known.now).max(known.purges.back().map_or(0, |(at, _)| *at));
            }
            let is_missing = is_missing || lost > seen;
            known.lost = known.lost.max(lost);
            known.complete = true;
            (seen, later, is_missing)
        };
        if is_missing {
            // It is not known what was thrown away.
            self.stores(|store, _| {
                store.purge_here(&Purge::All);
            });
        } else {
            later.iter().for_each(|said| self.throw_away(said));
            // Which of the URIs is not remembered.
            self.stores(|store, space| {
                let last = spaces.iter().position(|known| known == space).and_then(|at| changed.get(at));
                if last.is_some_and(|last| *last > seen) {
                    store.purge_here(&Purge::All);
                }
            });
        }
        self.tier.set_linked(true);
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
                if purge.i != self.own {
                    self.throw_away(&purge);
                }
                self.known.lock().add(at, purge);
            }
            Ok(Message::Change { changed, space, by }) => {
                if by != self.own {
                    self.stores(|store, own| {
                        if own == space {
                            store.invalidate_here(&changed);
                        }
                    });
                }
            }
            Err(error) => tracing::debug!(%error, "a message about answers is not understood"),
        }
    }

    fn throw_away(&self, said: &Said) {
        self.stores(|store, space| {
            if space == said.s {
                store.purge_here(&said.p);
            }
        });
    }

    fn stores(&self, mut what: impl FnMut(&ResponseCache, &str)) {
        let snapshot = self.around.store.load();
        for cache in snapshot.routes.iter().filter_map(|route| route.cache.as_ref()) {
            if let Some(share) = cache.store.share() {
                what(&cache.store, share.space());
            }
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
