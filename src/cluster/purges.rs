//! What was thrown away of the answers that instances keep together, in the order of Redis's clock.

use std::collections::{HashSet, VecDeque};
use std::hash::Hasher;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

use crate::policy::http_cache::key::Purge;

/// Purges that are remembered.
pub(super) const MOST_PURGES: usize = 1000;
/// How long they are, in milliseconds: no answer is kept there longer.
pub(super) const DAY: u64 = 86_400_000;
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
    purges: VecDeque<(u64, Said)>,
    /// Nothing that was born up to this moment counts: who knows what purges meant it.
    lost: u64,
    /// Whether they are all known.
    pub(super) complete: bool,
    /// How often something may have been missed.
    missed: u64,
    /// The last moment, by Redis's clock, up to which nothing can have been missed.
    seen: u64,
    /// The last moment that Redis told.
    now: u64,
}

/// When Redis was asked what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    missed: u64,
    now: u64,
}

/// What Redis knows.
#[derive(Default)]
pub(super) struct Told {
    /// The present by its clock.
    pub(super) now: u64,
    /// The moment of the last purge that it forgot early.
    pub(super) lost: u64,
    /// The purges.
    pub(super) purges: Vec<(u64, Said)>,
}

/// What was missed.
#[derive(Debug)]
pub(super) struct Missed {
    /// Purges.
    pub(super) purges: Vec<Said>,
    /// Whether there may be more, of which nobody knows.
    pub(super) more: bool,
    /// The moment since when changes were.
    pub(super) since: u64,
}

impl Known {
    /// Something may be missed from now on; where not all was heard that came until now, since the last time.
    pub(super) fn is_behind(&mut self, all_heard: bool) {
        if self.complete && all_heard {
            self.seen = self.now.max(self.last());
        }
        self.complete = false;
        self.missed += 1;
    }

    /// Redis told the present.
    pub(super) fn hear(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// Redis is asked now what it knows.
    pub(super) fn turn(&self) -> Turn {
        Turn { missed: self.missed, now: self.now }
    }

    /// Whether nothing can have been missed since then.
    pub(super) fn is_current(&self, turn: Turn) -> bool {
        self.missed == turn.missed
    }

    fn last(&self) -> u64 {
        self.purges.back().map_or(0, |(at, _)| *at)
    }

    /// Compares with what Redis told when it was asked; `None` where something may have been missed since.
    pub(super) fn compare(&mut self, turn: Turn, told: Told) -> Option<Missed> {
        if !self.is_current(turn) {
            return None;
        }
        let Told { now, lost, purges } = told;
        let since = self.seen;
        // What Redis may have forgotten by now, with all that it meant.
        let forgotten = now.saturating_sub(DAY).max(lost);
        self.purges.retain(|(at, _)| *at > forgotten);
        let theirs: HashSet<_> = purges.iter().map(|(_, said)| (said.n, &*said.i)).collect();
        let mut before = self.purges.iter().take_while(|(at, _)| *at < now);
        // It does not know all that was known here, or its clock is another one's and behind: what else was purged nobody can
        // say, nor which answers that meant.
        let is_another = now < turn.now || before.any(|(_, said)| !theirs.contains(&(said.n, &*said.i)));
        if is_another {
            self.lost = self.lost.max(self.now).max(self.last());
            // All that they mean was born before that. Kept, those that it does not know would be missing at each comparison.
            let lost = self.lost;
            self.purges.retain(|(at, said)| *at > lost || theirs.contains(&(said.n, &*said.i)));
        }
        let more = is_another || lost > since;
        self.lost = self.lost.max(lost);
        let missed =
            purges.into_iter().filter(|(at, said)| self.add(*at, said.clone())).map(|(_, said)| said).collect();
        self.hear(now);
        self.seen = self.seen.max(now);
        self.complete = true;
        Some(Missed { purges: missed, more, since })
    }

    /// Whether nothing that was purged means an answer of a space that was born then.
    pub(super) fn allow<'t, T: Iterator<Item = &'t str>>(
        &self,
        space: &str,
        (born, now): (u64, u64),
        uri: &str,
        tags: impl Fn() -> T,
    ) -> bool {
        let later = self.purges.iter().rev().take_while(|(at, _)| *at >= born);
        self.complete
            && born > self.lost
            // By a clock that is not that of purges.
            && born <= now
            && !later.filter(|(_, said)| said.s == space).any(|(_, said)| said.p.means(uri, tags()))
    }

    /// Adds a purge; whether it was not known yet.
    pub(super) fn add(&mut self, at: u64, said: Said) -> bool {
        let same = |known: &Said| known.n == said.n && known.i == said.i;
        if self.purges.iter().rev().take_while(|(known, _)| *known >= at).any(|(_, known)| same(known)) {
            return false;
        }
        let later = self.purges.iter().rev().take_while(|(known, _)| *known > at).count();
        self.purges.insert(self.purges.len() - later, (at, said));
        while self.purges.len() > MOST_PURGES
            && let Some((at, _)) = self.purges.pop_front()
        {
            self.lost = self.lost.max(at);
        }
        true
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
        let mut added = Vec::new();
        for (at, n) in [(5, 1), (9, 2), (7, 3), (7, 3), (9, 2), (7, 4)] {
            added.push(known.add(at, said(n)));
        }
        assert_eq!(added, [true, true, true, false, false, true]);
        let order: Vec<_> = known.purges.iter().map(|(at, said)| (*at, said.n)).collect();
        assert_eq!(order, [(5, 1), (7, 3), (7, 4), (9, 2)]);
    }

    #[test]
    fn more_than_are_remembered_are_known_to_be_lost() {
        let mut known = Known::default();
        (0..=MOST_PURGES as u64).for_each(|n| assert!(known.add(n + 1, said(n))));
        assert_eq!((known.purges.len(), known.lost), (MOST_PURGES, 1));
    }

    #[test]
    fn nothing_that_came_while_something_may_have_been_missed_counts_as_seen() {
        let mut known = Known { complete: true, ..Known::default() };
        known.add(5, said(1));
        known.is_behind(true);
        known.add(9, said(2));
        known.is_behind(true);
        assert_eq!((known.seen, known.complete), (5, false));
        known.complete = true;
        known.is_behind(false);
        assert_eq!((known.seen, known.complete), (5, false));
    }

    fn told(now: u64, lost: u64, purges: &[(u64, u64)]) -> Told {
        Told { now, lost, purges: purges.iter().map(|(at, n)| (*at, said(*n))).collect() }
    }

    /// Whether an answer that was born then, and is found at `now`, may be given.
    fn allows(known: &Known, space: &str, born: u64, now: u64) -> bool {
        known.allow(space, (born, now), "http://a.test/", std::iter::empty)
    }

    fn compared(known: &mut Known, told: Told) -> (Vec<u64>, bool) {
        known.is_behind(true);
        let missed = known.compare(known.turn(), told).expect("its turn");
        (missed.purges.iter().map(|said| said.n).collect(), missed.more)
    }

    #[test]
    fn what_was_missed_is_named_where_it_can_be() {
        let mut known = Known::default();
        assert!(!allows(&known, "a", 2000, 2000), "nothing is known yet");
        assert_eq!(compared(&mut known, told(2000, 0, &[(1000, 1), (1500, 2)])), (vec![1, 2], false));
        assert!(!allows(&known, "a", 1500, 2000) && allows(&known, "a", 1501, 2000) && allows(&known, "b", 1500, 2000));
        // One that was heard, one that was not, and one that comes after Redis told.
        known.add(2100, said(3));
        known.is_behind(true);
        known.add(2500, said(5));
        let missed = known.compare(known.turn(), told(2400, 0, &[(1000, 1), (1500, 2), (2100, 3), (2200, 4)]));
        let missed = missed.expect("its turn");
        assert_eq!((missed.purges.len(), missed.purges[0].n, missed.more, missed.since), (1, 4, false, 2100));
        assert!(!allows(&known, "a", 2500, 2600) && allows(&known, "a", 2501, 2600));
        // Redis knows less, or says that it does.
        assert_eq!(compared(&mut known, told(3000, 0, &[(1000, 1)])), (vec![], true));
        assert!(!allows(&known, "b", 2500, 3000) && allows(&known, "b", 2501, 3000));
        // Once is enough.
        assert_eq!(compared(&mut known, told(3100, 0, &[(1000, 1)])), (vec![], false));
        assert!(!allows(&known, "b", 2500, 3100) && allows(&known, "b", 2501, 3100));
        assert_eq!(compared(&mut known, told(4000, 3500, &[])), (vec![], true));
        assert!(!allows(&known, "b", 3500, 4000) && allows(&known, "b", 3501, 4000));
    }

    #[test]
    fn what_redis_has_forgotten_after_a_day_is_no_loss() {
        let mut known = Known::default();
        compared(&mut known, told(2000, 0, &[(1000, 1), (1500, 2)]));
        assert_eq!(compared(&mut known, told(1000 + DAY, 0, &[(1500, 2)])), (vec![], false));
        assert_eq!(compared(&mut known, told(9000 + DAY, 0, &[])), (vec![], false));
        assert!(known.purges.is_empty() && allows(&known, "b", 2001, 9000 + DAY));
    }

    #[test]
    fn a_clock_that_is_behind_that_of_answers_is_not_believed() {
        let mut known = Known::default();
        compared(&mut known, told(9000, 0, &[]));
        // What was written by a clock that is ahead, as another instance may still have it.
        assert!(allows(&known, "a", 9000, 9000) && !allows(&known, "a", 9000, 8000));
        assert_eq!(compared(&mut known, told(8000, 0, &[])), (vec![], true));
        // A purge by the clock that is behind means that too.
        known.add(8500, said(1));
        assert!(!allows(&known, "a", 8700, 9500) && !allows(&known, "a", 9000, 9500));
        assert!(allows(&known, "a", 9001, 9500));
    }

    #[test]
    fn what_redis_says_meanwhile_is_not_its_clock_before() {
        let mut known = Known::default();
        compared(&mut known, told(2000, 0, &[]));
        known.is_behind(true);
        let turn = known.turn();
        known.hear(2101);
        let missed = known.compare(turn, told(2100, 0, &[])).expect("its turn");
        assert!(!missed.more && known.lost == 0);
    }

    #[test]
    fn what_was_read_before_something_else_was_missed_does_not_count() {
        let mut known = Known::default();
        let turn = known.turn();
        known.is_behind(true);
        assert!(known.compare(turn, told(2000, 0, &[])).is_none() && !known.complete);
    }
}
