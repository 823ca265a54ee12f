//! The handles of one server.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::{Labels, Metrics, labels};
use crate::policy::failure::Reason;
use crate::policy::schedule::Eviction;
use crate::telemetry::gap_histogram::GapHistogram;

impl Metrics {
    /// Handles for a server.
    pub fn server(self: &Arc<Self>, upstream: &str, server: &str) -> ServerMetrics {
        let own = labels([("upstream", upstream), ("server", server)]);
        let used = |how| {
            self.connections_used
                .get_or_create(&labels([("upstream", upstream), ("server", server), ("how", how)]))
                .clone()
        };
        ServerMetrics {
            first_byte: self.first_byte.get_or_create(&own).clone(),
            connect: self.connect.get_or_create(&own).clone(),
            reused: used("reused"),
            fresh: used("new"),
            token_gap: OnceLock::new(),
            decode_speed: OnceLock::new(),
            load: OnceLock::new(),
            outcomes: Reason::ALL.iter().map(|_| OnceLock::new()).collect(),
            labels: own,
            metrics: Arc::clone(self),
        }
    }
}

/// Handles of one server. What only servers of models have comes to be when it is first counted.
pub struct ServerMetrics {
    /// Time to the first byte of its answers.
    pub first_byte: Histogram,
    /// Time that opening a connection to it took.
    pub connect: Histogram,
    /// Attempts that got a connection that was open.
    pub reused: Counter,
    /// Attempts that got a new connection.
    pub fresh: Counter,
    token_gap: OnceLock<GapHistogram>,
    decode_speed: OnceLock<Histogram>,
    load: OnceLock<Histogram>,
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

    /// Counts the time between two tokens of one of its streams.
    pub fn token_gap(&self, gap: Duration) {
        self.token_gap.get_or_init(|| self.metrics.token_gap.get_or_create(&self.labels).clone()).observe(gap);
    }

    /// Counts how many tokens a second an answer of it had.
    pub fn decoded(&self, tokens_per_second: f64) {
        let histogram = self.decode_speed.get_or_init(|| self.metrics.decode_speed.get_or_create(&self.labels).clone());
        histogram.observe(tokens_per_second);
    }

    /// Counts a load of ours that went well.
    pub fn loaded(&self, took: Duration) {
        let histogram = self.load.get_or_init(|| self.metrics.model_load.get_or_create(&self.labels).clone());
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a model that left its memory.
    pub fn evicted(&self, why: Eviction) {
        let mut labels = self.labels.clone();
        labels.push(("why", why.as_str().to_owned()));
        self.metrics.evictions.get_or_create(&labels).inc();
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
