//! What the configuration file says.

use super::super::codes;
use super::super::facts::{ConfigFacts, Facts};
use super::super::finding::Finding;
use super::Lines;
use crate::config::types::{Config, Kind, Permission};
use crate::config::{Diagnostic, HostPort, Severity};

/// Judges it.
pub fn judge(facts: &Facts) -> (Lines, Vec<Finding>) {
    let file = facts.file.display();
    let mut found = Vec::new();
    let mut lines = Vec::new();
    match &facts.config {
        ConfigFacts::Missing => {
            let finding = Finding::new(
                codes::CONFIG_MISSING,
                format!("there is no configuration file `{file}`"),
                "name it with `-c FILE`; `arriero init` writes one to start from",
            );
            // Without a file it was started with servers on its command line, or it is the demo.
            found.push(if facts.running.is_ok() { finding.noted() } else { finding });
        }
        ConfigFacts::Invalid(diagnostics) => {
            for diagnostic in diagnostics.0.iter().filter(|one| one.severity == Severity::Error) {
                found.push(said(diagnostic, codes::CONFIG_INVALID, &facts.file.display().to_string()));
            }
        }
        ConfigFacts::Good(good) => {
            let config = &good.config;
            let servers: usize = config.upstreams.values().map(|upstream| upstream.servers.len()).sum();
            lines.push(format!(
                "{} listeners, {} routes, {} upstreams, {servers} servers; hash {}",
                config.listeners.len(),
                config.routes.len(),
                config.upstreams.len(),
                good.snapshot.hash
            ));
            let file = facts.file.display().to_string();
            found.extend(good.warnings.iter().map(|warning| said(warning, codes::CONFIG_WARNING, &file)));
            management(config, &mut found);
        }
    }
    (lines, found)
}

fn said(diagnostic: &Diagnostic, code: super::super::finding::Code, file: &str) -> Finding {
    let place = if diagnostic.line > 0 { format!("line {}: ", diagnostic.line) } else { String::new() };
    let fix = diagnostic.hint.clone().unwrap_or_else(|| format!("`arriero check -c {file}` shows the place"));
    Finding::new(code, format!("{place}{} ({})", diagnostic.message, diagnostic.code), fix)
}

/// Calls that pull and delete models should not be open to everybody.
fn management(config: &Config, found: &mut Vec<Finding>) {
    let is_open = |listener: &crate::config::types::Listener| {
        HostPort::parse(&listener.address).is_ok_and(|address| !address.is_loopback())
    };
    if !config.listeners.iter().any(is_open) {
        return;
    }
    for route in &config.routes {
        let upstream = route.upstream.as_ref().and_then(|name| config.upstreams.get(name));
        let is_guarded = config.auth.keys_file.is_some()
            && route.auth.is_none_or(|auth| auth == crate::config::types::RouteAuth::Required);
        let is_guarded = is_guarded || !route.access.allow.is_empty();
        if route.management == Permission::Allow && upstream.is_some_and(|one| one.kind == Kind::Ollama) && !is_guarded
        {
            found.push(Finding::new(
                codes::MANAGEMENT_OPEN,
                format!("the route `{}` lets everybody pull and delete models", route.name),
                "ask for a key (`auth.keys_file`) or let only some addresses in (`access.allow`)",
            ));
        }
    }
}
