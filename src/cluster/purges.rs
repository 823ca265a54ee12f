//! What was thrown away of the answers that instances keep together, in the order of Redis's clock.

use std::collections::VecDeque;
use std::hash::Hasher;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::policy::http_cache::key::Purge;

/// Purges that are remembered.
pub(super) const MOST_PURGES: usize = 1000;
/// Places of URIs that changed.
const PLACES: u64 = 1 << 14;

/// What instances tell each other.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Said {
    /// In which space.
    pub(super) s: String,
    /// What is thrown away.
    pub(super) p: Purge,
    /// Who says it.
    pub(super) i: String,
    /// Another one each time: the same may be said twice at the same moment.
    pub(super) n: u64,
}

/// What is known of purges.
#[derive(Default)]
pub(super) struct Known {
    /// Purges by their moment.
    pub(super) purges: VecDeque<(u64, Said)>,
    /// The moment of the last one that is not remembered.
    pub(super) lost: u64,
    /// Whether they are all known.
    pub(super) complete: bool,
    /// The last moment, by Redis's clock, up to which nothing can have been missed.
    pub(super) seen: u64,
    /// The last moment that Redis told.
    pub(super) now: u64,
}

impl Known {
    /// Something may be missed from now on.
    pub(super) fn is_behind(&mut self) {
        if self.complete {
            self.seen = self.now.max(self.purges.back().map_or(0, |(at, _)| *at));
        }
        self.complete = false;
    }

    pub(super) fn add(&mut self, at: u64, said: Said) {
        let same = |known: &Said| known.n == said.n && known.i == said.i;
        if self.purges.iter().rev().take_while(|(known, _)| *known >= at).any(|(_, known)| same(known)) {
            return;
        }
        let later = self.purges.iter().rev().take_while(|(known, _)| *known > at).count();
        self.purges.insert(self.purges.len() - later, (at, said));
        while self.purges.len() > MOST_PURGES
            && let Some((at, _)) = self.purges.pop_front()
        {
            self.lost = self.lost.max(at);
        }
    }
}

/// The place of a URI among those that changed.
pub(super) fn place(uri: &str) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(uri.as_bytes());
    hasher.finish() % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(n: u64) -> Said {
        Said { s: "a".to_owned(), p: Purge::All, i: "one".to_owned(), n }
    }

    #[test]
    fn purges_stand_in_the_order_of_their_moments_each_once() {
        let mut known = Known::default();
        for (at, n) in [(5, 1), (9, 2), (7, 3), (7, 3), (9, 2), (7, 4)] {
            known.add(at, said(n));
        }
        let order: Vec<_> = known.purges.iter().map(|(at, said)| (*at, said.n)).collect();
        assert_eq!(order, [(5, 1), (7, 3), (7, 4), (9, 2)]);
    }

    #[test]
    fn more_than_are_remembered_are_known_to_be_lost() {
        let mut known = Known::default();
        (0..=MOST_PURGES as u64).for_each(|n| known.add(n + 1, said(n)));
        assert_eq!((known.purges.len(), known.lost), (MOST_PURGES, 1));
    }

    #[test]
    fn nothing_that_came_while_something_may_have_been_missed_counts_as_seen() {
        let mut known = Known { complete: true, ..Known::default() };
        known.add(5, said(1));
        known.is_behind();
        known.add(9, said(2));
        known.is_behind();
        assert_eq!((known.seen, known.complete), (5, false));
    }
}
