//! Answers that the instances of a cluster keep together, as routes see them.
//!
//! # Problem
//! What one instance has fetched need not be fetched by the next. But the place where all can find it is a call away, and may be
//! gone; and whoever fetches something must be known to the others, or all fetch it at once.
//!
//! # Shape
//! A route asks by a message and waits for the answer, and that only where it would have to ask a server otherwise; `cluster`
//! carries the message to Redis. What may not wait (to keep, to purge) is told and forgotten. A [`Ticket`] is the right to fetch
//! for all; others wait for it. Its number grows with each, so that an answer that comes late does not replace a later one.
//! Whoever has seen that what is there is not good enough says what it was, and is told of anything else that comes.
//!
//! # Invariants
//! - While Redis cannot be used nobody asks, and nobody waits.
//! - A ticket that is dropped is given back, also on its way to whoever asked: one of those who wait gets the next.
//! - An order that nobody carries is answered with nothing.
//! - Routes of different rules never meet: what is kept lies in a [`Share`]'s own space.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::HeaderName;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::response_cache::Stored;
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::key::Purge;

/// Messages that may be on their way.
const MOST: usize = 4096;
/// Things to be thrown away that are remembered one by one until Redis knows them.
const MOST_PENDING: usize = 1000;
/// Longest answer that instances share: it would hold up what else they tell each other.
pub const LONGEST: usize = 1 << 20;

/// What `cluster` is asked to do.
#[derive(Debug)]
pub enum Order {
    /// Find an answer.
    Find {
        /// Which.
        wanted: Wanted,
        /// What is there and is known not to be good enough, if anything.
        seen: Stamp,
        /// Who wants to know.
        reply: oneshot::Sender<Found>,
    },
    /// Keep what was fetched with this ticket.
    Keep {
        /// The key that the ticket is for.
        key: String,
        /// Its number.
        token: u64,
        /// When the server was asked, by Redis's clock.
        born: u64,
        /// Keys and what belongs there, each for so many milliseconds.
        values: Vec<(String, Value, u64)>,
    },
    /// Nothing came of this ticket.
    GiveBack {
        /// The key that it is for.
        key: String,
        /// Its number.
        token: u64,
    },
    /// Something is to be thrown away: see [`Tier::pending`].
    Throw,
}

/// What is not true any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gone {
    /// What a purge means.
    Purged(Purge),
    /// A URI that was changed.
    Changed(String),
}

impl Gone {
    /// Whether it means an answer.
    pub fn means<'t>(&self, uri: &str, tags: impl Iterator<Item = &'t str>) -> bool {
        match self {
            Self::Purged(purge) => purge.means(uri, tags),
            Self::Changed(changed) => changed == uri,
        }
    }
}

/// What is to be told to Redis, and was not yet.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its number.
    pub number: u64,
    /// In which space.
    pub space: Arc<str>,
    /// What.
    pub gone: Gone,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    entries: Vec<Pending>,
}

impl List {
    fn push(&mut self, space: Arc<str>, gone: Gone) {
        self.next += 1;
        self.entries.push(Pending { number: self.next, space, gone });
    }
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An answer, as [`Kept::encode`] wrote it.
    Answer(Bytes),
    /// The names of fields by which answers to this URI vary.
    Varies(Vec<HeaderName>),
}

/// By what a value is known again that stands under a key: its beginning, which no two have in common. Empty for none.
pub type Stamp = Bytes;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    share: Share,
    /// The key of the URI before anything varies.
    base: String,
    /// The key, with the space.
    key: String,
}

impl Wanted {
    /// In which space.
    #[must_use]
    pub fn space(&self) -> &str {
        &self.share.space
    }

    /// Its key, with the space.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The right to fetch it: its number, and the present by Redis's clock.
    #[must_use]
    pub fn ticket(&self, token: u64, born: u64) -> Ticket {
        let Self { share: Share { tier, space }, base, key } = self.clone();
        Ticket { tier, space, base, key, token, born, used: false }
    }
}

/// What came of a search.
#[derive(Debug)]
pub enum Found {
    /// An answer that no purge means, and by what it is known again.
    Answer(Box<Kept>, Stamp),
    /// It varies by these.
    Varies(Vec<HeaderName>),
    /// Nothing; whoever searched may fetch it for all.
    Fetch(Ticket),
    /// Nothing that anybody can wait for.
    Nothing,
}

/// The way from routes to Redis.
#[derive(Debug)]
pub struct Tier {
    orders: mpsc::Sender<Order>,
    taken: Mutex<Option<mpsc::Receiver<Order>>>,
    linked: AtomicBool,
    pending: Mutex<List>,
}

impl Default for Tier {
    fn default() -> Self {
        let (orders, taken) = mpsc::channel(MOST);
        let taken = Mutex::new(Some(taken));
        Self { orders, taken, linked: AtomicBool::new(false), pending: Mutex::default() }
    }
}

impl Tier {
    /// What routes ask; for the one who carries it to Redis. He gives it back when he ends.
    pub fn take_orders(&self) -> Option<mpsc::Receiver<Order>> {
        self.taken.lock().take()
    }

    /// Nobody carries anything to Redis for now, and nobody waits for what was not carried.
    pub fn give_orders_back(&self, mut orders: mpsc::Receiver<Order>) {
        self.linked.store(false, Ordering::Release);
        while orders.try_recv().is_ok() {}
        *self.taken.lock() = Some(orders);
    }

    /// Notes whether it is worth while to ask.
    pub fn set_linked(&self, linked: bool) {
        self.linked.store(linked, Ordering::Release);
    }

    /// What was not told to Redis yet, the oldest first. It outlives whoever carries it.
    pub fn pending(&self) -> Vec<Pending> {
        self.pending.lock().entries.clone()
    }

    /// This was told.
    pub fn told(&self, number: u64) {
        self.pending.lock().entries.retain(|entry| entry.number != number);
    }

    /// Whether something that was not told yet means an answer of a space.
    pub fn is_pending<'t, T: Iterator<Item = &'t str>>(&self, space: &str, uri: &str, tags: impl Fn() -> T) -> bool {
        let list = self.pending.lock();
        list.entries.iter().any(|entry| &*entry.space == space && entry.gone.means(uri, tags()))
    }

    fn throw(&self, space: &Arc<str>, gone: Gone) {
        let mut list = self.pending.lock();
        if list.entries.len() >= MOST_PENDING {
            // More than can be remembered one by one: everything, in each space that any of them is about.
            let mut spaces: Vec<Arc<str>> = list.entries.iter().map(|entry| Arc::clone(&entry.space)).collect();
            spaces.sort_unstable();
            spaces.dedup();
            list.entries.clear();
            for space in spaces {
                list.push(space, Gone::Purged(Purge::All));
            }
        }
        list.push(Arc::clone(space), gone);
        drop(list);
        // One that is not told now is at the next look.
        self.tell(Order::Throw);
    }

    fn tell(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }
}

/// What a route shares.
#[derive(Clone, Debug)]
pub struct Share {
    tier: Arc<Tier>,
    space: Arc<str>,
}

impl Share {
    /// Of a route by its name, and by all that decides what its answers are and who gets them.
    #[must_use]
    pub fn new(tier: &Arc<Tier>, route: &str, kind: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(route.len().to_le_bytes());
        digest.update(route);
        digest.update(kind);
        let space = digest.finalize()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Self { tier: Arc::clone(tier), space: space.into() }
    }

    /// What keys of it begin with.
    #[must_use]
    pub fn space(&self) -> &Arc<str> {
        &self.space
    }

    /// Whether it is worth while to ask.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.tier.linked.load(Ordering::Acquire)
    }

    fn key(&self, key: &str) -> String {
        format!("{}:{key}", self.space)
    }

    /// Looks for the answer under a key of a URI whose own key is `base`; `seen` is what is there and not good enough. `None` where
    /// nobody would answer.
    #[must_use]
    pub fn find(&self, base: &str, key: &str, seen: Stamp) -> Option<Search> {
        let (reply, found) = oneshot::channel();
        let wanted = Wanted { share: self.clone(), base: base.to_owned(), key: self.key(key) };
        // Looked at again afterwards: what is asked between may lie there until somebody carries orders again.
        let asked = self.is_linked() && self.tier.tell(Order::Find { wanted, seen, reply }) && self.is_linked();
        asked.then_some(Search(found))
    }

    /// What a purge means is to go everywhere.
    pub fn purge(&self, purge: &Purge) {
        self.tier.throw(&self.space, Gone::Purged(purge.clone()));
    }

    /// A URI was changed: what is kept of it is to go everywhere.
    pub fn change(&self, uri: &str) {
        self.tier.throw(&self.space, Gone::Changed(uri.to_owned()));
    }
}

/// A search that runs.
#[derive(Debug)]
pub struct Search(oneshot::Receiver<Found>);

impl Search {
    /// Waits for what is found.
    pub async fn found(&mut self) -> Found {
        (&mut self.0).await.unwrap_or(Found::Nothing)
    }
}

/// The right to fetch an answer for all instances.
#[derive(Debug)]
pub struct Ticket {
    tier: Arc<Tier>,
    space: Arc<str>,
    /// The key of the URI before anything varies.
    base: String,
    key: String,
    token: u64,
    born: u64,
    used: bool,
}

impl Ticket {
    /// Shares what came of it: an answer under `key`, with a mark where it varies.
    pub fn keep(mut self, key: &str, stored: &Stored) {
        if stored.bytes.len() > LONGEST {
            return;
        }
        let life = stored.life.fresh.saturating_add(stored.life.while_revalidate.max(stored.life.if_error));
        let place = |key: &str| format!("{}:{key}", self.space);
        let mut values = vec![(place(key), Value::Answer(stored.bytes.clone()), life)];
        if !stored.vary.is_empty() {
            values.push((place(&self.base), Value::Varies(stored.vary.to_vec()), life));
        }
        let order = Order::Keep { key: self.key.clone(), token: self.token, born: self.born, values };
        self.used = self.tier.tell(order);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.used {
            // Where it cannot be told, it ends by itself.
            self.tier.tell(Order::GiveBack { key: std::mem::take(&mut self.key), token: self.token });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share() -> (Arc<Tier>, mpsc::Receiver<Order>, Share) {
        let tier = Arc::new(Tier::default());
        let orders = tier.take_orders().expect("nobody has them");
        tier.set_linked(true);
        let share = Share::new(&tier, "route", "kind");
        (tier, orders, share)
    }

    #[tokio::test]
    async fn a_ticket_that_nobody_takes_is_given_back() {
        let (_tier, mut orders, share) = share();
        let search = share.find("base", "key", Stamp::new()).expect("it is asked");
        let Some(Order::Find { wanted, reply, .. }) = orders.recv().await else { panic!("a search") };
        // Its client leaves when the ticket is on its way already.
        reply.send(Found::Fetch(wanted.ticket(7, 1))).expect("it is waited for");
        drop(search);
        let order = orders.try_recv().expect("it is told");
        assert!(matches!(&order, Order::GiveBack { key, token: 7 } if key == wanted.key()), "{order:?}");
    }

    #[tokio::test]
    async fn what_nobody_carries_any_more_is_answered_with_nothing() {
        let (tier, orders, share) = share();
        let mut search = share.find("base", "key", Stamp::new()).expect("it is asked");
        tier.give_orders_back(orders);
        assert!(matches!(search.found().await, Found::Nothing));
        assert!(share.find("base", "key", Stamp::new()).is_none());
        let mut orders = tier.take_orders().expect("they were given back");
        assert!(orders.try_recv().is_err());
    }
}
