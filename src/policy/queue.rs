//! A queue that is fair between flows: who asks often does not keep waiting those who ask seldom.
//!
//! # Problem
//!
//! When slots are scarce, requests wait. First come, first served would let one key that sends a thousand requests
//! keep everybody else out for as long as those last.
//!
//! # Rule
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", 1996): each waiter gets a start tag, the
//! later of the queue's virtual time and the finish tag of its flow's last waiter; the finish tag lies `1 / weight`
//! behind it. Whoever has the least start tag goes first, and the virtual time becomes that tag. A flow that was silent
//! begins at the present and not in the past, so it cannot save up turns.
//!
//! Three classes stand above that. The head of a higher class goes first; each `aging` that a head has waited lifts it by
//! one class, and of heads that stand equal the one that waited longest goes: so nobody starves, however many of a
//! higher class come.
//!
//! When the queue is full, the waiter that would be the last to go makes room, be it the new one: a flow that fills the
//! queue pushes its own waiters out, not those of others.
//!
//! # Invariants
//!
//! - What is pushed comes out once: by `pop`, `remove`, or to make room.
//! - Waiters of one flow and class leave in the order in which they came.

use std::collections::{BTreeMap, HashMap};

use fnv::FnvBuildHasher;

/// Virtual time that one request of weight 1 takes.
const STEP: u64 = 1 << 20;

/// Whose turn it is, the least one's first: the class, lifted by what was waited, and since when it was.
pub type Turn = (f64, f64);

/// The class of a waiter; the first goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Before all others.
    High,
    /// What nobody said anything about.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Class {
    /// All classes, the first to go first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The word in configuration, header and log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// The class of that name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str().eq_ignore_ascii_case(word.trim()))
    }

    /// The turn of one of this class that has waited since then; `aging` is in seconds.
    #[must_use]
    pub fn turn(self, since: f64, now: f64, aging: f64) -> Turn {
        let waited = (now - since).max(0.0);
        let lifted = if aging > 0.0 { (waited / aging).floor() } else { 0.0 };
        ((f64::from(self as u8) - lifted).max(0.0), since)
    }
}

/// Whose request waits, and how much it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rank {
    /// The flow: requests of one key are one flow.
    pub flow: u64,
    /// Its share relative to others; 0 counts as 1.
    pub weight: u32,
    /// Its class.
    pub class: Class,
}

/// Where a waiter stands; the way back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    class: Class,
    start: u64,
    number: u64,
}

impl Place {
    /// The class of whoever stands there.
    #[must_use]
    pub const fn class(self) -> Class {
        self.class
    }
}

struct Waiter<T> {
    item: T,
    since: f64,
}

/// A fair queue.
pub struct FairQueue<T> {
    waiters: [BTreeMap<(u64, u64), Waiter<T>>; 3],
    /// The finish tag of each flow's last waiter, where it lies in the future.
    finish: HashMap<u64, u64, FnvBuildHasher>,
    virtual_time: u64,
    next: u64,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiters: Default::default(), finish: HashMap::default(), virtual_time: 0, next: 0 }
    }
}

impl<T> FairQueue<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters.iter().map(BTreeMap::len).sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.iter().all(BTreeMap::is_empty)
    }

    /// Takes a waiter in; `since` is the present in seconds.
    pub fn push(&mut self, item: T, rank: Rank, since: f64) -> Place {
        let start = self.start_of(rank);
        let number = self.next;
        self.next += 1;
        self.finish.insert(rank.flow, start + STEP / u64::from(rank.weight.max(1)).min(STEP));
        self.waiters[rank.class as usize].insert((start, number), Waiter { item, since });
        Place { class: rank.class, start, number }
    }

    /// The waiter that would go last, if that is not a new one of this rank: who has to make room for it.
    #[must_use]
    pub fn makes_room_for(&self, rank: Rank) -> Option<Place> {
        let start = self.start_of(rank);
        let (class, tree) = Class::ALL.into_iter().zip(&self.waiters).rev().find(|(_, tree)| !tree.is_empty())?;
        let (&(last, number), _) = tree.last_key_value()?;
        (class > rank.class || class == rank.class && last > start).then_some(Place { class, start: last, number })
    }

    /// Takes a waiter out.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let waiter = self.waiters[place.class as usize].remove(&(place.start, place.number))?;
        self.settle();
        Some(waiter.item)
    }

    /// Who goes first among those that `accept` lets: its place and itself. `aging` is in seconds.
    pub fn first(&self, now: f64, aging: f64, mut accept: impl FnMut(&T) -> bool) -> Option<(Place, &T)> {
        let mut best: Option<(Turn, Place, &T)> = None;
        for (class, tree) in Class::ALL.into_iter().zip(&self.waiters) {
            let Some((&(start, number), waiter)) = tree.iter().find(|(_, waiter)| accept(&waiter.item)) else {
                continue;
            };
            let turn = class.turn(waiter.since, now, aging);
            if best.is_none_or(|(least, ..)| turn < least) {
                best = Some((turn, Place { class, start, number }, &waiter.item));
            }
        }
        best.map(|(_, place, item)| (place, item))
    }

    /// The turn of the waiter at a place.
    #[must_use]
    pub fn turn(&self, place: Place, now: f64, aging: f64) -> Option<Turn> {
        let waiter = self.waiters[place.class as usize].get(&(place.start, place.number))?;
        Some(place.class.turn(waiter.since, now, aging))
    }

    /// Lets the waiter at a place go: its turn has come.
    pub fn pop(&mut self, place: Place) -> Option<T> {
        let waiter = self.waiters[place.class as usize].remove(&(place.start, place.number))?;
        self.virtual_time = self.virtual_time.max(place.start);
        self.settle();
        Some(waiter.item)
    }

    /// The waiter at a place.
    #[must_use]
    pub fn get(&self, place: Place) -> Option<&T> {
        self.waiters[place.class as usize].get(&(place.start, place.number)).map(|waiter| &waiter.item)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.waiters[place.class as usize].get_mut(&(place.start, place.number)).map(|waiter| &mut waiter.item)
    }

    /// All waiters, with the time since when each waits; those of one class in their order, in no order between classes.
    pub fn iter(&self) -> impl Iterator<Item = (Place, f64, &T)> {
        Class::ALL.into_iter().zip(&self.waiters).flat_map(|(class, tree)| {
            tree.iter()
                .map(move |(&(start, number), waiter)| (Place { class, start, number }, waiter.since, &waiter.item))
        })
    }

    fn start_of(&self, rank: Rank) -> u64 {
        self.finish.get(&rank.flow).copied().unwrap_or(0).max(self.virtual_time)
    }

    /// Nobody waits: nobody has a claim. Bounds the memory of flows, too.
    fn settle(&mut self) {
        if self.is_empty() {
            self.finish.clear();
            self.virtual_time = 0;
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
