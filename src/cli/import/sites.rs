//! Server blocks: which requests each of them takes.
//!
//! nginx chooses a server block by the address that a client came to, then by the name that it asked for. Arriero has one
//! table of routes for all listeners, so what the address decided has to be decided by the Host field, or not at all.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::listeners::Listen;
use super::report::{Outcome, Report};
use super::scope::Scope;
use super::tree::Directive;

/// A server block with what is known about it before its locations are looked at.
pub(super) struct Site<'t> {
    pub(super) directive: &'t Directive,
    pub(super) scope: Scope<'t>,
    pub(super) listens: Vec<Listen<'t>>,
    hosts: Vec<String>,
    /// The port that tells its requests from those of the others.
    port: Option<u16>,
    /// Whether it takes every host that no other one names.
    is_default: bool,
}

impl<'t> Site<'t> {
    pub(super) fn new(directive: &'t Directive, scope: Scope<'t>, listens: Vec<Listen<'t>>) -> Self {
        Self { directive, scope, listens, hosts: hosts(directive), port: None, is_default: false }
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.listens.iter().map(|listen| listen.port).collect()
    }

    /// Where its routes stand among those of the others: the narrower its conditions, the earlier.
    pub(super) fn rank(&self) -> (bool, bool, bool) {
        (self.port.is_none(), self.is_default, self.hosts.iter().any(|host| host.starts_with('*')))
    }

    /// What its routes have in their `match`.
    pub(super) fn conditions(&self) -> Map<String, Value> {
        let mut conditions = Map::new();
        if !self.is_default && !self.hosts.is_empty() {
            conditions.insert("host".to_owned(), json!(self.hosts));
        }
        if let Some(port) = self.port {
            conditions.insert("header".to_owned(), json!({ "host": format!("*:{port}") }));
        }
        conditions
    }
}

/// Takes out what cannot be told from others, and decides what tells the rest apart.
pub(super) fn tell_apart(sites: &mut Vec<Site<'_>>, report: &mut Report) {
    let secure: Vec<Vec<String>> =
        sites.iter().filter(|site| site.ports().contains(&443)).map(|site| site.hosts.clone()).collect();
    sites.retain(|site| {
        let rival = |hosts: &Vec<String>| {
            hosts.is_empty() || site.hosts.is_empty() || hosts.iter().any(|host| site.hosts.contains(host))
        };
        let lost = site.ports() == BTreeSet::from([80]) && secure.iter().any(rival);
        if lost {
            leave_out(site, report);
        }
        !lost
    });
    let all: Vec<BTreeSet<u16>> = sites.iter().map(Site::ports).collect();
    let mut taken = BTreeSet::new();
    for (index, ports) in all.iter().enumerate() {
        let alone = all.iter().enumerate().any(|(other, theirs)| other != index && theirs.is_disjoint(ports));
        sites[index].port = ports.iter().copied().find(|port| alone && !matches!(port, 80 | 443));
        let first = |port: &u16| {
            let marked = |site: &Site<'_>| site.listens.iter().any(|listen| listen.port == *port && listen.is_default);
            let mark = sites.iter().position(marked);
            mark.or_else(|| all.iter().position(|ports| ports.contains(port))) == Some(index)
        };
        let is_default = ports.iter().any(first);
        // Without a port to tell them apart, one alone can take the rest.
        sites[index].is_default = is_default && (sites[index].port.is_some() || taken.insert(()));
    }
    sites.iter().for_each(|site| note(site, report));
}

fn note(site: &Site<'_>, report: &mut Report) {
    if let (Some(_), Some(listen)) = (site.port, site.listens.iter().find_map(|listen| listen.directive)) {
        let reason = "match.header.host: servers are told apart by the port in the Host field";
        report.note(listen, Outcome::Approximated, reason);
    }
    for directive in site.directive.children().iter().filter(|inner| inner.name == "server_name") {
        let odd = directive.args.iter().any(|name| name.starts_with('~') || name.ends_with(".*"));
        let (outcome, reason) = if odd {
            (Outcome::Unsupported, "hosts are names, or `*.` and a name")
        } else if site.is_default {
            (Outcome::Converted, "no match.host: the default server takes every host")
        } else {
            (Outcome::Converted, "match.host")
        };
        report.note(directive, outcome, reason);
    }
}

/// A server block for plain HTTP beside one for TLS: its port is not opened, so that nothing is served in plain that was
/// only redirected before.
fn leave_out(site: &Site<'_>, report: &mut Report) {
    let reason = "routes do not know the listener, so plain HTTP and TLS of the same hosts cannot be told apart: \
                  this port is left out";
    for listen in site.listens.iter().filter_map(|listen| listen.directive) {
        report.note(listen, Outcome::Unsupported, reason);
    }
    site.directive.walk(&mut |inner| {
        if !report.knows(inner) {
            report.note(inner, Outcome::Ignored, "its server block is left out");
        }
    });
}

fn hosts(server: &Directive) -> Vec<String> {
    let names = server.children().iter().filter(|inner| inner.name == "server_name").flat_map(|inner| &inner.args);
    let mut hosts = Vec::new();
    for name in names {
        match name.strip_prefix('.') {
            Some(bare) => hosts.extend([bare.to_owned(), format!("*.{bare}")]),
            None if matches!(name.as_str(), "_" | "" | "\"\"") || name.starts_with('~') || name.ends_with(".*") => {}
            None => hosts.push(name.clone()),
        }
    }
    hosts
}

/// Whether a server block does nothing but show nginx's own state.
pub(super) fn is_status_only(server: &Directive) -> bool {
    let locations: Vec<_> = server.children().iter().filter(|inner| inner.name == "location").collect();
    let has = |location: &Directive, name: &str| location.children().iter().any(|inner| inner.name == name);
    locations.iter().any(|location| has(location, "stub_status"))
        && locations.iter().all(|location| has(location, "stub_status") || has(location, "return"))
}
