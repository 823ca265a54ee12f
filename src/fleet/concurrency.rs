//! How many requests of a key are running.
//!
//! A key is here only while a request of it runs, so there are never more keys than requests in flight, and
//! those are bounded by the connections. Each request holds a [`Hold`] for each limit; dropping it, by whatever
//! way the request ends, gives its place back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

const SHARDS: usize = 64;

/// Requests that run, by key.
pub struct Concurrency {
    shards: Vec<Mutex<HashMap<u64, u32>>>,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Concurrency {
    /// One more request of `key`, a hash; `None` if `most` run already.
    #[must_use]
    pub fn enter(self: &Arc<Self>, key: u64, most: u32) -> Option<Hold> {
        let mut shard = self.shard(key).lock();
        let running = shard.entry(key).or_insert(0);
        if *running >= most {
            if *running == 0 {
                shard.remove(&key);
            }
            return None;
        }
        *running += 1;
        drop(shard);
        Some(Hold { all: Arc::clone(self), key })
    }

    /// How many keys have a request that runs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether no request runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, u32>> {
        &self.shards[usize::try_from(key % SHARDS as u64).unwrap_or(0)]
    }

    fn leave(&self, key: u64) {
        if let Entry::Occupied(mut running) = self.shard(key).lock().entry(key) {
            *running.get_mut() = running.get().saturating_sub(1);
            if *running.get() == 0 {
                running.remove();
            }
        }
    }
}

/// A place that a running request holds.
pub struct Hold {
    all: Arc<Concurrency>,
    key: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.all.leave(self.key);
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hold")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_run_at_a_time() {
        let all = Arc::new(Concurrency::default());
        let first = all.enter(7, 2).unwrap();
        let second = all.enter(7, 2).unwrap();
        assert!(all.enter(7, 2).is_none());
        assert!(all.enter(8, 2).is_some(), "another key");
        drop(first);
        let third = all.enter(7, 2).unwrap();
        assert!(all.enter(7, 2).is_none());
        drop((second, third));
        assert!(all.is_empty());
        assert!(all.enter(7, 0).is_none());
        assert!(all.is_empty());
    }

    #[test]
    fn a_smaller_limit_holds_for_those_that_come_next() {
        let all = Arc::new(Concurrency::default());
        let mut running: Vec<_> = (0..3).map(|_| all.enter(1, 3).unwrap()).collect();
        assert!(all.enter(1, 1).is_none());
        running.truncate(1);
        assert!(all.enter(1, 1).is_none());
        running.clear();
        assert!(all.enter(1, 1).is_some());
    }

    #[test]
    fn a_request_that_panics_gives_its_place_back() {
        let all = Arc::new(Concurrency::default());
        let inner = Arc::clone(&all);
        let ended = std::thread::spawn(move || {
            let _hold = inner.enter(1, 1).unwrap();
            panic!("as a bug would");
        });
        assert!(ended.join().is_err());
        assert!(all.enter(1, 1).is_some());
    }

    #[test]
    fn many_threads_never_run_more_and_leave_nothing() {
        let all = Arc::new(Concurrency::default());
        let running = std::sync::atomic::AtomicU32::new(0);
        let (most, order) = (std::sync::atomic::AtomicU32::new(0), std::sync::atomic::Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if let Some(hold) = all.enter(3, 4) {
                            most.fetch_max(running.fetch_add(1, order) + 1, order);
                            running.fetch_sub(1, order);
                            drop(hold);
                        }
                    }
                });
            }
        });
        assert!((1..=4).contains(&most.into_inner()));
        assert!(all.is_empty());
    }
}
