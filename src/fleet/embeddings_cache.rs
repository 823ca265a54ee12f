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
//!
//! # Invariants
//! - Whoever waits for a flight has ended its own first: nobody waits in a circle.
//! - A flight that is dropped, because its client left or its server failed, has ended: those who wait are told.
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

    /// Keeps embeddings of a model.
    pub fn keep(&self, model: &Arc<str>, found: impl IntoIterator<Item = (Key, Vector)>, now: Instant) {
        let kept = self.seconds(now);
        for (key, vector) in found {
            self.entries.insert(key, Entry { vector, model: Arc::clone(model), kept });
        }
    }

    /// Counts inputs that were known, and that were not.
    pub fn count(&self, hits: usize, misses: usize, collapsed: usize) {
        self.hits.fetch_add((hits + collapsed) as u64, Ordering::Relaxed);
        self.misses.fetch_add(misses as u64, Ordering::Relaxed);
        self.counters.inputs(hits as u64, misses as u64, collapsed as u64);
    }

    /// Forgets what is kept of a model, or everything; how many embeddings that were.
    pub fn purge(&self, model: Option<&str>) -> usize {
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
        Flight { store: Arc::clone(self), keys: Vec::new(), answer: watch::Sender::new(None) }
    }
}

/// What one request asks a server for. When it is dropped, nobody waits for it any longer.
pub struct Flight {
    store: Arc<EmbeddingsCache>,
    keys: Vec<Key>,
    answer: watch::Sender<Landed>,
}

impl Flight {
    /// What is known of an input; if nothing is, it belongs to this flight from here on.
    pub fn look(&mut self, key: Key, age: Age) -> Look {
        if let Some(vector) = self.store.get(&key, age) {
            return Look::Kept(vector);
        }
        let mut table = self.store.flights[key.table()].lock();
        if let Some(waiting) = table.get(&key) {
            return Look::Theirs(waiting.clone());
        }
        // It may have landed between the two looks.
        if let Some(vector) = self.store.get(&key, age) {
            return Look::Kept(vector);
        }
        let place = self.keys.len();
        table.insert(key, Waiting { answer: self.answer.subscribe(), place });
        self.keys.push(key);
        Look::Ours(place)
    }

    /// The answer is there, by the places of the inputs. It is kept as the embeddings of a model, if one is named.
    pub fn land(self, vectors: &[Vector], model: Option<&Arc<str>>, now: Instant) {
        if vectors.len() != self.keys.len() {
            return;
        }
        if let Some(model) = model {
            self.store.keep(model, self.keys.iter().copied().zip(vectors.iter().cloned()), now);
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
}

impl Waiting {
    /// Waits until it has ended; `None` where it ended without an answer.
    pub async fn landed(&mut self) -> Option<Vector> {
        let landed = self.answer.wait_for(Option::is_some).await.ok()?;
        landed.as_ref()?.get(self.place).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const DAY: Duration = Duration::from_secs(86_400);

    fn store(bytes: u64) -> Arc<EmbeddingsCache> {
        EmbeddingsCache::new(bytes, CacheCounters::default(), clock::now())
    }

    fn age() -> Age {
        Age { now: clock::now(), most: DAY }
    }

    fn key(number: u32) -> Key {
        Keys::new(&[b"test"]).of(&number.to_le_bytes())
    }

    /// 768 numbers.
    fn vector(number: u32) -> Vector {
        Vector::read(&serde_json::to_string(&vec![number; 768]).unwrap())
    }

    #[test]
    fn keys_differ_where_a_part_ends_elsewhere() {
        let of = |parts: &[&[u8]], input: &[u8]| Keys::new(parts).of(input);
        assert_eq!(of(&[b"a", b"b"], b"c"), of(&[b"a", b"b"], b"c"));
        for other in [of(&[b"ab", b""], b"c"), of(&[b"a", b"bc"], b""), of(&[b"a"], b"bc"), of(&[b"a", b"b"], b"C")] {
            assert_ne!(of(&[b"a", b"b"], b"c"), other);
        }
    }

    #[test]
    fn it_never_takes_more_than_it_may_and_keeps_what_is_used() {
        let (store, model) = (store(1 << 20), Arc::from("m"));
        let now = clock::now();
        let used: Vec<u32> = (0..100).collect();
        store.keep(&model, used.iter().map(|number| (key(*number), vector(*number))), now);
        // A scan of a hundred times what fits, while a hundred inputs are asked for now and then.
        for number in 100..30_000 {
            store.keep(&model, [(key(number), vector(1))], now);
            if number % 50 == 0 {
                for number in &used {
                    store.get(&key(*number), age());
                }
            }
            assert!(store.figures().bytes <= 1 << 20);
        }
        let left = used.iter().filter(|number| store.get(&key(**number), age()) == Some(vector(**number))).count();
        assert!(left >= 95, "{left} of those in use are left");
        assert!(store.counters.evictions.get() > 29_000);
        store.set_max(1 << 19);
        let figures = store.figures();
        assert!(figures.bytes <= 1 << 19 && figures.max_bytes == 1 << 19, "{figures:?}");
    }

    #[test]
    fn what_is_too_old_is_not_there() {
        let (store, now) = (store(1 << 20), clock::now());
        store.keep(&Arc::from("m"), [(key(1), vector(1))], now);
        let after = |seconds| store.get(&key(1), Age { now: now + Duration::from_secs(seconds), most: DAY }).is_some();
        assert_eq!([after(0), after(86_399), after(86_401)], [true, true, false]);
        assert!(store.get(&key(1), Age { now, most: Duration::ZERO }).is_none());
    }

    #[test]
    fn a_model_is_forgotten_and_no_other() {
        let (store, now) = (store(1 << 20), clock::now());
        store.keep(&Arc::from("a"), (0..10).map(|number| (key(number), vector(number))), now);
        store.keep(&Arc::from("b"), (10..15).map(|number| (key(number), vector(number))), now);
        assert_eq!((store.purge(Some("a")), store.purge(Some("a")), store.figures().entries), (10, 0, 5));
        assert_eq!((store.purge(None), store.figures().entries, store.figures().bytes), (5, 0, 0));
    }

    #[tokio::test]
    async fn one_asks_and_the_others_get_its_answer() {
        let store = store(1 << 20);
        let (mut first, mut second) = (store.depart(), store.depart());
        assert!(matches!(first.look(key(1), age()), Look::Ours(0)));
        assert!(matches!(first.look(key(2), age()), Look::Ours(1)));
        let Look::Theirs(mut waiting) = second.look(key(2), age()) else { panic!("it is in flight") };
        assert!(matches!(second.look(key(3), age()), Look::Ours(0)));
        first.land(&[vector(1), vector(2)], Some(&Arc::from("m")), clock::now());
        assert_eq!(waiting.landed().await, Some(vector(2)));
        assert!(matches!(second.look(key(1), age()), Look::Kept(found) if found == vector(1)));
        drop(second);
        assert!(matches!(store.depart().look(key(3), age()), Look::Ours(0)), "nobody asks for it any more");
    }

    #[tokio::test]
    async fn who_waits_for_a_flight_that_fails_is_told() {
        let store = store(1 << 20);
        let (mut first, mut second) = (store.depart(), store.depart());
        first.look(key(1), age());
        let Look::Theirs(mut waiting) = second.look(key(1), age()) else { panic!("it is in flight") };
        drop(first);
        assert_eq!(waiting.landed().await, None);
        assert!(matches!(second.look(key(1), age()), Look::Ours(0)));
        // An answer to another question is none.
        second.land(&[], Some(&Arc::from("m")), clock::now());
        assert_eq!(store.figures().entries, 0);
    }

    #[tokio::test]
    async fn what_is_not_to_be_kept_still_reaches_who_waits() {
        let store = store(1 << 20);
        let (mut first, mut second) = (store.depart(), store.depart());
        first.look(key(1), age());
        let Look::Theirs(mut waiting) = second.look(key(1), age()) else { panic!("it is in flight") };
        first.land(&[vector(1)], None, clock::now());
        assert_eq!((waiting.landed().await, store.figures().entries), (Some(vector(1)), 0));
    }
}
