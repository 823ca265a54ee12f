//! Rules about queues, cards and where models may be.

use super::{Rules, gpu};
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{BalancePolicy, Config, Kind, ModelAffinity, ModelRule, Plan, Route, Upstream};
use crate::ollama::ModelPattern;

/// Keys that the scheduler alone reads.
const SCHEDULED: [&str; 2] = ["max_in_flight_per_model", "max_loaded"];

pub(super) fn check(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    let queue = path.key("queue");
    rules.not_zero(&queue.key("timeout"), upstream.queue.timeout, "write `max_pending: 0` to let nobody wait");
    rules.not_zero(&queue.key("aging"), upstream.queue.aging, "leave it out for the default");
    keepalive(&queue.key("keepalive"), upstream, rules);
    policy(path, upstream, rules);
    let scheduled = upstream.policy() == BalancePolicy::ExpectedWait;
    let loads = scheduled && upstream.kind == Kind::Ollama;
    for (index, server) in upstream.servers.iter().enumerate() {
        let servers = path.key("servers");
        let server_path = servers.index(index);
        for key in SCHEDULED {
            only_if(scheduled && (loads || key == "max_in_flight_per_model"), &server_path, key, rules);
        }
        for (key, value) in
            [("max_in_flight_per_model", server.max_in_flight_per_model), ("max_loaded", server.max_loaded)]
        {
            if let Some(value) = value {
                rules.range(&server_path.key(key), value, 1, u32::MAX);
            }
        }
        if let Some(written) = &server.gpu {
            let path = server_path.key("gpu");
            for key in ["memory", "margin"] {
                only_if(loads, &path, key, rules);
            }
            gpu::check(&path, written, rules);
        }
    }
    only_if(loads, path, "models", rules);
    only_if(loads, path, "warm", rules);
    for (index, rule) in upstream.models.iter().enumerate() {
        model_rule(&path.key("models").index(index), upstream, rule, rules);
    }
    for (index, written) in upstream.warm.iter().enumerate() {
        warm(&path.key("warm").index(index), upstream, written, rules);
    }
}

/// Keys of a route that have an effect only where requests wait or are scheduled.
pub(super) fn route(config: &Config, path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    let upstream = route.upstream.as_ref().map(|name| config.upstreams.get(name));
    // An upstream that does not exist is told already.
    let Some(upstream) = (match upstream {
        Some(None) => return,
        Some(Some(upstream)) => Some(Some(upstream)),
        None if rules.is_whole(path) => Some(None),
        None => None,
    }) else {
        return;
    };
    for key in ["priority", "priority_header"] {
        let path = path.key(key);
        if upstream.is_none() && rules.given(&path) {
            let hint = "remove it, or give the route an `upstream`";
            rules.key(
                codes::NOT_HERE,
                &path,
                format!("`{key}` has an effect only where requests wait for servers"),
                hint,
            );
        }
    }
    let path = path.key("explain");
    let scheduled = upstream.is_some_and(|upstream| upstream.policy() == BalancePolicy::ExpectedWait);
    if !scheduled && rules.given(&path) {
        let hint = "remove it, or use `balance: { policy: expected_wait }` in the upstream";
        rules.key(codes::NOT_HERE, &path, "`explain` has an effect only where `expected_wait` chooses", hint);
    }
}

/// Comments belong into streams that are known to be some.
fn keepalive(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    if let Some(every) = upstream.queue.keepalive.every() {
        rules.not_zero(path, every, "write `off` to send no comments");
        if upstream.kind == Kind::Http {
            let hint = "remove it, or use `kind: ollama` or `kind: openai`";
            rules.key(codes::NOT_HERE, path, "streams of `kind: http` are not known", hint);
        }
    }
}

fn policy(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    let balance = path.key("balance");
    let scheduled = upstream.policy() == BalancePolicy::ExpectedWait;
    if scheduled && upstream.kind == Kind::Http {
        let message = "requests to servers of `kind: http` have no model to wait for";
        rules.value(codes::NOT_HERE, &balance.key("policy"), message, "write `least_requests`, or `kind: ollama`");
    }
    if scheduled && upstream.balance.model_affinity == ModelAffinity::Off {
        let message = "`expected_wait` always considers which models are in memory";
        let hint = "remove `model_affinity: off`, or use another `policy`";
        rules.value(codes::CONTRADICTION, &balance.key("model_affinity"), message, hint);
    }
    if upstream.balance.plan == Plan::Learned && !(scheduled && upstream.kind == Kind::Ollama) {
        let message = "`plan` has an effect only with `policy: expected_wait` and `kind: ollama`";
        rules.key(codes::NOT_HERE, &balance.key("plan"), message, "remove it");
    }
}

fn only_if(has_effect: bool, path: &Path<'_>, key: &str, rules: &mut Rules<'_, '_, '_>) {
    let path = path.key(key);
    if !has_effect && rules.given(&path) {
        let message = format!("`{key}` has an effect only with `policy: expected_wait` and `kind: ollama`");
        rules.key(codes::NOT_HERE, &path, message, "remove it, or change the policy of the upstream");
    }
}

fn model_rule(path: &Path<'_>, upstream: &Upstream, rule: &ModelRule, rules: &mut Rules<'_, '_, '_>) {
    pattern(&path.key("match"), &rule.matches, rules);
    let lists = [("pin", Some(&rule.pin)), ("only", rule.only.as_ref()), ("never", Some(&rule.never))];
    for (key, names) in lists.iter().filter_map(|(key, names)| names.map(|names| (*key, names))) {
        for (index, name) in names.iter().enumerate() {
            server(&path.key(key).index(index), upstream, name, rules);
        }
    }
    if let Some(both) = rule.pin.iter().position(|name| rule.never.contains(name)) {
        let at = path.key("pin");
        let message = "a server cannot both keep a model and never have it";
        rules.value(codes::CONTRADICTION, &at.index(both), message, "remove it from `pin` or from `never`");
    }
    if rule.only.as_ref().is_some_and(Vec::is_empty) {
        let message = "then no server may have these models";
        rules.value(codes::EMPTY_LIST, &path.key("only"), message, "name the servers that may, or remove `only`");
    }
    if let Some(most) = rule.max_warm {
        rules.range(&path.key("max_warm"), most, 1, u32::MAX);
        if rule.min_warm.is_some_and(|least| least > most) {
            let message = "`min_warm` is larger than `max_warm`";
            rules.value(codes::CONTRADICTION, &path.key("min_warm"), message, "raise `max_warm` or lower `min_warm`");
        }
    }
    if let Some(idle) = rule.idle_unload {
        rules.not_zero(&path.key("idle_unload"), idle, "leave it out to keep models in memory");
    }
}

fn warm(path: &Path<'_>, upstream: &Upstream, written: &str, rules: &mut Rules<'_, '_, '_>) {
    let Some((model, name)) = written.rsplit_once('@') else {
        let shown = rules.shown(path, written);
        let hint = "write `MODEL@SERVER`, such as `llava:13b@a100-1`";
        rules.value(codes::MODEL, path, format!("{shown} does not say on which server"), hint);
        return;
    };
    if model.contains('*') {
        let message = "a model to load has one name";
        rules.value(codes::MODEL, path, message, "write one line for each model");
    }
    pattern(path, model, rules);
    server(path, upstream, name, rules);
}

fn pattern(path: &Path<'_>, written: &str, rules: &mut Rules<'_, '_, '_>) {
    if ModelPattern::parse(written).is_none() {
        let shown = rules.shown(path, written);
        rules.value(
            codes::MODEL,
            path,
            format!("{shown} is not a model"),
            "write a name, or a pattern such as `llava*`",
        );
    }
}

fn server(path: &Path<'_>, upstream: &Upstream, name: &str, rules: &mut Rules<'_, '_, '_>) {
    // A server without a name is called by its host and port.
    let is_called = |server: &crate::config::types::ServerEntry| match &server.name {
        Some(own) => own == name,
        None => server.url.split_once("://").is_some_and(|(_, address)| address == name),
    };
    if !upstream.servers.iter().any(is_called) {
        let shown = rules.shown(path, name);
        let names: Vec<&str> = upstream.servers.iter().filter_map(|server| server.name.as_deref()).collect();
        let hint = match crate::config::suggest::nearest(name, names.into_iter()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "name one of the upstream's `servers`".to_owned(),
        };
        rules.value(codes::UNKNOWN_SERVER, path, format!("{shown} is not a server of this upstream"), hint);
    }
}
