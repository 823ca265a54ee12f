//! Rules about the admin listener: its address, its tokens, and where servers may be that are added over it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::Rules;
use crate::config::address::{AdminAddress, HostPort, ServerUrl};
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::Config;
use crate::policy::cidr::{Cidr, Networks};
use crate::policy::reach::Reach;

/// `listeners` are the addresses of the others.
pub(super) fn check(config: &Config, listeners: &HashMap<HostPort, usize>, rules: &mut Rules<'_, '_, '_>) {
    tokens(config, rules);
    reach(config, rules);
    let root = Path::Root.key("admin");
    let path = root.key("address");
    let shown = rules.shown(&path, &config.admin.address);
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
            if !address.is_loopback() && config.admin.token_file.is_none() && config.admin.tokens.is_empty() {
                let message = format!("the admin address {shown} can be reached from outside and has no token");
                let hint = "add `token_file: /path/to/file`, or use `127.0.0.1:5100`";
                rules.value(codes::OPEN_ADMIN, &path, message, hint);
            }
        }
    }
}

fn tokens(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("admin");
    if config.admin.token_file.as_ref().is_some_and(String::is_empty) {
        let hint = "name a file, or leave the key out";
        rules.value(codes::INVALID_VALUE, &root.key("token_file"), "the name of a file is empty", hint);
    }
    let mut names = HashSet::new();
    for (index, token) in config.admin.tokens.iter().enumerate() {
        let list = root.key("tokens");
        let path = list.index(index);
        if token.token_file.is_empty() {
            let hint = "name a file";
            rules.value(codes::INVALID_VALUE, &path.key("token_file"), "the name of a file is empty", hint);
        }
        if token.name.is_empty() || !names.insert(&token.name) {
            let message = if token.name.is_empty() { "a token needs a name" } else { "two tokens have the same name" };
            let hint = "give each a name that says who uses it";
            rules.value(codes::NAME_TWICE, &path.key("name"), message, hint);
        }
    }
}

fn reach(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let path = Path::Root.key("admin");
    let path = path.key("server_networks");
    super::access::networks(&path, &config.admin.server_networks, rules);
    let networks: Networks = config.admin.server_networks.iter().filter_map(|text| text.parse::<Cidr>().ok()).collect();
    let reach = Reach(networks);
    let root = Path::Root.key("upstreams");
    for (name, upstream) in &config.upstreams {
        let path = root.key(name);
        let path = path.key("servers");
        for (index, server) in upstream.servers.iter().enumerate().filter(|(_, server)| server.at_run_time) {
            let host = ServerUrl::parse(&server.url).ok().and_then(|url| url.address.host.parse::<IpAddr>().ok());
            let Some(why) = host.and_then(|address| reach.objection(address)) else { continue };
            let path = path.index(index);
            let path = path.key("url");
            let message =
                format!("a server that is added at run time may not be at {}: {why}", rules.shown(&path, &server.url));
            let hint = "add its network to `admin.server_networks`, or write the server into the file";
            rules.value(codes::OUT_OF_REACH, &path, message, hint);
        }
    }
}
