//! What the response caches of routes count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::register;
use super::names;

type Labels = Vec<(&'static str, String)>;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            /// The word in metrics and in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

words! {
    /// What the cache had to do with a request.
    Outcome {
        /// It was kept and fresh.
        Hit "hit",
        /// It was kept and stale, and given all the same.
        Stale "stale",
        /// It was kept, and its server said that it still holds.
        Revalidated "revalidated",
        /// It was not kept, or not good enough.
        Miss "miss",
        /// Another request was asking for it.
        Collapsed "collapsed",
    }
}

impl Outcome {
    /// Whether no server was asked for the whole answer.
    #[must_use]
    pub const fn is_hit(self) -> bool {
        !matches!(self, Self::Miss)
    }
}

words! {
    /// Why a request went past the cache.
    Passed {
        /// Its client wants nothing kept.
        Client "client",
        /// It has a body, asks for another protocol, or for something only if something is not so.
        Unfit "unfit",
    }
}

/// What response caches count, by route.
pub struct ResponseCacheMetrics {
    requests: Family<Labels, Counter>,
    bypassed: Family<Labels, Counter>,
    evictions: Family<Labels, Counter>,
    damaged: Family<Labels, Counter>,
    bytes: Family<Labels, Gauge>,
    max_bytes: Family<Labels, Gauge>,
    entries: Family<Labels, Gauge>,
}

/// The handles of one cache.
#[derive(Clone, Debug, Default)]
pub struct ResponseCacheCounters {
    /// Requests by what the cache had to do with them.
    pub requests: [Counter; Outcome::ALL.len()],
    /// Requests that went past it.
    pub bypassed: [Counter; Passed::ALL.len()],
    /// Answers that were thrown out to make room.
    pub evictions: Counter,
    /// Answers that were thrown away because their bytes had changed.
    pub damaged: Counter,
}

impl ResponseCacheMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            requests: register(registry, names::CACHE_REQUESTS, Family::default()),
            bypassed: register(registry, names::CACHE_BYPASSED, Family::default()),
            evictions: register(registry, names::CACHE_EVICTIONS, Family::default()),
            damaged: register(registry, names::CACHE_DAMAGED, Family::default()),
            bytes: register(registry, names::CACHE_BYTES, Family::default()),
            max_bytes: register(registry, names::CACHE_MAX_BYTES, Family::default()),
            entries: register(registry, names::CACHE_ENTRIES, Family::default()),
        }
    }

    /// Handles for the cache of a route; the same series as before when a route of that name had one.
    #[must_use]
    pub fn of(&self, route: &str) -> ResponseCacheCounters {
        let labels = |more: Option<(&'static str, &str)>| -> Labels {
            [("route", route)].into_iter().chain(more).map(|(name, value)| (name, value.to_owned())).collect()
        };
        ResponseCacheCounters {
            requests: Outcome::ALL
                .map(|outcome| self.requests.get_or_create(&labels(Some(("result", outcome.as_str())))).clone()),
            bypassed: Passed::ALL.map(|why| self.bypassed.get_or_create(&labels(Some(("why", why.as_str())))).clone()),
            evictions: self.evictions.get_or_create(&labels(None)).clone(),
            damaged: self.damaged.get_or_create(&labels(None)).clone(),
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
