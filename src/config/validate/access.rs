//! Rules about who may: trusted proxies, host names, keys, networks, origins.

use super::Rules;
use super::routes::{host_pattern, is_token};
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Config, Cors, Listener, ProxyProtocol, Route, RouteAuth};
use crate::policy::cidr::Cidr;
use crate::policy::cors::check_origin;

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("listeners");
    for (index, listener) in config.listeners.iter().enumerate() {
        proxies(&root.index(index), listener, rules);
    }
    let root = Path::Root.key("routes");
    for (index, route) in config.routes.iter().enumerate() {
        of_route(config, &root.index(index), route, rules);
    }
    let root = Path::Root.key("auth");
    if config.auth.keys_file.as_ref().is_some_and(String::is_empty) {
        let hint = "name a file, or leave the key out";
        rules.value(codes::INVALID_VALUE, &root.key("keys_file"), "the name of a file is empty", hint);
    }
}

fn proxies(path: &Path<'_>, listener: &Listener, rules: &mut Rules<'_, '_, '_>) {
    let trusted = path.key("trusted_proxies");
    networks(&trusted, &listener.trusted_proxies, rules);
    for (index, text) in listener.trusted_proxies.iter().enumerate() {
        if text.ends_with("/0") && text.parse::<Cidr>().is_ok() {
            let message =
                "everybody is trusted as a proxy, so anybody can choose the address that counts as the client's";
            rules.value(codes::TRUSTS_ALL, &trusted.index(index), message, "name the networks of your own proxies");
        }
    }
    if listener.proxy_protocol == ProxyProtocol::Accept && listener.trusted_proxies.is_empty() {
        let message = "nobody can connect: a PROXY header is believed only from `trusted_proxies`, and there are none";
        let hint = "add the load balancer's network: `trusted_proxies: [10.0.0.0/8]`";
        rules.value(codes::CONTRADICTION, &path.key("proxy_protocol"), message, hint);
    }
    let hosts = path.key("hosts");
    for (index, host) in listener.hosts.iter().enumerate() {
        if let Err(why) = host_pattern(host) {
            let path = hosts.index(index);
            let shown = rules.shown(&path, host);
            let why = if host == "*" { "leave `hosts` out to answer every host" } else { why };
            rules.value(codes::HOST, &path, format!("{shown} is not a host pattern"), why);
        }
    }
}

fn of_route(config: &Config, path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    let asks = matches!(route.auth, Some(RouteAuth::Required | RouteAuth::Optional));
    if asks && config.auth.keys_file.is_none() {
        let hint = "add `auth: { keys_file: ./keys.yaml }` at the top level; `arriero key new NAME` makes keys";
        rules.value(
            codes::NO_KEYS,
            &path.key("auth"),
            "the route asks for API keys and there is no file with them",
            hint,
        );
    }
    let access = path.key("access");
    networks(&access.key("allow"), &route.access.allow, rules);
    networks(&access.key("deny"), &route.access.deny, rules);
    if let Some(cors) = &route.cors {
        of_cors(&path.key("cors"), cors, rules);
    }
}

pub(super) fn networks(path: &Path<'_>, list: &[String], rules: &mut Rules<'_, '_, '_>) {
    if list.is_empty() && rules.given(path) {
        rules.key(codes::EMPTY_LIST, path, "the list is empty", "leave it out, or name a network such as `10.0.0.0/8`");
    }
    for (index, text) in list.iter().enumerate() {
        if let Err(why) = text.parse::<Cidr>() {
            let path = path.index(index);
            let shown = rules.shown(&path, text);
            let hint = rules.why(&path, why, "write a network such as `10.0.0.0/8`, or one address");
            rules.value(codes::NETWORK, &path, format!("{shown} is not a network"), hint);
        }
    }
}

fn of_cors(path: &Path<'_>, cors: &Cors, rules: &mut Rules<'_, '_, '_>) {
    let origins = path.key("origins");
    if cors.origins.is_empty() {
        let hint = "name one, such as `https://app.example.com`, or leave `cors` out";
        rules.key(codes::EMPTY_LIST, &origins, "the list `origins` is empty", hint);
    }
    for (index, origin) in cors.origins.iter().enumerate() {
        if let Err(why) = check_origin(origin) {
            let path = origins.index(index);
            let shown = rules.shown(&path, origin);
            let hint = rules.why(&path, why, "write a scheme, a host and a port, such as `https://app.example.com`");
            rules.value(codes::ORIGIN, &path, format!("{shown} is not an origin"), hint);
        }
    }
    if cors.credentials && cors.origins.iter().any(|origin| origin == "*") {
        let message = "`credentials` with every origin would let any page act as its reader";
        let hint = "name the origins that may, or remove `credentials`";
        rules.value(codes::CONTRADICTION, &path.key("credentials"), message, hint);
    }
    let methods = path.key("methods");
    if cors.methods.is_empty() {
        rules.key(codes::EMPTY_LIST, &methods, "the list `methods` is empty", "leave it out for GET, HEAD and POST");
    }
    for (index, method) in cors.methods.iter().enumerate() {
        if !is_token(method) || method == "*" || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let path = methods.index(index);
            let shown = rules.shown(&path, method);
            let hint = "write it in capitals, such as `POST`";
            rules.value(codes::METHOD, &path, format!("{shown} is not a method"), hint);
        }
    }
    for (key, names) in [("headers", &cors.headers), ("expose", &cors.expose)] {
        let list = path.key(key);
        for (index, name) in names.iter().enumerate() {
            if !is_token(name) || name == "*" {
                let path = list.index(index);
                let shown = rules.shown(&path, name);
                let hint = match key {
                    "headers" if name == "*" => "leave `headers` out for every field",
                    _ => "names of header fields are letters, digits and `-`",
                };
                rules.value(codes::INVALID_VALUE, &path, format!("{shown} is not the name of a header field"), hint);
            }
        }
    }
}
