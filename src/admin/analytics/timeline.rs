//! How a number went over a time: step by step, and in which direction.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::words::{Numbers, Time, at, mean, real, rounded, share};
use super::{Shared, Wish, sums};
use crate::admin::problem::Problem;
use crate::admin::request::{Asked, Named, one_of};
use crate::history::sums::Totals;

/// Steps of an answer at most.
const STEPS: u32 = 60;
/// A straight line through the steps that explains less of what they do than this says nothing of a direction.
const EXPLAINED: f64 = 0.3;
/// Nor does one that over the whole time changes by less than this part of the average.
const CHANGED: f64 = 0.1;

/// The requests of a time, step by step.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    time: Time,
    /// Seconds of a step.
    step_seconds: i64,
    /// The steps, the oldest first; one without requests is there too.
    steps: Vec<Step>,
}

/// The requests that ended in one step.
#[derive(Serialize, JsonSchema)]
struct Step {
    /// When it begins, RFC 3339.
    at: String,
    #[serde(flatten)]
    numbers: Numbers,
}

pub(super) async fn requests(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Requests>, Problem> {
    let asked = sums(&state, &wish, "24h").await?;
    let step_seconds = asked.window.step(STEPS);
    let steps = steps(&asked, step_seconds);
    let shown = steps.iter().map(|(start, totals)| Step {
        at: at(*start),
        numbers: Numbers::of(totals, passed(&asked, *start, step_seconds)),
    });
    Ok(Json(Requests { success: true, step_seconds, steps: shown.collect(), time: asked.time }))
}

/// The time cut into steps, with what ended in each.
fn steps(asked: &super::Asked, step: i64) -> BTreeMap<i64, Totals> {
    let mut steps = BTreeMap::new();
    let mut start = asked.window.from;
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    while (start as f64) < asked.window.to {
        steps.insert(start, Totals::default());
        start += step;
    }
    for line in &asked.lines {
        let start = asked.window.from + (line.start - asked.window.from).div_euclid(step) * step;
        steps.entry(start).or_default().add(&line.totals);
    }
    steps
}

/// How much of a step has passed, in seconds: the last one still runs.
fn passed(asked: &super::Asked, start: i64, step: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    (asked.window.to - start as f64).clamp(0.001, step as f64)
}

/// What a trend is of, for the totals of a step and its seconds.
type Metric = fn(&Totals, f64) -> Option<f64>;

const METRICS: [(&str, (Metric, &str)); 6] = [
    ("latency", (|totals, _| mean(totals.duration_ms, totals.requests), "milliseconds of a request on average")),
    ("ttfb", (|totals, _| totals.ttfbs.percentile(50.0).map(rounded), "milliseconds to the first byte, the median")),
    ("queue", (|totals, _| mean(totals.queue_ms, totals.requests), "milliseconds in the queue on average")),
    ("errors", (|totals, _| share(totals.errors, totals.requests), "errors as a share of all requests")),
    ("throughput", (|totals, seconds| Some(rounded(real(totals.requests) / seconds)), "requests by the second")),
    ("tokens", (|totals, seconds| Some(rounded(real(totals.output_tokens) / seconds)), "output tokens by the second")),
];

/// Where a number goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Up.
    Rising,
    /// Down.
    Falling,
    /// Neither, as far as can be told.
    Steady,
}

/// How a number went over a time.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trend {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    time: Time,
    /// The number: `latency`, `ttfb`, `queue`, `errors`, `throughput` or `tokens`.
    metric: String,
    /// What it counts.
    unit: &'static str,
    /// `rising` or `falling` when a straight line through the points explains 30 % of what they do and changes by a tenth of
    /// their average over the time; else `steady`.
    direction: Direction,
    /// The slope of that line by the hour; null with fewer than three points.
    slope_per_hour: Option<f64>,
    /// How much of what the points do the line explains (R squared), from 0 to 1; null with fewer than three points.
    confidence: Option<f64>,
    /// Seconds of a step.
    step_seconds: i64,
    /// The points, the oldest first; a step in which there was nothing to count has none.
    points: Vec<Point>,
}

/// A number in one step.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
struct Point {
    /// When the step begins, RFC 3339.
    at: String,
    /// The number.
    value: f64,
    /// Requests that it is made of.
    requests: u64,
}

pub(super) async fn trend(
    Extract(state): Shared,
    Named(metric): Named<String>,
    Asked(wish): Asked<Wish>,
) -> Result<Json<Trend>, Problem> {
    let (number, unit) = one_of("metric", &metric, &METRICS)?;
    let asked = sums(&state, &wish, "24h").await?;
    let step_seconds = asked.window.step(STEPS);
    let (mut points, mut line) = (Vec::new(), Vec::new());
    for (start, totals) in steps(&asked, step_seconds) {
        if let Some(value) = number(&totals, passed(&asked, start, step_seconds)) {
            points.push(Point { at: at(start), value, requests: totals.requests });
            #[expect(clippy::cast_precision_loss, reason = "at most a month")]
            line.push(((start - asked.window.from) as f64 / 3600.0, value));
        }
    }
    let fitted = fit(&line);
    Ok(Json(Trend {
        success: true,
        metric,
        unit,
        direction: direction(&line, fitted),
        slope_per_hour: fitted.map(|(slope, _)| rounded(slope)),
        confidence: fitted.map(|(_, explained)| rounded(explained)),
        step_seconds,
        points,
        time: asked.time,
    }))
}

/// Slope of the straight line with the least squares, and how much of the points it explains.
fn fit(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    if points.len() < 3 {
        return None;
    }
    let count = real(points.len() as u64);
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (middle, average) = (mean(|point| point.0), mean(|point| point.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(x - middle, y - average)).sum::<f64>();
    let (across, along, up) = (sum(&|x, y| x * y), sum(&|x, _| x * x), sum(&|_, y| y * y));
    let explained = if up > 0.0 { across * across / (along * up) } else { 0.0 };
    Some((across / along, explained))
}

fn direction(points: &[(f64, f64)], fitted: Option<(f64, f64)>) -> Direction {
    let (Some((slope, explained)), Some(first), Some(last)) = (fitted, points.first(), points.last()) else {
        return Direction::Steady;
    };
    let average = points.iter().map(|point| point.1).sum::<f64>() / real(points.len() as u64);
    let change = slope * (last.0 - first.0);
    match change {
        _ if explained < EXPLAINED || change.abs() < CHANGED * average.abs() => Direction::Steady,
        up if up > 0.0 => Direction::Rising,
        _ => Direction::Falling,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(values: &[f64]) -> (Direction, Option<(f64, f64)>) {
        let points: Vec<(f64, f64)> = (0_u32..).map(f64::from).zip(values.iter().copied()).collect();
        let fitted = fit(&points);
        (direction(&points, fitted), fitted.map(|(slope, explained)| (rounded(slope), rounded(explained))))
    }

    #[test]
    fn a_direction_is_one_only_where_the_points_have_one() {
        assert_eq!(judged(&[1.0, 2.0, 3.0, 4.0]), (Direction::Rising, Some((1.0, 1.0))));
        assert_eq!(judged(&[9.0, 7.0, 5.0, 3.0]), (Direction::Falling, Some((-2.0, 1.0))));
        assert_eq!(judged(&[5.0, 5.0, 5.0]), (Direction::Steady, Some((0.0, 0.0))));
        assert_eq!(judged(&[5.0, 9.0]), (Direction::Steady, None));
        assert_eq!(judged(&[]), (Direction::Steady, None));
        // Up and down again; and up, but hardly.
        assert_eq!(judged(&[1.0, 9.0, 2.0, 8.0, 1.0, 9.0, 1.0]).0, Direction::Steady);
        assert_eq!(judged(&[100.0, 101.0, 102.0]).0, Direction::Steady);
    }
}
