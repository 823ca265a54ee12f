//! What was thrown away, for answers that are on their way meanwhile.
//!
//! Purges are counted. An answer carries the count of when it was asked for, and is not kept where a later purge means it. Those
//! of operators are remembered in a short list; an answer that is older than the list is not kept either. Changes of a URI
//! (RFC 9111, 4.4) may come by the thousand: they are remembered by a hash of the URI in a table of fixed size, where two
//! may fall together, and then more is fetched anew than need be. What the table says holds for what is kept, too, so nothing
//! has to be searched for a change.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

use fnv::FnvHasher;
use parking_lot::Mutex;

use super::uri_of;
use crate::policy::http_cache::key::Purge;

/// Places for changes of URIs: 128 KiB.
const PLACES: usize = 1 << 14;
/// Purges that are remembered.
const MOST: usize = 64;

pub(super) struct Purges {
    count: AtomicU64,
    /// For each place the count of the last change.
    changes: Box<[AtomicU64]>,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    purges: VecDeque<(u64, Purge)>,
    /// The count of the last one that is not remembered.
    lost: u64,
}

impl Default for Purges {
    fn default() -> Self {
        let changes = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { count: AtomicU64::new(0), changes, list: Mutex::default() }
    }
}

impl Purges {
    /// How many there have been.
    pub(super) fn now(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn place(&self, uri: &str) -> Option<&AtomicU64> {
        let mut hasher = FnvHasher::default();
        hasher.write(uri.as_bytes());
        self.changes.get(usize::try_from(hasher.finish() % PLACES as u64).ok()?)
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// A URI has changed.
    pub(super) fn forget(&self, uri: &str) {
        if let Some(place) = self.place(uri) {
            place.fetch_max(self.next(), Ordering::AcqRel);
        }
    }

    /// Whether the URI of a key has changed since.
    pub(super) fn is_forgotten(&self, key: &str, since: u64) -> bool {
        self.place(uri_of(key)).is_some_and(|place| place.load(Ordering::Acquire) > since)
    }

    /// A purge begins.
    pub(super) fn tell(&self, purge: &Purge) {
        let mut list = self.list.lock();
        list.purges.push_back((self.next(), purge.clone()));
        if list.purges.len() > MOST
            && let Some((lost, _)) = list.purges.pop_front()
        {
            list.lost = lost;
        }
    }

    /// Whether a purge or a change since then means the answer of a key.
    pub(super) fn means(&self, key: &str, since: u64, tags: impl FnOnce() -> Vec<String>) -> bool {
        self.means_found(key, since, since, tags)
    }

    /// The same for an answer that was asked for at `born`, and still there at `seen`: of purges that are not remembered, only
    /// those after that can mean it.
    pub(super) fn means_found(&self, key: &str, born: u64, seen: u64, tags: impl FnOnce() -> Vec<String>) -> bool {
        // Hardly anything is thrown away while something is fetched.
        if self.now() == born {
            return false;
        }
        if self.is_forgotten(key, born) {
            return true;
        }
        let list = self.list.lock();
        let mut later = list.purges.iter().filter(|(count, _)| *count > born).peekable();
        if list.lost > seen {
            return true;
        }
        if later.peek().is_none() {
            return false;
        }
        let tags = tags();
        later.any(|(_, purge)| purge.means(uri_of(key), tags.iter().map(String::as_str)))
    }
}
