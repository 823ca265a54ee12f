//! All accounts of the process, in bounded memory.
//!
//! Accounts are found by a hash under a secret of the process, in shards with a lock each, which is held for a look. When a
//! shard is full, a hand that goes around it looks at a few accounts that no request holds, and gives up one whose window is
//! over, else the one of which the least was used: made-up names push each other out, and nobody who used much. What was
//! given up is in the file all the same, and counts again with the next charge.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Account;
use super::shared::Sharing;
use crate::policy::quota::{Counted, Window};

/// Most accounts of the process.
pub const MOST: usize = 100_000;

const SHARDS: usize = 64;

/// Accounts that the hand looks at for one to give up.
const SAMPLE: usize = 8;

/// All accounts.
#[derive(Debug)]
pub struct Ledger {
    shards: Vec<Mutex<Shard>>,
    secret: RandomState,
    most_per_shard: usize,
    pub(super) sharing: Sharing,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    accounts: Vec<Arc<Account>>,
    places: HashMap<u64, usize>,
    hand: usize,
    /// Those that other instances are to be told of.
    pub(super) to_tell: Vec<Arc<Account>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::with_most(MOST)
    }
}

impl Ledger {
    pub(super) fn with_most(most: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, secret: RandomState::new(), most_per_shard: most.div_ceil(SHARDS), sharing: Sharing::default() }
    }

    /// The account of this quota and key at `now`, seconds since 1970.
    #[must_use]
    pub fn account(&self, quota: &str, window: Window, subject: &str, now: i64) -> Arc<Account> {
        let hash = self.secret.hash_one((quota, window, subject));
        let mut shard = self.shard(hash).lock();
        if let Some(place) = shard.places.get(&hash) {
            return Arc::clone(&shard.accounts[*place]);
        }
        let account = Arc::new(Account::new(quota, window, subject, hash));
        shard.add(Arc::clone(&account), self.most_per_shard, now);
        account
    }

    /// Whether there is this account.
    #[must_use]
    pub fn knows(&self, quota: &str, window: Window, subject: &str) -> bool {
        let hash = self.secret.hash_one((quota, window, subject));
        self.shard(hash).lock().places.contains_key(&hash)
    }

    pub(super) fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }

    pub(super) fn shards(&self) -> &[Mutex<Shard>] {
        &self.shards
    }

    /// All accounts, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Account>> {
        self.shards.iter().flat_map(|shard| shard.lock().accounts.clone()).collect()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().accounts.is_empty())
    }

    /// Whether another account may push one out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shards.iter().any(|shard| shard.lock().accounts.len() >= self.most_per_shard)
    }

    /// Forgets accounts of which nothing is used in the window that counts at `now`, and that no request holds.
    pub(in crate::history) fn forget_unused(&self, now: i64) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.accounts.retain(|account| Arc::strong_count(account) > 1 || !account.is_idle(now));
            shard.places = shard.accounts.iter().enumerate().map(|(place, account)| (account.hash, place)).collect();
        }
    }
}

impl Shard {
    fn add(&mut self, account: Arc<Account>, most: usize, now: i64) {
        let given_up = if self.accounts.len() < most { None } else { self.place_to_free(now) };
        let place = given_up.unwrap_or(self.accounts.len());
        self.places.insert(account.hash, place);
        match self.accounts.get_mut(place) {
            Some(old) => {
                let old = std::mem::replace(old, account);
                self.places.remove(&old.hash);
            }
            None => self.accounts.push(account),
        }
    }

    /// The place of an account that may go; none when requests hold all that were looked at.
    fn place_to_free(&mut self, now: i64) -> Option<usize> {
        let all = self.accounts.len();
        let mut best = None;
        for _ in 0..SAMPLE.min(all) {
            // There may have been more accounts when the hand came here.
            let place = self.hand % all;
            self.hand = place + 1;
            let account = &self.accounts[place];
            if Arc::strong_count(account) > 1 {
                continue;
            }
            if account.is_idle(now) {
                return Some(place);
            }
            let used = Counted::Total.of(account.look(now).1);
            best = best.map_or(Some((used, place)), |best: (u64, usize)| Some(best.min((used, place))));
        }
        best.map(|(_, place)| place)
    }
}
