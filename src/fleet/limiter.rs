//! The keys of all rate limits of the process, in bounded memory.
//!
//! # Problem
//! Whoever may choose a key (an address of many, a header field) can make a million of them. Memory must not
//! grow with that, and pushing keys out must not be a way to start again: neither one's own limit nor, worse,
//! the limit of somebody else.
//!
//! # Shape
//! One table of at most [`MOST_KEYS`] keys, in shards with a lock each. A key is a 64-bit SipHash under
//! a secret of the process, so nobody can make two keys meet, nor choose a shard. When a shard is full,
//! a hand that goes around it looks at a few keys and gives up one:
//!
//! 1. one whose time has passed: it is no different from a key that is not known, so nothing is lost;
//! 2. else one of the limit that has the most keys here, so that a flood at one limit pushes out keys of its own;
//! 3. of these the one that is nearest to having passed; a key that came again since the hand was last here
//!    counts as one request further.
//!
//! So a flood of new keys, which have made one request each, pushes out its own keys and not those of a client
//! that has used up its burst, nor those of one that keeps coming. All steps take the same time however
//! many keys there are.
//!
//! # Invariants
//! - Never more than [`MOST_KEYS`] keys.
//! - A request that one of its limits refuses counts at none: all shards that it needs are locked, in order,
//!   before the first limit is asked.
//! - What a limit is decides its keys, so a reload that does not change it changes nothing here.
//! - Where keys are shared ([`shared`]), a request is still decided by what is in memory, and what it took is told later.
//! - Time does not go back for a key: of two requests that look at the clock and then come to the lock in the
//!   other order, the later one is taken to come now, not to be early by the difference.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::gauge::Gauge;

use crate::policy::rate_limit::{Decision, Due, Held, Next, Quota, RateLimit};

mod shared;

pub use shared::{Claim, Settled, SharedId};
use shared::{Entry, Sharing};

#[cfg(test)]
mod tests;

/// Most keys of the process.
pub const MOST_KEYS: usize = 100_000;

const SHARDS: usize = 64;

/// Keys that the hand looks at for one to give up.
const SAMPLE: usize = 8;

/// All keys of all rate limits.
pub struct Limiter {
    shards: Vec<Mutex<Shard>>,
    secret: RandomState,
    epoch: Instant,
    keys: Gauge,
    keys_per_shard: usize,
    sharing: Sharing,
}

/// A limit that a request is subject to, with its key there.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The numbers.
    pub limit: &'a RateLimit,
    /// Which limit it is: the same for all its keys.
    pub identity: u64,
    /// The key, from [`Limiter::hash`]; no two limits have one in common.
    pub key: u64,
}

/// What the limits of a request say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may go on after `wait`, which is zero for most.
    Granted {
        /// The longest wait of a limit.
        wait: Duration,
        /// The strictest limit; none if there was no limit.
        quota: Option<Quota>,
    },
    /// At least one refused it.
    Refused {
        /// The longest of those that refused it.
        retry_after: Duration,
        /// The limit that says so.
        quota: Quota,
    },
}

/// What a request has taken at one limit.
#[derive(Clone, Debug)]
pub struct Taken {
    key: u64,
    before: Due,
    after: Due,
    /// Where the key is shared: what was known of it, and what is.
    shared: Option<Box<(Held, Next)>>,
}

impl Limiter {
    /// A table without keys, which counts them in `keys`.
    #[must_use]
    pub fn new(keys: Gauge, now: Instant) -> Self {
        Self::with_most(MOST_KEYS, keys, now)
    }

    fn with_most(most_keys: usize, keys: Gauge, now: Instant) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect();
        Self {
            shards,
            secret: RandomState::new(),
            epoch: now,
            keys,
            keys_per_shard: most_keys / SHARDS,
            sharing: Sharing::default(),
        }
    }

    /// A hash that cannot be foreseen outside of this process.
    pub fn hash(&self, value: &impl Hash) -> u64 {
        self.secret.hash_one(value)
    }

    /// Asks all limits; either all count the request, and `taken` gets what was taken at each, or none does. `name` makes the
    /// name of the key of one of them, by its place, where keys are shared.
    pub fn ask(
        &self,
        asks: &[Ask<'_>],
        now: Instant,
        taken: &mut Vec<Taken>,
        name: impl Fn(usize) -> SharedId,
    ) -> Answer {
        let instances = self.sharing.instances();
        let mut shards = self.lock(asks);
        let now = shards.time(self.nanos(now));
        let mut refused: Option<(Duration, Quota)> = None;
        let (mut wait, mut strictest) = (Duration::ZERO, None);
        let first = taken.len();
        for ask in asks {
            let shard = shards.get(ask.key);
            let (decision, one) = match shard {
                Some(shard) if instances > 0 => {
                    let held = shard.held(ask.key);
                    let (decision, next) = held.decide(ask.limit, now, instances);
                    let (before, after) = (held.guess(), next.guess());
                    (decision, Taken { key: ask.key, before, after, shared: Some(Box::new((held, next))) })
                }
                shard => {
                    let before = shard.map(|shard| shard.look(ask.key)).unwrap_or_default();
                    let (decision, after) = ask.limit.decide(before, now);
                    (decision, Taken { key: ask.key, before, after, shared: None })
                }
            };
            let quota = match decision {
                Decision::Pass(quota) => quota,
                Decision::Delay { wait: longer, quota } => {
                    wait = wait.max(longer);
                    quota
                }
                Decision::Reject { retry_after, quota } => {
                    if refused.is_none_or(|(longest, _)| retry_after > longest) {
                        refused = Some((retry_after, quota));
                    }
                    quota
                }
            };
            strictest = Some(strictest.map_or(quota, |strictest: Quota| strictest.stricter(quota)));
            taken.push(one);
        }
        if let Some((retry_after, quota)) = refused {
            taken.truncate(first);
            return Answer::Refused { retry_after, quota };
        }
        for (place, (ask, one)) in asks.iter().zip(&taken[first..]).enumerate() {
            let Some(shard) = shards.get(ask.key) else { continue };
            if shard.store(ask, one.after, now, self.keys_per_shard) {
                self.keys.inc();
            }
            if let Some((_, next)) = one.shared.as_deref() {
                let news = shard.take((ask.key, ask.limit), (*next, now), (self.keys_per_shard, || name(place)));
                if news || next.hungry {
                    self.sharing.changed(shard_of(ask.key), next.hungry);
                }
            }
        }
        Answer::Granted { wait, quota: strictest }
    }

    /// Gives back what a request took that was refused later, where nobody took anything in between; else it
    /// stays taken, for what would be left otherwise cannot be known.
    pub fn give_back(&self, taken: &[Taken]) {
        for one in taken {
            self.shards[shard_of(one.key)].lock().replace(one);
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().slots.len()).sum()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn nanos(&self, now: Instant) -> u64 {
        // From one on, so that the default `Due` has passed.
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Locks the shards of these keys, in order, each once.
    fn lock(&self, asks: &[Ask<'_>]) -> Locked<'_> {
        let mut numbers: Vec<usize> = asks.iter().map(|ask| shard_of(ask.key)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Locked(numbers.into_iter().map(|number| (number, self.shards[number].lock())).collect())
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.keys.dec_by(i64::try_from(self.len()).unwrap_or(0));
    }
}

/// The shard of a key; the index inside a shard uses other bits.
fn shard_of(key: u64) -> usize {
    usize::try_from((key >> 32) % SHARDS as u64).unwrap_or(0)
}

/// The shards that one request needs.
struct Locked<'l>(Vec<(usize, MutexGuard<'l, Shard>)>);

impl Locked<'_> {
    fn get(&mut self, key: u64) -> Option<&mut Shard> {
        let number = shard_of(key);
        self.0.iter_mut().find(|(locked, _)| *locked == number).map(|(_, shard)| &mut **shard)
    }

    /// The time for all of them: `now`, or what one of them has seen already where that is later.
    fn time(&mut self, now: u64) -> u64 {
        let latest = self.0.iter().fold(now, |latest, (_, shard)| latest.max(shard.latest));
        for (_, shard) in &mut self.0 {
            shard.latest = latest;
        }
        latest
    }
}

/// A key.
struct Slot {
    key: u64,
    due: Due,
    /// The low bits of its limit's identity.
    limit: u32,
    /// Whether it came again since the hand was here.
    again: bool,
}

/// The keys of one limit in a shard.
struct Share {
    keys: u32,
    /// Nanoseconds between two requests.
    interval: u64,
}

/// A part of the table.
#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    index: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
    shares: HashMap<u32, Share, BuildHasherDefault<Hashed>>,
    hand: usize,
    /// The latest time that a request came with.
    latest: u64,
    /// Those that other instances share.
    shared: HashMap<u64, Entry, BuildHasherDefault<Hashed>>,
    /// Those of them that have something to tell.
    to_tell: Vec<u64>,
}

impl Shard {
    fn find(&mut self, key: u64) -> Option<&mut Slot> {
        let place = *self.index.get(&key)?;
        self.slots.get_mut(place as usize)
    }

    fn look(&mut self, key: u64) -> Due {
        self.find(key).map_or_else(Due::default, |slot| {
            slot.again = true;
            slot.due
        })
    }

    /// Stores a key, of `most` in all; true when there is one more than before.
    fn store(&mut self, ask: &Ask<'_>, due: Due, now: u64, most: usize) -> bool {
        if let Some(slot) = self.find(ask.key) {
            slot.due = due;
            return false;
        }
        let given_up = self.place_to_free(now, most);
        #[expect(clippy::cast_possible_truncation, reason = "the low bits")]
        let slot = Slot { key: ask.key, due, limit: ask.identity as u32, again: false };
        let share = self.shares.entry(slot.limit).or_insert(Share { keys: 0, interval: 0 });
        share.keys += 1;
        share.interval = ask.limit.interval();
        let place = given_up.unwrap_or(self.slots.len());
        self.index.insert(slot.key, u32::try_from(place).unwrap_or(u32::MAX));
        let Some(old) = self.slots.get_mut(place) else {
            self.slots.push(slot);
            return true;
        };
        let old = std::mem::replace(old, slot);
        self.index.remove(&old.key);
        if let Some(share) = self.shares.get_mut(&old.limit) {
            share.keys -= 1;
            if share.keys == 0 {
                self.shares.remove(&old.limit);
            }
        }
        false
    }

    /// The place of a key that may go, or none if there is room for one more.
    fn place_to_free(&mut self, now: u64, most: usize) -> Option<usize> {
        let all = self.slots.len();
        let full = all >= most;
        let mut best: Option<(Reverse<u32>, u64, usize)> = None;
        for _ in 0..SAMPLE.min(all) {
            let place = self.hand;
            self.hand = (self.hand + 1) % all;
            let slot = &mut self.slots[place];
            if slot.due.has_passed(now) {
                return Some(place);
            }
            if full {
                let (keys, interval) =
                    self.shares.get(&slot.limit).map_or((0, 0), |share| (share.keys, share.interval));
                let more = if std::mem::take(&mut slot.again) { interval } else { 0 };
                let rank = (Reverse(keys), slot.due.nanos().saturating_add(more), place);
                best = Some(best.map_or(rank, |best| best.min(rank)));
            }
        }
        best.map(|(_, _, place)| place)
    }

    fn replace(&mut self, taken: &Taken) {
        if let Some((before, _)) = taken.shared.as_deref()
            && !self.give_back(taken.key, before, taken.after)
        {
            return;
        }
        if let Some(slot) = self.find(taken.key)
            && slot.due == taken.after
        {
            slot.due = taken.before;
        }
    }
}

/// Takes a key, or the part of one, which is a hash already, as its own hash.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write_u32(&mut self, part: u32) {
        // Spread over all bits: a map looks at the highest and at the lowest.
        self.0 = u64::from(part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
