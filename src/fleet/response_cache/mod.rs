//! What a route keeps of the answers of its servers: the store, and who fetches what.
//!
//! # Problem
//! Many clients ask for the same at the same time, some once for everything there is, and now and then somebody says that
//! something is not true any more, while it is being fetched. None of this may make one client wait for another's whole
//! answer without need, push out what is used, or bring back what was thrown away.
//!
//! # States
//! Under a key stands one of three things ([`Entry`]): an answer; the fields by which answers to this URI vary, so that
//! the answer itself stands under a longer key; or the word that the last answer was not kept, for a minute, in which
//! nobody waits for anybody else there.
//!
//! A fetch is a [`Flight`]. It belongs to one request, others wait for it, and it lands once: with an answer that was kept, or
//! with the word that it was not. Dropped before that it is gone (its client left), and one of those who waited begins another.
//!
//! # Invariants
//! - It never takes more bytes than it may; what is asked for least makes room (S3-FIFO, by the crate `quick_cache`), so a
//!   scan does not push out what is used.
//! - What was fetched before a purge is not there after it: a fetch knows when it began ([`purges`]), and an answer that began
//!   earlier than a purge that means it is not kept, and not given to anybody who waits.
//! - What is kept is bytes with a checksum ([`crate::policy::http_cache::form`]), looked at on each use. An answer that is damaged
//!   is thrown away and counted, and its request goes on as if it had not been there.
//! - Its key and its bytes are the same in each process; a second tier needs no other form.
//! - A reload keeps what is kept; a smaller `max_size` holds from the moment at which the configuration does, and so does another
//!   `max_object` ([`entries`]).
//! - What is said to be kept is there: an answer that is too large for its place counts as not kept.

mod entries;
mod flights;
mod purges;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use self::entries::{Entries, Entry};
use self::flights::Flights;
use self::purges::Purges;
use super::shared_answers::Share;
use crate::clock;
use crate::policy::http_cache::Life;
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::key::{Purge, variant};
use crate::policy::http_cache::storing::MOST_VARY;
use crate::telemetry::response_cache_metrics::{Outcome, ResponseCacheCounters};

pub use self::flights::{Departure, Flight, Landed, Waiting};

/// How long it is remembered that an answer was not kept, in milliseconds.
const NOT_KEPT_FOR: u64 = 60_000;

/// An answer that is kept.
#[derive(Debug)]
pub struct Stored {
    /// What is written by [`Kept::encode`].
    pub bytes: Bytes,
    /// How long it may be used.
    pub life: Life,
    /// Fields of requests by which it varies.
    pub vary: Arc<[HeaderName]>,
    /// When its fetch began, as [`ResponseCache::begun`] tells it.
    born: u64,
    /// When its server was asked, if this process did that.
    asked: Option<Instant>,
    uses: AtomicU64,
}

impl Stored {
    /// Of bytes that have just been made, or came from elsewhere; `begun` is when they were asked for.
    #[must_use]
    pub fn new(kept: &Kept, begun: u64) -> Self {
        Self {
            bytes: kept.encode(),
            life: kept.life,
            vary: kept.vary.clone().into(),
            born: begun,
            asked: None,
            uses: AtomicU64::new(0),
        }
    }

    /// With the moment at which its server was asked.
    #[must_use]
    pub fn asked_at(self, moment: Instant) -> Self {
        Self { asked: Some(moment), ..self }
    }

    /// Whether its server was asked then or later.
    #[must_use]
    pub fn is_asked_since(&self, moment: Instant) -> bool {
        self.asked.is_some_and(|asked| asked >= moment)
    }

    /// How often it was given.
    #[must_use]
    pub fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }
}

/// What a route keeps.
pub struct ResponseCache {
    entries: Entries,
    flights: Flights,
    purges: Purges,
    share: ArcSwapOption<Share>,
    /// What it counts.
    pub counters: ResponseCacheCounters,
    counts: [AtomicU64; Outcome::ALL.len()],
}

/// What is known of a request.
#[derive(Debug)]
pub struct Look {
    /// The key of the answer that fits it.
    pub key: String,
    /// The answer.
    pub found: Option<Arc<Stored>>,
    /// Whether there are answers to its URI that do not fit it.
    pub varies: bool,
    /// Whether the last one was not kept.
    pub is_passed: bool,
    /// When it was looked for, as [`ResponseCache::begun`] tells it.
    pub begun: u64,
}

/// A view of a store in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// What is kept.
    pub entries: usize,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Bytes that it may take.
    pub max_bytes: u64,
    /// Requests that no server was asked for, since the start.
    pub hits: u64,
    /// Requests that one was asked for.
    pub misses: u64,
    /// Requests that went past it, since the start.
    pub bypassed: u64,
}

/// A view of an answer.
#[derive(Clone, Debug)]
pub struct View {
    /// Its key.
    pub key: String,
    /// It.
    pub stored: Arc<Stored>,
}

impl ResponseCache {
    /// An empty store for so many bytes, and answers of at most `max_object`.
    #[must_use]
    pub fn new(max_bytes: u64, max_object: u64, counters: ResponseCacheCounters) -> Arc<Self> {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self {
            entries: Entries::new(max_bytes, max_object, counters.clone()),
            flights: Flights::default(),
            purges: Purges::default(),
            share: ArcSwapOption::empty(),
            counters,
            counts,
        })
    }

    /// Longest body that a store of so many bytes can keep: its fields need room too, and a little stays free.
    #[must_use]
    pub const fn longest(max_bytes: u64) -> u64 {
        max_bytes / 100 * 95
    }

    /// Changes how many bytes it may take, and how long an answer may be; what is too much is thrown out.
    pub fn set_max(&self, max_bytes: u64, max_object: u64) {
        self.entries.set_max(max_bytes, max_object);
    }

    /// Changes with whom it is shared.
    pub fn set_share(&self, share: Option<Arc<Share>>) {
        self.share.store(share);
    }

    /// With whom it is shared.
    #[must_use]
    pub fn share(&self) -> Option<Arc<Share>> {
        self.share.load_full()
    }

    /// The present, for an answer that is asked for from now on.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.purges.now()
    }

    /// Looks for the answer to a request: its key before anything varies, and its fields. `now` is in milliseconds since 1970.
    #[must_use]
    pub fn look(&self, base: &str, request: &HeaderMap, now: u64) -> Look {
        // Before anything is seen: whatever is thrown away from now on counts.
        let begun = self.begun();
        let (key, entry, varies) = match self.entries.get(base) {
            Some(Entry::Varies(names)) => {
                let key = variant(base, &names, request);
                let entry = self.entries.get(&key);
                (key, entry, true)
            }
            entry => (base.to_owned(), entry, false),
        };
        let (found, is_passed) = match entry {
            Some(Entry::Answer(stored)) if self.purges.is_forgotten(&key, stored.born) => {
                self.entries.drop_if_same(&key, &stored);
                (None, false)
            }
            Some(Entry::Answer(stored)) => (Some(stored), false),
            Some(Entry::NotKept(until)) => (None, now < until),
            Some(Entry::Varies(_)) | None => (None, false),
        };
        Look { key, found, varies, is_passed, begun }
    }

    /// Reads an answer for use. `None` where its bytes are damaged: then it is thrown away.
    #[must_use]
    pub fn open(&self, key: &str, stored: &Arc<Stored>) -> Option<Kept> {
        match Kept::decode(&stored.bytes) {
            Ok(kept) => {
                stored.uses.fetch_add(1, Ordering::Relaxed);
                Some(kept)
            }
            Err(error) => {
                tracing::error!(key, %error, "an answer that was kept is thrown away");
                self.counters.damaged.inc();
                self.entries.drop_if_same(key, stored);
                None
            }
        }
    }

    /// Under which key an answer is kept that varies by `names`, and by what all answers to its URI vary then; `None` where
    /// that is by too much.
    #[must_use]
    pub fn place(&self, base: &str, names: &[HeaderName], request: &HeaderMap) -> Option<(String, Vec<HeaderName>)> {
        let mut all = names.to_vec();
        if let Some(Entry::Varies(known)) = self.entries.peek(base) {
            all.extend(known.iter().cloned());
            all.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
            all.dedup();
        }
        match all.len() {
            0 => Some((base.to_owned(), all)),
            1..=MOST_VARY => Some((variant(base, &all, request), all)),
            _ => None,
        }
    }

    /// Keeps an answer under the key that [`Self::place`] told; whether it did: not when it has been purged since it was asked for,
    /// nor when there is no room for one like it, which is remembered.
    pub fn keep(&self, base: &str, key: &str, stored: &Arc<Stored>) -> bool {
        if !stored.vary.is_empty() {
            let is_known = matches!(self.entries.peek(base), Some(Entry::Varies(names)) if names == stored.vary);
            if !is_known {
                self.entries.insert(base, Entry::Varies(Arc::clone(&stored.vary)));
            }
        }
        self.entries.insert(key, Entry::Answer(Arc::clone(stored)));
        // Looked at afterwards: a purge tells first and throws away then.
        if self.purges.means(key, stored.born, || Kept::tags_of(&stored.bytes)) {
            self.entries.drop_if_same(key, stored);
            return false;
        }
        let is_there = self.entries.has(key, stored);
        if !is_there {
            self.pass(key, u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX));
        }
        is_there
    }

    /// Puts the same answer in a smaller form into the place of another, if that is still there.
    pub fn replace(&self, key: &str, stored: &Arc<Stored>, kept: &Kept) {
        if self.entries.has(key, stored) {
            let smaller = Stored::new(kept, stored.born);
            let smaller = Arc::new(Stored { asked: stored.asked, uses: AtomicU64::new(stored.uses()), ..smaller });
            self.entries.insert(key, Entry::Answer(Arc::clone(&smaller)));
            if self.purges.means(key, smaller.born, || Kept::tags_of(&smaller.bytes)) {
                self.entries.drop_if_same(key, &smaller);
            }
        }
    }

    /// Remembers that an answer was not kept, where nothing is.
    pub fn pass(&self, key: &str, now: u64) {
        if !matches!(self.entries.peek(key), Some(Entry::Answer(_) | Entry::Varies(_))) {
            self.entries.insert(key, Entry::NotKept(now.saturating_add(NOT_KEPT_FOR)));
        }
    }

    /// Whether an answer that was found at `seen`, as [`Self::begun`] tells it, has been thrown away since, or is just being.
    #[must_use]
    pub fn is_purged(&self, key: &str, stored: &Stored, seen: u64) -> bool {
        self.purges.means_found(key, stored.born, seen, || Kept::tags_of(&stored.bytes))
    }

    /// An answer that is kept is not true any more.
    pub fn forget(&self, key: &str, stored: &Arc<Stored>) {
        self.entries.drop_if_same(key, stored);
    }

    /// The answer to a key is wanted from a server. `seen` is the one that was there and is not good enough.
    #[must_use]
    pub fn depart(self: &Arc<Self>, key: &str, seen: Option<&Arc<Stored>>) -> Departure {
        self.flights.depart(self, key, || match (self.entries.peek(key), seen) {
            (Some(Entry::Answer(found)), Some(seen)) => !Arc::ptr_eq(&found, seen),
            (Some(Entry::Answer(_)), None) => true,
            _ => false,
        })
    }

    /// A URI was changed through this route: what is kept of it is not true any more, whoever's it is (RFC 9111, 4.4).
    pub fn invalidate(&self, uri: &str) {
        self.invalidate_here(uri);
        if let Some(share) = self.share() {
            share.change(uri);
        }
    }

    /// The same, at this instance only.
    pub fn invalidate_here(&self, uri: &str) {
        self.purges.forget(uri);
    }

    /// Throws away what a purge means, at all instances; how many answers that were at this one.
    pub fn purge(&self, purge: &Purge) -> usize {
        if let Some(share) = self.share() {
            share.purge(purge);
        }
        self.purge_here(purge)
    }

    /// Throws away what a purge means, now and from fetches that run; how many answers that were.
    pub fn purge_here(&self, purge: &Purge) -> usize {
        self.purges.tell(purge);
        let removed = AtomicU64::new(0);
        self.entries.retain(|key, entry| match entry {
            Entry::Answer(stored) => {
                let tags = if matches!(purge, Purge::Tag(_)) { Kept::tags_of(&stored.bytes) } else { Vec::new() };
                let stays = !purge.means(uri_of(key), tags.iter().map(String::as_str));
                removed.fetch_add(u64::from(!stays), Ordering::Relaxed);
                stays
            }
            Entry::Varies(_) | Entry::NotKept(_) => !matches!(purge, Purge::All),
        });
        usize::try_from(removed.into_inner()).unwrap_or(usize::MAX)
    }

    /// Counts a request.
    pub fn count(&self, outcome: Outcome) {
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.counters.requests[outcome as usize].inc();
    }

    /// How much it holds.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let sum = |is_hit: bool| {
            let all = Outcome::ALL.iter().filter(|outcome| outcome.is_hit() == is_hit);
            all.map(|outcome| self.counts[*outcome as usize].load(Ordering::Relaxed)).sum()
        };
        let all = self.entries.all();
        Figures {
            entries: all.len(),
            bytes: all.weight(),
            max_bytes: all.capacity(),
            hits: sum(true),
            misses: sum(false),
            bypassed: self.counters.bypassed.iter().map(|counter| counter.get()).sum(),
        }
    }

    /// The answers that a purge would throw away. It looks at everything that is kept.
    #[must_use]
    pub fn answers(&self, of: &Purge) -> Vec<View> {
        let all = self.entries.all();
        let views = all.iter().filter_map(|(key, entry)| match entry {
            Entry::Answer(stored) => {
                let tags = if matches!(of, Purge::Tag(_)) { Kept::tags_of(&stored.bytes) } else { Vec::new() };
                let is_meant = of.means(uri_of(&key), tags.iter().map(String::as_str))
                    && !self.purges.is_forgotten(&key, stored.born);
                is_meant.then(|| View { key: key.into(), stored })
            }
            Entry::Varies(_) | Entry::NotKept(_) => None,
        });
        views.collect()
    }
}

/// The URI in a key.
#[must_use]
pub fn uri_of(key: &str) -> &str {
    key.split('#').next().unwrap_or_default()
}
