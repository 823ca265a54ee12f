//! The tree as JSON and back: values as they were typed, references to variables unreplaced.

use std::borrow::Cow;

use serde_json::{Map, Number, Value as Json};

use crate::config::tree::{Entry, Node, Scalar, Span, Value};

/// What stands in place of a secret.
const MASK: &str = "********";
/// Keys whose values are secrets: header fields with credentials, and URLs of webhooks, which often hold a token.
const SECRETS: [&str; 7] =
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key", "webhook"];
/// Blocks, and the key in each whose values are secrets whatever they are called: URLs of webhooks, and fields that are sent to
/// a collector.
const SECRET_BLOCKS: [(&str, &str); 2] = [("notifications", "url"), ("tracing", "headers")];

/// The value as JSON.
pub(in crate::config) fn to_json(node: &Node<'_>) -> Json {
    match &node.value {
        Value::Scalar(scalar) => scalar_to_json(scalar),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.to_string(), to_json(&entry.value))).collect())
        }
    }
}

fn scalar_to_json(scalar: &Scalar<'_>) -> Json {
    if let Some(typed) = &scalar.typed {
        return Json::String(typed.to_string());
    }
    if scalar.is_null() {
        return Json::Null;
    }
    if scalar.plain {
        match &*scalar.text {
            "true" => return Json::Bool(true),
            "false" => return Json::Bool(false),
            // Only what JSON would write the same way is a number: `0644` and `1_000` stay what was typed.
            text => match text.parse::<Number>() {
                Ok(number) if number.to_string() == text => return Json::Number(number),
                _ => {}
            },
        }
    }
    Json::String(scalar.text.to_string())
}

/// A value that stands in no file as a tree.
pub(super) fn to_node(value: &Json) -> Node<'static> {
    let plain = |text: String| Value::Scalar(Scalar { text: Cow::Owned(text), plain: true, typed: None });
    let value = match value {
        Json::Null => plain("null".to_owned()),
        Json::Bool(yes) => plain(yes.to_string()),
        Json::Number(number) => plain(number.to_string()),
        Json::String(text) => Value::Scalar(Scalar { text: Cow::Owned(text.clone()), plain: false, typed: None }),
        Json::Array(items) => Value::List(items.iter().map(to_node).collect()),
        Json::Object(entries) => Value::Map(entries.iter().map(|(key, value)| to_entry(key, to_node(value))).collect()),
    };
    Node { span: Span::ELSEWHERE, skip: false, value }
}

/// A key that stands in no file.
pub(super) fn to_entry(key: &str, value: Node<'static>) -> Entry<'static> {
    Entry { key: Cow::Owned(key.to_owned()), key_span: Span::ELSEWHERE, value }
}

/// The same with a mask in place of each value that is a secret: header fields that carry credentials, URLs of webhooks,
/// fields for a collector, and passwords in other URLs. What names a file or a variable is none.
#[must_use]
pub fn masked(value: &Json) -> Json {
    mask(value, false, None)
}

/// Whether a value has a mask in it.
#[must_use]
pub fn has_mask(value: &Json) -> bool {
    match value {
        Json::String(text) => is_masked(text),
        Json::Array(items) => items.iter().any(has_mask),
        Json::Object(entries) => entries.values().any(has_mask),
        _ => false,
    }
}

/// `inside` is the key of the block around the value whose values are secrets.
fn mask(value: &Json, secret: bool, inside: Option<&str>) -> Json {
    match value {
        Json::String(text) if secret && !text.contains("${") => MASK.into(),
        Json::String(text) => without_password(text).map_or_else(|| value.clone(), Json::String),
        Json::Array(items) => items.iter().map(|item| mask(item, secret, inside)).collect(),
        Json::Object(entries) => {
            let masked = entries.iter().map(|(key, value)| {
                let named = SECRETS.iter().any(|field| key.eq_ignore_ascii_case(field));
                let hidden = secret || named || inside.is_some_and(|hidden| key == hidden);
                let block = SECRET_BLOCKS.iter().find(|(block, _)| key == block);
                (key.clone(), mask(value, hidden, block.map(|(_, hidden)| *hidden).or(inside)))
            });
            Json::Object(masked.collect::<Map<_, _>>())
        }
        _ => value.clone(),
    }
}

fn without_password(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, _) = authority.rsplit_once('@')?;
    let (name, password) = user.split_once(':')?;
    (!password.contains("${")).then(|| format!("{scheme}://{name}:{MASK}{}", &rest[user.len()..]))
}

/// Whether a text holds a mask: whoever sends it back means what was there before.
pub(super) fn is_masked(text: &str) -> bool {
    text.contains(MASK)
}
