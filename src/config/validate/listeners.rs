//! Rules about the addresses that clients connect to.

use std::collections::HashMap;

use super::Rules;
use crate::config::address::HostPort;
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
    super::admin::check(config, &seen, rules);
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
