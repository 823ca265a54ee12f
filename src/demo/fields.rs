//! A JSON object as Go's `encoding/json` decodes it into a struct.
//!
//! Keys match in any letter case, the last of several wins, `null` leaves a string as it was, and
//! what follows the object is ignored. The errors are worded as Go words them.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The top-level fields of a request, by lower-case name.
#[derive(Debug, Default)]
pub(super) struct Fields {
    values: HashMap<String, Value>,
}

/// Why a body cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadBody {
    /// Nothing was sent.
    Missing,
    /// The text Ollama answers with.
    Wrong(String),
}

impl Fields {
    /// Decodes a body.
    pub(super) fn decode(body: &[u8]) -> Result<Self, BadBody> {
        let text = String::from_utf8_lossy(body);
        if text.trim().is_empty() {
            return Err(BadBody::Missing);
        }
        let mut deserializer = serde_json::Deserializer::from_str(&text);
        Self::deserialize(&mut deserializer).map_err(|error| {
            let found = text.trim_start().chars().next();
            BadBody::Wrong(match found {
                _ if error.is_eof() => "unexpected EOF".to_owned(),
                Some('[') => "json: cannot unmarshal array into Go value".to_owned(),
                Some('"') => "json: cannot unmarshal string into Go value".to_owned(),
                _ => {
                    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
                    let letter = line.as_bytes().get(error.column().saturating_sub(1)).copied();
                    let letter = letter.map_or('\u{fffd}', char::from);
                    format!("invalid character '{letter}' looking for beginning of value")
                }
            })
        })
    }

    /// A field, if it is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// A string field; absent is empty.
    pub(super) fn text(&self, name: &str) -> Result<&str, BadBody> {
        match self.get(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(BadBody::Wrong(format!(
                "json: cannot unmarshal {} into Go struct field .{name} of type string",
                go_kind(other)
            ))),
        }
    }

    /// A string field, or nothing if it is absent or something else.
    pub(super) fn text_or_empty(&self, name: &str) -> &str {
        self.text(name).unwrap_or_default()
    }

    /// A boolean field.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    /// A count, from a field or from a key of a nested object such as `options`.
    pub(super) fn count(&self, object: Option<&str>, name: &str) -> Option<usize> {
        let value = match object {
            Some(object) => self.get(object)?.get(name),
            None => self.get(name),
        };
        value.and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
    }

    /// How many elements an array field has; absent has none.
    pub(super) fn length(&self, name: &str) -> usize {
        self.get(name).and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// A rough count of the tokens in the named fields: four bytes of text each.
    pub(super) fn prompt_tokens(&self, names: &[&str]) -> usize {
        let bytes: usize = names.iter().filter_map(|name| self.get(name)).map(text_bytes).sum();
        bytes.div_ceil(4).max(1)
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(map) => map.values().map(text_bytes).sum(),
        _ => 0,
    }
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Fields, E> {
        Ok(Fields::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            let key = key.to_lowercase();
            if !value.is_null() {
                fields.values.insert(key, value);
            } else if !matches!(fields.values.get(&key), Some(Value::String(_))) {
                fields.values.remove(&key);
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::decode(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn keys_are_read_as_go_reads_them() {
        assert_eq!(fields(r#"{"model":"a","MODEL":"b","Model":null} tail"#).text("model"), Ok("b"));
        assert_eq!(fields(r#"{"stream":false,"stream":null}"#).flag("stream"), None);
        assert_eq!(fields("null").text("model"), Ok(""));
        assert_eq!(fields(r#"{"options":{"num_predict":3}}"#).count(Some("options"), "num_predict"), Some(3));
    }

    #[test]
    fn errors_are_worded_as_go_words_them() {
        let wrong = |text: &str| Fields::decode(text.as_bytes()).err();
        assert_eq!(wrong("  "), Some(BadBody::Missing));
        assert_eq!(wrong(r#"{"model":"#), Some(BadBody::Wrong("unexpected EOF".to_owned())));
        let expected = "invalid character 'x' looking for beginning of value";
        assert_eq!(wrong(r#"{"model":x}"#), Some(BadBody::Wrong(expected.to_owned())));
        assert_eq!(wrong("xyz"), Some(BadBody::Wrong(expected.to_owned())));
        assert!(fields(r#"{"model":1}"#).text("model").is_err());
    }
}
