//! Numbers as Go's `encoding/json` writes them (`floatEncoder` in `encoding/json/encode.go`): the shortest digits that read
//! back as the same number, with an exponent below 1e-6 and from 1e21 on.

use std::fmt::{Display, Write};

/// Appends a `float32`.
pub fn push_single(out: &mut String, number: f32) {
    push(out, number, number.abs().into());
}

/// Appends a `float64`.
pub fn push_double(out: &mut String, number: f64) {
    push(out, number, number.abs());
}

fn push(out: &mut String, number: impl zmij::Float + Display, size: f64) {
    // No JSON has others.
    if !size.is_finite() {
        return;
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(number);
    if text.contains('e') && (1e-6..1e21).contains(&size) {
        // It takes to exponents earlier than Go. Writing to a String cannot fail.
        let _ = write!(out, "{number}");
    } else {
        out.push_str(text.strip_suffix(".0").unwrap_or(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        let single = |number| {
            let mut text = String::new();
            push_single(&mut text, number);
            text
        };
        // Made with Go's json.Marshal of a float32.
        for (number, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.000_123_4, "-0.0001234"),
            (0.000_001, "0.000001"),
            (0.000_000_9, "9e-7"),
            (-1.5e-12, "-1.5e-12"),
            (16_777_216.0, "16777216"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (f32::MAX, "3.4028235e+38"),
            (f32::from_bits(1), "1e-45"),
        ] {
            assert_eq!(single(number), text);
        }
        let double = |number| {
            let mut text = String::new();
            push_double(&mut text, number);
            text
        };
        assert_eq!(double(f64::from(0.1_f32)), "0.10000000149011612");
        assert_eq!(double(f64::from(1e-7_f32)), "1.0000000116860974e-7");
        assert_eq!(double(1e21), "1e+21");
        assert_eq!(double(123_456_789_012_345_678.0), "123456789012345680");
    }

    #[test]
    fn the_digits_are_the_shortest_whatever_the_number() {
        let mut bits = 1_u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = f32::from_bits(bits);
            let size = number.abs();
            if !number.is_finite() {
                continue;
            }
            let expected = |plain: String, exponent: String| {
                if size == 0.0 || (1e-6..1e21).contains(&size) {
                    plain
                } else if size < 1.0 {
                    exponent
                } else {
                    exponent.replace('e', "e+")
                }
            };
            // Where two shortest ones are equally near, Go and this take the even one, and Rust the other.
            let mut text = String::new();
            push_single(&mut text, number);
            let wanted = expected(number.to_string(), format!("{number:e}"));
            assert_eq!((text.parse(), text.len()), (Ok(number), wanted.len()), "{text} {wanted}");
            let double = f64::from(number);
            text.clear();
            push_double(&mut text, double);
            let wanted = expected(double.to_string(), format!("{double:e}"));
            assert_eq!((text.parse(), text.len()), (Ok(double), wanted.len()), "{text} {wanted}");
        }
    }
}
