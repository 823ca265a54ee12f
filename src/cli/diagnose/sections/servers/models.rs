//! Models that the configuration speaks of, and whether a server has them.

use std::collections::BTreeSet;

use super::super::super::codes;
use super::super::super::facts::{Facts, ServerFacts};
use super::super::super::finding::Finding;
use crate::config::types::{Config, Kind, Upstream};
use crate::ollama::ModelPattern;
use crate::ollama::name::canonical;

/// Judges them.
pub fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    for server in &facts.servers {
        if server.kind == Kind::Ollama && server.models.as_ref().is_some_and(Vec::is_empty) {
            found.push(Finding::new(
                codes::NO_MODELS,
                format!("the server `{}` has no models", server.id),
                pull(server, "MODEL"),
            ));
        }
    }
    let Some(good) = facts.config.good() else { return };
    routes(&good.config, facts, found);
    for (name, upstream) in &good.config.upstreams {
        rules(name, upstream, facts, found);
    }
}

fn pull(server: &ServerFacts, model: &str) -> String {
    format!("`curl {}/api/pull -d '{{\"model\":\"{model}\"}}'`", server.url)
}

/// The models of an upstream; `None` where a server did not tell its own, which might be the one.
fn known<'a>(facts: &'a Facts, upstream: &str) -> Option<(Vec<&'a ServerFacts>, BTreeSet<&'a str>)> {
    let servers: Vec<&ServerFacts> = facts.servers.iter().filter(|server| server.upstream == upstream).collect();
    let lists: Option<Vec<&Vec<String>>> = servers.iter().map(|server| server.models.as_ref()).collect();
    let models = lists?.into_iter().flatten().map(String::as_str).collect();
    Some((servers, models))
}

/// Every pattern of a route should find a model. A list of patterns is a wish for any of them.
fn routes(config: &Config, facts: &Facts, found: &mut Vec<Finding>) {
    for route in &config.routes {
        let (Some(upstream), patterns) = (&route.upstream, route.matches.model.as_slice()) else { continue };
        let Some((servers, models)) = known(facts, upstream) else { continue };
        let Some(first) = servers.first().filter(|_| !patterns.is_empty()) else { continue };
        let missing = |written: &&String| {
            ModelPattern::parse(written).is_some_and(|pattern| !models.iter().any(|model| pattern.matches(model)))
        };
        let missing: Vec<&String> = patterns.iter().filter(missing).collect();
        for written in missing.iter().filter(|written| !written.contains('*')) {
            found.push(Finding::new(
                codes::MODEL_MISSING,
                format!("the route `{}` names the model `{written}`, which no server of `{upstream}` has", route.name),
                format!("pull it: {}; or take it out of `match.model`", pull(first, written)),
            ));
        }
        if missing.len() == patterns.len() && patterns.iter().all(|written| written.contains('*')) {
            let finding = Finding::new(
                codes::MODEL_MISSING,
                format!(
                    "the route `{}` is for models like `{}`, and no server of `{upstream}` has one",
                    route.name,
                    patterns.join("`, `")
                ),
                format!("pull one: {}; or take the route out", pull(first, "MODEL")),
            );
            // A route may stand ready for models to come.
            found.push(finding.noted());
        }
    }
}

/// Models that are to be loaded at the start or kept in memory must be on their servers' disks.
fn rules(name: &str, upstream: &Upstream, facts: &Facts, found: &mut Vec<Finding>) {
    let server = |wanted: &str| {
        let mut here = facts.servers.iter().filter(|server| server.upstream == name);
        here.find(|server| server.name == wanted)
    };
    for written in &upstream.warm {
        let Some((model, on)) = written.rsplit_once('@') else { continue };
        let Some(server) = server(on) else { continue };
        let lacks = |models: &Vec<String>| !models.iter().any(|known| *known == canonical(model));
        if server.models.as_ref().is_some_and(lacks) {
            found.push(Finding::new(
                codes::MODEL_MISSING,
                format!(
                    "`upstreams.{name}.warm` wants `{model}` on the server `{}`, which does not have it",
                    server.id
                ),
                format!("pull it: {}", pull(server, model)),
            ));
        }
    }
    for rule in &upstream.models {
        let Some(pattern) = ModelPattern::parse(&rule.matches) else { continue };
        for server in rule.pin.iter().filter_map(|on| server(on)) {
            let lacks = |models: &Vec<String>| !models.iter().any(|known| pattern.matches(known));
            if server.models.as_ref().is_some_and(lacks) {
                found.push(Finding::new(
                    codes::MODEL_MISSING,
                    format!("a rule pins `{}` to the server `{}`, which has no such model", rule.matches, server.id),
                    format!("pull it: {}", pull(server, &rule.matches)),
                ));
            }
        }
    }
}
