//! A request for embeddings, taken apart.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Call;

/// Why a request is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It asks for no embedding: it loads the model.
    Empty,
    /// It has something that Ollama refuses, or that two readers could read in two ways.
    Unclear,
    /// It has more inputs than are looked at one by one.
    TooMany,
}

/// Keys of a request at most. Those that Ollama knows are fewer than ten.
const MOST_KEYS: usize = 64;

/// Inputs of a request at most: each takes some hundred bytes while it is worked on.
pub const MOST_INPUTS: usize = 32_768;

/// A request for embeddings. It borrows from its body.
#[derive(Debug)]
pub struct Request<'b> {
    call: Call,
    fields: Vec<(Cow<'b, str>, &'b RawValue)>,
    /// The place of the inputs among the fields.
    at: usize,
    inputs: Vec<&'b RawValue>,
    settings: String,
}

impl<'b> Request<'b> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// Why it is left as it is.
    pub fn read(call: Call, body: &'b [u8]) -> Result<Self, Unfit> {
        let fields = fields(body).ok_or(Unfit::Unclear)?;
        // Go matches keys in any letter case, and takes the last of several.
        let plain =
            |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit());
        for (place, (key, _)) in fields.iter().enumerate() {
            if !plain(key) || fields[..place].iter().any(|(before, _)| before == key) {
                return Err(Unfit::Unclear);
            }
        }
        let at = fields.iter().position(|(key, _)| key == call.input_key()).ok_or(Unfit::Empty)?;
        let inputs = inputs(call, fields[at].1)?;
        let settings = settings(call, &fields)?;
        Ok(Self { call, fields, at, inputs, settings })
    }

    /// How many inputs it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether it has none; there is no such request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// An input as a text. `None` where there is none, or none that is Unicode.
    #[must_use]
    pub fn text(&self, index: usize) -> Option<String> {
        serde_json::from_str(self.inputs.get(index)?.get()).ok()
    }

    /// What its vectors depend on beside the model and the input, in one form for requests that mean the same.
    #[must_use]
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// The body of a request for some of its inputs only, in this order.
    #[must_use]
    pub fn body_for(&self, indices: &[usize]) -> Vec<u8> {
        let mut body = String::from("{");
        for (place, (key, value)) in self.fields.iter().enumerate() {
            if place > 0 {
                body.push(',');
            }
            // No key of ours needs escaping.
            body.push('"');
            body.push_str(key);
            body.push_str("\":");
            if place != self.at {
                body.push_str(value.get());
                continue;
            }
            body.push('[');
            for (place, index) in indices.iter().enumerate() {
                if place > 0 {
                    body.push(',');
                }
                body.push_str(self.inputs.get(*index).map_or("\"\"", |input| input.get()));
            }
            body.push(']');
        }
        body.push('}');
        body.into_bytes()
    }

    /// Whether it can be asked for some of its inputs only.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.call != Call::Legacy && self.fields[self.at].1.get().starts_with('[')
    }
}

/// The inputs: texts, and no list without any.
fn inputs(call: Call, value: &RawValue) -> Result<Vec<&RawValue>, Unfit> {
    let is_text = |value: &RawValue| value.get().starts_with('"');
    if is_text(value) {
        // Without a text Ollama loads the model, or, under `/v1`, takes it for a list with an empty one.
        return if value.get() == "\"\"" { Err(Unfit::Empty) } else { Ok(vec![value]) };
    }
    match value.get() {
        "null" => return Err(Unfit::Empty),
        list if list.starts_with('[') && call != Call::Legacy => {}
        _ => return Err(Unfit::Unclear),
    }
    let list = items(value.get()).ok_or(Unfit::Unclear)?;
    match list.as_slice() {
        [] => Err(Unfit::Empty),
        list if list.len() > MOST_INPUTS => Err(Unfit::TooMany),
        list if list.iter().all(|input| is_text(input)) => Ok(list.to_vec()),
        _ => Err(Unfit::Unclear),
    }
}

/// What vectors depend on, in one form.
fn settings(call: Call, fields: &[(Cow<'_, str>, &RawValue)]) -> Result<String, Unfit> {
    let mut known: Vec<(&str, String)> = Vec::new();
    for (key, value) in fields {
        if *key == "model" || *key == call.input_key() {
            continue;
        }
        let value: Value = serde_json::from_str(value.get()).map_err(|_| Unfit::Unclear)?;
        if let Some(meaning) = meaning(call, key, value)? {
            known.push((key, meaning));
        }
    }
    known.sort_unstable();
    let mut text = match call {
        // The vectors of these two are the same.
        Call::Embed | Call::Openai => "unit".to_owned(),
        Call::Legacy => "raw".to_owned(),
    };
    for (key, meaning) in known {
        text.push('\n');
        text.push_str(key);
        text.push('=');
        text.push_str(&meaning);
    }
    Ok(text)
}

/// What a key says; `None` for the same as without it.
fn meaning(call: Call, key: &str, value: Value) -> Result<Option<String>, Unfit> {
    let native = call != Call::Openai;
    Ok(match (key, value) {
        // It names a user of the client's; Ollama does not look at it.
        ("user", _) if call == Call::Openai => None,
        ("truncate", Value::Null | Value::Bool(true)) if call == Call::Embed => None,
        ("truncate", Value::Bool(false)) if call == Call::Embed => Some("false".to_owned()),
        ("dimensions", Value::Null) if call != Call::Legacy => None,
        ("dimensions", Value::Number(number)) if call != Call::Legacy => match number.as_i64() {
            Some(i64::MIN..=0) => None,
            Some(number) => Some(number.to_string()),
            None => return Err(Unfit::Unclear),
        },
        ("encoding_format", Value::Null) if call == Call::Openai => None,
        ("encoding_format", Value::String(word)) if call == Call::Openai => {
            if word.is_empty() || word.eq_ignore_ascii_case("float") {
                None
            } else if word.eq_ignore_ascii_case("base64") {
                Some("base64".to_owned())
            } else {
                return Err(Unfit::Unclear);
            }
        }
        ("options", Value::Null) if native => None,
        ("options", Value::Object(options)) if native => {
            (!options.is_empty()).then(|| canonical(&Value::Object(options)))
        }
        ("keep_alive", Value::Null | Value::Number(_)) if native => None,
        ("keep_alive", Value::String(text)) if native && is_duration(&text) => None,
        ("truncate", _) if call == Call::Embed => return Err(Unfit::Unclear),
        ("dimensions", _) if call != Call::Legacy => return Err(Unfit::Unclear),
        ("encoding_format", _) if call == Call::Openai => return Err(Unfit::Unclear),
        ("options" | "keep_alive", _) if native => return Err(Unfit::Unclear),
        // A call that does not know a key and one that does must not mean the same by it: marked as nothing known is.
        (_, other) => Some(format!("?{}", canonical(&other))),
    })
}

/// JSON with the keys of each object in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            let members =
                members.into_iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

/// Whether Go's `time.ParseDuration` reads it.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
        let number = &rest[..rest.len() - after.len()];
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].into_iter().find(|unit| {
            after.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_alphabetic()))
        });
        let good = number.bytes().any(|byte| byte.is_ascii_digit()) && number.matches('.').count() <= 1;
        let Some(unit) = unit.filter(|_| good) else { return false };
        rest = &after[unit.len()..];
        any = true;
    }
    any
}

/// The items of a list, in order; of a longer one [`MOST_INPUTS`] and one more.
fn items(list: &str) -> Option<Vec<&RawValue>> {
    struct Items;
    impl<'de> Visitor<'de> for Items {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while items.len() <= MOST_INPUTS {
                let Some(item) = list.next_element()? else { return Ok(items) };
                items.push(item);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(items)
        }
    }
    serde_json::Deserializer::from_str(list).deserialize_seq(Items).ok()
}

/// The members of an object, in order.
fn fields(body: &[u8]) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::with_capacity(8);
            while let Some(key) = map.next_key::<Key<'de>>()? {
                if members.len() == MOST_KEYS {
                    return Err(A::Error::custom("too many keys"));
                }
                members.push((key.0, map.next_value()?));
            }
            Ok(members)
        }
    }

    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Key<'k>(#[serde(borrow)] Cow<'k, str>);

    let mut json = serde_json::Deserializer::from_slice(body);
    let members = json.deserialize_map(Members).ok()?;
    json.end().ok()?;
    Some(members)
}
