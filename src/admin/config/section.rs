//! From a section of the configuration and a patch to edits.
//!
//! A section is a block of the file (`defaults`, `telemetry`, `upstreams`, ...). Besides, `queue`, `circuit` and the other blocks of
//! upstreams stand for that block of every upstream with models. The names and units of the orchestrators that this
//! API replaces are taken too: `queue.maxSize`, `queue.timeout` in milliseconds, `circuitBreaker`, `metrics.historyWindowMinutes`.

use serde_json::{Map, Value, json};

use crate::config::overlay::{Edit, Place};
use crate::config::types::Kind;
use crate::fleet::reload::{InForce, Refused};

/// Blocks of upstreams that are sections by themselves.
const OF_UPSTREAMS: [&str; 8] = ["balance", "circuit", "health", "inventory", "keepalive", "queue", "recovery", "tls"];

/// The edits that a patch of a section amounts to.
///
/// # Errors
/// When there is no such section, or the patch is none.
pub fn plan(section: &str, upstream: Option<&str>, patch: &Value, in_force: &InForce) -> Result<Vec<Edit>, Refused> {
    let Value::Object(patch) = patch else {
        return Err(no("a change is a JSON object with the keys of the section that change"));
    };
    let (section, patch) = translated(section, patch)?;
    let mut edits = Vec::new();
    if OF_UPSTREAMS.contains(&section) {
        let meant: Vec<&String> = in_force
            .config
            .upstreams
            .iter()
            .filter(|(name, one)| upstream.map_or(one.kind != Kind::Http, |wanted| wanted == *name))
            .map(|(name, _)| name)
            .collect();
        if meant.is_empty() {
            return Err(match upstream {
                Some(name) => no(format!("there is no upstream `{name}`")),
                None => no("no upstream has models: name one with `?upstream=`"),
            });
        }
        for name in meant {
            merge(&Place::of_keys(["upstreams", name, section]), &patch, &in_force.written, &mut edits);
        }
        return Ok(edits);
    }
    if upstream.is_some() {
        return Err(no(format!("`?upstream=` is only for the sections {}", OF_UPSTREAMS.join(", "))));
    }
    let known = crate::config::schema();
    if !known["properties"].as_object().is_some_and(|keys| keys.contains_key(section)) {
        let keys: Vec<&str> =
            known["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        let (keys, more) = (keys.join(", "), OF_UPSTREAMS.join(", "));
        return Err(no(format!("there is no section `{section}`: there are {keys}, and of upstreams {more}")));
    }
    merge(&Place::of_keys([section]), &patch, &in_force.written, &mut edits);
    Ok(edits)
}

fn no(why: impl Into<String>) -> Refused {
    Refused::NotPossible(why.into())
}

/// A JSON merge patch as edits.
fn merge(place: &Place, patch: &Map<String, Value>, written: &Value, edits: &mut Vec<Edit>) {
    for (key, value) in patch {
        let place = place.key(key);
        match value {
            Value::Null => {
                if place.find(written).is_some() {
                    edits.push(Edit { place, value: None });
                }
            }
            // A mapping that is not there is made with what it is to have.
            Value::Object(inner) if place.find(written).is_some_and(Value::is_object) => {
                merge(&place, inner, written, edits);
            }
            value => edits.push(Edit { place, value: Some(without_nulls(value)) }),
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(entries) => {
            let kept = entries.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        value => value.clone(),
    }
}

/// The section and patch in our own words and units.
fn translated<'s>(section: &'s str, patch: &Map<String, Value>) -> Result<(&'s str, Map<String, Value>), Refused> {
    let mut own = Map::new();
    let section = match section {
        "circuitBreaker" => "circuit",
        "metrics" => "history",
        other => other,
    };
    for (key, value) in patch {
        let (key, value) = match (section, key.as_str()) {
            ("queue", "maxSize") => ("max_pending".to_owned(), value.clone()),
            ("queue", "timeout") if value.is_number() => ("timeout".to_owned(), milliseconds(value)?),
            ("circuit", "failureThreshold") => match value.as_f64() {
                Some(share) if share < 1.0 => ("failure_rate".to_owned(), json!(format!("{}%", share * 100.0))),
                _ => ("consecutive_failures".to_owned(), value.clone()),
            },
            ("circuit", "recoveryTimeout") => ("open_for".to_owned(), milliseconds(value)?),
            ("history", "historyWindowMinutes") => match value.as_u64() {
                Some(minutes) => ("requests".to_owned(), json!(format!("{minutes}m"))),
                None => return Err(no("`historyWindowMinutes` is a whole number of minutes")),
            },
            _ => (key.clone(), value.clone()),
        };
        own.insert(key, value);
    }
    Ok((section, own))
}

fn milliseconds(value: &Value) -> Result<Value, Refused> {
    let number =
        value.as_u64().ok_or_else(|| no("a time is a whole number of milliseconds, or a text such as \"30s\""))?;
    Ok(json!(format!("{number}ms")))
}
