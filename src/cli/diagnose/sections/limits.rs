//! Limits that contradict each other: those of clients, of Arriero, of Ollama, of the container.

use std::time::Duration;

use super::super::codes;
use super::super::docker::Container;
use super::super::facts::{Facts, Good};
use super::super::finding::Finding;
use super::{Lines, bytes};
use crate::config::types::Kind;
use crate::fleet::snapshot::{Route, Upstream};
use crate::ollama::ModelPattern;
use crate::units::Duration as Written;

/// How long Ollama lets a load stand still before it gives up, by default (`OLLAMA_LOAD_TIMEOUT`).
const LOAD_TIMEOUT: Duration = Duration::from_mins(5);
/// Requests that Ollama lets wait by default (`OLLAMA_MAX_QUEUE`).
const MAX_QUEUE: u64 = 512;
/// How long proxies and clients in front wait in silence, the impatient ones among them.
const CLIENT: Duration = Duration::from_mins(1);
/// A photograph of 12 MB in base64.
const IMAGE: u64 = 16_000_000;
/// Models that look at images, by name.
const VISION: [&str; 8] = [
    "llava:7b",
    "bakllava:7b",
    "moondream:1.8b",
    "llama3.2-vision:11b",
    "qwen2.5-vl:7b",
    "qwen2.5vl:7b",
    "minicpm-v:8b",
    "gemma3:4b",
];

/// Judges them.
pub fn judge(facts: &Facts, own: Option<&str>) -> (Lines, Vec<Finding>) {
    let mut found = Vec::new();
    let Some(good) = facts.config.good() else {
        return (vec!["without a configuration no limits are known".to_owned()], found);
    };
    let ollamas = ollamas(facts);
    for route in &good.snapshot.routes {
        of_route(route, &ollamas, &mut found);
    }
    good.snapshot.upstreams.iter().for_each(|upstream| of_upstream(upstream, &mut found));
    ollamas.iter().for_each(|ollama| of_ollama(ollama, &mut found));
    let route = good.config.routes.iter().zip(&good.snapshot.routes);
    for (typed, compiled) in route {
        images(&typed.name, typed.matches.model.as_slice(), compiled.body_limit, &mut found);
    }
    of_process(good, facts, own, &mut found);
    let known = ollamas.iter().filter(|ollama| ollama.container.is_some()).count();
    let lines = vec![
        format!("{} routes, {} servers of Ollama", good.snapshot.routes.len(), ollamas.len()),
        format!(
            "settings of Ollama known of {known} of {} servers (from their containers), the others' are taken as they are by default",
            ollamas.len()
        ),
    ];
    (lines, found)
}

/// A server of Ollama with its settings, as far as they are known.
struct Ollama<'a> {
    id: String,
    upstream: &'a Upstream,
    max_in_flight: Option<u32>,
    per_model: Option<u32>,
    max_loaded: u32,
    container: Option<&'a Container>,
}

impl Ollama<'_> {
    fn number(&self, name: &str) -> Option<u64> {
        self.container?.number(name)
    }

    fn load_timeout(&self) -> Duration {
        let written = self.container.and_then(|one| one.environment.get("OLLAMA_LOAD_TIMEOUT"));
        let Some(written) = written else { return LOAD_TIMEOUT };
        // Seconds where it has no unit, as Ollama reads it; 0 and less is no limit.
        let seconds = written.parse::<i64>().ok().map(|seconds| Duration::from_secs(seconds.try_into().unwrap_or(0)));
        let read = seconds.or_else(|| written.parse::<Written>().ok().map(|duration| duration.0));
        match read {
            Some(Duration::ZERO) => Duration::MAX,
            Some(limit) => limit,
            None => LOAD_TIMEOUT,
        }
    }
}

fn ollamas(facts: &Facts) -> Vec<Ollama<'_>> {
    let upstreams = facts.config.good().into_iter().flat_map(|good| &good.snapshot.upstreams);
    let members = upstreams.filter(|upstream| upstream.kind == Kind::Ollama).flat_map(|upstream| {
        upstream.servers.iter().map(move |member| Ollama {
            id: format!("{}/{}", upstream.name, member.state.name()),
            upstream,
            max_in_flight: Some(member.max_in_flight).filter(|most| *most != u32::MAX),
            per_model: member.max_in_flight_per_model,
            max_loaded: member.max_loaded,
            container: facts.engine.behind(&member.state.location.host, member.state.location.port),
        })
    });
    members.collect()
}

fn of_route(route: &Route, ollamas: &[Ollama<'_>], found: &mut Vec<Finding>) {
    let Some(upstream) = route.upstream() else { return };
    let (name, timeouts) = (&route.name, &route.timeouts);
    let longest = ollamas.iter().filter(|one| one.upstream.name == upstream.name).map(|one| (one.load_timeout(), one));
    // One that may take for ever is nobody's measure.
    let longest = longest.filter(|(limit, _)| *limit != Duration::MAX).max_by_key(|(limit, _)| *limit);
    if let Some((load, ollama)) = longest.filter(|(load, _)| timeouts.first_byte < *load) {
        let load = Written(load);
        let whose = if ollama.container.is_some() { format!("of `{}`", ollama.id) } else { "of Ollama".to_owned() };
        found.push(Finding::new(
            codes::FIRST_BYTE_SHORT,
            format!(
                "the route `{name}` gives up after `first_byte: {}`, while OLLAMA_LOAD_TIMEOUT {whose} lets a load stand still \
                 for {load}: a cold model ends in 504, and its load goes on for nobody",
                Written(timeouts.first_byte)
            ),
            format!("`timeouts: {{ first_byte: {load} }}` or more, or a smaller OLLAMA_LOAD_TIMEOUT"),
        ));
    }
    if let Some(whole) = timeouts.request {
        let queue = if upstream.has_models() { upstream.queue_timeout } else { Duration::ZERO };
        let parts = [("timeouts.first_byte", timeouts.first_byte), ("queue.timeout", queue)];
        if let Some((key, part)) = parts.into_iter().find(|(_, part)| whole < *part) {
            found.push(Finding::new(
                codes::REQUEST_TIMEOUT_SHORT,
                format!(
                    "in the route `{name}`, `timeouts.request: {}` is over before `{key}: {}`",
                    Written(whole),
                    Written(part)
                ),
                format!("raise `timeouts.request` above it, leave it out, or lower `{key}`"),
            ));
        }
    }
}

fn of_upstream(upstream: &Upstream, found: &mut Vec<Finding>) {
    if upstream.has_models() && upstream.queue_timeout > CLIENT && upstream.queue_keepalive.is_none() {
        found.push(Finding::new(
            codes::QUEUE_TIMEOUT_LONG,
            format!(
                "requests may wait {} in the queue of `{}`, and many clients and proxies in front give up after 60 s of silence",
                Written(upstream.queue_timeout),
                upstream.name
            ),
            format!("`upstreams.{}.queue: {{ keepalive: 15s }}` tells streams that they wait; or a timeout of 60s at most", upstream.name),
        ));
    }
}

fn of_ollama(ollama: &Ollama<'_>, found: &mut Vec<Finding>) {
    let id = &ollama.id;
    let Some(container) = ollama.container else { return };
    let parallel = ollama.number("OLLAMA_NUM_PARALLEL").filter(|number| *number > 0).unwrap_or(1);
    let loaded = ollama.number("OLLAMA_MAX_LOADED_MODELS").filter(|number| *number > 0);
    // What the configuration says of one model is exact; of all of them, each in memory may take its share.
    let room = parallel.saturating_mul(loaded.unwrap_or_else(|| u64::from(ollama.max_loaded.max(1))));
    let asked =
        [("max_in_flight_per_model", ollama.per_model, parallel), ("max_in_flight", ollama.max_in_flight, room)];
    for (key, wanted, room) in asked {
        if let Some(wanted) = wanted.map(u64::from).filter(|wanted| *wanted > room) {
            found.push(Finding::new(
                codes::PARALLEL_BELOW_IN_FLIGHT,
                format!(
                    "the server `{id}` gets up to {wanted} requests at a time (`{key}`), but with OLLAMA_NUM_PARALLEL={parallel} in \
                     the container `{}` it runs {room}: the others wait there, where nobody sees them",
                    container.name
                ),
                format!("`{key}: {room}`, or a larger OLLAMA_NUM_PARALLEL if its memory allows"),
            ));
        }
    }
    let queue = ollama.number("OLLAMA_MAX_QUEUE").unwrap_or(MAX_QUEUE);
    if let Some(wanted) = ollama.max_in_flight.map(u64::from).filter(|wanted| *wanted > queue) {
        found.push(Finding::new(
            codes::OLLAMA_QUEUE_SMALL,
            format!("the server `{id}` gets up to {wanted} requests at a time, and OLLAMA_MAX_QUEUE={queue} refuses more than that with 503"),
            format!("`max_in_flight: {queue}` at most: let requests wait in Arriero's queue"),
        ));
    }
    if let Some(loaded) =
        loaded.filter(|loaded| u64::from(ollama.max_loaded) > *loaded && ollama.upstream.is_scheduled())
    {
        found.push(Finding::new(
            codes::MAX_LOADED_DIFFERS,
            format!(
                "Arriero plans with {} models in memory of `{id}`, but OLLAMA_MAX_LOADED_MODELS={loaded}",
                ollama.max_loaded
            ),
            format!("`max_loaded: {loaded}` for this server"),
        ));
    }
}

fn images(route: &str, patterns: &[String], limit: u64, found: &mut Vec<Finding>) {
    let patterns: Vec<ModelPattern> = patterns.iter().filter_map(|written| ModelPattern::parse(written)).collect();
    let sees = patterns.iter().any(|pattern| {
        let family =
            |model: &str| model.split(':').next().is_some_and(|name| pattern.matches(&format!("{name}:latest")));
        VISION.iter().any(|model| pattern.matches(model) || family(model))
    });
    if sees && limit < IMAGE {
        found.push(Finding::new(
            codes::BODY_LIMIT_SMALL,
            format!(
                "the route `{route}` is for models that see, and takes bodies of {} at most; base64 makes an image a third larger, so \
                 images above {} are refused",
                bytes(limit),
                bytes(limit / 4 * 3)
            ),
            "`limits: { request_body: 100MiB }` in that route",
        ));
    }
}

fn of_process(good: &Good, facts: &Facts, own: Option<&str>, found: &mut Vec<Finding>) {
    let budget = good.config.server.body_budget.0;
    let largest =
        good.snapshot.routes.iter().filter(|route| route.upstream().is_some()).max_by_key(|route| route.body_limit);
    if let Some(route) = largest.filter(|route| route.body_limit > budget) {
        found.push(Finding::new(
            codes::BODY_BUDGET_SMALL,
            format!(
                "the route `{}` takes bodies up to {}, but all held bodies together may have {} (`server.body_budget`): one that must be \
                 held is answered 503",
                route.name,
                bytes(route.body_limit),
                bytes(budget)
            ),
            "raise `server.body_budget`, or lower the route's `limits.request_body`",
        ));
    }
    let container = facts.engine.own(own).and_then(|container| container.memory_limit);
    let group = facts.running.as_ref().ok().map(|running| &running.health.process).filter(|process| process.limited);
    let limit = container.or_else(|| group.and_then(|process| process.memory).map(|share| share.limit));
    if let Some(limit) = limit.filter(|limit| *limit < budget) {
        found.push(Finding::new(
            codes::MEMORY_LIMIT_SMALL,
            format!("Arriero may use {} of memory, less than `server.body_budget` ({}) alone", bytes(limit), bytes(budget)),
            "raise the limit of memory, or lower `server.body_budget`; bodies above `server.body_memory` go to `server.temp_dir`, \
             which counts as memory where it is a tmpfs",
        ));
    }
}
