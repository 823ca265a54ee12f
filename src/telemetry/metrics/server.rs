//! The handles of one server.

use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::{Labels, Metrics, labels};
use crate::policy::failure::Reason;

impl Metrics {
    /// Handles for a server.
    pub fn server(self: &Arc<Self>, upstream: &str, server: &str) -> ServerMetrics {
        let own = labels([("upstream", upstream), ("server", server)]);
        ServerMetrics {
            first_byte: self.first_byte.get_or_create(&own).clone(),
            outcomes: Reason::ALL.iter().map(|_| OnceLock::new()).collect(),
            labels: own,
            metrics: Arc::clone(self),
        }
    }
}

/// Handles of one server.
pub struct ServerMetrics {
    /// Time to the first byte of its answers.
    pub first_byte: Histogram,
    outcomes: Vec<OnceLock<Counter>>,
    labels: Labels,
    metrics: Arc<Metrics>,
}

impl ServerMetrics {
    /// Counts a change of a circuit, `of` the server or of a model on it.
    pub fn circuit(&self, of: &'static str, to: &'static str) {
        let mut labels = self.labels.clone();
        labels.extend([("of", of.to_owned()), ("to", to.to_owned())]);
        self.metrics.transitions.get_or_create(&labels).inc();
    }

    /// Counts a change of the state of its GPU.
    pub fn gpu_changed(&self, to: &'static str) {
        self.metrics.gpu.changed(&self.labels, to);
    }

    /// Counts an attempt that ended for this reason.
    pub fn attempt(&self, reason: Reason) {
        self.outcomes[reason as usize]
            .get_or_init(|| {
                let mut labels = self.labels.clone();
                labels.push(("outcome", reason.as_str().to_owned()));
                self.metrics.attempts.get_or_create(&labels).clone()
            })
            .inc();
    }
}
