//! Gauges of the fleet: mirrors of state that is kept elsewhere; the reader sets them before it encodes.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Gauges, labels, register};
use crate::policy::circuit::State;
use crate::telemetry::names;

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
    server_slots: Gauges,
    models_loading: Gauges,
    queued: Gauges,
    queue_longest: Gauges,
    queue_limit: Gauges,
    queue_loading: Gauges,
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
    /// Models on their way into memory.
    pub loading: usize,
    /// Requests that may run on it, where that is known.
    pub slots: Option<u32>,
}

/// An upstream as the metrics show it.
pub struct UpstreamSample<'a> {
    /// Its name.
    pub upstream: &'a str,
    /// Bans that hold.
    pub bans: usize,
    /// Requests that are tried nowhere.
    pub quarantined: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Those of them that wait for the one model for which most do.
    pub longest: usize,
    /// Those of them whose model is on its way into memory.
    pub waiting_for_loads: usize,
    /// Requests that may wait for one model.
    pub limit: usize,
}

impl FleetGauges {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            server_up: register(r, names::SERVER_UP, Gauges::default()),
            server_in_flight: register(r, names::SERVER_IN_FLIGHT, Gauges::default()),
            server_slots: register(r, names::SERVER_SLOTS, Gauges::default()),
            server_connections: register(r, names::SERVER_CONNECTIONS, Gauges::default()),
            server_circuit: register(r, names::SERVER_CIRCUIT, Gauges::default()),
            server_operation: register(r, names::SERVER_OPERATION, Gauges::default()),
            server_flapping: register(r, names::SERVER_FLAPPING, Gauges::default()),
            model_circuits: register(r, names::MODEL_CIRCUITS, Gauges::default()),
            circuit_breakers: register(r, names::CIRCUIT_BREAKERS, Gauges::default()),
            bans: register(r, names::BANS, Gauges::default()),
            quarantined: register(r, names::QUARANTINED, Gauges::default()),
            server_models: register(r, names::SERVER_MODELS, Gauges::default()),
            models_loading: register(r, names::MODELS_LOADING, Gauges::default()),
            queued: register(r, names::QUEUED, Gauges::default()),
            queue_longest: register(r, names::QUEUE_LONGEST, Gauges::default()),
            queue_limit: register(r, names::QUEUE_LIMIT, Gauges::default()),
            queue_loading: register(r, names::QUEUE_LOADING, Gauges::default()),
            held: register(r, names::HELD, Gauge::default()),
            reload_ok: register(r, names::RELOAD_OK, Gauge::default()),
            reload_time: register(r, names::RELOAD_TIME, Gauge::default()),
            hash: register(r, names::CONFIG_HASH, Gauges::default()),
            certificate_expiry: register(r, names::CERTIFICATE_EXPIRY, Gauges::default()),
        }
    }

    /// Forgets all servers, before the present ones are told.
    pub fn clear(&self) {
        for family in [
            &self.server_up,
            &self.server_in_flight,
            &self.server_slots,
            &self.server_connections,
            &self.server_circuit,
            &self.server_operation,
            &self.server_flapping,
            &self.model_circuits,
            &self.circuit_breakers,
            &self.bans,
            &self.quarantined,
            &self.server_models,
            &self.models_loading,
            &self.queued,
            &self.queue_longest,
            &self.queue_limit,
            &self.queue_loading,
            &self.hash,
            &self.certificate_expiry,
        ] {
            family.clear();
        }
    }

    /// Tells one server.
    pub fn server(&self, sample: &ServerSample<'_>) {
        let labels = || labels([("upstream", sample.upstream), ("server", sample.server)]);
        self.server_up.get_or_create(&labels()).set(i64::from(sample.up));
        self.server_in_flight.get_or_create(&labels()).set(i64::from(sample.in_flight));
        self.server_connections.get_or_create(&labels()).set(i64::from(sample.connections));
        self.server_flapping.get_or_create(&labels()).set(i64::from(sample.flapping));
        self.models_loading.get_or_create(&labels()).set(whole(sample.loading));
        if let Some(slots) = sample.slots {
            self.server_slots.get_or_create(&labels()).set(i64::from(slots));
        }
        for (state, models) in State::WORDS.into_iter().zip(sample.model_circuits) {
            let mut labels = labels();
            labels.push(("state", state.to_owned()));
            self.server_circuit.get_or_create(&labels).set(i64::from(sample.circuit == state));
            let models = whole(models);
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
            self.server_models.get_or_create(&labels).set(whole(count));
        }
    }

    fn circuits(&self, upstream: &str, of: &str, state: &str, more: i64) {
        self.circuit_breakers
            .get_or_create(&labels([("upstream", upstream), ("of", of), ("state", state)]))
            .inc_by(more);
    }

    /// Tells one upstream.
    pub fn upstream(&self, sample: &UpstreamSample<'_>) {
        for (family, count) in [
            (&self.bans, sample.bans),
            (&self.quarantined, sample.quarantined),
            (&self.queued, sample.waiting),
            (&self.queue_longest, sample.longest),
            (&self.queue_loading, sample.waiting_for_loads),
            (&self.queue_limit, sample.limit),
        ] {
            family.get_or_create(&labels([("upstream", sample.upstream)])).set(whole(count));
        }
    }

    /// Tells when a certificate ends, in seconds since 1970.
    pub fn certificate(&self, name: &str, end: i64) {
        self.certificate_expiry.get_or_create(&labels([("name", name)])).set(end);
    }

    /// Tells the process's own state; `loaded` is seconds since 1970.
    pub fn process(&self, held: usize, hash: &str, reload_ok: bool, loaded: f64) {
        self.held.set(whole(held));
        self.hash.get_or_create(&labels([("hash", hash)])).set(1);
        self.reload_ok.set(i64::from(reload_ok));
        self.reload_time.set(loaded);
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
