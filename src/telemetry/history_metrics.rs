//! What the history counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::metrics::register;
use super::names;

/// What the history counts.
pub struct HistoryMetrics {
    /// Facts that found the queue full.
    pub busy: Counter,
    /// Requests that are in the sums only.
    pub left_out: Counter,
    /// Rows that could not be written.
    pub failed: Counter,
    /// Damaged files that were set aside.
    pub damaged: Counter,
}

impl HistoryMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let dropped: Family<Vec<(&'static str, &'static str)>, Counter> =
            register(registry, names::HISTORY_DROPPED, Family::default());
        let why = |why| dropped.get_or_create(&vec![("why", why)]).clone();
        Self {
            busy: why("busy"),
            left_out: why("left_out"),
            failed: why("failed"),
            damaged: register(registry, names::HISTORY_DAMAGED, Counter::default()),
        }
    }
}
