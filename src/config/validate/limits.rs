//! Rules about the rate and concurrency limits of a route.

use super::Rules;
use super::routes::is_token;
use crate::config::codes;
use crate::config::suggest;
use crate::config::tree::Path;
use crate::config::types::{Config, Delay, Kind, OneOrMany, RateLimit, Route};

/// Most limits of one kind for a route: each costs every request a look.
const MOST_LIMITS: usize = 8;

/// Most requests of a burst. Beyond it nothing is limited, and numbers stay far from their end.
const MOST_BURST: u32 = 100_000;

/// The words for what a limit counts by, beside `header:NAME`.
const WORDS: [&str; 5] = ["client_ip", "api_key", "route", "model", "host"];

pub(super) fn check(config: &Config, path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    let upstream = route.upstream.as_ref().and_then(|name| config.upstreams.get(name));
    let has_models = upstream.is_none_or(|upstream| upstream.kind != Kind::Http);
    let rates = path.key("rate_limits");
    at_most(&rates, route.rate_limits.len(), rules);
    for (index, limit) in route.rate_limits.iter().enumerate() {
        let path = rates.index(index);
        key(&path.key("key"), &limit.key, has_models, &[], rules);
        numbers(&path, limit, rules);
    }
    let at_a_time = path.key("concurrency");
    at_most(&at_a_time, route.concurrency.len(), rules);
    for (index, limit) in route.concurrency.iter().enumerate() {
        let path = at_a_time.index(index);
        key(&path.key("key"), &limit.key, has_models, &[], rules);
        rules.range(&path.key("max"), limit.max, 1, u32::MAX);
    }
}

fn at_most(path: &Path<'_>, limits: usize, rules: &mut Rules<'_, '_, '_>) {
    if limits > MOST_LIMITS {
        let message = format!("{limits} limits are more than a route may have: at most {MOST_LIMITS}");
        rules.key(codes::RANGE, path, message, "leave out those that others cover");
    }
}

fn numbers(path: &Path<'_>, limit: &RateLimit, rules: &mut Rules<'_, '_, '_>) {
    if !rules.is_whole(path) {
        return;
    }
    let given = [("rate", limit.rate.is_some()), ("burst", limit.burst.is_some())];
    if limit.preset.is_some() {
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            let message = format!("`{key}` and `preset` both say how often requests may come");
            rules.key(codes::CONTRADICTION, &path.key(key), message, "remove one of them");
        }
    } else if limit.rate.is_none() {
        let hint = "add `rate: 100/m`, or `preset: general`";
        rules.key(codes::MISSING_KEY, path, "a rate limit needs `rate` or `preset`", hint);
    }
    let burst = limit.preset.map_or(limit.burst.unwrap_or(0), |preset| preset.numbers().1);
    rules.range(&path.key("burst"), burst, 0, MOST_BURST);
    if let Delay::Last(delayed) = limit.delay
        && delayed > burst
    {
        let message = format!("{delayed} requests cannot be delayed of a burst of {burst}");
        let hint = "write `delay: all` to delay the whole burst, or raise `burst`";
        rules.value(codes::CONTRADICTION, &path.key("delay"), message, hint);
    }
}

/// What a limit counts by; `more` are words that this one knows beside the usual ones.
pub(super) fn key(
    path: &Path<'_>,
    parts: &OneOrMany<String>,
    has_models: bool,
    more: &[&str],
    rules: &mut Rules<'_, '_, '_>,
) {
    match parts {
        OneOrMany::One(one) => part(path, one, has_models, more, rules),
        OneOrMany::Many(parts) if parts.is_empty() => {
            let hint = "write `client_ip`, or `route` to count all requests together";
            rules.key(codes::EMPTY_LIST, path, "the list `key` is empty", hint);
        }
        OneOrMany::Many(parts) => {
            for (index, one) in parts.iter().enumerate() {
                let path = path.index(index);
                part(&path, one, has_models, more, rules);
                if parts[..index].contains(one) {
                    let shown = rules.shown(&path, one);
                    rules.value(codes::LIMIT_KEY, &path, format!("{shown} stands twice"), "remove one of them");
                }
            }
        }
    }
}

fn part(path: &Path<'_>, part: &str, has_models: bool, more: &[&str], rules: &mut Rules<'_, '_, '_>) {
    if part == "model" && !has_models {
        let message = "requests to servers of `kind: http` have no model";
        rules.value(codes::NOT_HERE, path, message, "count by something else, such as `client_ip`");
    }
    if WORDS.contains(&part) || more.contains(&part) {
        return;
    }
    let shown = rules.shown(path, part);
    match part.strip_prefix("header:") {
        Some(name) if is_token(name) => {}
        Some(_) => {
            let message = format!("{shown} does not name a header field");
            rules.value(codes::HEADER, path, message, "write it like `header:X-Team`");
        }
        None => {
            let words = WORDS.into_iter().chain(more.iter().copied()).chain(["header:NAME"]);
            let hint = suggest::hint(part, words, "words");
            rules.value(codes::LIMIT_KEY, path, format!("{shown} cannot be counted by"), hint);
        }
    }
}
