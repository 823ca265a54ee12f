//! `conf/reference.yaml`: every key with its text and its default or an example.
//!
//! The texts come from the schema, so from the types; the order and the values stand in [`VALUES`].
//! Tests hold that every key of the schema is here, that values called defaults are the defaults, and
//! that the result loads without a warning.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::Value;

use super::schema::schema;

/// Keys in order. A `#` in front leaves a key out: it has no default, or would change another one.
const VALUES: &str = include_str!("reference/values.yaml");

const HEAD: &str = "# yaml-language-server: $schema=./schema.json
#
# Every key of Arriero's configuration. Generated from src/config: do not edit.
# A key with `#` in front has no default; its value is an example. In values, `${NAME}` is replaced by
# the variable NAME of the environment, `${NAME:-value}` falls back to a value, `$$` is one dollar sign.
";

/// Longest line of the result, where a text can be broken.
const WIDTH: usize = 100;

/// The text of `conf/reference.yaml`.
#[must_use]
pub fn reference_yaml() -> String {
    let schema = schema();
    let mut out = HEAD.to_owned();
    let mut said = HashSet::new();
    for row in rows() {
        if row.path.len() == 1 {
            out.push('\n');
        }
        if said.insert(row.path.join(".")) {
            let text = describe(&schema, &row.path).unwrap_or_default();
            wrap(&mut out, row.margin, text);
        }
        out.push_str(row.line);
        out.push('\n');
    }
    out
}

/// A line of [`VALUES`] with the way to its key in the schema.
struct Row {
    line: &'static str,
    margin: usize,
    path: Vec<String>,
}

fn rows() -> Vec<Row> {
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut rows = Vec::new();
    for line in VALUES.lines() {
        let text = line.trim_start();
        let margin = line.len() - text.len();
        let (mut indent, mut text) = (margin, text.trim_start_matches('#'));
        if let Some(rest) = text.strip_prefix("- ") {
            open.retain(|(at, _)| *at < indent);
            open.push((indent, "[]".to_owned()));
            (indent, text) = (indent + 2, rest);
        }
        open.retain(|(at, _)| *at < indent);
        let key = text.split(':').next().unwrap_or_default();
        open.push((indent, key.to_owned()));
        rows.push(Row { line, margin, path: open.iter().map(|(_, key)| key.clone()).collect() });
    }
    rows
}

/// The value that stands at `path` (as in `routes[].priority`), if it is not left out: its default, or an example.
#[cfg(test)]
pub(super) fn default_of(path: &str) -> Option<String> {
    let path = path.replace("[]", ".[]").replace("NAME", "fleet");
    let row = rows().into_iter().find(|row| row.path.join(".") == path && !row.line.trim_start().starts_with('#'))?;
    let value = row.line.split_once(": ")?.1.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// The text of the key at `path`, unless it is a name that people choose.
fn describe<'s>(schema: &'s Value, path: &[String]) -> Option<&'s str> {
    let mut node = schema;
    let mut chosen = false;
    for step in path {
        (node, chosen) = child(schema, node, step)?;
    }
    if chosen { None } else { node.get("description").and_then(Value::as_str) }
}

/// The schema below `node` for `step`, and whether `step` is a name that people choose.
fn child<'s>(schema: &'s Value, node: &'s Value, step: &str) -> Option<(&'s Value, bool)> {
    variants(schema, node).into_iter().find_map(|variant| {
        if step == "[]" {
            return variant.get("items").map(|items| (items, true));
        }
        let known = variant.get("properties").and_then(|keys| keys.get(step)).map(|key| (key, false));
        let free = || variant.get("additionalProperties").filter(|free| free.is_object()).map(|free| (free, true));
        known.or_else(free)
    })
}

/// `node` and everything that it refers to or chooses from.
fn variants<'s>(schema: &'s Value, node: &'s Value) -> Vec<&'s Value> {
    let mut found = vec![node];
    let target =
        node.get("$ref").and_then(Value::as_str).and_then(|target| schema.pointer(target.trim_start_matches('#')));
    found.extend(target.into_iter().flat_map(|target| variants(schema, target)));
    for key in ["anyOf", "oneOf"] {
        let choices = node.get(key).and_then(Value::as_array).into_iter().flatten();
        found.extend(choices.flat_map(|choice| variants(schema, choice)));
    }
    found
}

/// Writes `text` as comment lines.
fn wrap(out: &mut String, margin: usize, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.chars().count() > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            // Writing to a String cannot fail.
            let _ = write!(out, "{:margin$}#", "");
            column = margin + 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.chars().count();
    }
    if column > 0 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Active, History, Recovery, Retry, Server, Telemetry};
    use super::super::types::{Admin, Caps, Check, Circuit, Inventory, Keepalive, ListenerLimits, ListenerTimeouts};
    use super::*;

    /// Every key of the schema below `node`, with `*` for names that people choose.
    fn keys(schema: &Value, node: &Value, path: &str, found: &mut Vec<String>) {
        for variant in variants(schema, node) {
            if let Some(items) = variant.get("items") {
                keys(schema, items, &format!("{path}.[]"), found);
            }
            if let Some(free) = variant.get("additionalProperties").filter(|free| free.is_object()) {
                keys(schema, free, &format!("{path}.*"), found);
            }
            for (key, inner) in variant.get("properties").and_then(Value::as_object).into_iter().flatten() {
                found.push(format!("{path}.{key}"));
                keys(schema, inner, &format!("{path}.{key}"), found);
            }
        }
    }

    #[test]
    fn every_key_of_the_schema_is_in_the_reference_with_its_text() {
        let schema = schema();
        let mut wanted = Vec::new();
        keys(&schema, &schema, "", &mut wanted);
        assert!(wanted.len() > 70, "{}", wanted.len());
        let rows = rows();
        let here: HashSet<String> = rows
            .iter()
            .map(|row| format!(".{}", row.path.join(".")).replace(".fleet", ".*").replace(".memory_used", ".*"))
            .collect();
        for key in &wanted {
            assert!(here.contains(key), "`{key}` is missing in the reference");
        }
        for row in rows
            .iter()
            .filter(|row| !matches!(row.path.last().map(String::as_str), Some("fleet" | "web" | "memory_used")))
        {
            assert!(describe(&schema, &row.path).is_some(), "`{}` has no text", row.path.join("."));
        }
    }

    #[test]
    fn the_reference_loads_without_warnings_and_shows_the_defaults() {
        let loaded = crate::config::parse("reference.yaml", &reference_yaml(), &|_| None);
        let loaded = loaded.unwrap_or_else(|found| panic!("{}", found.render(false)));
        assert_eq!(loaded.warnings, []);
        let config = loaded.config;
        assert_eq!(config.server, Server::default());
        assert_eq!(config.history, History::default());
        assert_eq!(config.telemetry, Telemetry::default());
        assert_eq!(config.admin, Admin::default());
        assert_eq!(config.listeners[0].timeouts, ListenerTimeouts::default());
        assert_eq!(config.listeners[0].limits, ListenerLimits::default());
        assert_eq!(config.routes[0].retry, Retry::default());
        assert_eq!(config.routes[0].caps, Caps::default());
        let fleet = &config.upstreams["fleet"];
        assert_eq!(fleet.circuit, Circuit::default());
        assert_eq!(fleet.keepalive, Keepalive::default());
        assert_eq!(fleet.inventory, Inventory::default());
        assert_eq!(fleet.recovery, Recovery::default());
        let check = Check { path: Some("/api/version".to_owned()), ..Check::default() };
        assert_eq!(fleet.health.active, Some(Active::Check(check)));
    }
}
