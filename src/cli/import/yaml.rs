//! Writes a configuration as people would: blocks, with short mappings and lists on one line.

use serde_json::{Map, Value};

/// Longest mapping or list on one line.
const WIDTH: usize = 88;

/// The text of a mapping.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    if let Value::Object(map) = value {
        block_map(&mut out, map, 0, false);
    }
    out
}

fn block_map(out: &mut String, map: &Map<String, Value>, indent: usize, mut continues: bool) {
    for (key, value) in map {
        if !std::mem::take(&mut continues) {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&scalar(key, true));
        out.push(':');
        nested(out, value, indent, key.len() + 2);
    }
}

/// What stands behind a key, which itself took `used` columns after the indent.
fn nested(out: &mut String, value: &Value, indent: usize, used: usize) {
    let flow = flow(value);
    let lines = indent == 0 && !matches!(value, Value::Object(_)) && value.is_array();
    if !lines && indent + used + flow.len() <= WIDTH && !has_blocks(value) {
        out.push(' ');
        out.push_str(&flow);
        out.push('\n');
        return;
    }
    match value {
        Value::Object(map) => {
            out.push('\n');
            block_map(out, map, indent + 2, false);
        }
        Value::Array(items) => {
            out.push('\n');
            for item in items {
                out.push_str(&" ".repeat(indent + 2));
                out.push_str("- ");
                match item {
                    Value::Object(map) if indent == 0 || flow_of(item).len() + indent + 4 > WIDTH => {
                        block_map(out, map, indent + 4, true);
                    }
                    other => {
                        out.push_str(&flow_of(other));
                        out.push('\n');
                    }
                }
            }
        }
        scalar => {
            out.push(' ');
            out.push_str(&flow_of(scalar));
            out.push('\n');
        }
    }
}

/// Whether a value has mappings inside mappings, which read better on lines of their own.
fn has_blocks(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().any(|inner| inner.is_object() && has_blocks_or_two(inner)),
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn has_blocks_or_two(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.len() > 1 || has_blocks(value))
}

fn flow(value: &Value) -> String {
    flow_of(value)
}

fn flow_of(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text, false),
        Value::Array(items) => format!("[{}]", items.iter().map(flow_of).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", scalar(key, true), flow_of(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text: plain where nothing else could be read there, else in double quotes. A dollar sign of a value is doubled, so
/// that it is no reference to a variable.
fn scalar(text: &str, key: bool) -> String {
    let text = if key { text.to_owned() } else { text.replace('$', "$$") };
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_' || c == '.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_alphabetic() || byte == b'/')
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n" | ".inf" | ".nan"
        )
        && text.parse::<f64>().is_err()
        && !text.starts_with("0x")
        && !text.starts_with("0o");
    if plain {
        return text;
    }
    // JSON's quotes and escapes are YAML's.
    Value::String(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_examples() {
        let value = json!({
            "version": 1,
            "listeners": [{ "address": "0.0.0.0:80" }],
            "routes": [{
                "name": "a",
                "match": { "path": ["/a", "/a/"] },
                "headers": { "response": { "set": { "x": "1; mode=$b", "z": "on" } } },
            }],
        });
        let expected = "\
version: 1
listeners:
  - address: \"0.0.0.0:80\"
routes:
  - name: a
    match: { path: [/a, /a/] }
    headers:
      response:
        set: { x: \"1; mode=$$b\", z: \"on\" }
";
        assert_eq!(write(&value), expected);
    }

    proptest! {
        #[test]
        fn a_text_is_read_back_as_it_was(text in "[a-z0-9 :,#{}\\[\\]$\"'\\\\/.+-]{0,14}") {
            let yaml = format!(
                "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nroutes:\n  - name: a\n    respond: {{ body: {} }}\nupstreams: {{}}\n",
                scalar(&text, false)
            );
            let loaded = crate::config::parse("t", &yaml, &|_| None);
            let loaded = loaded.unwrap_or_else(|found| panic!("{yaml}\n{}", found.render(false)));
            prop_assert_eq!(loaded.config.routes[0].respond.as_ref().map(|respond| respond.body.as_str()), Some(&*text));
        }
    }
}
