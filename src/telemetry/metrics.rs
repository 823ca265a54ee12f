//! The metrics of the process and the handles by which a request counts.
//!
//! A [`RouteMetrics`] or [`ServerMetrics`] is made once for a route or server of a snapshot; counting
//! is then an atomic add. Labels come from the configuration and from closed lists only, so clients
//! cannot make series.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::gpu_metrics::GpuGauges;
pub use super::history_metrics::HistoryMetrics;
use super::names;
pub use super::process_metrics::ProcessMetrics;
use super::recent::Totals;
use super::resource_metrics::ResourceGauges;
use crate::policy::circuit::State;
use crate::policy::failure::Reason;

/// Status codes with a series of their own; others count under the first code of their class.
const CODES: [u16; 33] = [
    100, 101, 200, 201, 202, 204, 206, 300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 411, 413, 415,
    416, 417, 421, 422, 429, 499, 500, 502, 503, 504,
];

/// Labels are given as name and value pairs; the set of names is fixed for each family.
type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;

/// Seconds; from a cached answer to a cold giant model.
#[derive(Clone)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0])
    }
}

type Histograms = Family<Labels, Histogram, Seconds>;

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
    tokens: Counters,
    probes: Counters,
    model_changes: Counters,
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
}

/// Gauges that mirror state kept elsewhere; the reader sets them before it encodes.
pub struct FleetGauges {
    server_up: Gauges,
    server_in_flight: Gauges,
    server_connections: Gauges,
    server_circuit: Gauges,
    server_operation: Gauges,
    server_flapping: Gauges,
    model_circuits: Gauges,
    circuit_breakers: Gauges,
    bans: Gauges,
    quarantined: Gauges,
    server_models: Gauges,
    queued: Gauges,
    held: Gauge,
    reload_ok: Gauge,
    reload_time: Gauge<f64, AtomicU64>,
    hash: Gauges,
    certificate_expiry: Gauges,
}

/// A server as the metrics show it.
pub struct ServerSample<'a> {
    /// Name of its upstream.
    pub upstream: &'a str,
    /// Its name.
    pub server: &'a str,
    /// Whether it counts as healthy.
    pub up: bool,
    /// Requests running on it.
    pub in_flight: u32,
    /// Open connections to it.
    pub connections: u32,
    /// State of its circuit.
    pub circuit: &'static str,
    /// What an operator decided about it.
    pub operation: &'static str,
    /// Whether it falls ill and gets well again and again.
    pub flapping: bool,
    /// How many models have a circuit in each state, in the order of [`State::WORDS`].
    pub model_circuits: [usize; 3],
    /// Models on disk and in memory.
    pub models: Option<(usize, usize)>,
}

impl FleetGauges {
    /// Forgets all servers, before the present ones are told.
    pub fn clear(&self) {
        for family in [
            &self.server_up,
            &self.server_in_flight,
            &self.server_connections,
            &self.server_circuit,
            &self.server_operation,
            &self.server_flapping,
            &self.model_circuits,
            &self.circuit_breakers,
            &self.bans,
            &self.quarantined,
            &self.server_models,
            &self.queued,
            &self.hash,
            &self.certificate_expiry,
        ] {
            family.clear();
        }
    }

    /// Tells how many wait in an upstream.
    pub fn queued(&self, upstream: &str, waiting: usize) {
        self.queued.get_or_create(&labels([("upstream", upstream)])).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Tells one server.
    pub fn server(&self, sample: &ServerSample<'_>) {
        let labels = || labels([("upstream", sample.upstream), ("server", sample.server)]);
        self.server_up.get_or_create(&labels()).set(i64::from(sample.up));
        self.server_in_flight.get_or_create(&labels()).set(i64::from(sample.in_flight));
        self.server_connections.get_or_create(&labels()).set(i64::from(sample.connections));
        self.server_flapping.get_or_create(&labels()).set(i64::from(sample.flapping));
        for (state, models) in State::WORDS.into_iter().zip(sample.model_circuits) {
            let mut labels = labels();
            labels.push(("state", state.to_owned()));
            self.server_circuit.get_or_create(&labels).set(i64::from(sample.circuit == state));
            let models = i64::try_from(models).unwrap_or(i64::MAX);
            self.model_circuits.get_or_create(&labels).set(models);
            self.circuits(sample.upstream, "server", state, i64::from(sample.circuit == state));
            self.circuits(sample.upstream, "model", state, models);
        }
        for state in ["active", "draining", "maintenance"] {
            let mut labels = labels();
            labels.push(("state", state.to_owned()));
            self.server_operation.get_or_create(&labels).set(i64::from(sample.operation == state));
        }
        for (place, count) in sample.models.iter().flat_map(|(disk, memory)| [("disk", *disk), ("memory", *memory)]) {
            let mut labels = labels();
            labels.push(("in", place.to_owned()));
            self.server_models.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn circuits(&self, upstream: &str, of: &str, state: &str, more: i64) {
        self.circuit_breakers
            .get_or_create(&labels([("upstream", upstream), ("of", of), ("state", state)]))
            .inc_by(more);
    }

    /// Tells how many bans and quarantined requests an upstream has.
    pub fn upstream(&self, upstream: &str, bans: usize, quarantined: usize) {
        for (family, count) in [(&self.bans, bans), (&self.quarantined, quarantined)] {
            let gauge = family.get_or_create(&labels([("upstream", upstream)])).clone();
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Tells when a certificate ends, in seconds since 1970.
    pub fn certificate(&self, name: &str, end: i64) {
        self.certificate_expiry.get_or_create(&labels([("name", name)])).set(end);
    }

    /// Tells the process's own state; `loaded` is seconds since 1970.
    pub fn process(&self, held: usize, hash: &str, reload_ok: bool, loaded: f64) {
        self.held.set(i64::try_from(held).unwrap_or(i64::MAX));
        self.hash.get_or_create(&labels([("hash", hash)])).set(1);
        self.reload_ok.set(i64::from(reload_ok));
        self.reload_time.set(loaded);
    }
}

fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
}

pub(super) fn register<M: Metric + Clone>(registry: &mut Registry, (name, help): names::Metric, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
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
        let histograms = || Family::new_with_constructor(Seconds);
        let build: Gauges = register(r, names::BUILD, Family::default());
        build.get_or_create(&labels([("version", env!("CARGO_PKG_VERSION"))])).set(1);
        let keys_ok: Gauge = register(r, names::KEYS_OK, Gauge::default());
        keys_ok.set(1);
        Self {
            requests: register(r, names::REQUESTS, Family::default()),
            ended: by_reason(r, names::ENDED),
            duration: register(r, names::DURATION, histograms()),
            in_flight: register(r, names::IN_FLIGHT, Family::default()),
            request_bytes: register(r, names::REQUEST_BYTES, Family::default()),
            response_bytes: register(r, names::RESPONSE_BYTES, Family::default()),
            attempts: register(r, names::ATTEMPTS, Family::default()),
            first_byte: register(r, names::FIRST_BYTE, histograms()),
            retries: register(r, names::RETRIES, Family::default()),
            retries_refused: register(r, names::RETRIES_REFUSED, Family::default()),
            transitions: register(r, names::CIRCUIT_TRANSITIONS, Family::default()),
            tokens: register(r, names::TOKENS, Family::default()),
            probes: register(r, names::PROBES, Family::default()),
            model_changes: register(r, names::MODEL_CHANGES, Family::default()),
            queue_wait: register(r, names::QUEUE_WAIT, histograms()),
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
            keys_ok,
            reloads: register(r, names::RELOADS, Family::default()),
            certificate_reloads: register(r, names::CERTIFICATE_RELOADS, Family::default()),
            totals: Totals::default(),
            fleet: FleetGauges {
                server_up: register(r, names::SERVER_UP, Family::default()),
                server_in_flight: register(r, names::SERVER_IN_FLIGHT, Family::default()),
                server_connections: register(r, names::SERVER_CONNECTIONS, Family::default()),
                server_circuit: register(r, names::SERVER_CIRCUIT, Family::default()),
                server_operation: register(r, names::SERVER_OPERATION, Family::default()),
                server_flapping: register(r, names::SERVER_FLAPPING, Family::default()),
                model_circuits: register(r, names::MODEL_CIRCUITS, Family::default()),
                circuit_breakers: register(r, names::CIRCUIT_BREAKERS, Family::default()),
                bans: register(r, names::BANS, Family::default()),
                quarantined: register(r, names::QUARANTINED, Family::default()),
                server_models: register(r, names::SERVER_MODELS, Family::default()),
                queued: register(r, names::QUEUED, Family::default()),
                held: register(r, names::HELD, Gauge::default()),
                reload_ok: register(r, names::RELOAD_OK, Gauge::default()),
                reload_time: register(r, names::RELOAD_TIME, Gauge::default()),
                hash: register(r, names::CONFIG_HASH, Family::default()),
                certificate_expiry: register(r, names::CERTIFICATE_EXPIRY, Family::default()),
            },
            resources: ResourceGauges::register(r),
            gpu: GpuGauges::register(r),
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

    /// Counts a load or unload that was ordered.
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

mod server;
#[cfg(test)]
mod tests;

pub use server::ServerMetrics;
