//! The JSON schema of the file, for editors: `conf/schema.json` and `arriero schema`.
//!
//! It comes from the types, so keys, texts and defaults cannot drift. A reference such as `${PORT}` may
//! stand in place of any value that is not a list or mapping, so each such schema also takes one.

use serde_json::{Map, Value, json};

use super::types::Config;

/// The JSON schema (draft 2020-12) of a configuration file.
#[must_use]
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    tidy(&mut schema);
    if let Value::Object(root) = &mut schema {
        root.insert("title".to_owned(), json!("Arriero configuration"));
        if let Some(Value::Object(definitions)) = root.get_mut("$defs") {
            definitions.insert(
                "Reference".to_owned(),
                json!({ "description": "The value of a variable.", "type": "string", "pattern": "\\$\\{" }),
            );
        }
    }
    schema
}

fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(object) => {
            for (key, inner) in object.iter_mut() {
                match key.as_str() {
                    "default" => drop_nulls(inner),
                    "enum" | "const" => {}
                    _ => tidy(inner),
                }
            }
            // serde's widths of integers mean nothing to people.
            if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                object.remove("format");
            }
            if object.get("default").is_some_and(|default| default.is_null() || *default == json!({})) {
                object.remove("default");
            }
            // A reference fits every choice, so exactly one cannot be asked for.
            if let Some(choices) = object.remove("oneOf") {
                object.insert("anyOf".to_owned(), choices);
            }
            allow_reference(object);
        }
        _ => {}
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, inner| !inner.is_null());
        object.values_mut().for_each(drop_nulls);
    }
}

/// Makes the schema of a number, boolean, word or value with a unit also take `${…}`.
fn allow_reference(object: &mut Map<String, Value>) {
    let names = |kind: &Value, name: &str| match kind {
        Value::String(one) => one == name,
        Value::Array(many) => many.iter().any(|one| one == name),
        _ => false,
    };
    let Some(kind) = object.get("type") else {
        return;
    };
    let closed = names(kind, "integer") || names(kind, "boolean") || object.contains_key("pattern");
    if !closed && !object.contains_key("enum") && !object.contains_key("const") {
        return;
    }
    let mut outer = Map::new();
    for key in ["description", "default"] {
        if let Some(text) = object.remove(key) {
            outer.insert(key.to_owned(), text);
        }
    }
    let closed = std::mem::take(object);
    outer.insert("anyOf".to_owned(), json!([closed, { "$ref": "#/$defs/Reference" }]));
    *object = outer;
}
