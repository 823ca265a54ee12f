//! How times are spread, in few bytes: eight buckets to each doubling, from a sixteenth of a millisecond to three hours.
//!
//! A percentile is the middle of its bucket and so at most 4.5 % off.

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// Buckets to a doubling.
const PER_DOUBLING: f64 = 8.0;
/// Doublings from the shortest time to a millisecond.
const BELOW: f64 = 4.0;
/// The last bucket takes all that is longer.
const LAST: u8 = 221;
/// Bytes of a bucket as it is stored: its number, and how many are in it.
const STORED: usize = 5;

/// Times by their length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Buckets that hold something, in order.
    buckets: Vec<(u8, u64)>,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped before")]
fn bucket(milliseconds: f64) -> u8 {
    let place = ((milliseconds.max(f64::MIN_POSITIVE).log2() + BELOW) * PER_DOUBLING).floor() + 1.0;
    place.clamp(0.0, f64::from(LAST)) as u8
}

/// The middle of a bucket in milliseconds.
fn middle(bucket: u8) -> f64 {
    if bucket == 0 {
        return 0.5 * (-BELOW).exp2();
    }
    ((f64::from(bucket) - 0.5) / PER_DOUBLING - BELOW).exp2()
}

impl Histogram {
    /// Counts a time.
    pub fn count(&mut self, milliseconds: f64) {
        self.put(bucket(milliseconds), 1);
    }

    fn put(&mut self, bucket: u8, count: u64) {
        match self.buckets.binary_search_by_key(&bucket, |(known, _)| *known) {
            Ok(place) => self.buckets[place].1 += count,
            Err(place) => self.buckets.insert(place, (bucket, count)),
        }
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(bucket, count)| self.put(*bucket, *count));
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The time in milliseconds that `percent` of them do not exceed; none where nothing was counted.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
        let rank = (self.total() as f64 * percent / 100.0).ceil().max(1.0);
        let mut seen = 0.0;
        #[expect(clippy::cast_precision_loss, reason = "counts of requests")]
        let found = self.buckets.iter().find(|(_, count)| {
            seen += *count as f64;
            seen >= rank
        });
        found.map(|(bucket, _)| middle(*bucket))
    }
}

impl ToSql for Histogram {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let mut bytes = Vec::with_capacity(self.buckets.len() * STORED);
        for (bucket, count) in &self.buckets {
            bytes.push(*bucket);
            bytes.extend_from_slice(&u32::try_from(*count).unwrap_or(u32::MAX).to_le_bytes());
        }
        Ok(bytes.into())
    }
}

impl FromSql for Histogram {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let mut all = Self::default();
        for stored in value.as_blob()?.chunks_exact(STORED) {
            if let [bucket, a, b, c, d] = *stored {
                all.put(bucket.min(LAST), u64::from(u32::from_le_bytes([a, b, c, d])));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_near_what_was_counted_over_all_lengths() {
        for scale in [0.07, 1.0, 37.0, 900.0, 60_000.0, 3_000_000.0] {
            let mut all = Histogram::default();
            (1..=1000).for_each(|step| all.count(scale * f64::from(step) / 1000.0 * 2.0));
            for (percent, wanted) in [(50.0, scale), (95.0, scale * 1.9), (99.0, scale * 1.98)] {
                let off = all.percentile(percent).unwrap() / wanted;
                assert!((0.95..1.05).contains(&off), "{percent} of {scale}: {off}");
            }
        }
    }

    #[test]
    fn nothing_has_no_percentile_and_odd_times_have_a_bucket() {
        let mut all = Histogram::default();
        assert_eq!(all.percentile(50.0), None);
        [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12].into_iter().for_each(|odd| all.count(odd));
        assert_eq!(all.total(), 5);
        assert!(all.percentile(100.0).unwrap() > 3_600_000.0);
    }

    #[test]
    fn it_comes_back_as_it_was_and_parts_add_up() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        (0..500).for_each(|step| one.count(f64::from(step)));
        (0..500).for_each(|step| other.count(f64::from(step) * 31.0));
        let store = rusqlite::Connection::open_in_memory().unwrap();
        let back: Histogram = store.query_row("SELECT ?1", [&one], |row| row.get(0)).unwrap();
        assert_eq!(back, one);
        let mut sum = one.clone();
        sum.add(&other);
        assert_eq!(sum.total(), 1000);
    }
}
