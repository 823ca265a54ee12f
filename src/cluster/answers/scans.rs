//! Throws away from the memory of this instance what is heard of, by a thread of its own: it looks at all that is kept there, and
//! whoever carries messages would keep everybody waiting.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::stores;
use crate::fleet::store::Store;
use crate::policy::http_cache::key::Purge;

/// Purges of a space that wait; for more of them everything there is thrown away, which is one look.
const MOST: usize = 16;

/// What waits to be thrown away.
#[derive(Default)]
struct Waiting {
    /// The purges of each space, the longest waiting one first.
    spaces: VecDeque<(String, Vec<Purge>)>,
    /// Whether somebody works at it.
    is_running: bool,
}

impl Waiting {
    fn add(&mut self, space: &str, purge: &Purge) {
        let Some((_, purges)) = self.spaces.iter_mut().find(|(known, _)| known == space) else {
            self.spaces.push_back((space.to_owned(), vec![purge.clone()]));
            return;
        };
        if purges.contains(purge) || purges.contains(&Purge::All) {
            return;
        }
        if *purge == Purge::All || purges.len() >= MOST {
            purges.clear();
            purges.push(Purge::All);
        } else {
            purges.push(purge.clone());
        }
    }

    fn next(&mut self) -> Option<(String, Vec<Purge>)> {
        let next = self.spaces.pop_front();
        self.is_running = next.is_some();
        next
    }
}

/// The one who throws away. What it was given is done, whatever becomes of the cluster.
pub(super) struct Scans {
    store: Arc<Store>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Scans {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, waiting: Arc::default() }
    }

    /// Throws away what a purge means in a space, soon.
    pub(super) fn add(&self, space: &str, purge: &Purge) {
        let mut waiting = self.waiting.lock();
        waiting.add(space, purge);
        if !std::mem::replace(&mut waiting.is_running, true) {
            let work = Work { store: Arc::clone(&self.store), waiting: Arc::clone(&self.waiting) };
            drop(tokio::task::spawn_blocking(move || work.run()));
        }
    }
}

struct Work {
    store: Arc<Store>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Work {
    fn run(self) {
        loop {
            let next = self.waiting.lock().next();
            let Some((space, purges)) = next else { return };
            stores(&self.store, |store, own| {
                if own == space {
                    for purge in &purges {
                        store.purge_here(purge);
                    }
                }
            });
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Whatever broke it, the next one goes on.
        if std::thread::panicking() {
            self.waiting.lock().is_running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_nothing_of_it_is_forgotten() {
        let key = |number: usize| Purge::Key(format!("/{number}"));
        let mut waiting = Waiting::default();
        for _ in 0..2 {
            (0..MOST).for_each(|number| waiting.add("a", &key(number)));
        }
        waiting.add("b", &key(1));
        assert_eq!(waiting.spaces[0].1, (0..MOST).map(key).collect::<Vec<_>>());
        (MOST..100 * MOST).for_each(|number| waiting.add("a", &key(number)));
        waiting.is_running = true;
        assert_eq!(waiting.next(), Some(("a".to_owned(), vec![Purge::All])));
        // What comes while that is done is not among it.
        waiting.add("a", &key(1));
        assert_eq!(waiting.next(), Some(("b".to_owned(), vec![key(1)])));
        assert_eq!(waiting.next(), Some(("a".to_owned(), vec![key(1)])));
        assert!(waiting.is_running);
        assert_eq!(waiting.next(), None);
        assert!(!waiting.is_running);
    }
}
