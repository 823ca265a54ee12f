//! Whose trace a request belongs to, and whether it is told.
//!
//! The form of `traceparent` is that of W3C Trace Context, level 1 (<https://www.w3.org/TR/trace-context/>), section 3.2:
//! `00-TRACE_ID-PARENT_ID-FLAGS` in small hexadecimal digits. Of a later version the same four fields are read, and what
//! follows them is not.

use crate::units::Percent;

/// Bit of the flags that says that whoever asks tells this trace.
const SAMPLED: u8 = 1;

/// The identity of a trace: sixteen bytes, not all zero.
pub type TraceId = u128;

/// The identity of a span in its trace: eight bytes, not all zero.
pub type SpanId = u64;

/// Where a request stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that is the parent of what follows.
    pub span: SpanId,
    /// Whether it is told.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` for everything that is none.
    #[must_use]
    pub fn parse(field: &[u8]) -> Option<Self> {
        // 2 + 1 + 32 + 1 + 16 + 1 + 2
        if field.len() < 55 || [2, 35, 52].iter().any(|at| field[*at] != b'-') {
            return None;
        }
        let version = hex(&field[..2])?;
        let fits = match version {
            0 => field.len() == 55,
            255 => false,
            _ => field.len() == 55 || field[55] == b'-',
        };
        let trace = hex(&field[3..35]).filter(|id| *id != 0)?;
        let span = u64::try_from(hex(&field[36..52])?).ok().filter(|id| *id != 0)?;
        let flags = u8::try_from(hex(&field[53..55])?).ok()?;
        fits.then_some(Self { trace, span, sampled: flags & SAMPLED != 0 })
    }

    /// The same as a `traceparent`.
    #[must_use]
    pub fn render(self) -> [u8; 55] {
        let mut field = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut field[3..35], self.trace);
        write_hex(&mut field[36..52], self.span.into());
        write_hex(&mut field[53..55], u8::from(self.sampled).into());
        field
    }
}

/// A number in small hexadecimal digits; `None` for capitals, which the grammar does not have.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

fn write_hex(place: &mut [u8], number: u128) {
    for (position, digit) in place.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * position) & 15) as usize];
    }
}

/// What is done with the context that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The request becomes a part of that trace, and is told if that is.
    Follow,
    /// It begins a trace of its own.
    Ignore,
}

/// Decides which requests are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// The share of traces that begin here that is told.
    pub share: Percent,
    /// What is done with the context that a client sends.
    pub parent: Parent,
}

impl Sampler {
    /// The context that a request came with, if it is followed.
    #[must_use]
    pub fn followed(&self, traceparent: Option<&[u8]>) -> Option<TraceContext> {
        traceparent.filter(|_| self.parent == Parent::Follow).and_then(TraceContext::parse)
    }

    /// Whether a trace that begins here is told: the last seven bytes of its identity decide, which are random, so that all
    /// who see it and tell the same share decide alike (OpenTelemetry, consistent probability sampling).
    #[must_use]
    pub fn tells(&self, trace: TraceId) -> bool {
        let random = trace & ((1 << 56) - 1);
        let bound = u128::from(self.share.hundredths()) * (1 << 56) / 100;
        random < bound
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELD: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_standard_is_read_and_written() {
        let context = TraceContext::parse(FIELD).unwrap();
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.span, context.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.render(), FIELD);
    }

    #[test]
    fn what_is_no_context_is_none() {
        let text = String::from_utf8(FIELD.to_vec()).unwrap();
        for wrong in [
            String::new(),
            text[..54].to_owned(),
            format!("{text}0"),
            format!("{text}-more"),
            text.replacen("00-", "ff-", 1),
            text.replacen("4bf9", "4BF9", 1),
            text.replacen('-', "_", 1),
            text.replacen("00f067aa0ba902b7", "0000000000000000", 1),
            text.replacen("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32), 1),
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let later = [b"cc".as_slice(), &FIELD[2..53], b"09-what-comes-later"].concat();
        assert_eq!(TraceContext::parse(&later), TraceContext::parse(FIELD));
        let glued = [b"cc".as_slice(), &FIELD[2..], b"x"].concat();
        assert_eq!(TraceContext::parse(&glued), None);
    }

    #[test]
    fn a_context_that_is_ignored_is_not_followed() {
        let sampler = |parent| Sampler { share: Percent::new(100), parent };
        assert!(sampler(Parent::Follow).followed(Some(FIELD)).is_some());
        assert!(sampler(Parent::Ignore).followed(Some(FIELD)).is_none());
        assert!(sampler(Parent::Follow).followed(None).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in 1_u128.., span in 1_u64.., sampled: bool) {
            let context = TraceContext { trace, span, sampled };
            prop_assert_eq!(TraceContext::parse(&context.render()), Some(context));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&bytes);
        }

        #[test]
        fn none_and_all_are_exact_and_more_includes_less(trace: u128, less in 0_u8..=100, more in 0_u8..=100) {
            let tells = |share| Sampler { share: Percent::new(share), parent: Parent::Follow }.tells(trace);
            prop_assert!(!tells(0) && tells(100));
            prop_assert!(less > more || !tells(less) || tells(more));
        }
    }

    #[test]
    fn a_share_of_random_traces_is_told() {
        let sampler = Sampler { share: Percent::new(25), parent: Parent::Follow };
        let told = (0..10_000_u64).filter(|n| sampler.tells(crate::policy::balance::scramble(*n).into())).count();
        assert!((2300..2700).contains(&told), "{told}");
    }
}
