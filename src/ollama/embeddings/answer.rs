//! An answer with embeddings, taken apart, and the frame that one stands in.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Call, Vector};
use crate::ollama::dialect::push_json_string;

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The embeddings, in the order of the inputs.
    pub vectors: Vec<Vector>,
    /// What stands around them.
    pub frame: Frame,
}

/// What stands around the embeddings of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// All before the first of them.
    pub head: String,
    /// All behind the last of them.
    pub tail: String,
}

#[derive(Deserialize)]
struct Embed<'a> {
    model: &'a RawValue,
    #[serde(borrow)]
    embeddings: Vec<&'a RawValue>,
    total_duration: Option<&'a RawValue>,
    load_duration: Option<&'a RawValue>,
    prompt_eval_count: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Legacy<'a> {
    #[serde(borrow)]
    embedding: &'a RawValue,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    data: Vec<Item<'a>>,
    model: &'a RawValue,
    usage: &'a RawValue,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    embedding: &'a RawValue,
    index: usize,
}

impl Answer {
    /// Reads a whole body; `None` where it is not written as Ollama writes it.
    #[must_use]
    pub fn read(call: Call, body: &[u8]) -> Option<Self> {
        let body = std::str::from_utf8(body).ok()?;
        let (vectors, frame): (Vec<&RawValue>, Frame) = match call {
            Call::Embed => {
                let answer: Embed<'_> = serde_json::from_str(body).ok()?;
                let mut tail = "]".to_owned();
                for (key, value) in [
                    ("total_duration", answer.total_duration),
                    ("load_duration", answer.load_duration),
                    ("prompt_eval_count", answer.prompt_eval_count),
                ] {
                    if let Some(value) = value {
                        tail.push_str(&format!(",\"{key}\":{value}"));
                    }
                }
                tail.push('}');
                (answer.embeddings, Frame { head: format!("{{\"model\":{},\"embeddings\":[", answer.model), tail })
            }
            Call::Legacy => {
                let answer: Legacy<'_> = serde_json::from_str(body).ok()?;
                (vec![answer.embedding], Frame::legacy())
            }
            Call::Openai => {
                let answer: List<'_> = serde_json::from_str(body).ok()?;
                if answer.data.iter().enumerate().any(|(place, item)| item.index != place) {
                    return None;
                }
                let tail = format!("],\"model\":{},\"usage\":{}}}\n", answer.model, answer.usage);
                let vectors = answer.data.into_iter().map(|item| item.embedding).collect();
                (vectors, Frame { head: LIST.to_owned(), tail })
            }
        };
        // What is put together from it is what came, or it was not understood.
        if !is_whole(call, body, &frame, &vectors) {
            return None;
        }
        Some(Self { vectors: vectors.into_iter().map(|raw| Vector::read(raw.get())).collect(), frame })
    }
}

/// Whether a body is these embeddings in this frame, and nothing else.
fn is_whole(call: Call, body: &str, frame: &Frame, vectors: &[&RawValue]) -> bool {
    let Some(mut rest) = body.strip_prefix(frame.head.as_str()) else { return false };
    for (place, vector) in vectors.iter().enumerate() {
        let mut before = String::new();
        open_item(call, place, &mut before);
        let mut behind = String::new();
        close_item(call, place, &mut behind);
        let after = rest.strip_prefix(before.as_str()).and_then(|rest| rest.strip_prefix(vector.get()));
        let Some(after) = after.and_then(|rest| rest.strip_prefix(behind.as_str())) else { return false };
        rest = after;
    }
    rest == frame.tail
}

/// The key of the tokens in an answer of Ollama's own API.
const COUNT: &str = "\"prompt_eval_count\":";
const LIST: &str = "{\"object\":\"list\",\"data\":[";

impl Frame {
    /// That of an answer for which no server computed anything. `model` is the name as the client wrote it; `nanoseconds`
    /// is what the answer took. What is zero is left out, as Ollama leaves it out.
    #[must_use]
    pub fn of_nothing(call: Call, model: &str, nanoseconds: u128) -> Self {
        let mut name = String::new();
        push_json_string(&mut name, model);
        match call {
            Call::Embed => Self {
                head: format!("{{\"model\":{name},\"embeddings\":["),
                tail: format!("],\"total_duration\":{}}}", nanoseconds.max(1)),
            },
            Call::Legacy => Self::legacy(),
            Call::Openai => Self {
                head: LIST.to_owned(),
                tail: format!("],\"model\":{name},\"usage\":{{\"prompt_tokens\":0,\"total_tokens\":0}}}}\n"),
            },
        }
    }

    /// Adds the tokens that a server counted for another part of the same request. What it wrote in another way than Ollama does
    /// stays as it is.
    pub fn add_tokens_of(&mut self, other: &Self) {
        for key in [COUNT, "\"prompt_tokens\":", "\"total_tokens\":"] {
            let Some((_, more)) = number(&other.tail, key) else { continue };
            if let Some((place, tokens)) = number(&self.tail, key) {
                self.tail.replace_range(place, &tokens.saturating_add(more).to_string());
            } else if key == COUNT && !self.tail.contains(COUNT) {
                // What is zero is left out.
                let end = self.tail.len() - 1;
                self.tail.insert_str(end, &format!(",{COUNT}{more}"));
            }
        }
    }

    fn legacy() -> Self {
        Self { head: "{\"embedding\":".to_owned(), tail: "}".to_owned() }
    }
}

/// The whole number behind a key in a tail: where it stands, and it. No text can be taken for a key: its quotes are escaped.
fn number(tail: &str, key: &str) -> Option<(Range<usize>, u64)> {
    let from = tail.rfind(key)? + key.len();
    let digits = tail[from..].bytes().take_while(u8::is_ascii_digit).count();
    let place = from..from + digits;
    let ends = matches!(tail.as_bytes().get(place.end), Some(b',' | b'}'));
    let number = tail[place.clone()].parse().ok().filter(|_| ends)?;
    Some((place, number))
}

/// Appends an embedding as it stands at its place of an answer.
pub fn write_item(call: Call, place: usize, vector: &Vector, out: &mut String) {
    open_item(call, place, out);
    vector.write(out);
    close_item(call, place, out);
}

fn open_item(call: Call, place: usize, out: &mut String) {
    if place > 0 {
        out.push(',');
    }
    if call == Call::Openai {
        out.push_str("{\"object\":\"embedding\",\"embedding\":");
    }
}

fn close_item(call: Call, place: usize, out: &mut String) {
    if call == Call::Openai {
        out.push_str(",\"index\":");
        out.push_str(&place.to_string());
        out.push('}');
    }
}
