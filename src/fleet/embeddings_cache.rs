//! The embeddings that a route keeps, and who is asking a server for which at this moment.
//!
//! # Problem
//! An embedding depends on the bytes of the model and on its input alone, and clients ask for the same ones again and
//! again. What is kept must never be that of another model, must not grow beyond its bound, and must not be thrown out by
//! one client that asks for a million inputs once. And of many that ask for the same input at the same time, one asks a
//! server and the others wait for it.
//!
//! # States of an input
//!
//! | state | who asks for it |
//! |---|---|
//! | kept | has it at once ([`Look::Kept`]) |
//! | nobody asks for it | takes it over ([`Look::Ours`]); its [`Flight`] ends with an answer, or without |
//! | somebody asks for it | waits for that flight ([`Look::Theirs`]), and asks a server itself if it ends without an answer |
//! | somebody does since before a purge | asks a server itself ([`Look::Alone`]) |
//!
//! # Invariants
//! - Whoever waits for a flight has ended its own first: nobody waits in a circle.
//! - A flight that is dropped, because its client left or its server failed, has ended: those who wait are told.
//! - What was asked for before a purge is not kept after it, nor given to anybody who came after it. Purges are counted, whatever
//!   they are of: one that means another model makes nothing untrue, but they are few.
//! - A store belongs to its route by name and outlives reloads; a smaller `max_size` holds from the moment at which the
//!   configuration does.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fnv::FnvBuildHasher;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::ollama::embeddings::Vector;
use crate::telemetry::cache_metrics::CacheCounters;

/// What an entry takes beside its vector: its key, its place in tables and lists, and what the allocator adds.
const OVERHEAD: usize = 160;
/// Bytes of a usual entry: 768 numbers.
const USUAL: u64 = 3 << 10;
/// A part of the store has at least so many bytes, so that each holds many of the largest vectors that there are.
const PART: u64 = 4 << 20;
/// Most parts, each with a lock of its own.
const MOST_PARTS: u64 = 32;
/// Tables of flights, each with a lock of its own.
const TABLES: usize = 16;

/// Which embedding: a hash of all that it depends on, and of whom it is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // They are as good as random already.
        state.write_u64(self.word());
    }
}

impl Key {
    fn word(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    fn table(&self) -> usize {
        usize::from(self.0[31]) % TABLES
    }
}

/// Makes the keys of one request.
#[derive(Clone)]
pub struct Keys(Sha256);

impl Keys {
    /// Of the parts that all inputs of a request share.
    #[must_use]
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that no two lists of parts are the same bytes.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash)
    }

    /// The key of an input.
    #[must_use]
    pub fn of(&self, input: &[u8]) -> Key {
        Key(self.0.clone().chain_update(input).finalize().into())
    }
}

/// What is kept of an embedding.
#[derive(Clone)]
struct Entry {
    vector: Vector,
    /// The model by its canonical name.
    model: Arc<str>,
    /// Seconds from the birth of the store to when it was kept.
    kept: u32,
}

#[derive(Clone)]
struct Size;

impl Weighter<Key, Entry> for Size {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        (entry.vector.size() + OVERHEAD) as u64
    }
}

/// Counts what is thrown out to make room.
#[derive(Clone)]
struct Evictions(CacheCounters);

impl Lifecycle<Key, Entry> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, _: Entry) {
        self.0.evictions.inc();
    }
}

type Entries = Cache<Key, Entry, Size, FnvBuildHasher, Evictions>;
type Table = HashMap<Key, Waiting, FnvBuildHasher>;
/// The answer of a flight, once it is there.
type Landed = Option<Arc<[Vector]>>;

/// What a route keeps.
pub struct EmbeddingsCache {
    entries: Entries,
    flights: [Mutex<Table>; TABLES],
    born: Instant,
    /// How many purges there have been.
    purges: AtomicU64,
    /// What it counts.
    pub counters: CacheCounters,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What is known of an input.
pub enum Look {
    /// It is kept.
    Kept(Vector),
    /// The flight has taken it over, at this place.
    Ours(usize),
    /// Somebody else asks for it.
    Theirs(Waiting),
    /// Somebody else does, since before a purge: that answer will not do.
    Alone,
}

/// How old what is kept may be.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// The present.
    pub now: Instant,
    /// The oldest that will do.
    pub most: Duration,
}

/// A view of a store in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Embeddings that are kept.
    pub entries: usize,
    /// Bytes that they take.
    pub bytes: u64,
    /// Bytes that they may take.
    pub max_bytes: u64,
    /// Inputs that were known, since the start.
    pub hits: u64,
    /// Inputs that were not.
    pub misses: u64,
    /// Requests that went past it, since the start.
    pub bypassed: u64,
}

impl EmbeddingsCache {
    /// An empty store for so many bytes.
    #[must_use]
    pub fn new(max_bytes: u64, counters: CacheCounters, now: Instant) -> Arc<Self> {
        let parts = (max_bytes / PART).clamp(1, MOST_PARTS);
        let parts = usize::try_from(if parts.is_power_of_two() { parts } else { parts.next_power_of_two() / 2 });
        let usual = usize::try_from(max_bytes / USUAL).unwrap_or(usize::MAX).max(1);
        let options = OptionsBuilder::new()
            .shards(parts.unwrap_or(1))
            .estimated_items_capacity(usual)
            .weight_capacity(max_bytes)
            .build();
        // Both numbers that it asks for are given.
        let lifecycle = Evictions(counters.clone());
        let entries = match options {
            Ok(options) => Cache::with_options(options, Size, FnvBuildHasher::default(), lifecycle),
            Err(_) => Cache::with(usual, max_bytes, Size, FnvBuildHasher::default(), lifecycle),
        };
        Arc::new(Self {
            entries,
            flights: std::array::from_fn(|_| Mutex::default()),
            born: now,
            purges: AtomicU64::new(0),
            counters,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// Changes how many bytes it may take; what is too much is thrown out.
    pub fn set_max(&self, bytes: u64) {
        if self.entries.capacity().abs_diff(bytes) >= self.entries.num_shards() as u64 {
            self.entries.set_capacity(bytes);
        }
    }

    /// An embedding that is kept and not too old.
    pub fn get(&self, key: &Key, age: Age) -> Option<Vector> {
        let entry = self.entries.get(key)?;
        let old = u64::from(self.seconds(age.now).saturating_sub(entry.kept));
        if old < age.most.as_secs() {
            return Some(entry.vector);
        }
        None
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.born).as_secs()).unwrap_or(u32::MAX)
    }

    /// How many purges there have been, for what is asked for from now on.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.purges.load(Ordering::Acquire)
    }

    /// Keeps embeddings of a model that were asked for at `begun`, as [`Self::begun`] told it, unless there was a purge since.
    pub fn keep(&self, model: &Arc<str>, found: impl IntoIterator<Item = (Key, Vector)>, begun: u64, now: Instant) {
        let kept = self.seconds(now);
        for (key, vector) in found {
            if self.begun() != begun {
                return;
            }
            self.entries.insert(key, Entry { vector, model: Arc::clone(model), kept });
            // Looked at afterwards too: a purge counts first and throws away then.
            if self.begun() != begun {
                self.entries.remove(&key);
                return;
            }
        }
    }

    /// Counts inputs that were known, and that were not.
    pub fn count(&self, hits: usize, misses: usize, collapsed: usize) {
        self.hits.fetch_add((hits + collapsed) as u64, Ordering::Relaxed);
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
        self.counters.inputs(hits as u64, misses as u64, collapsed as u64);
    }

    /// Forgets what is kept of a model, or everything, now and from what is being computed; how many embeddings were kept.
    pub fn purge(&self, model: Option<&str>) -> usize {
        self.purges.fetch_add(1, Ordering::AcqRel);
        let removed = AtomicU64::new(0);
        self.entries.retain(|_, entry| {
            let stays = model.is_some_and(|model| *entry.model != *model);
            removed.fetch_add(u64::from(!stays), Ordering::Relaxed);
            stays
        });
        usize::try_from(removed.into_inner()).unwrap_or(usize::MAX)
    }

    /// How much it holds.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            entries: self.entries.len(),
            bytes: self.entries.weight(),
            max_bytes: self.entries.capacity(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bypassed: self.counters.all_bypassed(),
        }
    }

    /// A request begins to look for its inputs.
    #[must_use]
    pub fn depart(self: &Arc<Self>) -> Flight {
        let begun = self.begun();
        Flight { store: Arc::clone(self), keys: Vec::new(), begun, answer: watch::Sender::new(None) }
    }
}

/// What one request asks a server for. When it is dropped, nobody waits for it any longer.
pub struct Flight {
    store: Arc<EmbeddingsCache>,
    keys: Vec<Key>,
    begun: u64,
    answer: watch::Sender<Landed>,
}

impl Flight {
    /// How many purges there had been when it began.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// What is known of an input; if nothing is, it belongs to this flight from here on.
    pub fn look(&mut self, key: Key, age: Age) -> Look {
        if let Some(vector) = self.store.get(&key, age) {
            return Look::Kept(vector);
        }
        let mut table = self.store.flights[key.table()].lock();
        if let Some(waiting) = table.get(&key) {
            return if waiting.begun < self.begun { Look::Alone } else { Look::Theirs(waiting.clone()) };
        }
        // It may have landed between the two looks.
        if let Some(vector) = self.store.get(&key, age) {
            return Look::Kept(vector);
        }
        let place = self.keys.len();
        table.insert(key, Waiting { answer: self.answer.subscribe(), place, begun: self.begun });
        self.keys.push(key);
        Look::Ours(place)
    }

    /// The answer is there, by the places of the inputs. It is kept as the embeddings of a model, if one is named.
    pub fn land(self, vectors: &[Vector], model: Option<&Arc<str>>, now: Instant) {
        if vectors.len() != self.keys.len() {
            return;
        }
        if let Some(model) = model {
            self.store.keep(model, self.keys.iter().copied().zip(vectors.iter().cloned()), self.begun, now);
        }
        self.answer.send_replace(Some(vectors.into()));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        for key in &self.keys {
            self.store.flights[key.table()].lock().remove(key);
        }
    }
}

/// Somebody else's flight with an input of ours on it.
#[derive(Clone)]
pub struct Waiting {
    answer: watch::Receiver<Landed>,
    place: usize,
    /// How many purges there had been when that flight began.
    begun: u64,
}

impl Waiting {
    /// Waits until it has ended; `None` where it ended without an answer.
    pub async fn landed(&mut self) -> Option<Vector> {
        let landed = self.answer.wait_for(Option::is_some).await.ok()?;
        landed.as_ref()?.get(self.place).cloned()
    }
}

#[cfg(test)]
#[path = "embeddings_cache_tests.rs"]
mod tests;
