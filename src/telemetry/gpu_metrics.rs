//! How the GPUs of the servers are; whoever reads the metrics sets them before it encodes.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::names::{self, Metric};
use crate::policy::gpu::reading::Card;
use crate::policy::gpu::verdict::{Signal, State, Verdict};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;
type Numbers = Family<Labels, Gauge<f64, AtomicU64>>;

/// Gauges of GPUs, and how often their states changed.
pub struct GpuGauges {
    state: Gauges,
    signals: Gauges,
    source_up: Gauges,
    changes: Family<Labels, Counter>,
    memory_total: Gauges,
    memory_used: Gauges,
    utilisation: Numbers,
    temperature: Numbers,
    power: Numbers,
}

fn register<M: prometheus_client::registry::Metric + Clone + Default>(registry: &mut Registry, metric: Metric) -> M {
    let made = M::default();
    registry.register(metric.name, metric.help, made.clone());
    made
}

impl GpuGauges {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            state: register(registry, names::GPU_STATE),
            signals: register(registry, names::GPU_SIGNALS),
            source_up: register(registry, names::GPU_SOURCE_UP),
            changes: register(registry, names::GPU_CHANGES),
            memory_total: register(registry, names::GPU_MEMORY_TOTAL),
            memory_used: register(registry, names::GPU_MEMORY_USED),
            utilisation: register(registry, names::GPU_UTILISATION),
            temperature: register(registry, names::GPU_TEMPERATURE),
            power: register(registry, names::GPU_POWER),
        }
    }

    /// Forgets all servers, before the present ones are told.
    pub fn clear(&self) {
        for family in [&self.state, &self.signals, &self.source_up, &self.memory_total, &self.memory_used] {
            family.clear();
        }
        for family in [&self.utilisation, &self.temperature, &self.power] {
            family.clear();
        }
    }

    /// Counts a change of the state of the GPU of the server with these labels.
    pub fn changed(&self, server: &Labels, to: &'static str) {
        let mut labels = server.clone();
        labels.push(("to", to.to_owned()));
        self.changes.get_or_create(&labels).inc();
    }

    /// Tells how the GPUs of a server are, and whether their source answers where there is one.
    pub fn server(&self, upstream: &str, server: &str, verdict: &Verdict, cards: &[Card], source_up: Option<bool>) {
        let own = || vec![("upstream", upstream.to_owned()), ("server", server.to_owned())];
        let with = |name: &'static str, value: &str| {
            let mut labels = own();
            labels.push((name, value.to_owned()));
            labels
        };
        for state in State::ALL {
            self.state.get_or_create(&with("state", state.as_str())).set(i64::from(state == verdict.state));
        }
        for signal in Signal::ALL {
            let reasons = verdict.reasons.iter().filter(|reason| reason.signal == signal).count();
            let reasons = i64::try_from(reasons).unwrap_or(i64::MAX);
            self.signals.get_or_create(&with("signal", signal.as_str())).set(reasons);
        }
        if let Some(up) = source_up {
            self.source_up.get_or_create(&own()).set(i64::from(up));
        }
        for card in cards {
            let mut labels = own();
            labels.extend([
                ("uuid", card.uuid.clone().unwrap_or_default()),
                ("index", card.index.map(|index| index.to_string()).unwrap_or_default()),
                ("name", card.name.clone().unwrap_or_default()),
            ]);
            let bytes = [(&self.memory_total, card.memory_total), (&self.memory_used, card.memory_used)];
            for (family, value) in bytes.into_iter().filter_map(|(family, value)| Some((family, value?))) {
                family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
            }
            let numbers = [
                (&self.utilisation, card.utilisation.map(|percent| percent / 100.0)),
                (&self.temperature, card.temperature),
                (&self.power, card.power),
            ];
            for (family, value) in numbers.into_iter().filter_map(|(family, value)| Some((family, value?))) {
                family.get_or_create(&labels).set(value);
            }
        }
    }
}
