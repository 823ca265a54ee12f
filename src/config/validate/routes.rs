//! Rules about routes: names, conditions, retries, and routes that can never match.

use std::collections::HashSet;
use std::net::Ipv6Addr;

use super::{Rules, cache, content, models};
use crate::config::address::is_host_name;
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Config, Match, OneOrMany, Retry, RetryOn, Route, Scheme};

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("routes");
    if config.routes.is_empty() {
        let message = "there is no route: every request is answered 404";
        rules.key(codes::NO_ROUTES, &root, message, "add one: `- { name: all, upstream: NAME }`");
    }
    let mut names = HashSet::new();
    for (index, route) in config.routes.iter().enumerate() {
        let path = root.index(index);
        let name_path = path.key("name");
        rules.name(&name_path, &route.name, "a route", false);
        if !names.insert(route.name.as_str()) {
            let shown = rules.shown(&name_path, &route.name);
            let message = format!("another route already has the name {shown}");
            rules.value(codes::NAME_TWICE, &name_path, message, "names are unique: logs and metrics use them");
        }
        content::check(config, &path, route, rules);
        conditions(&path.key("match"), &route.matches, rules);
        rules.timeouts(&path.key("timeouts"), &route.timeouts);
        super::limits::check(config, &path, route, rules);
        retry(&path.key("retry"), &route.retry, rules);
        models::check(config, &path, route, rules);
        cache::check(&path, route, rules);
        super::fleet::route(config, &path, route, rules);
    }
    never_match(config, &root, rules);
    never_spoken(config, &root, rules);
}

fn conditions(path: &Path<'_>, matches: &Match, rules: &mut Rules<'_, '_, '_>) {
    each(path, "host", &matches.host, rules, |host, path, rules| {
        if let Err(why) = host_pattern(host) {
            let shown = rules.shown(path, host);
            rules.value(codes::HOST, path, format!("{shown} is not a host pattern"), why);
        }
    });
    each(path, "path", &matches.path, rules, |text, path, rules| {
        if let Err(why) = plain_path(text) {
            let shown = rules.shown(path, text);
            rules.value(codes::PATH, path, format!("{shown} is not a path to match"), why);
        }
    });
    each(path, "method", &matches.method, rules, |method, path, rules| {
        if !is_token(method) || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let shown = rules.shown(path, method);
            rules.value(
                codes::METHOD,
                path,
                format!("{shown} is not a method"),
                "write it in capitals, such as `POST`",
            );
        }
    });
    each(path, "model", &matches.model, rules, |model, path, rules| {
        if model.is_empty() || model.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let shown = rules.shown(path, model);
            let hint = "write a name such as `llava`, `llava:13b` or `llava*`";
            rules.value(codes::MODEL, path, format!("{shown} is not a model pattern"), hint);
        }
    });
    let headers = path.key("header");
    for (name, value) in &matches.header {
        let path = headers.key(name);
        if !is_token(name) {
            let hint = "names of header fields are letters, digits and `-`";
            rules.key(codes::HEADER, &path, format!("`{name}` is not the name of a header field"), hint);
        }
        if value.chars().any(char::is_control) || value.trim() != value {
            let message = format!("the value that `{name}` must have can never be sent");
            rules.value(codes::HEADER, &path, message, "remove control characters and spaces around it");
        }
    }
}

/// Runs `rule` for each value, and refuses a list that was given and is empty.
fn each(
    parent: &Path<'_>,
    key: &str,
    values: &OneOrMany<String>,
    rules: &mut Rules<'_, '_, '_>,
    rule: impl Fn(&str, &Path<'_>, &mut Rules<'_, '_, '_>),
) {
    let path = parent.key(key);
    match values {
        OneOrMany::One(value) => rule(value, &path, rules),
        OneOrMany::Many(values) if values.is_empty() => {
            if rules.given(&path) {
                let hint = format!("leave `{key}` out to take every request");
                rules.key(codes::EMPTY_LIST, &path, format!("the list `{key}` is empty"), hint);
            }
        }
        OneOrMany::Many(values) => {
            for (index, value) in values.iter().enumerate() {
                rule(value, &path.index(index), rules);
            }
        }
    }
}

pub(super) fn host_pattern(text: &str) -> Result<(), &'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if text == "*" {
        return Err("leave `host` out to take every host");
    }
    if name.contains('*') {
        return Err("`*` may only stand in front, as in `*.example.com`");
    }
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) || is_host_name(name) {
        return Ok(());
    }
    if name.contains("://") || name.contains('/') {
        return Err("write only the name, such as `example.com`");
    }
    if name.contains(':') {
        return Err("leave out the port: `example.com` matches every port");
    }
    Err("write a name such as `example.com` or `*.example.com`")
}

/// A path as the router compares it: absolute and in its one canonical form.
pub(super) fn plain_path(text: &str) -> Result<(), &'static str> {
    if !text.starts_with('/') {
        return Err("a path starts with `/`");
    }
    if text.contains(['?', '#']) {
        return Err("a path has no query and no fragment");
    }
    if text.contains('*') {
        return Err("a path that ends in `/` matches everything below it: remove the `*`");
    }
    if text.contains('%') {
        return Err("write characters as they are, without `%`");
    }
    if text.contains('\\') || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("a path has no spaces, backslashes or control characters");
    }
    let inside = text[1..].strip_suffix('/').unwrap_or(&text[1..]);
    if text == "//" || (!inside.is_empty() && inside.split('/').any(str::is_empty)) {
        return Err("a path has no empty segment: write one `/`");
    }
    if inside.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("a path has no segments `.` and `..`");
    }
    Ok(())
}

/// Whether `text` is a token as RFC 9110 has it.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn retry(path: &Path<'_>, retry: &Retry, rules: &mut Rules<'_, '_, '_>) {
    rules.range(&path.key("attempts"), retry.attempts, 1, 10);
    if retry.replay_post && retry.on.iter().all(|on| *on == RetryOn::Connect) {
        let message = "`replay_post` has no effect: after a connect failure nothing was sent";
        let hint = "add what should be tried again to `on`, such as `reset`, or remove `replay_post`";
        rules.key(codes::NO_REPLAY, &path.key("replay_post"), message, hint);
    }
}

/// What the routes so far take whatever else a request looks like.
#[derive(Default)]
struct Taken<'c> {
    all: Option<&'c str>,
    prefixes: std::collections::HashMap<&'c str, &'c str>,
    exact: std::collections::HashMap<&'c str, &'c str>,
}

impl<'c> Taken<'c> {
    /// The route that takes every request of `path`.
    fn path(&self, path: &str) -> Option<&'c str> {
        let slashes = path.match_indices('/').map(|(index, _)| &path[..=index]);
        let below = slashes.into_iter().find_map(|prefix| self.prefixes.get(prefix));
        below.or_else(|| self.exact.get(path)).copied()
    }

    /// The route, or one of the routes, that takes every request of `route`.
    fn route(&self, route: &Route) -> Option<&'c str> {
        let paths = route.matches.path.as_slice();
        let by_path = || {
            let mut takers = paths.iter().map(|path| self.path(path));
            let first = takers.next()??;
            takers.all(|taker| taker.is_some()).then_some(first)
        };
        self.all.or_else(by_path)
    }

    fn add(&mut self, route: &'c Route) {
        let matches = &route.matches;
        let others = [&matches.host, &matches.method, &matches.model];
        let more = matches.scheme.is_some() || !matches.header.is_empty();
        if more || others.iter().any(|values| !values.as_slice().is_empty()) {
            return;
        }
        let paths = matches.path.as_slice();
        if paths.is_empty() || paths.iter().any(|path| path == "/") {
            self.all.get_or_insert(&route.name);
        }
        for path in paths {
            let taken = if path.ends_with('/') { &mut self.prefixes } else { &mut self.exact };
            taken.entry(path).or_insert(&route.name);
        }
    }
}

/// Routes for a scheme that no client speaks, and that no trusted proxy can name for one.
fn never_spoken(config: &Config, root: &Path<'_>, rules: &mut Rules<'_, '_, '_>) {
    let said_by_proxies = config.listeners.iter().any(|listener| !listener.trusted_proxies.is_empty());
    let spoken = |scheme| config.listeners.iter().any(|listener| listener.tls.is_some() == (scheme == Scheme::Https));
    if said_by_proxies || config.listeners.is_empty() {
        return;
    }
    for (index, route) in config.routes.iter().enumerate() {
        let Some(scheme) = route.matches.scheme.filter(|scheme| !spoken(*scheme)) else { continue };
        let (message, hint) = match scheme {
            Scheme::Https => (
                "can never match: no listener has `tls`",
                "add `tls` to a listener, or the proxy before it to its `trusted_proxies`",
            ),
            Scheme::Http => ("can never match: all listeners have `tls`", "add a listener without `tls`"),
        };
        let path = root.index(index);
        let shown = rules.shown(&path.key("name"), &route.name);
        let message = format!("the route {shown} {message}");
        rules.value(codes::NEVER_MATCHES, &path.key("match").key("scheme"), message, hint);
    }
}

fn never_match(config: &Config, root: &Path<'_>, rules: &mut Rules<'_, '_, '_>) {
    let mut taken = Taken::default();
    for (index, route) in config.routes.iter().enumerate() {
        if let Some(taker) = taken.route(route) {
            let path = root.index(index);
            let name_path = path.key("name");
            let shown = rules.shown(&name_path, &route.name);
            let position = config.routes.iter().position(|earlier| earlier.name == taker).unwrap_or_default();
            let earlier = rules.shown(&root.index(position).key("name"), taker);
            let message = format!("the route {shown} can never match: {earlier} before it takes all its requests");
            rules.value(
                codes::NEVER_MATCHES,
                &name_path,
                message,
                "the first route that matches wins: move this one up",
            );
        }
        taken.add(route);
    }
}
