//! The parts that answers about a time have in common.

use schemars::JsonSchema;
use serde::Serialize;

use crate::history::histogram::Histogram;
use crate::history::sums::{Range, Totals, Window};
use crate::telemetry::access_log::moment;

/// From when to when an answer is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Time {
    /// The time that was asked for.
    time_range: &'static str,
    /// When it really begins, RFC 3339: at the first whole 10 seconds, minute or hour within it.
    from: String,
    /// When it ends, RFC 3339: when the question came.
    to: String,
    /// Its seconds; what is told by the second is by these.
    seconds: f64,
}

impl Time {
    pub(super) fn of(range: Range, window: &Window) -> Self {
        Self {
            time_range: range.word,
            from: at(window.from),
            to: moment(window.to),
            seconds: rounded(window.seconds()),
        }
    }
}

/// How long something took, in milliseconds; null where nothing was measured.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    /// Half of them took no longer.
    p50_ms: Option<f64>,
    /// 95 of 100 took no longer.
    p95_ms: Option<f64>,
    /// 99 of 100 took no longer.
    p99_ms: Option<f64>,
}

impl Percentiles {
    pub(super) fn of(times: &Histogram) -> Self {
        let at = |percent| times.percentile(percent).map(rounded);
        Self { p50_ms: at(50.0), p95_ms: at(95.0), p99_ms: at(99.0) }
    }
}

/// Requests of a time and what they took.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Numbers {
    /// Requests that ended.
    requests: u64,
    /// Those of them that ended with a status from 400 on or broke.
    errors: u64,
    /// Errors as a share of all, from 0 to 1; null without requests.
    error_rate: Option<f64>,
    /// Requests by the second.
    requests_per_second: f64,
    /// Milliseconds that one took on average, from its head to the last byte of its answer; null without requests.
    avg_latency: Option<f64>,
    /// The same by percentiles.
    latency: Percentiles,
    /// Milliseconds to the first byte of the answer, of those that a server answered.
    ttfb: Percentiles,
    /// Milliseconds that one waited for a slot on average; null without requests.
    avg_queue_ms: Option<f64>,
    /// How many ran at a time on average: the time that they took together, by the time that passed.
    avg_in_flight: f64,
    /// Tokens of prompts, as the servers counted them.
    prompt_tokens: u64,
    /// Tokens of answers, as the servers counted them.
    output_tokens: u64,
    /// Tokens of answers by the second.
    output_tokens_per_second: f64,
    /// Bytes of request bodies.
    bytes_in: u64,
    /// Bytes of response bodies.
    bytes_out: u64,
}

impl Numbers {
    pub(super) fn of(totals: &Totals, seconds: f64) -> Self {
        Self {
            requests: totals.requests,
            errors: totals.errors,
            error_rate: share(totals.errors, totals.requests),
            requests_per_second: rounded(real(totals.requests) / seconds),
            avg_latency: mean(totals.duration_ms, totals.requests),
            latency: Percentiles::of(&totals.durations),
            ttfb: Percentiles::of(&totals.ttfbs),
            avg_queue_ms: mean(totals.queue_ms, totals.requests),
            avg_in_flight: rounded(totals.duration_ms / 1000.0 / seconds),
            prompt_tokens: totals.prompt_tokens,
            output_tokens: totals.output_tokens,
            output_tokens_per_second: rounded(real(totals.output_tokens) / seconds),
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
        }
    }
}

/// A count as a number that can be divided.
#[expect(clippy::cast_precision_loss, reason = "counts of requests and tokens")]
pub(super) fn real(count: u64) -> f64 {
    count as f64
}

/// To six digits: more says nothing.
pub(super) fn rounded(number: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return 0.0;
    }
    let scale = 10_f64.powf(5.0 - number.abs().log10().floor());
    (number * scale).round() / scale
}

pub(super) fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| rounded(sum / real(count)))
}

/// A part of a whole, from 0 to 1.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    mean(real(part), whole)
}

/// A moment in whole seconds since 1970.
pub(super) fn at(seconds: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    moment(seconds as f64)
}
