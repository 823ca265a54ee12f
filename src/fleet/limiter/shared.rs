//! The keys that are shared with other instances: those from which something was taken lately.
//!
//! Beside its keys a shard has what is known of those that are shared ([`Held`]), and which of them have something to tell. One
//! task of the cluster asks for these ([`Limiter::owed`]) and brings the answers ([`Limiter::settle`]). Where there is no cluster,
//! a request pays one look at a number for all of this.
//!
//! A key is named in the cluster by a [`SharedId`], which is made when the key is first taken from. When a shard has as many
//! shared keys as it may have keys, others are not shared: of them this instance gives its share and tells nobody.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use super::{Limiter, SHARDS, Shard};
use crate::policy::rate_limit::{Due, Held, Next, Owed, RateLimit};

/// A key as all instances name it: the first half of a SHA-256.
pub type SharedId = [u8; 16];

/// What the shards share about sharing.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Instances that share the keys; 0 without a cluster.
    instances: AtomicU32,
    /// A bit for each shard that has something to tell.
    changed: AtomicU64,
    told: Notify,
    hungry: Notify,
}

const _: () = assert!(SHARDS <= 64, "a bit for each");

impl Sharing {
    pub(super) fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed)
    }

    /// A shard has something to tell.
    pub(super) fn changed(&self, shard: usize, hungry: bool) {
        let bit = 1 << shard;
        if self.changed.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.told.notify_one();
        }
        if hungry {
            self.hungry.notify_one();
        }
    }
}

/// A key that is shared.
pub(super) struct Entry {
    pub(super) held: Held,
    id: SharedId,
    limit: RateLimit,
    /// Whether it waits to be told.
    queued: bool,
}

/// A key that has something to tell.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    key: u64,
    /// Its name in the cluster.
    pub id: SharedId,
    /// The numbers of its limit.
    pub limit: RateLimit,
    /// What is told.
    pub owed: Owed,
}

/// What was answered about a key.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// How far it is ahead, in nanoseconds; below zero where its time has passed.
    pub ahead: i64,
    /// How many instances use it, where that is known.
    pub among: Option<u32>,
}

impl Shard {
    /// What is known of a key, whether it is shared or not.
    pub(super) fn held(&mut self, key: u64) -> Held {
        let due = self.look(key);
        self.shared.get(&key).map_or_else(|| Held::of(due), |entry| entry.held)
    }

    /// A request was let pass that counts at a shared key. Whether there is something new to tell.
    pub(super) fn take(
        &mut self,
        (key, limit): (u64, &RateLimit),
        (next, now): (Next, u64),
        (most, id): (usize, impl FnOnce() -> SharedId),
    ) -> bool {
        if !self.shared.contains_key(&key) {
            if self.shared.len() >= most {
                return false;
            }
            let entry = Entry { held: Held::default(), id: id(), limit: *limit, queued: false };
            self.shared.insert(key, entry);
        }
        let Some(entry) = self.shared.get_mut(&key) else { return false };
        entry.held.take(next, now);
        let new = !std::mem::replace(&mut entry.queued, true);
        if new {
            self.to_tell.push(key);
        }
        new
    }

    /// Takes back what was taken last at a shared key; false where that is too late.
    pub(super) fn give_back(&mut self, key: u64, before: &Held, after: Due) -> bool {
        self.shared.get_mut(&key).is_some_and(|entry| entry.held.give_back(before, after))
    }

    /// A key changed other than by a request.
    fn update(&mut self, key: u64, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.shared.get_mut(&key) else { return };
        change(entry);
        let due = entry.held.guess();
        if let Some(slot) = self.find(key) {
            slot.due = due;
        }
    }
}

impl Limiter {
    /// Says how many instances share the keys from now on; 0 for none beside this one, and no others will come.
    pub fn share_among(&self, instances: u32) {
        if self.sharing.instances.swap(instances, Ordering::Relaxed) > 0 && instances == 0 {
            for shard in &self.shards {
                let mut shard = shard.lock();
                (shard.shared, shard.to_tell) = Default::default();
            }
        }
    }

    /// How many instances share the keys; 0 without a cluster.
    pub fn shared_among(&self) -> u32 {
        self.sharing.instances()
    }

    /// Whether there is something to tell.
    pub fn has_news(&self) -> bool {
        self.sharing.changed.load(Ordering::Acquire) != 0
    }

    /// Waits until there is something to tell.
    pub async fn changed(&self) {
        self.sharing.told.notified().await;
    }

    /// Waits until a key should be settled before its time.
    pub async fn hungry(&self) {
        self.sharing.hungry.notified().await;
    }

    /// What is to be told now, of `most` keys at most. Each is to be answered by [`settle`](Self::settle) or
    /// [`tell_again`](Self::tell_again).
    pub fn owed(&self, most: usize, now: Instant) -> Vec<Claim> {
        let (now, instances) = (self.nanos(now), self.sharing.instances());
        let mut claims = Vec::new();
        let mut bits = self.sharing.changed.swap(0, Ordering::AcqRel);
        while bits != 0 {
            let number = bits.trailing_zeros() as usize;
            let mut shard = self.shards[number].lock();
            while let Some(key) = if claims.len() < most { shard.to_tell.pop() } else { None } {
                let Some(Entry { held, id, limit, queued }) = shard.shared.get_mut(&key) else { continue };
                *queued = false;
                if let Some(owed) = held.send(limit, now, instances) {
                    claims.push(Claim { key, id: *id, limit: *limit, owed });
                }
            }
            if !shard.to_tell.is_empty() {
                break;
            }
            drop(shard);
            bits &= bits - 1;
        }
        // The rest is for the next time.
        self.sharing.changed.fetch_or(bits, Ordering::AcqRel);
        claims
    }

    /// Takes the answers about claims, in their order; they were asked for at `asked`.
    pub fn settle(&self, claims: &[Claim], answers: &[Settled], asked: Instant) {
        let (asked, instances) = (self.nanos(asked), self.sharing.instances());
        for (claim, answer) in claims.iter().zip(answers) {
            let told = |entry: &mut Entry| {
                entry.held.told(&entry.limit, asked, answer.ahead, answer.among, instances);
            };
            self.shards[super::shard_of(claim.key)].lock().update(claim.key, told);
        }
    }

    /// Nothing was answered about claims, or not enough: they are told again.
    pub fn tell_again(&self, claims: &[Claim]) {
        for claim in claims {
            let number = super::shard_of(claim.key);
            let mut shard = self.shards[number].lock();
            if let Some(entry) = shard.shared.get_mut(&claim.key) {
                entry.held.failed();
                if !std::mem::replace(&mut entry.queued, true) {
                    shard.to_tell.push(claim.key);
                }
            }
            drop(shard);
            self.sharing.changed(number, false);
        }
    }

    /// Forgets shared keys that are no different from unknown ones; how many are left.
    pub fn forget_shared(&self, now: Instant) -> usize {
        let now = self.nanos(now);
        let mut left = 0;
        for shard in &self.shards {
            let mut guard = shard.lock();
            let shard = &mut *guard;
            if !shard.shared.is_empty() {
                shard.shared.retain(|_, entry| !entry.held.is_over(now));
                // While nobody can be told, those that are over would only add up.
                shard.to_tell.retain(|key| shard.shared.contains_key(key));
                left += shard.shared.len();
            }
        }
        left
    }
}
