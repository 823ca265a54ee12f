//! What the process takes of the machine, under the names that Prometheus' own clients use.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::register;
use super::names;
use crate::clock;

/// What the process takes of the machine.
pub struct ProcessMetrics {
    resident: Gauge,
    cpu: Counter<f64, AtomicU64>,
}

impl ProcessMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let start: Gauge<f64, AtomicU64> = register(registry, names::PROCESS_START, Gauge::default());
        start.set(clock::unix_time().as_secs_f64());
        Self {
            resident: register(registry, names::PROCESS_MEMORY, Gauge::default()),
            cpu: register(registry, names::PROCESS_CPU, Counter::default()),
        }
    }

    /// Looks how much it is now. What cannot be read stays as it was.
    pub fn refresh(&self) {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        let used = clock::process_time().as_secs_f64();
        self.cpu.inc_by((used - self.cpu.get()).max(0.0));
    }
}

/// Memory of the process that is not on disk, in bytes (proc(5), `statm`).
fn resident_bytes() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(i64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_those_of_this_process() {
        let metrics = ProcessMetrics::new(&mut Registry::default());
        metrics.refresh();
        assert!((1 << 20..1 << 40).contains(&metrics.resident.get()), "{}", metrics.resident.get());
        let before = metrics.cpu.get();
        assert!(before > 0.0);
        metrics.refresh();
        assert!(metrics.cpu.get() >= before);
    }
}
