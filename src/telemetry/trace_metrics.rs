//! What became of the spans of requests.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::metrics::register;
use super::names;

/// What became of the spans of requests.
pub struct TraceMetrics {
    /// The collector has them.
    pub delivered: Counter,
    /// The collector did not want them.
    pub refused: Counter,
    /// The collector could not be reached, or failed, until it was no use to try again.
    pub failed: Counter,
    /// Too many others waited.
    pub dropped: Counter,
}

impl TraceMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let spans: Family<Vec<(&'static str, &'static str)>, Counter> =
            register(registry, names::TRACE_SPANS, Family::default());
        let result = |result| spans.get_or_create(&vec![("result", result)]).clone();
        Self {
            delivered: result("delivered"),
            refused: result("refused"),
            failed: result("failed"),
            dropped: result("dropped"),
        }
    }
}
