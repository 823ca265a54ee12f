//! What stands under the keys of a store, in parts of which each has a lock of its own.
//!
//! How many parts there are depends on how long an answer may be: one is never spread over several, and nothing fits into a part
//! that is as large as the part. A reload that changes that moves everything to other parts. Whoever adds or throws away anything
//! meanwhile waits, so that nothing that was thrown away is moved; whoever looks does not.

use std::collections::hash_map::RandomState;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderName;
use parking_lot::RwLock;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use super::Stored;
use crate::telemetry::response_cache_metrics::ResponseCacheCounters;

/// What an entry takes beside its key and its bytes: its place in tables and lists, and what the allocator adds.
const OVERHEAD: usize = 240;
/// Bytes of a usual entry.
const USUAL: u64 = 8 << 10;
/// Most parts, each with a lock of its own.
const MOST_PARTS: u64 = 32;
/// Where there are several parts, each holds at least so many of the largest answers.
const LARGEST_IN_A_PART: u64 = 4;

/// What stands under a key.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// An answer.
    Answer(Arc<Stored>),
    /// Answers to this URI vary by these fields.
    Varies(Arc<[HeaderName]>),
    /// The last answer was not kept; until then, in milliseconds since 1970, nobody waits for another one.
    NotKept(u64),
}

impl Entry {
    fn is(&self, stored: &Arc<Stored>) -> bool {
        matches!(self, Self::Answer(known) if Arc::ptr_eq(known, stored))
    }
}

#[derive(Clone)]
pub(super) struct Size;

impl Weighter<Box<str>, Entry> for Size {
    fn weight(&self, key: &Box<str>, entry: &Entry) -> u64 {
        let own = match entry {
            Entry::Answer(stored) => stored.bytes.len(),
            Entry::Varies(names) => names.iter().map(|name| name.as_str().len() + 32).sum(),
            Entry::NotKept(_) => 0,
        };
        (key.len() + own + OVERHEAD) as u64
    }
}

/// Counts what is thrown out to make room.
#[derive(Clone)]
pub(super) struct Evictions(ResponseCacheCounters);

impl Lifecycle<Box<str>, Entry> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Box<str>, entry: Entry) {
        if matches!(entry, Entry::Answer(_)) {
            self.0.evictions.inc();
        }
    }
}

pub(super) type Parts = Cache<Box<str>, Entry, Size, RandomState, Evictions>;

pub(super) struct Entries {
    parts: ArcSwap<Parts>,
    /// How many parts were wanted. Whoever changes what is there holds it with others, and whoever moves it holds it alone.
    wanted: RwLock<u64>,
    evictions: Evictions,
}

/// How many parts are wanted for so many bytes, and answers of at most `max_object`.
fn wanted(max_bytes: u64, max_object: u64) -> u64 {
    let parts = (max_bytes / LARGEST_IN_A_PART.saturating_mul(max_object).max(1)).clamp(1, MOST_PARTS);
    if parts.is_power_of_two() { parts } else { parts.next_power_of_two() / 2 }
}

fn empty(max_bytes: u64, parts: u64, evictions: Evictions) -> Parts {
    let usual = usize::try_from(max_bytes / USUAL).unwrap_or(usize::MAX).max(1);
    let options = OptionsBuilder::new()
        .shards(usize::try_from(parts).unwrap_or(1))
        .estimated_items_capacity(usual)
        .weight_capacity(max_bytes)
        .build();
    match options {
        Ok(options) => Cache::with_options(options, Size, RandomState::default(), evictions),
        Err(_) => Cache::with(usual, max_bytes, Size, RandomState::default(), evictions),
    }
}

impl Entries {
    pub(super) fn new(max_bytes: u64, max_object: u64, counters: ResponseCacheCounters) -> Self {
        let (parts, evictions) = (wanted(max_bytes, max_object), Evictions(counters));
        Self {
            parts: ArcSwap::from_pointee(empty(max_bytes, parts, evictions.clone())),
            wanted: RwLock::new(parts),
            evictions,
        }
    }

    /// Changes how many bytes they may take, and how long an answer may be; what is too much is thrown out.
    pub(super) fn set_max(&self, max_bytes: u64, max_object: u64) {
        let parts = wanted(max_bytes, max_object);
        let is_near = |now: &Parts| now.capacity().abs_diff(max_bytes) < now.num_shards() as u64;
        // Mostly nothing changes, and whoever changes what is there need not be waited for.
        if *self.wanted.read() == parts && is_near(&self.parts.load()) {
            return;
        }
        let mut known = self.wanted.write();
        let now = self.parts.load();
        // What is asked for least goes before anything is moved.
        if !is_near(&now) {
            now.set_capacity(max_bytes);
        }
        if *known != parts {
            *known = parts;
            let others = empty(max_bytes, parts, self.evictions.clone());
            now.iter().for_each(|(key, entry)| others.insert(key, entry));
            self.parts.store(Arc::new(others));
        }
    }

    /// What stands under a key, which is asked for by that.
    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.parts.load().get(key)
    }

    /// The same for whoever does not ask for it.
    pub(super) fn peek(&self, key: &str) -> Option<Entry> {
        self.parts.load().peek(key)
    }

    /// Whether this very answer stands under a key.
    pub(super) fn has(&self, key: &str, stored: &Arc<Stored>) -> bool {
        self.peek(key).is_some_and(|entry| entry.is(stored))
    }

    /// Puts an entry under a key. One that is too large for a part takes the old one away all the same.
    pub(super) fn insert(&self, key: &str, entry: Entry) {
        let held = self.wanted.read();
        self.parts.load().insert(key.into(), entry);
        drop(held);
    }

    pub(super) fn drop_if_same(&self, key: &str, stored: &Arc<Stored>) {
        let held = self.wanted.read();
        self.parts.load().remove_if(key, |entry| entry.is(stored));
        drop(held);
    }

    pub(super) fn retain(&self, stays: impl Fn(&str, &Entry) -> bool) {
        let held = self.wanted.read();
        self.parts.load().retain(|key, entry| stays(key, entry));
        drop(held);
    }

    /// All of them as they are now.
    pub(super) fn all(&self) -> Arc<Parts> {
        self.parts.load_full()
    }
}
