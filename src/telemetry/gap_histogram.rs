//! A histogram of the times between tokens, which counts without a lock.
//!
//! Every token of every stream counts once, on all threads at the same time, and the library's histogram takes a lock for
//! each. Here counting is two additions to atomics: one to a bucket, one to the sum. A reader may see one without the other,
//! so that the sum is off by what is being counted in that moment.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::family::MetricConstructor;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper ends of the buckets, microseconds: fine where a second has 5 to 200 tokens, then up to a silence of a minute.
const BOUNDS: [u64; 19] = [
    1_000, 2_500, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000, 100_000, 200_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Counts gaps.
#[derive(Clone, Debug, Default)]
pub struct GapHistogram(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// One for each bound, and one for what is longer than all of them.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Microseconds.
    sum: AtomicU64,
}

impl GapHistogram {
    /// Counts one.
    pub fn observe(&self, gap: Duration) {
        // Rounded, so that many small ones add up to what they were.
        let nanos = u64::try_from(gap.as_nanos()).unwrap_or(u64::MAX);
        let micros = nanos.saturating_add(500) / 1000;
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum.fetch_add(micros, Ordering::Relaxed);
    }
}

/// Makes such histograms.
#[derive(Clone)]
pub(super) struct Gaps;

impl MetricConstructor<GapHistogram> for Gaps {
    fn new_metric(&self) -> GapHistogram {
        GapHistogram::default()
    }
}

impl TypedMetric for GapHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for GapHistogram {
    #[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        // The encoder adds up the counts itself.
        let ends = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram(sum, count, &buckets, None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(metric: impl prometheus_client::registry::Metric) -> String {
        let mut registry = Registry::default();
        registry.register("gaps", "Gaps", metric);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn it_tells_what_the_library_would_tell() {
        let bounds = BOUNDS.map(|bound| Duration::from_micros(bound).as_secs_f64());
        let (own, library) = (GapHistogram::default(), Histogram::new(bounds));
        for micros in [0, 250, 1_000, 1_250, 20_000, 20_500, 60_000_000, 61_000_000, 3_600_000_000] {
            let gap = Duration::from_micros(micros);
            own.observe(gap);
            library.observe(gap.as_secs_f64());
        }
        assert_eq!(text(own), text(library));
    }

    #[test]
    fn gaps_shorter_than_a_microsecond_add_up() {
        let own = GapHistogram::default();
        (0..1000).for_each(|_| own.observe(Duration::from_nanos(600)));
        (0..1000).for_each(|_| own.observe(Duration::from_nanos(400)));
        assert!(text(own).contains("gaps_sum 0.001\n"));
    }

    #[test]
    fn the_longest_time_that_there_is_counts_as_one() {
        let own = GapHistogram::default();
        own.observe(Duration::MAX);
        assert!(text(own).contains("gaps_bucket{le=\"+Inf\"} 1\n"));
    }
}
