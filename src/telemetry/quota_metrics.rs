//! What token quotas count. Labels are names of the configuration and words of closed lists: never a key.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::register;
use super::names;
use crate::policy::quota::Level;

type Labels = Vec<(&'static str, String)>;

/// What quotas count.
pub struct QuotaMetrics {
    refused: Family<Labels, Counter>,
    untold: Family<Labels, Counter>,
    tokens: Family<Labels, Counter>,
    keys: Family<Labels, Gauge>,
}

impl QuotaMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            refused: register(registry, names::QUOTA_REFUSED, Family::default()),
            untold: register(registry, names::QUOTA_UNTOLD, Family::default()),
            tokens: register(registry, names::QUOTA_TOKENS, Family::default()),
            keys: register(registry, names::QUOTA_KEYS, Family::default()),
        }
    }

    /// Requests of a route that a quota refused.
    #[must_use]
    pub fn refused(&self, route: &str, quota: &str) -> Counter {
        self.refused.get_or_create(&vec![("route", route.to_owned()), ("quota", quota.to_owned())]).clone()
    }

    /// Requests of a route whose server did not tell how many tokens they used.
    #[must_use]
    pub fn untold(&self, route: &str) -> Counter {
        self.untold.get_or_create(&vec![("route", route.to_owned())]).clone()
    }

    /// Tokens that were charged to a quota.
    #[must_use]
    pub fn tokens(&self, quota: &str) -> Counter {
        self.tokens.get_or_create(&vec![("quota", quota.to_owned())]).clone()
    }

    /// Tells how many keys of each quota are at each level; forgets other quotas.
    pub fn keys<'q>(&self, quotas: impl Iterator<Item = (&'q str, [u64; Level::ALL.len()])>) {
        self.keys.clear();
        for (quota, numbers) in quotas {
            for (level, number) in Level::ALL.into_iter().zip(numbers) {
                let labels = vec![("quota", quota.to_owned()), ("state", level.as_str().to_owned())];
                self.keys.get_or_create(&labels).set(i64::try_from(number).unwrap_or(i64::MAX));
            }
        }
    }
}
