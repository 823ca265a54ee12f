//! From what NVML writes to what is known: sentinels are nothing.

use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};

/// From here on, 64-bit numbers are words for "not known": `NVML_VALUE_NOT_AVAILABLE` is all ones, and NVIDIA's tools
/// write those just below 2^63 for blank, not found, not supported and not permitted.
const BLANK: u64 = 0x7fff_ffff_ffff_fff0;

/// A number of 64 bits.
pub const fn count(value: u64) -> Option<u64> {
    if value >= BLANK { None } else { Some(value) }
}

/// A number of 32 bits.
pub fn small(value: u32) -> Option<u32> {
    (value != u32::MAX).then_some(value)
}

/// A number of 32 bits as a measure.
pub fn measure(value: u32) -> Option<f64> {
    small(value).map(f64::from)
}

/// Thousandths, such as milliwatts.
pub fn thousandth(value: u32) -> Option<f64> {
    measure(value).map(|value| value / 1e3)
}

/// A share in percent.
pub fn percent(value: u32) -> Option<f64> {
    measure(value).filter(|value| *value <= 100.0)
}

/// Memory of a process.
pub fn memory(value: &UsedGpuMemory) -> Option<u64> {
    match value {
        UsedGpuMemory::Used(bytes) => count(*bytes),
        UsedGpuMemory::Unavailable => None,
    }
}

/// A field's value as a count.
pub fn field(value: &SampleValue) -> Option<u64> {
    match value {
        SampleValue::U32(value) => small(*value).map(u64::from),
        SampleValue::U64(value) => count(*value),
        SampleValue::I64(value) => u64::try_from(*value).ok().and_then(count),
        SampleValue::F64(value) => whole(*value),
    }
}

/// The whole part of a number; nothing for those that are none, or that a count cannot be.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is looked at before")]
fn whole(value: f64) -> Option<u64> {
    (value.is_finite() && (0.0..9e15).contains(&value)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_nothing() {
        for value in [u64::MAX, 9_223_372_036_854_775_794, 0x7fff_ffff_ffff_fff0] {
            assert_eq!(count(value), None);
            assert_eq!(field(&SampleValue::U64(value)), None);
            assert_eq!(memory(&UsedGpuMemory::from(value)), None);
        }
        assert_eq!((small(u32::MAX), percent(101), thousandth(u32::MAX)), (None, None, None));
        for value in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            assert_eq!(field(&SampleValue::F64(value)), None);
        }
        assert_eq!(field(&SampleValue::U32(u32::MAX)), None);
        assert_eq!(field(&SampleValue::I64(-1)), None);
        assert_eq!(field(&SampleValue::I64(i64::MAX)), None);
    }

    #[test]
    fn zero_and_all_else_are_values() {
        assert_eq!((count(0), count(80 << 30)), (Some(0), Some(80 << 30)));
        assert_eq!((percent(0), percent(100), thousandth(350_500)), (Some(0.0), Some(100.0), Some(350.5)));
        assert_eq!(field(&SampleValue::F64(3.0)), Some(3));
        assert_eq!(memory(&UsedGpuMemory::Used(5)), Some(5));
    }
}
