//! A JSON number, checked as its bytes arrive (RFC 8259, section 6; Go's `scanner.go` takes the same ones).

/// Bytes of a number that are kept where its value is wanted. Longer ones exist and mean nothing to us.
const KEPT: usize = 40;
/// A number of this magnitude is more than Go's `float64` holds (the largest is 1.8e308).
const MAGNITUDE: i64 = 309;

/// A number that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    part: Part,
    kept: [u8; KEPT],
    length: usize,
    /// Digits of the whole part from its first that is not zero.
    whole: i64,
    /// Zeros behind the point before the first digit that is not, when the whole part is zero.
    zeros: i64,
    /// A digit that is not zero has been read.
    counts: bool,
    exponent: i64,
    negative_exponent: bool,
}

/// Where in a number we are: what may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    pub(super) fn new() -> Number {
        Number {
            part: Part::Zero,
            kept: [0; KEPT],
            length: 0,
            whole: 0,
            zeros: 0,
            counts: false,
            exponent: 0,
            negative_exponent: false,
        }
    }

    /// Begins with the first byte, a digit or `-`; `wanted` is whether somebody will ask for the value.
    pub(super) fn begin(&mut self, first: u8, wanted: bool) {
        self.part = match first {
            b'-' => Part::Minus,
            b'0' => Part::Zero,
            _ => Part::Whole,
        };
        self.counts = self.part == Part::Whole;
        self.whole = i64::from(self.counts);
        (self.zeros, self.exponent, self.negative_exponent) = (0, 0, false);
        // One that is not wanted is full from the beginning.
        self.length = if wanted { 0 } else { KEPT + 1 };
        self.keep(&[first]);
    }

    /// Takes the bytes in front that belong to the number, and says how many.
    pub(super) fn read(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.part == Part::Whole {
                // Most numbers are nothing else.
                let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                if digits > 0 {
                    self.whole = self.whole.saturating_add(i64::try_from(digits).unwrap_or(i64::MAX));
                    self.keep(&bytes[at..at + digits]);
                    at += digits;
                    continue;
                }
            }
            if !self.take(byte) {
                break;
            }
            at += 1;
        }
        at
    }

    /// Takes the next byte if it belongs to the number.
    fn take(&mut self, byte: u8) -> bool {
        let next = match (self.part, byte) {
            (Part::Minus, b'0') => Part::Zero,
            (Part::Minus, b'1'..=b'9') | (Part::Whole, b'0'..=b'9') => Part::Whole,
            (Part::Zero | Part::Whole, b'.') => Part::Point,
            (Part::Point | Part::Fraction, b'0'..=b'9') => Part::Fraction,
            (Part::Zero | Part::Whole | Part::Fraction, b'e' | b'E') => Part::E,
            (Part::E, b'+' | b'-') => Part::Sign,
            (Part::E | Part::Sign | Part::Exponent, b'0'..=b'9') => Part::Exponent,
            _ => return false,
        };
        match next {
            Part::Whole => {
                self.whole += 1;
                self.counts = true;
            }
            Part::Fraction if !self.counts && byte == b'0' => self.zeros += 1,
            Part::Fraction => self.counts = true,
            Part::Sign => self.negative_exponent = byte == b'-',
            Part::Exponent => {
                self.exponent = self.exponent.saturating_mul(10).saturating_add(i64::from(byte - b'0'));
            }
            _ => {}
        }
        self.part = next;
        self.keep(&[byte]);
        true
    }

    /// Whether it may end here.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.part, Part::Zero | Part::Whole | Part::Fraction | Part::Exponent)
    }

    /// Whether it is certain that Go's `float64` cannot hold it, as in `1e400`.
    pub(super) fn is_huge(&self) -> bool {
        let exponent = if self.negative_exponent { -self.exponent } else { self.exponent };
        let first = if self.whole > 0 { self.whole - 1 } else { -1 - self.zeros };
        self.counts && first.saturating_add(exponent) >= MAGNITUDE
    }

    /// Its value, rounded as Go rounds it; `None` where it is longer than what is kept, not wanted, or more than an
    /// `f64` holds.
    pub(super) fn value(&self) -> Option<f64> {
        let text = std::str::from_utf8(self.kept.get(..self.length)?).ok()?;
        text.parse().ok().filter(|value: &f64| value.is_finite())
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.length > KEPT {
            return;
        }
        let end = self.length.saturating_add(bytes.len());
        if let Some(slot) = self.kept.get_mut(self.length..end) {
            slot.copy_from_slice(bytes);
        }
        self.length = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Number> {
        let (first, rest) = text.as_bytes().split_first()?;
        let mut number = Number::new();
        number.begin(*first, true);
        (number.read(rest) == rest.len() && number.is_whole()).then_some(number)
    }

    #[test]
    fn numbers_are_those_of_json() {
        for (text, value) in [("0", 0.0), ("-0", 0.0), ("42", 42.0), ("-1.50", -1.5), ("1e3", 1e3), ("0.5E-2", 0.005)] {
            assert_eq!(read(text).and_then(|number| number.value()), Some(value), "{text}");
        }
        for text in ["01", "-", "1.", "1.e3", "1e", "1e+", "--1", "-01", "0x1", "1_0", "+1", "1.5.2", "1e5.5"] {
            assert!(text.starts_with('+') || read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn what_no_float_holds_is_huge_and_nothing_else_is() {
        let nines = "9".repeat(310);
        for huge in ["1e309", "1e400", "-1e400", "10e308", "0.001e312", "1e99999999999999999999", &nines] {
            assert!(read(huge).is_some_and(|number| number.is_huge()), "{huge}");
        }
        for fine in ["1e308", "0e400", "0.0e999", "1e-400", "0.0001e309", "1000", "1e-99999999999999999999"] {
            assert!(read(fine).is_some_and(|number| !number.is_huge()), "{fine}");
        }
        let long = format!("1.{}", "0".repeat(60));
        assert_eq!(read(&long).and_then(|number| number.value()), None);
        assert_eq!(
            read("1.7976931348623159e308").map(|number| (number.value(), number.is_huge())),
            Some((None, false))
        );
    }
}
