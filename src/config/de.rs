//! A serde reader for the tree: typed values out, positioned errors back.
//!
//! Invariants: an error carries the way to the value and its span; an error about a value that came out
//! of a reference names the reference and what was expected, never the value, whoever raised it.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use super::tree::{Entry, Node, Scalar, Span, Step, Value};

/// What was wrong with a value.
#[derive(Debug)]
pub(super) enum Fault {
    /// The value of this reference is not what was expected.
    Reference {
        typed: String,
        expected: String,
    },
    /// Said by the type itself.
    Custom(String),
    WrongType {
        found: String,
        expected: String,
        quoted_number: bool,
    },
    InvalidValue {
        found: String,
        expected: String,
    },
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    UnknownKey {
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
}

/// Why a tree is not the type that was asked for.
#[derive(Debug)]
pub(super) struct DecodeError {
    pub(super) fault: Fault,
    pub(super) span: Option<Span>,
    /// The way to the value, innermost first.
    pub(super) reversed: Vec<Step>,
}

impl DecodeError {
    fn new(fault: Fault) -> Self {
        Self { fault, span: None, reversed: Vec::new() }
    }

    fn or_span(mut self, span: Span) -> Self {
        self.span.get_or_insert(span);
        self
    }

    fn below(mut self, step: Step) -> Self {
        self.reversed.push(step);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value cannot be read")
    }
}

impl std::error::Error for DecodeError {}

impl Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Fault::Custom(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let quoted_number = matches!(found, Unexpected::Str(text) if text.parse::<i64>().is_ok());
        Self::new(Fault::WrongType { found: describe(found), expected: plain_words(expected), quoted_number })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Fault::InvalidValue { found: describe(found), expected: plain_words(expected) })
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Fault::UnknownWord { word: shorten(word), known })
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(Fault::UnknownKey { known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Fault::MissingKey(key))
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(number) => format!("`{number}`"),
        Unexpected::Signed(number) => format!("`{number}`"),
        Unexpected::Str(text) => format!("the text `{}`", shorten(text)),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        _ => "another kind of value".to_owned(),
    }
}

fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(60).collect();
    if cut.len() == text.len() { cut } else { format!("{cut}…") }
}

/// serde's names of types in words that people who write YAML know.
fn plain_words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        _ if text.starts_with("struct ") => "a mapping".to_owned(),
        _ => text,
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
pub(super) struct NodeReader<'n, 'a> {
    node: &'n Node<'a>,
}

impl<'n, 'a> NodeReader<'n, 'a> {
    pub(super) fn new(node: &'n Node<'a>) -> Self {
        Self { node }
    }

    fn scalar(self) -> Option<&'n Scalar<'a>> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Runs `read`, gives its error a position, and hides a value that came out of a reference.
    fn positioned<T>(
        self,
        expected: impl FnOnce() -> String,
        read: impl FnOnce() -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        read().map_err(|error| {
            let typed = self.scalar().and_then(|scalar| scalar.typed.as_deref());
            let error = match typed {
                Some(typed) => DecodeError::new(Fault::Reference { typed: shorten(typed), expected: expected() }),
                None => error,
            };
            error.or_span(self.node.span)
        })
    }

    /// What `visitor` expects, asked before it is used up and only where it may be needed.
    fn expectation<'de, V: Visitor<'de>>(self, visitor: &V) -> String {
        let hidden = self.scalar().is_some_and(|scalar| scalar.typed.is_some());
        if hidden { plain_words(visitor) } else { String::new() }
    }
}

/// Hands a scalar to `visitor` as what it looks like without quotes: null, boolean, whole number, text.
fn visit_scalar<'de, V: Visitor<'de>>(scalar: &Scalar<'_>, visitor: V) -> Result<V::Value, DecodeError> {
    if scalar.is_null() {
        return visitor.visit_unit();
    }
    let text = &*scalar.text;
    if scalar.plain || scalar.typed.is_some() {
        if let Ok(value) = text.parse::<bool>() {
            return visitor.visit_bool(value);
        }
        if let Some(number) = text.parse::<u64>().ok().filter(|number| number.to_string() == text) {
            return visitor.visit_u64(number);
        }
        if let Some(number) = text.parse::<i64>().ok().filter(|number| number.to_string() == text) {
            return visitor.visit_i64(number);
        }
    }
    visitor.visit_str(text)
}

impl<'de> Deserializer<'de> for NodeReader<'_, '_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let expected = self.expectation(&visitor);
        let read = || match &self.node.value {
            Value::Scalar(scalar) => visit_scalar(scalar, visitor),
            Value::List(items) => visitor.visit_seq(ListReader { items: items.iter().enumerate() }),
            Value::Map(entries) => visitor.visit_map(MapReader { entries: entries.iter(), value: None }),
        };
        self.positioned(|| expected, read)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let expected = self.expectation(&visitor);
        match self.scalar() {
            Some(scalar) if !scalar.is_null() => self.positioned(|| expected, || visitor.visit_str(&scalar.text)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.scalar() {
            Some(scalar) if scalar.is_null() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    // Derived visitors also take the fields in order from a list; people who write YAML never mean that.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if matches!(self.node.value, Value::List(_)) {
            let error = DecodeError::invalid_type(Unexpected::Seq, &visitor);
            return Err(error.or_span(self.node.span));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let expected = one_of(words);
        let read = || match self.scalar() {
            Some(scalar) if !scalar.is_null() => visitor.visit_enum(StrDeserializer::<DecodeError>::new(&scalar.text)),
            _ => {
                let found = match &self.node.value {
                    Value::Scalar(_) => Unexpected::Unit,
                    Value::List(_) => Unexpected::Seq,
                    Value::Map(_) => Unexpected::Map,
                };
                Err(DecodeError::invalid_type(found, &one_of(words).as_str()))
            }
        };
        self.positioned(|| expected, read)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

/// `` `a`, `b` or `c` ``.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

struct ListReader<'n, 'a> {
    items: std::iter::Enumerate<std::slice::Iter<'n, Node<'a>>>,
}

impl<'de> SeqAccess<'de> for ListReader<'_, '_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.items.by_ref().find(|(_, node)| !node.skip) else {
            return Ok(None);
        };
        seed.deserialize(NodeReader { node }).map(Some).map_err(|error| error.below(Step::Index(index)))
    }
}

struct MapReader<'n, 'a> {
    entries: std::slice::Iter<'n, Entry<'a>>,
    value: Option<&'n Entry<'a>>,
}

impl<'de> MapAccess<'de> for MapReader<'_, '_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some(entry) = self.entries.by_ref().find(|entry| !entry.value.skip) else {
            return Ok(None);
        };
        self.value = Some(entry);
        let key = seed.deserialize(StrDeserializer::<DecodeError>::new(&entry.key));
        key.map(Some).map_err(|error| error.or_span(entry.key_span).below(Step::Key(entry.key.to_string())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(entry) = self.value.take() else {
            return Err(DecodeError::custom("a value was asked for before its key"));
        };
        let value = seed.deserialize(NodeReader { node: &entry.value });
        value.map_err(|error| error.below(Step::Key(entry.key.to_string())))
    }
}
