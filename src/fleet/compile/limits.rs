//! The rate and concurrency limits of a route.

use std::sync::Arc;

use http::HeaderName;
use prometheus_client::metrics::counter::Counter;

use super::{CompileError, error};
use crate::config::types::{self, Delay, OneOrMany};
use crate::fleet::limits::{KeyPart, LimitKey, RouteLimits};
use crate::fleet::snapshot::Lasting;
use crate::policy::rate_limit::RateLimit;

pub(super) fn compile(
    path: &str,
    route: &types::Route,
    lasting: &Lasting,
    refused: Counter,
) -> Result<RouteLimits, CompileError> {
    let rates = route.rate_limits.iter().enumerate().map(|(number, limit)| {
        let path = format!("{path}.rate_limits[{number}]");
        Ok((key(&path, &limit.key)?, rate(&path, limit)?))
    });
    let at_a_time = route.concurrency.iter().enumerate().map(|(number, limit)| {
        let path = format!("{path}.concurrency[{number}]");
        Ok((key(&path, &limit.key)?, limit.max))
    });
    Ok(RouteLimits::new(
        &route.name,
        rates.collect::<Result<_, _>>()?,
        at_a_time.collect::<Result<_, _>>()?,
        (Arc::clone(&lasting.limiter), Arc::clone(&lasting.running)),
        refused,
    ))
}

fn rate(path: &str, limit: &types::RateLimit) -> Result<RateLimit, CompileError> {
    let (rate, burst) = match (limit.preset, limit.rate) {
        (Some(preset), _) => preset.numbers(),
        (None, Some(rate)) => (rate, limit.burst.unwrap_or(0)),
        (None, None) => return Err(error(path, "neither `rate` nor `preset`")),
    };
    let delayed = match limit.delay {
        Delay::Last(delayed) => delayed,
        Delay::All => burst,
    };
    Ok(RateLimit::new(rate.count(), rate.period(), burst, delayed))
}

pub(super) fn key(path: &str, parts: &OneOrMany<String>) -> Result<LimitKey, CompileError> {
    let part = |part: &String| match part.as_str() {
        "client_ip" => Ok(KeyPart::ClientIp),
        "api_key" => Ok(KeyPart::ApiKey),
        "route" => Ok(KeyPart::Route),
        "model" => Ok(KeyPart::Model),
        "host" => Ok(KeyPart::Host),
        other => {
            let name = other.strip_prefix("header:").map(HeaderName::try_from);
            match name {
                Some(Ok(name)) => Ok(KeyPart::Header(name)),
                _ => Err(error(format!("{path}.key"), "not a word that can be counted by")),
            }
        }
    };
    Ok(LimitKey(parts.as_slice().iter().map(part).collect::<Result<_, _>>()?))
}
