//! Rules about upstreams: servers, balance, circuit, health, connections.

use std::collections::{HashMap, HashSet};

use super::Rules;
use super::routes::{is_token, plain_path};
use crate::config::address::{HostPort, ServerUrl};
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{
    Active, Balance, BalancePolicy, Circuit, Config, Health, Kind, Listener, ModelAffinity, Recovery, Route, Upstream,
};

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("upstreams");
    let used: HashSet<&str> = config.routes.iter().filter_map(|route| route.upstream.as_deref()).collect();
    // A route without a target may have meant any upstream.
    let sure = config.routes.iter().all(Route::has_target);
    for (name, upstream) in &config.upstreams {
        let path = root.key(name);
        rules.name(&path, name, "an upstream", true);
        if sure && !used.contains(name.as_str()) {
            let message = format!("no route uses the upstream `{name}`");
            rules.key(codes::UNUSED_UPSTREAM, &path, message, "add a route to it, or remove it");
        }
        servers(&path.key("servers"), upstream, config, rules);
        super::tls::upstream(&path, upstream, rules);
        balance(&path.key("balance"), upstream, rules);
        circuit(&path.key("circuit"), &upstream.circuit, rules);
        bans(&path, upstream, rules);
        health(&path.key("health").key("active"), &upstream.health, rules);
        super::fleet::check(&path, upstream, rules);
        recovery(&path.key("recovery"), upstream, rules);
        super::recovery_action::check(&path, upstream, rules);
        let keepalive = path.key("keepalive");
        let hint = "write `max_idle: 0` to keep no connection";
        rules.not_zero(&keepalive.key("idle_timeout"), upstream.keepalive.idle_timeout, hint);
        let inventory = path.key("inventory");
        if upstream.kind == Kind::Http && rules.given(&inventory) {
            let hint = "remove it, or use `kind: ollama` or `kind: openai`";
            rules.key(codes::NOT_HERE, &inventory, "servers of `kind: http` have no models to learn", hint);
        }
        let hint = "leave it out for the default";
        rules.not_zero(&inventory.key("interval"), upstream.inventory.interval, hint);
    }
}

fn servers(path: &Path<'_>, upstream: &Upstream, config: &Config, rules: &mut Rules<'_, '_, '_>) {
    if upstream.servers.is_empty() {
        let hint = "add one: `- url: http://127.0.0.1:11434`";
        rules.key(codes::EMPTY_LIST, path, "an upstream needs at least one server", hint);
    }
    let mut names = HashSet::new();
    let mut urls: HashMap<ServerUrl, usize> = HashMap::new();
    for (index, server) in upstream.servers.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = &server.name {
            let name_path = path.key("name");
            rules.name(&name_path, name, "a server", false);
            if !names.insert(name.as_str()) {
                let shown = rules.shown(&name_path, name);
                let message = format!("another server of this upstream already has the name {shown}");
                rules.value(codes::NAME_TWICE, &name_path, message, "names are unique within an upstream");
            }
        }
        let url_path = path.key("url");
        match ServerUrl::parse(&server.url) {
            Err(why) => {
                // The text may hold a password: only a reference is shown.
                rules.value(codes::URL, &url_path, format!("this is not the URL of a server: {why}"), URL_HINT);
            }
            Ok(url) => {
                if let Some(listener) = own_listener(config, &url.address) {
                    let message = format!(
                        "this is `listeners[{listener}]` of Arriero itself: a request would come back, and reach no server"
                    );
                    let hint = "write the address of the server behind it; where both are on this machine, give one of them another port";
                    rules.value(codes::OWN_ADDRESS, &url_path, message, hint);
                }
                if let Some(first) = urls.insert(url, index) {
                    let message = format!("`servers[{first}]` of this upstream already has this URL");
                    let hint = "remove one of them, and give the other a larger `weight`";
                    rules.value(codes::URL_TWICE, &url_path, message, hint);
                }
            }
        }
        rules.range(&path.key("weight"), server.weight, 1, 1000);
        if let Some(most) = server.max_in_flight {
            rules.range(&path.key("max_in_flight"), most, 1, u32::MAX);
        }
    }
}

/// The listener that requests to a server at this address would come to.
fn own_listener(config: &Config, server: &HostPort) -> Option<usize> {
    let is_own =
        |listener: &Listener| HostPort::parse(&listener.address).is_ok_and(|address| address.is_reached_at(server));
    config.listeners.iter().position(is_own)
}

const URL_HINT: &str = "write `http://HOST:PORT` or `https://HOST:PORT`";

fn balance(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    let balance = &upstream.balance;
    if let Some(hash_on) = &balance.hash_on {
        let path = path.key("hash_on");
        if balance.policy != Some(BalancePolicy::ConsistentHash) {
            let hint = "add `policy: consistent_hash`, or remove it";
            rules.key(codes::NOT_HERE, &path, "`hash_on` has no meaning without `policy: consistent_hash`", hint);
        }
        let header = hash_on.strip_prefix("header:");
        let cookie = hash_on.strip_prefix("cookie:");
        let known = matches!(hash_on.as_str(), "client_ip" | "model") || header.or(cookie).is_some_and(is_token);
        if !known {
            let shown = rules.shown(&path, hash_on);
            let hint = "write `client_ip`, `model`, `header:NAME` or `cookie:NAME`";
            rules.value(codes::HASH_ON, &path, format!("{shown} cannot be hashed"), hint);
        } else if hash_on == "model" && upstream.kind == Kind::Http {
            let message = "requests to servers of `kind: http` have no model";
            rules.value(codes::NOT_HERE, &path, message, "write `client_ip`, `header:NAME` or `cookie:NAME`");
        }
    }
    sticky_cookie(&path.key("sticky_cookie"), balance, rules);
    let path = path.key("model_affinity");
    match (upstream.kind, balance.model_affinity) {
        (Kind::Http, affinity) if affinity != ModelAffinity::PreferLoaded => {
            let message = "servers of `kind: http` have no models";
            rules.key(codes::NOT_HERE, &path, message, "remove `model_affinity`");
        }
        (Kind::Openai, ModelAffinity::RequireLoaded) => {
            let message = "`kind: openai` does not tell which models are in memory";
            rules.value(codes::NOT_HERE, &path, message, "write `prefer_loaded` or `off`");
        }
        _ => {}
    }
}

fn sticky_cookie(path: &Path<'_>, balance: &Balance, rules: &mut Rules<'_, '_, '_>) {
    let Some(cookie) = &balance.sticky_cookie else {
        return;
    };
    if balance.policy != Some(BalancePolicy::ConsistentHash) {
        let hint = "add `policy: consistent_hash`, or remove it";
        rules.key(codes::NOT_HERE, path, "`sticky_cookie` has no meaning without `policy: consistent_hash`", hint);
    }
    let name_path = path.key("name");
    if !is_token(&cookie.name) {
        let shown = rules.shown(&name_path, &cookie.name);
        let hint = "names of cookies are letters, digits, `-` and `_`";
        rules.value(codes::COOKIE, &name_path, format!("{shown} cannot be the name of a cookie"), hint);
    }
    let hashed = format!("cookie:{}", cookie.name);
    if balance.hash_on.as_ref().is_some_and(|hash_on| *hash_on != hashed) {
        let message = "`hash_on` is not the cookie that `sticky_cookie` issues";
        rules.key(codes::CONTRADICTION, path, message, format!("write `hash_on: {hashed}`, or leave `hash_on` out"));
    }
    let cookie_path = path.key("path");
    if let Err(why) = plain_path(&cookie.path).and(if cookie.path.contains([';', ',']) {
        Err("the path of a cookie has no `;` and no `,`")
    } else {
        Ok(())
    }) {
        let shown = rules.shown(&cookie_path, &cookie.path);
        rules.value(codes::PATH, &cookie_path, format!("{shown} cannot be the path of a cookie"), why);
    }
}

fn circuit(path: &Path<'_>, circuit: &Circuit, rules: &mut Rules<'_, '_, '_>) {
    rules.range(&path.key("consecutive_failures"), circuit.consecutive_failures, 1, u32::MAX);
    if let Some(failures) = circuit.connect_failures {
        rules.range(&path.key("connect_failures"), failures, 1, u32::MAX);
    }
    rules.range(&path.key("min_requests"), circuit.min_requests, 1, u32::MAX);
    rules.not_zero(&path.key("window"), circuit.window, "leave it out for the default");
    let rate_path = path.key("failure_rate");
    if circuit.failure_rate.hundredths() == 0 {
        let message = "a circuit that opens at 0 % of failures is always open";
        rules.value(codes::RANGE, &rate_path, message.to_owned(), "write a share from `1%` to `100%`");
    }
    let open_path = path.key("open_for");
    rules.not_zero(&open_path, circuit.open_for, "leave it out for the default");
    if circuit.open_for > circuit.max_open_for {
        let longest_path = path.key("max_open_for");
        let message = "`open_for` is longer than `max_open_for`";
        let at = if rules.given(&open_path) { open_path } else { longest_path };
        let hint = format!("raise `max_open_for` ({} by default) or lower `open_for`", Circuit::default().max_open_for);
        rules.value(codes::CONTRADICTION, &at, message, hint);
    }
}

fn recovery(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    let recovery = &upstream.recovery;
    if upstream.kind == Kind::Http && rules.given(path) {
        let hint = "remove it, or use `kind: ollama` or `kind: openai`";
        rules.key(codes::NOT_HERE, path, "servers of `kind: http` are not tested", hint);
    } else if upstream.kind == Kind::Openai {
        for key in ["probe", "quiet", "timeout"].map(|key| path.key(key)) {
            if rules.given(&key) {
                let message =
                    "only servers of `kind: ollama` tell which models are in memory, so no other is asked for a token";
                rules.key(codes::NOT_HERE, &key, message, "remove it");
            }
        }
    }
    let hint = "leave it out for the default";
    let interval_path = path.key("interval");
    rules.not_zero(&interval_path, recovery.interval, hint);
    rules.not_zero(&path.key("timeout"), recovery.timeout, hint);
    if recovery.interval > recovery.max_interval {
        let longest_path = path.key("max_interval");
        let at = if rules.given(&interval_path) { interval_path } else { longest_path };
        let hint =
            format!("raise `max_interval` ({} by default) or lower `interval`", Recovery::default().max_interval);
        rules.value(codes::CONTRADICTION, &at, "`interval` is longer than `max_interval`", hint);
    }
}

/// Bans by rule and the quarantine are about models.
fn bans(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    for key in ["bans", "quarantine"] {
        let path = path.key(key);
        if upstream.kind == Kind::Http && rules.given(&path) {
            let hint = "remove it, or use `kind: ollama` or `kind: openai`";
            rules.key(codes::NOT_HERE, &path, "servers of `kind: http` have no models", hint);
        }
    }
    if let Some(bans) = &upstream.bans {
        let path = path.key("bans");
        rules.range(&path.key("after"), bans.after, 1, u32::MAX);
        rules.not_zero(&path.key("for"), bans.lasts, "leave it out for an hour");
    }
}

fn health(path: &Path<'_>, health: &Health, rules: &mut Rules<'_, '_, '_>) {
    let Some(Active::Check(check)) = &health.active else {
        return;
    };
    if let Some(text) = &check.path {
        let path = path.key("path");
        let target = text.split_once('?').map_or(text.as_str(), |(path, _)| path);
        if let Err(why) = plain_path(target) {
            let shown = rules.shown(&path, text);
            rules.value(codes::PATH, &path, format!("{shown} is not a path to get"), why);
        }
    }
    let hint = "leave it out for the default";
    rules.not_zero(&path.key("interval"), check.interval, hint);
    rules.not_zero(&path.key("timeout"), check.timeout, hint);
    if check.timeout > check.interval {
        let timeout_path = path.key("timeout");
        let at = if rules.given(&timeout_path) { timeout_path } else { path.key("interval") };
        let message = "a check may take longer than the time between two checks";
        rules.value(codes::SLOW_CHECK, &at, message, "make `timeout` no longer than `interval`");
    }
    rules.range(&path.key("healthy"), check.healthy, 1, u32::MAX);
    rules.range(&path.key("unhealthy"), check.unhealthy, 1, u32::MAX);
}
