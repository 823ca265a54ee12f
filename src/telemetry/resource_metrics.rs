//! How close the process is to what the system gives it, and how well all is; the reader sets them before it encodes.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::names::{self, Metric};

type Gauges = Family<Vec<(&'static str, String)>, Gauge>;
type Ratio = Gauge<f64, AtomicU64>;

/// Gauges of resources.
pub struct ResourceGauges {
    memory: Gauges,
    cpu: Ratio,
    files: Gauges,
    disks: Gauges,
    exceeded: Gauges,
    score: Gauge,
}

fn register<M: prometheus_client::registry::Metric + Clone + Default>(registry: &mut Registry, metric: Metric) -> M {
    let made = M::default();
    registry.register(metric.name, metric.help, made.clone());
    made
}

fn set(family: &Gauges, labels: &[(&'static str, &str)], value: u64) {
    let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}

impl ResourceGauges {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            memory: register(registry, names::RESOURCE_MEMORY),
            cpu: register(registry, names::RESOURCE_CPU),
            files: register(registry, names::RESOURCE_FILES),
            disks: register(registry, names::DISK),
            exceeded: register(registry, names::EXCEEDED),
            score: register(registry, names::HEALTH_SCORE),
        }
    }

    /// Tells the memory that is used and its limit.
    pub fn memory(&self, used: u64, limit: u64) {
        set(&self.memory, &[("of", "used")], used);
        set(&self.memory, &[("of", "limit")], limit);
    }

    /// Tells the share of processor time, from 0 to 1.
    pub fn cpu(&self, share: f64) {
        self.cpu.set(share);
    }

    /// Tells open file descriptors and their limit.
    pub fn files(&self, open: u64, limit: u64) {
        set(&self.files, &[("of", "open")], open);
        set(&self.files, &[("of", "limit")], limit);
    }

    /// Tells the disk of a folder.
    pub fn disk(&self, folder: &str, used: u64, free: u64) {
        set(&self.disks, &[("folder", folder), ("of", "used")], used);
        set(&self.disks, &[("folder", folder), ("of", "free")], free);
    }

    /// Tells whether more of a resource is used than its threshold says.
    pub fn exceeded(&self, resource: &str, is: bool) {
        set(&self.exceeded, &[("resource", resource)], u64::from(is));
    }

    /// Tells the health score.
    pub fn score(&self, score: u8) {
        self.score.set(i64::from(score));
    }
}
