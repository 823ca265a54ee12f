//! Server blocks: which requests each of them takes.
//!
//! nginx chooses a server block by the address that a client came to, then by the name that it asked for. Arriero has one
//! table of routes for all listeners, so what the address decided has to be decided by the scheme or the Host field, or
//! not at all.

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
    /// The scheme that does.
    scheme: Option<&'static str>,
    /// Whether it takes every host that no other one names.
    is_default: bool,
}

impl<'t> Site<'t> {
    pub(super) fn new(directive: &'t Directive, scope: Scope<'t>, listens: Vec<Listen<'t>>) -> Self {
        Self { directive, scope, listens, hosts: hosts(directive), port: None, scheme: None, is_default: false }
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.listens.iter().map(|listen| listen.port).collect()
    }

    /// The one scheme that its clients speak.
    fn only_scheme(&self) -> Option<&'static str> {
        let secure = self.listens.iter().filter(|listen| listen.tls).count();
        match secure {
            0 => Some("http"),
            _ if secure == self.listens.len() => Some("https"),
            _ => None,
        }
    }

    /// Where its routes stand among those of the others: the narrower its conditions, the earlier.
    pub(super) fn rank(&self) -> (bool, bool, bool) {
        (self.port.is_none(), self.is_default, self.hosts.iter().any(|host| host.starts_with('*')))
    }

    /// What its routes have in their `match`.
    pub(super) fn conditions(&self) -> Map<String, Value> {
        let mut conditions = Map::new();
        conditions.extend(self.scheme.map(|scheme| ("scheme".to_owned(), json!(scheme))));
        if !self.is_default && !self.hosts.is_empty() {
            conditions.insert("host".to_owned(), json!(self.hosts));
        }
        if let Some(port) = self.port {
            conditions.insert("header".to_owned(), json!({ "host": format!("*:{port}") }));
        }
        conditions
    }
}

/// Decides what tells server blocks apart.
pub(super) fn tell_apart(sites: &mut [Site<'_>], report: &mut Report) {
    let all: Vec<BTreeSet<u16>> = sites.iter().map(Site::ports).collect();
    let mut taken = BTreeSet::new();
    for (index, ports) in all.iter().enumerate() {
        let alone = all.iter().enumerate().any(|(other, theirs)| other != index && theirs.is_disjoint(ports));
        sites[index].port = ports.iter().copied().find(|port| alone && !matches!(port, 80 | 443));
    }
    let rest = sites.iter().filter(|site| site.port.is_none());
    let spoken: BTreeSet<bool> = rest.flat_map(|site| &site.listens).map(|listen| listen.tls).collect();
    for (index, ports) in all.iter().enumerate() {
        let first = |port: &u16| {
            let marked = |site: &Site<'_>| site.listens.iter().any(|listen| listen.port == *port && listen.is_default);
            let mark = sites.iter().position(marked);
            mark.or_else(|| all.iter().position(|ports| ports.contains(port))) == Some(index)
        };
        let only_scheme = sites[index].only_scheme();
        // Where it takes the rest of one scheme and not of the other, its routes would take both.
        let is_default = if only_scheme.is_some() { ports.iter().any(first) } else { ports.iter().all(first) };
        let site = &mut sites[index];
        site.scheme = only_scheme.filter(|_| site.port.is_none() && spoken.len() > 1);
        // Without a port to tell them apart, one alone of a scheme can take the rest.
        site.is_default = is_default && (site.port.is_some() || taken.insert(site.scheme));
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
