//! What the caches of routes count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::register;
use super::names;

type Labels = Vec<(&'static str, String)>;

/// Why a request for embeddings went past the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// Its client wants no cache.
    Client,
    /// It is not known which bytes the model's name stands for, or the servers differ, or it changed meanwhile.
    Digest,
    /// Its body is longer than `max_body`, or its answer is too long to be held.
    TooLong,
    /// It asks for no embedding, or is not understood; or a server's answer to a part of it is not.
    Unfit,
}

impl Bypass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Client, Self::Digest, Self::TooLong, Self::Unfit];

    /// The word in metrics and in `Cache-Status`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Digest => "digest",
            Self::TooLong => "too_long",
            Self::Unfit => "unfit",
        }
    }
}

/// What caches count, by route.
pub struct CacheMetrics {
    inputs: Family<Labels, Counter>,
    bypassed: Family<Labels, Counter>,
    evictions: Family<Labels, Counter>,
    bytes: Family<Labels, Gauge>,
    max_bytes: Family<Labels, Gauge>,
    entries: Family<Labels, Gauge>,
}

/// The handles of one cache.
#[derive(Clone, Debug, Default)]
pub struct CacheCounters {
    hits: Counter,
    misses: Counter,
    collapsed: Counter,
    bypassed: [Counter; Bypass::ALL.len()],
    /// Entries that were thrown out to make room.
    pub evictions: Counter,
}

impl CacheCounters {
    /// Counts inputs that were known, that were asked for, and that somebody else was asking for.
    pub fn inputs(&self, hits: u64, misses: u64, collapsed: u64) {
        self.hits.inc_by(hits);
        self.misses.inc_by(misses);
        self.collapsed.inc_by(collapsed);
    }

    /// Counts a request that went past the cache.
    pub fn bypassed(&self, why: Bypass) {
        self.bypassed[why as usize].inc();
    }

    /// How many there were.
    #[must_use]
    pub fn all_bypassed(&self) -> u64 {
        self.bypassed.iter().map(|counter| counter.get()).sum()
    }
}

impl CacheMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            inputs: register(registry, names::EMBEDDINGS_CACHE_INPUTS, Family::default()),
            bypassed: register(registry, names::EMBEDDINGS_CACHE_BYPASSED, Family::default()),
            evictions: register(registry, names::EMBEDDINGS_CACHE_EVICTIONS, Family::default()),
            bytes: register(registry, names::EMBEDDINGS_CACHE_BYTES, Family::default()),
            max_bytes: register(registry, names::EMBEDDINGS_CACHE_MAX_BYTES, Family::default()),
            entries: register(registry, names::EMBEDDINGS_CACHE_ENTRIES, Family::default()),
        }
    }

    /// Handles for the cache of a route; the same series as before when a route of that name had one.
    #[must_use]
    pub fn of(&self, route: &str) -> CacheCounters {
        let labels = |more: Option<(&'static str, &str)>| -> Labels {
            [("route", route)].into_iter().chain(more).map(|(name, value)| (name, value.to_owned())).collect()
        };
        let inputs = |result| self.inputs.get_or_create(&labels(Some(("result", result)))).clone();
        CacheCounters {
            hits: inputs("hit"),
            misses: inputs("miss"),
            collapsed: inputs("collapsed"),
            bypassed: Bypass::ALL.map(|why| self.bypassed.get_or_create(&labels(Some(("why", why.as_str())))).clone()),
            evictions: self.evictions.get_or_create(&labels(None)).clone(),
        }
    }

    /// Forgets how full caches are, before the present ones are told.
    pub fn clear(&self) {
        [&self.bytes, &self.max_bytes, &self.entries].into_iter().for_each(Family::clear);
    }

    /// Tells how full the cache of a route is.
    pub fn holds(&self, route: &str, bytes: u64, max_bytes: u64, entries: usize) {
        let labels: Labels = vec![("route", route.to_owned())];
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        for (family, value) in [(&self.bytes, bytes), (&self.max_bytes, max_bytes), (&self.entries, entries)] {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}
