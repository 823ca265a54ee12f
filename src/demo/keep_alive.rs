//! `keep_alive` as Ollama reads it: seconds, or a Go duration; negative means forever.

use std::time::Duration;

use serde_json::Value;

/// How long a model stays loaded after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeepAlive {
    /// This long; zero unloads it at once.
    For(Duration),
    /// Until it is evicted or unloaded.
    Forever,
}

impl KeepAlive {
    /// Whether the model is to be unloaded as soon as it is idle.
    pub(super) fn is_zero(self) -> bool {
        self == Self::For(Duration::ZERO)
    }

    /// As a length of time; forever is Go's longest duration, some 292 years.
    pub(super) fn length(self) -> Duration {
        match self {
            Self::For(duration) => duration,
            Self::Forever => Duration::from_nanos(i64::MAX.unsigned_abs()),
        }
    }
}

/// Reads the value of a `keep_alive` key. The error is Ollama's text.
pub(super) fn parse(value: &Value) -> Result<KeepAlive, String> {
    match value {
        Value::Number(number) => Ok(from_seconds(number.as_f64().unwrap_or(0.0))),
        Value::String(text) => go_duration(text).map(from_seconds),
        other => Err(format!("Unsupported type: '{other}'")),
    }
}

fn from_seconds(seconds: f64) -> KeepAlive {
    if seconds < 0.0 {
        return KeepAlive::Forever;
    }
    Duration::try_from_secs_f64(seconds).map_or(KeepAlive::Forever, KeepAlive::For)
}

/// Go's `time.ParseDuration`, in seconds: `1h30m`, `-1m`, `300ms`, `0`.
fn go_duration(text: &str) -> Result<f64, String> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0.0);
    }
    if rest.is_empty() {
        return Err(format!("time: invalid duration {text:?}"));
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let number: f64 = number.parse().map_err(|_| format!("time: invalid duration {text:?}"))?;
        seconds += number
            * match unit {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
            };
        rest = tail;
    }
    Ok(if negative { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seconds_and_durations() {
        let minutes = |count| Ok(KeepAlive::For(Duration::from_mins(count)));
        assert_eq!(parse(&json!(300)), minutes(5));
        assert_eq!(parse(&json!("5m")), minutes(5));
        assert_eq!(parse(&json!("1h30m")), minutes(90));
        assert_eq!(parse(&json!("0")), minutes(0));
        assert_eq!(parse(&json!(-1)), Ok(KeepAlive::Forever));
        assert_eq!(parse(&json!("-1s")), Ok(KeepAlive::Forever));
        assert_eq!(parse(&json!("5")), Err("time: missing unit in duration \"5\"".to_owned()));
        assert!(parse(&json!("soon")).is_err());
        assert!(parse(&json!([1])).is_err());
    }
}
