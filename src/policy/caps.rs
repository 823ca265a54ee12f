//! Caps: how much of a server one request may ask for.
//!
//! # Problem
//!
//! A request can cost its server more than its own answer: `keep_alive: -1` pins a model in the GPU's memory for
//! ever, `num_ctx: 10000000` makes it reload the model with a context that fills the memory, `num_predict: -1`
//! lets it write without end, `num_gpu: 0` makes it compute on the CPU. A route can set a cap on each.
//!
//! # Rules
//!
//! - A request that asks for more is refused, never changed: the client learns what it may ask for.
//! - What a request does not say is not capped: the server's own default is the operator's.
//! - Values are read as Ollama reads them (`api/types.go`: `Duration.UnmarshalJSON`, `Options.FromMap`), and a value
//!   that cannot be read is refused where there is a cap.
//! - Each value can be judged as soon as it is read, so the caller asks while the body streams.

use std::fmt;
use std::time::Duration;

/// The caps of a route; one that is absent allows everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Longest `keep_alive`.
    pub keep_alive: Option<Duration>,
    /// Most tokens of context.
    pub num_ctx: Option<u32>,
    /// Most tokens of an answer. A negative number asks for no limit, and is refused.
    pub num_predict: Option<u32>,
    /// Most layers on the GPU. A negative number leaves it to Ollama, and is allowed. Unless the cap is zero, zero
    /// is refused: it asks for the CPU, which is worse for everybody.
    pub num_gpu: Option<u32>,
}

/// What a value is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capped {
    /// `keep_alive`.
    KeepAlive,
    /// `options.num_ctx`.
    NumCtx,
    /// `options.num_predict`, and the words for it in the other APIs.
    NumPredict,
    /// `options.num_gpu`.
    NumGpu,
}

/// A value as the client wrote it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Asked<'a> {
    /// A number.
    Number(f64),
    /// A string.
    Text(&'a str),
    /// Anything else.
    Other,
}

impl Caps {
    /// Whether there is no cap.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a request may ask for this; `key` is the client's word for it.
    ///
    /// # Errors
    /// A sentence for the client: the key, the value and the cap.
    pub fn check(&self, capped: Capped, key: &str, asked: Asked<'_>) -> Result<(), String> {
        let cap = match capped {
            Capped::KeepAlive => {
                return self.keep_alive.map_or(Ok(()), |cap| check_keep_alive(cap, key, asked));
            }
            Capped::NumCtx => self.num_ctx,
            Capped::NumPredict => self.num_predict,
            Capped::NumGpu => self.num_gpu,
        };
        let Some(cap) = cap else { return Ok(()) };
        let Asked::Number(number) = asked else {
            return Err(format!("`{key}` is not a number, and this route allows at most {cap}"));
        };
        // Go cuts off what stands behind the point.
        let number = number.trunc();
        if number > f64::from(cap) {
            return Err(format!("`{key}` is {}, and this route allows at most {cap}", Shown(number)));
        }
        match capped {
            Capped::NumPredict if number < 0.0 => {
                Err(format!("`{key}` is {}, which is no limit, and this route allows at most {cap}", Shown(number)))
            }
            Capped::NumGpu if number == 0.0 && cap > 0 => {
                Err(format!("`{key}` is 0, which is the CPU alone, and this route does not allow that"))
            }
            _ => Ok(()),
        }
    }
}

fn check_keep_alive(cap: Duration, key: &str, asked: Asked<'_>) -> Result<(), String> {
    let shown_cap = crate::units::Duration(cap);
    let nanos = match asked {
        Asked::Number(seconds) if seconds < 0.0 => None,
        Asked::Number(seconds) if seconds <= cap.as_secs_f64() => return Ok(()),
        Asked::Number(seconds) => {
            return Err(format!("`{key}` is {}s, and this route allows at most {shown_cap}", Shown(seconds)));
        }
        Asked::Text(text) => match go_duration(text) {
            Some(nanos) => u128::try_from(nanos).ok(),
            None => {
                let message = "is not a duration such as \"10m\", and this route allows at most";
                return Err(format!("`{key}` {message} {shown_cap}"));
            }
        },
        Asked::Other => {
            return Err(format!("`{key}` is neither a number nor a string, and this route allows at most {shown_cap}"));
        }
    };
    match nanos {
        None => Err(format!("`{key}` is negative, which is for ever, and this route allows at most {shown_cap}")),
        Some(nanos) if nanos <= cap.as_nanos() => Ok(()),
        Some(nanos) => {
            let seconds = u64::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u64::MAX);
            let shown = crate::units::Duration(Duration::from_secs(seconds));
            Err(format!("`{key}` is {shown}, and this route allows at most {shown_cap}"))
        }
    }
}

/// A number for people: whole, and never a hundred digits long.
struct Shown(f64);

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.abs() < 1e15 { write!(formatter, "{}", self.0) } else { write!(formatter, "{:e}", self.0) }
    }
}

/// Go's `time.ParseDuration`, in nanoseconds: an optional sign, then numbers with units (`1h30m`, `1.5h`, `300ms`),
/// or a plain `0`. `None` for what Go refuses: another form, or more than 292 years.
fn go_duration(text: &str) -> Option<i128> {
    const UNITS: [(&str, i128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    loop {
        let is_digit = |byte: u8| byte.is_ascii_digit();
        let (whole, after) = split_while(rest, is_digit);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_while(after, is_digit),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, after) = split_while(after, |byte| byte != b'.' && !byte.is_ascii_digit());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let mut part = whole.bytes().try_fold(0_i128, |number, digit| {
            let number = number * 10 + i128::from(digit - b'0');
            (number <= 1_i128 << 63).then_some(number)
        })? * unit;
        // What stands further behind the point is less than a nanosecond, even of an hour.
        let fraction = &fraction[..fraction.len().min(13)];
        if !fraction.is_empty() {
            let number: i128 = fraction.parse().ok()?;
            let scale = fraction.bytes().fold(1, |scale: i128, _| scale * 10);
            part += number * unit / scale;
        }
        total = total.checked_add(part).filter(|total| *total <= 1_i128 << 63)?;
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    let total = if negative { -total } else { total };
    (total <= i128::from(i64::MAX)).then_some(total)
}

/// The text up to the first byte that `belongs` does not hold for, and the rest.
fn split_while(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !belongs(byte)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps {
        keep_alive: Some(Duration::from_secs(3600)),
        num_ctx: Some(32_768),
        num_predict: Some(4096),
        num_gpu: Some(99),
    };

    fn refusal(capped: Capped, asked: Asked<'_>) -> Option<String> {
        // Without caps everything goes.
        assert_eq!(Caps::default().check(capped, "key", asked), Ok(()));
        CAPS.check(capped, "key", asked).err()
    }

    fn number(capped: Capped, number: f64) -> Option<String> {
        refusal(capped, Asked::Number(number))
    }

    #[test]
    fn what_a_route_allows_passes() {
        for asked in [0.0, 1.0, 4.9, 32_768.0, 32_768.9, -1.0] {
            assert_eq!(number(Capped::NumCtx, asked), None, "{asked}");
        }
        for asked in [0.0, -0.5, 1.0, 4096.0, 4096.9] {
            assert_eq!(number(Capped::NumPredict, asked), None, "{asked}");
        }
        for asked in [-1.0, 1.0, 99.0] {
            assert_eq!(number(Capped::NumGpu, asked), None, "{asked}");
        }
        for asked in [0.0, 3600.0, 0.25] {
            assert_eq!(number(Capped::KeepAlive, asked), None, "{asked}");
        }
        for asked in [
            "10m",
            "1h",
            "0",
            "60m",
            "3600s",
            "0h60m",
            "59m59.999999999s",
            "+5m",
            "-0s",
            "3600000ms",
            "1us",
            "1\u{b5}s",
        ] {
            assert_eq!(refusal(Capped::KeepAlive, Asked::Text(asked)), None, "{asked}");
        }
    }

    #[test]
    fn more_than_that_is_refused_with_the_key_the_value_and_the_cap() {
        for (capped, asked, said) in [
            (Capped::NumCtx, 10_000_000.0, "`key` is 10000000, and this route allows at most 32768"),
            (Capped::NumCtx, 1e300, "`key` is 1e300, and this route allows at most 32768"),
            (Capped::NumPredict, 4097.0, "`key` is 4097, and this route allows at most 4096"),
            (Capped::NumPredict, -1.0, "`key` is -1, which is no limit, and this route allows at most 4096"),
            (Capped::NumPredict, -2.0, "`key` is -2, which is no limit, and this route allows at most 4096"),
            (Capped::NumGpu, 100.0, "`key` is 100, and this route allows at most 99"),
            (Capped::NumGpu, 0.0, "`key` is 0, which is the CPU alone, and this route does not allow that"),
            (Capped::KeepAlive, -1.0, "`key` is negative, which is for ever, and this route allows at most 1h"),
            (Capped::KeepAlive, -0.001, "`key` is negative, which is for ever, and this route allows at most 1h"),
            (Capped::KeepAlive, 3601.0, "`key` is 3601s, and this route allows at most 1h"),
            (Capped::KeepAlive, 1e20, "`key` is 1e20s, and this route allows at most 1h"),
        ] {
            assert_eq!(number(capped, asked).as_deref(), Some(said));
        }
        for (asked, said) in [
            ("1h30m", "`key` is 90m, and this route allows at most 1h"),
            ("1.5h", "`key` is 90m, and this route allows at most 1h"),
            ("1h0.000000001s", "`key` is 3601s, and this route allows at most 1h"),
            ("24h", "`key` is 1d, and this route allows at most 1h"),
            ("-1s", "`key` is negative, which is for ever, and this route allows at most 1h"),
            ("-1ns", "`key` is negative, which is for ever, and this route allows at most 1h"),
        ] {
            assert_eq!(refusal(Capped::KeepAlive, Asked::Text(asked)).as_deref(), Some(said), "{asked}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_where_there_is_a_cap() {
        for text in [
            "", "10", "forever", "1d", "1h30", "h", "1 h", " 1h", "1h ", "1H", ".h", "1..5h", "--1h", "+-1h", "1e3s",
            "-", "\u{661}h",
        ] {
            let said = refusal(Capped::KeepAlive, Asked::Text(text));
            assert!(said.is_some_and(|said| said.contains("is not a duration")), "{text}");
        }
        for long in ["2562048h", "9223372036854775808ns", "99999999999999999999999999h"] {
            assert!(refusal(Capped::KeepAlive, Asked::Text(long)).is_some(), "{long}");
        }
        for capped in [Capped::NumCtx, Capped::NumPredict, Capped::NumGpu] {
            let said = refusal(capped, Asked::Text("1"));
            assert!(said.is_some_and(|said| said.starts_with("`key` is not a number")), "{capped:?}");
            assert!(refusal(capped, Asked::Other).is_some());
        }
        assert!(refusal(Capped::KeepAlive, Asked::Other).is_some());
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, nanos) in [
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h30m5.25s", 5_405_250_000_000),
            ("5m1h", 3_900_000_000_000),
            ("0.1ns", 0),
            ("1.00000000000000000000000001s", 1_000_000_000),
            ("-2m", -120_000_000_000),
            ("9223372036854775807ns", i128::from(i64::MAX)),
            ("-9223372036854775808ns", i128::from(i64::MIN)),
        ] {
            assert_eq!(go_duration(text), Some(nanos), "{text}");
        }
    }

    #[test]
    fn a_cap_of_zero_layers_allows_zero_layers() {
        let caps = Caps { num_gpu: Some(0), ..Caps::default() };
        assert_eq!(caps.check(Capped::NumGpu, "num_gpu", Asked::Number(0.0)), Ok(()));
        assert!(caps.check(Capped::NumGpu, "num_gpu", Asked::Number(1.0)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-+.0-9hmsun\u{b5} ]{0,40}") {
            let _ = go_duration(&text);
        }
    }
}
