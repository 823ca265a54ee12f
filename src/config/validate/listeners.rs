//! Rules about the addresses that Arriero listens on, the admin listener's included.

use std::collections::HashMap;

use super::Rules;
use crate::config::address::{AdminAddress, HostPort};
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Config, Listener};

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("listeners");
    if config.listeners.is_empty() {
        let hint = "add one: `- address: 0.0.0.0:8080`";
        rules.key(codes::EMPTY_LIST, &root, "there is no listener", hint);
    }
    let mut seen: HashMap<HostPort, usize> = HashMap::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let path = root.index(index);
        limits(&path, listener, rules);
        super::tls::listener(&path, listener, rules);
        let address_path = path.key("address");
        match HostPort::parse(&listener.address) {
            Err(why) => {
                let shown = rules.shown(&address_path, &listener.address);
                rules.value(codes::ADDRESS, &address_path, format!("{shown} is not an address"), why);
            }
            Ok(address) if address.port == 0 => {}
            Ok(address) => match seen.get(&address) {
                Some(first) => {
                    let shown = rules.shown(&address_path, &listener.address);
                    let message = format!("`listeners[{first}]` already has the address {shown}");
                    rules.value(codes::ADDRESS_TWICE, &address_path, message, "give each listener a port of its own");
                }
                None => {
                    seen.insert(address, index);
                }
            },
        }
    }
    admin(config, &seen, rules);
}

fn limits(path: &Path<'_>, listener: &Listener, rules: &mut Rules<'_, '_, '_>) {
    let timeouts = path.key("timeouts");
    let hint = "leave it out for the default";
    rules.not_zero(&timeouts.key("request_header"), listener.timeouts.request_header, hint);
    rules.not_zero(&timeouts.key("request_body"), listener.timeouts.request_body, hint);
    rules.not_zero(&timeouts.key("write"), listener.timeouts.write, hint);
    let limits = path.key("limits");
    rules.not_empty(&limits.key("header_bytes"), listener.limits.header_bytes, hint);
    rules.not_empty(&limits.key("target_bytes"), listener.limits.target_bytes, hint);
    rules.range(&limits.key("header_fields"), listener.limits.header_fields, 1, u32::MAX);
    if let Some(requests) = listener.limits.requests {
        rules.range(&limits.key("requests"), requests, 1, u32::MAX);
    }
    let (all, of_one) = (listener.limits.connections, listener.limits.connections_per_ip);
    let of_one_path = limits.key("connections_per_ip");
    if all > 0 && of_one > all && rules.given(&of_one_path) {
        let message = "one client may have more connections than all clients together";
        rules.value(codes::CONTRADICTION, &of_one_path, message, "make it no larger than `connections`");
    }
}

fn admin(config: &Config, listeners: &HashMap<HostPort, usize>, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("admin");
    let path = root.key("address");
    let shown = rules.shown(&path, &config.admin.address);
    if config.admin.token_file.as_ref().is_some_and(String::is_empty) {
        let hint = "name a file, or leave the key out";
        rules.value(codes::INVALID_VALUE, &root.key("token_file"), "the name of a file is empty", hint);
    }
    match AdminAddress::parse(&config.admin.address) {
        Err(why) => rules.value(codes::ADDRESS, &path, format!("{shown} is not an address"), why),
        Ok(AdminAddress::Unix(_)) => {}
        Ok(AdminAddress::Tcp(address)) => {
            if address.port > 0
                && let Some(index) = listeners.get(&address)
            {
                let list = Path::Root.key("listeners");
                let listener = list.index(*index);
                let listener_path = listener.key("address");
                let at = if rules.given(&path) { path } else { listener_path };
                let message = format!("`listeners[{index}]` and the admin listener have the same address {shown}");
                rules.value(codes::ADDRESS_TWICE, &at, message, "set `admin.address` to a port of its own");
            }
            if !address.is_loopback() && config.admin.token_file.is_none() {
                let message = format!("the admin address {shown} can be reached from outside and has no token");
                let hint = "add `token_file: /path/to/file`, or use `127.0.0.1:5100`";
                rules.value(codes::OPEN_ADMIN, &path, message, hint);
            }
        }
    }
}
