//! What is counted about the cluster.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::register;
use super::names;

/// How a call of Redis may end.
pub const RESULTS: [&str; 5] = ["ok", "refused", "timeout", "unusable", "down"];

type Words = Vec<(&'static str, &'static str)>;
type Labels = Vec<(&'static str, String)>;

/// What is counted about the cluster.
#[derive(Clone)]
pub struct ClusterMetrics {
    linked: Family<Labels, Gauge>,
    instances: Family<Labels, Gauge>,
    configurations: Family<Labels, Gauge>,
    leading: Family<Labels, Gauge>,
    calls: Family<Words, Counter>,
    settled: Family<Words, Counter>,
    unsettled: Family<Words, Gauge<f64, AtomicU64>>,
}

/// What instances settle among each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterShare {
    /// Rate limits.
    Rates,
    /// Token quotas.
    Quotas,
}

impl ClusterShare {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Rates => "rate_limits",
            Self::Quotas => "quotas",
        }
    }
}

/// What is known of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct ClusterFigures {
    /// Whether Redis can be used.
    pub linked: bool,
    /// How many instances are alive.
    pub instances: usize,
    /// How many different configurations they have.
    pub configurations: usize,
    /// Whether this instance leads.
    pub leads: bool,
}

impl ClusterMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            linked: register(registry, names::CLUSTER_LINKED, Family::default()),
            instances: register(registry, names::CLUSTER_INSTANCES, Family::default()),
            configurations: register(registry, names::CLUSTER_CONFIGURATIONS, Family::default()),
            leading: register(registry, names::CLUSTER_LEADS, Family::default()),
            calls: register(registry, names::CLUSTER_CALLS, Family::default()),
            settled: register(registry, names::CLUSTER_SETTLED, Family::default()),
            unsettled: register(registry, names::CLUSTER_UNSETTLED, Family::default()),
        }
    }

    /// Counts a call of Redis by how it ended.
    pub fn call(&self, result: &'static str) {
        self.calls.get_or_create(&vec![("result", result)]).inc();
    }

    /// How many calls ended so.
    #[must_use]
    pub fn calls_that(&self, result: &'static str) -> u64 {
        self.calls.get(&vec![("result", result)]).map_or(0, |calls| calls.get())
    }

    /// Counts keys that were settled.
    pub fn settled(&self, share: ClusterShare, keys: usize) {
        self.settled.get_or_create(&vec![("of", share.as_str())]).inc_by(u64::try_from(keys).unwrap_or(u64::MAX));
    }

    /// Shows for how long something waits that could not be settled.
    pub fn behind(&self, share: ClusterShare, behind: Duration) {
        self.unsettled.get_or_create(&vec![("of", share.as_str())]).set(behind.as_secs_f64());
    }

    /// Shows what is known of this cluster, and of no other any more; nothing for `None`.
    pub fn show(&self, cluster: Option<(&str, ClusterFigures)>) {
        let all = [&self.linked, &self.instances, &self.configurations, &self.leading];
        let Some((name, figures)) = cluster else {
            all.iter().for_each(|family| family.clear());
            self.unsettled.clear();
            return;
        };
        let labels = vec![("cluster", name.to_owned())];
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let values = [
            i64::from(figures.linked),
            number(figures.instances),
            number(figures.configurations),
            i64::from(figures.leads),
        ];
        for (family, value) in all.into_iter().zip(values) {
            family.get_or_create(&labels).set(value);
        }
    }
}
