//! Idle connections to one server, kept for the next request.
//!
//! The last one that came back is the first one taken: a burst's surplus grows old at the bottom and is closed
//! there. What a connection is, only the data path knows; here it is something with an age.

use std::any::Any;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A connection as it is kept.
pub type Connection = Box<dyn Any + Send>;

struct Kept {
    connection: Connection,
    since: Instant,
}

/// The idle connections of a server, the oldest first.
#[derive(Default)]
pub struct IdlePool {
    kept: Mutex<Vec<Kept>>,
}

impl IdlePool {
    /// Keeps a connection unless `most` are kept already.
    pub fn put(&self, connection: Connection, now: Instant, most: usize) {
        let mut kept = self.kept.lock();
        if kept.len() < most {
            kept.push(Kept { connection, since: now });
        }
    }

    /// Takes the youngest connection that has been idle for less than `timeout`.
    pub fn take(&self, now: Instant, timeout: Duration) -> Option<Connection> {
        let youngest = self.kept.lock().pop()?;
        if now.saturating_duration_since(youngest.since) < timeout {
            return Some(youngest.connection);
        }
        // All others are older still.
        self.clear();
        None
    }

    /// Closes all that have been idle for `timeout` or longer, and those that are of no use any more.
    pub fn prune(&self, now: Instant, timeout: Duration, is_usable: impl Fn(&mut Connection) -> bool) {
        let mut useless = Vec::new();
        let mut kept = self.kept.lock();
        let mut index = 0;
        while let Some(candidate) = kept.get_mut(index) {
            let fresh = now.saturating_duration_since(candidate.since) < timeout;
            if fresh && is_usable(&mut candidate.connection) {
                index += 1;
            } else {
                useless.push(kept.remove(index));
            }
        }
        drop(kept);
        // Sockets close here, after the lock.
        drop(useless);
    }

    /// Closes all.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.kept.lock());
        drop(all);
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.lock().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MINUTE: Duration = Duration::from_secs(60);

    fn number(connection: Option<Connection>) -> Option<u32> {
        connection.and_then(|connection| connection.downcast().ok()).map(|number| *number)
    }

    #[test]
    fn the_youngest_is_taken_first_and_the_old_are_closed() {
        let pool = IdlePool::default();
        let start = clock::now();
        for age in 0..4_u32 {
            pool.put(Box::new(age), start + Duration::from_secs(age.into()), 3);
        }
        assert_eq!(pool.len(), 3, "no more than allowed");
        let now = start + Duration::from_secs(3);
        assert_eq!(number(pool.take(now, MINUTE)), Some(2));
        assert_eq!(number(pool.take(now, Duration::from_secs(2))), None, "two seconds old");
        assert!(pool.is_empty(), "and so is everything below it");
    }

    #[test]
    fn pruning_closes_what_is_old_or_useless() {
        let pool = IdlePool::default();
        let start = clock::now();
        for age in 0..6_u32 {
            pool.put(Box::new(age), start + Duration::from_secs(age.into()), 10);
        }
        let odd = |connection: &mut Connection| connection.downcast_ref::<u32>().is_some_and(|number| number % 2 == 1);
        pool.prune(start + Duration::from_secs(6), Duration::from_secs(4), odd);
        assert_eq!(number(pool.take(start, MINUTE)), Some(5));
        assert_eq!(number(pool.take(start, MINUTE)), Some(3));
        assert!(pool.is_empty());
    }
}
