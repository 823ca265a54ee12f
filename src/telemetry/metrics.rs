//! The metrics of the process and the handles by which a request counts.
//!
//! A [`RouteMetrics`] or [`ServerMetrics`] is made once for a route or server of a snapshot; counting
//! is then an atomic add. Labels come from the configuration and from closed lists only, so clients
//! cannot make series.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::cache_metrics::CacheMetrics;
pub use super::cluster_metrics::{ClusterFigures, ClusterMetrics, ClusterShare, RESULTS as CLUSTER_RESULTS};
use super::gap_histogram::{GapHistogram, Gaps};
use super::gpu_metrics::GpuGauges;
pub use super::history_metrics::HistoryMetrics;
use super::names;
pub use super::process_metrics::ProcessMetrics;
use super::quota_metrics::QuotaMetrics;
use super::recent::Totals;
use super::resource_metrics::ResourceGauges;
use super::response_cache_metrics::ResponseCacheMetrics;
pub use super::trace_metrics::TraceMetrics;
use crate::policy::failure::Reason;
use crate::version;

/// Status codes with a series of their own; others count under the first code of their class.
const CODES: [u16; 33] = [
    100, 101, 200, 201, 202, 204, 206, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 411, 413, 415,
    416, 417, 421, 422, 429, 499, 500, 502, 503, 504,
];

/// Labels are given as name and value pairs; the set of names is fixed for each family.
type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;

type Histograms = Family<Labels, Histogram, Buckets>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    requests: Counters,
    ended: Vec<Counter>,
    duration: Histograms,
    in_flight: Gauges,
    request_bytes: Counters,
    response_bytes: Counters,
    attempts: Counters,
    first_byte: Histograms,
    retries: Counters,
    retries_refused: Counters,
    transitions: Counters,
    first_token: Histograms,
    token_gap: Family<Labels, GapHistogram, Gaps>,
    decode_speed: Histograms,
    connect: Histograms,
    connections_used: Counters,
    tokens: Counters,
    probes: Counters,
    model_changes: Counters,
    model_load: Histograms,
    evictions: Counters,
    queue_wait: Histograms,
    recovery_tests: Counters,
    recovery_actions: Counters,
    notifications: Counters,
    /// Events that a listener missed.
    pub events_lost: Counter,
    refused: Vec<Counter>,
    rate_limited: Counters,
    connections_refused: Counters,
    /// Keys of rate limits.
    pub limiter_keys: Gauge,
    /// Open client connections.
    pub connections: Gauge,
    /// Client connections accepted.
    pub accepted: Counter,
    /// Access log lines lost.
    pub log_dropped: Counter,
    /// What the process takes of the machine.
    pub process: ProcessMetrics,
    /// What the history counts.
    pub history: HistoryMetrics,
    /// What became of the spans of requests.
    pub traces: TraceMetrics,
    /// What is counted about the cluster.
    pub cluster: ClusterMetrics,
    /// What token quotas count.
    pub quotas: QuotaMetrics,
    /// 1 while the keys file on disk is in force.
    pub keys_ok: Gauge,
    reloads: Counters,
    certificate_reloads: Counters,
    /// What the numbers of the last minute are made of.
    pub totals: Totals,
    /// Set from the state of the fleet whenever metrics are read.
    pub fleet: FleetGauges,
    /// Set from what is known of the process whenever metrics are read.
    pub resources: ResourceGauges,
    /// How the GPUs of the servers are.
    pub gpu: GpuGauges,
    /// What caches count.
    pub caches: CacheMetrics,
    /// What response caches count.
    pub response_caches: ResponseCacheMetrics,
}

fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

pub(super) fn register<M: Metric + Clone>(registry: &mut Registry, metric: names::Metric, made: M) -> M {
    registry.register(metric.name, metric.help, made.clone());
    made
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

fn by_reason(registry: &mut Registry, metric: names::Metric) -> Vec<Counter> {
    let family: Family<ReasonLabel, Counter> = register(registry, metric, Family::default());
    Reason::ALL.iter().map(|reason| family.get_or_create(&ReasonLabel { reason: reason.as_str() }).clone()).collect()
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let histograms = |buckets: &'static [f64]| Family::new_with_constructor(Buckets(buckets));
        let build: Gauges = register(r, names::BUILD, Family::default());
        let revision = version::REVISION.unwrap_or_default();
        build.get_or_create(&labels([("version", version::VERSION), ("revision", revision)])).set(1);
        let keys_ok: Gauge = register(r, names::KEYS_OK, Gauge::default());
        keys_ok.set(1);
        Self {
            requests: register(r, names::REQUESTS, Family::default()),
            ended: by_reason(r, names::ENDED),
            duration: register(r, names::DURATION, histograms(SECONDS)),
            in_flight: register(r, names::IN_FLIGHT, Family::default()),
            request_bytes: register(r, names::REQUEST_BYTES, Family::default()),
            response_bytes: register(r, names::RESPONSE_BYTES, Family::default()),
            attempts: register(r, names::ATTEMPTS, Family::default()),
            first_byte: register(r, names::FIRST_BYTE, histograms(SECONDS)),
            retries: register(r, names::RETRIES, Family::default()),
            retries_refused: register(r, names::RETRIES_REFUSED, Family::default()),
            transitions: register(r, names::CIRCUIT_TRANSITIONS, Family::default()),
            first_token: register(r, names::FIRST_TOKEN, histograms(FIRST_TOKEN)),
            token_gap: register(r, names::TOKEN_GAP, Family::new_with_constructor(Gaps)),
            decode_speed: register(r, names::DECODE_SPEED, histograms(TOKENS_PER_SECOND)),
            connect: register(r, names::CONNECT, histograms(CONNECT)),
            connections_used: register(r, names::CONNECTIONS_USED, Family::default()),
            tokens: register(r, names::TOKENS, Family::default()),
            probes: register(r, names::PROBES, Family::default()),
            model_changes: register(r, names::MODEL_CHANGES, Family::default()),
            model_load: register(r, names::MODEL_LOAD, histograms(SECONDS)),
            evictions: register(r, names::EVICTIONS, Family::default()),
            queue_wait: register(r, names::QUEUE_WAIT, histograms(SECONDS)),
            recovery_tests: register(r, names::RECOVERY_TESTS, Family::default()),
            recovery_actions: register(r, names::RECOVERY_ACTIONS, Family::default()),
            notifications: register(r, names::NOTIFICATIONS, Family::default()),
            events_lost: register(r, names::EVENTS_LOST, Counter::default()),
            refused: by_reason(r, names::REFUSED),
            rate_limited: register(r, names::RATE_LIMITED, Family::default()),
            connections_refused: register(r, names::CONNECTIONS_REFUSED, Family::default()),
            limiter_keys: register(r, names::LIMITER_KEYS, Gauge::default()),
            connections: register(r, names::CONNECTIONS, Gauge::default()),
            accepted: register(r, names::ACCEPTED, Counter::default()),
            log_dropped: register(r, names::LOG_DROPPED, Counter::default()),
            process: ProcessMetrics::new(r),
            history: HistoryMetrics::new(r),
            traces: TraceMetrics::new(r),
            cluster: ClusterMetrics::new(r),
            quotas: QuotaMetrics::new(r),
            keys_ok,
            reloads: register(r, names::RELOADS, Family::default()),
            certificate_reloads: register(r, names::CERTIFICATE_RELOADS, Family::default()),
            totals: Totals::default(),
            fleet: FleetGauges::register(r),
            resources: ResourceGauges::register(r),
            gpu: GpuGauges::register(r),
            caches: CacheMetrics::register(r),
            response_caches: ResponseCacheMetrics::register(r),
            registry,
        }
    }
}

impl Metrics {
    /// Handles for a route; the same series as before when a route of that name was there.
    pub fn route(self: &Arc<Self>, route: &str, upstream: &str) -> RouteMetrics {
        let route_label = || labels([("route", route)]);
        RouteMetrics {
            codes: std::array::from_fn(|_| OnceLock::new()),
            duration: self.duration.get_or_create(&route_label()).clone(),
            in_flight: self.in_flight.get_or_create(&route_label()).clone(),
            request_bytes: self.request_bytes.get_or_create(&route_label()).clone(),
            response_bytes: self.response_bytes.get_or_create(&route_label()).clone(),
            rate_limited: self.rate_limited.get_or_create(&route_label()).clone(),
            first_token: OnceLock::new(),
            queue_wait: self.queue_wait.get_or_create(&labels([("upstream", upstream)])).clone(),
            prompt_tokens: self.token_counter(upstream, "prompt"),
            output_tokens: self.token_counter(upstream, "output"),
            labels: labels([("route", route), ("upstream", upstream)]),
            metrics: Arc::clone(self),
        }
    }

    fn token_counter(&self, upstream: &str, kind: &str) -> Counter {
        self.tokens.get_or_create(&labels([("upstream", upstream), ("kind", kind)])).clone()
    }

    /// Counts the end of a request.
    pub fn ended(&self, reason: Reason) {
        self.ended[reason as usize].inc();
    }

    /// How many requests ended for each reason so far, in the order of [`Reason::ALL`].
    pub fn ended_so_far(&self) -> [u64; Reason::ALL.len()] {
        std::array::from_fn(|index| self.ended[index].get())
    }

    /// Counts a head that was refused.
    pub fn refused(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }

    /// Counts a connection that was closed because of `limit`: `listener`, `client`, `files` or `flood`.
    pub fn connection_refused(&self, limit: &'static str) {
        self.connections_refused.get_or_create(&labels([("limit", limit)])).inc();
    }

    /// Counts an attempt after the first.
    pub fn retried(&self, upstream: &str, reason: Reason) {
        self.retries.get_or_create(&labels([("upstream", upstream), ("reason", reason.as_str())])).inc();
    }

    /// Counts an attempt that was not made again because of the budget.
    pub fn retry_refused(&self, upstream: &str) {
        self.retries_refused.get_or_create(&labels([("upstream", upstream)])).inc();
    }

    /// Counts a background check.
    pub fn probed(&self, kind: &'static str, result: &'static str) {
        self.probes.get_or_create(&labels([("kind", kind), ("result", result)])).inc();
    }

    /// Counts a test of a server that is ill: `ok`, or the class of its failure.
    pub fn tested(&self, upstream: &str, server: &str, result: &'static str) {
        let labels = labels([("upstream", upstream), ("server", server), ("result", result)]);
        self.recovery_tests.get_or_create(&labels).inc();
    }

    /// Counts an attempt of a recovery action, `recovered`, `failed` or `not_verified`, or that it was `gave_up`.
    pub fn acted(&self, upstream: &str, server: &str, action: &'static str, result: &'static str) {
        let labels = labels([("upstream", upstream), ("server", server), ("action", action), ("result", result)]);
        self.recovery_actions.get_or_create(&labels).inc();
    }

    /// Counts messages to webhooks: `delivered`, `failed`, `dropped` or `deduplicated`.
    pub fn notified(&self, event: &'static str, result: &'static str, count: u32) {
        self.notifications.get_or_create(&labels([("event", event), ("result", result)])).inc_by(count.into());
    }

    /// Counts a load, unload, pull, copy or delete that was ordered.
    pub fn model_changed(&self, upstream: &str, kind: &'static str, good: bool) {
        let result = if good { "ok" } else { "failed" };
        self.model_changes.get_or_create(&labels([("upstream", upstream), ("kind", kind), ("result", result)])).inc();
    }

    /// Counts a reload.
    pub fn reloaded(&self, result: &'static str) {
        self.reloads.get_or_create(&labels([("result", result)])).inc();
    }

    /// Counts a changed certificate file.
    pub fn certificates_reloaded(&self, result: &'static str) {
        self.certificate_reloads.get_or_create(&labels([("result", result)])).inc();
    }

    /// The text that Prometheus reads (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Handles of one route.
pub struct RouteMetrics {
    codes: [OnceLock<Counter>; CODES.len()],
    /// Duration of its requests.
    pub duration: Histogram,
    /// Its requests being served.
    pub in_flight: Gauge,
    /// Bytes of request bodies.
    pub request_bytes: Counter,
    /// Bytes of response bodies.
    pub response_bytes: Counter,
    /// Requests over one of its limits.
    pub rate_limited: Counter,
    first_token: OnceLock<Histogram>,
    /// Time that its upstream's requests waited for a slot.
    pub queue_wait: Histogram,
    /// Tokens of prompts.
    pub prompt_tokens: Counter,
    /// Tokens of answers.
    pub output_tokens: Counter,
    labels: Labels,
    metrics: Arc<Metrics>,
}

impl RouteMetrics {
    /// Counts the first token of a stream, so long after its request.
    pub fn first_token(&self, after: Duration) {
        let histogram = self.first_token.get_or_init(|| self.metrics.first_token.get_or_create(&self.labels).clone());
        histogram.observe(after.as_secs_f64());
    }

    /// Counts a request that ended with this status.
    pub fn status(&self, code: u16) {
        let index =
            CODES.binary_search(&code).or_else(|_| CODES.binary_search(&(code / 100 * 100))).unwrap_or(CODES.len() - 4);
        self.codes[index]
            .get_or_init(|| {
                let mut labels = self.labels.clone();
                labels.push(("code", CODES[index].to_string()));
                self.metrics.requests.get_or_create(&labels).clone()
            })
            .inc();
    }
}

mod buckets;
mod fleet;
mod server;
#[cfg(test)]
mod tests;

use buckets::{Buckets, CONNECT, FIRST_TOKEN, SECONDS, TOKENS_PER_SECOND};
pub use fleet::{FleetGauges, ServerSample, UpstreamSample};
pub use server::ServerMetrics;
