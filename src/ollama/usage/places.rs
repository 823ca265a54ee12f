//! What an object says at the places where a server writes it, and nowhere else.
//!
//! Servers repeat what clients wrote: a tool whose parameters have a property `usage` stands in each answer of OpenAI's
//! Responses API. So a key counts at its own depth only, which takes reading from the beginning of a line; a line whose middle
//! is not kept is read as it is cut.

use memchr::memchr2;
use serde::Deserialize;

use super::fields::Native;

/// Longest key that is looked for, and some more.
const MAX_KEY_BYTES: usize = 32;
/// Longest value that is read; a `usage` object has some hundred bytes.
const MAX_VALUE_BYTES: usize = 4096;

/// Keys of the final object of Ollama's own API.
const NATIVE: [&str; 8] = [
    "done",
    "done_reason",
    "prompt_eval_count",
    "eval_count",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
];

/// `usage` of OpenAI (`prompt_tokens`, `completion_tokens`), of its Responses API and of Anthropic (`input_tokens`,
/// `output_tokens`). Some servers say both.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Tokens {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
}

/// Where a value stands that is being read.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// `usage` of the object, of its `response` (OpenAI's Responses) or of its `message` (Anthropic's `message_start`).
    Usage,
    /// A member of Ollama's final object.
    Native(&'static str),
}

/// A reader of one line, in pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The beginning of the last string, as it is written.
    word: Vec<u8>,
    /// The member of the object that is being read is `response` or `message`.
    inside: bool,
    /// What is being read, and the depth of its key.
    reading: Option<(Place, u32)>,
    value: Vec<u8>,
    /// Tokens of the prompt and of the answer.
    tokens: (Option<u64>, Option<u64>),
    /// Members of Ollama's final object, each with a comma behind it.
    native: Vec<u8>,
}

impl Places {
    /// Reads on.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first() {
            if !self.in_string {
                self.structure(*byte);
                rest = after;
                continue;
            }
            if std::mem::take(&mut self.escaped) {
                self.text(std::slice::from_ref(byte));
                rest = after;
                continue;
            }
            let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            let (text, after) = rest.split_at(end);
            self.text(text);
            match after.split_first() {
                None => return,
                Some((b'"', after)) => {
                    self.in_string = false;
                    self.keep(b"\"");
                    rest = after;
                }
                Some((_, after)) => {
                    self.escaped = true;
                    self.text(b"\\");
                    rest = after;
                }
            }
        }
    }

    /// Tokens of the prompt and of the answer, of the last `usage` that says any.
    pub(super) const fn tokens(&self) -> (Option<u64>, Option<u64>) {
        self.tokens
    }

    /// Ollama's final object.
    pub(super) fn native(&self) -> Native {
        let members = self.native.strip_suffix(b",").unwrap_or(&self.native);
        serde_json::from_slice(&[b"{".as_slice(), members, b"}"].concat()).unwrap_or_default()
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                self.word.clear();
                self.keep(b"\"");
            }
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.keep(&[byte]);
            }
            b'}' | b']' => {
                // A number ends before the end of what it is in, an object with its own.
                self.end_value();
                self.depth = self.depth.saturating_sub(1);
                self.keep(&[byte]);
                self.end_value();
            }
            b',' => {
                self.end_value();
                self.keep(b",");
            }
            b':' if self.reading.is_none() => self.begin_value(),
            _ => self.keep(&[byte]),
        }
    }

    /// Some of a string.
    fn text(&mut self, text: &[u8]) {
        let room = MAX_KEY_BYTES.saturating_sub(self.word.len());
        self.word.extend_from_slice(&text[..text.len().min(room)]);
        self.keep(text);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.reading.is_some() {
            // One byte more than may be says that it is too long.
            let room = (MAX_VALUE_BYTES + 1).saturating_sub(self.value.len());
            self.value.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// The last string was a key.
    fn begin_value(&mut self) {
        let key = self.word.as_slice();
        let place = match self.depth {
            1 => {
                self.inside = key == b"response" || key == b"message";
                let native = NATIVE.into_iter().find(|name| name.as_bytes() == key).map(Place::Native);
                if key == b"usage" { Some(Place::Usage) } else { native }
            }
            2 if self.inside && key == b"usage" => Some(Place::Usage),
            _ => None,
        };
        self.reading = place.map(|place| (place, self.depth));
        self.value.clear();
    }

    /// If this is the depth of its key, the value is complete.
    fn end_value(&mut self) {
        let depth = self.depth;
        let Some((place, _)) = self.reading.take_if(|(_, of_key)| *of_key == depth) else { return };
        if self.value.len() > MAX_VALUE_BYTES {
            return;
        }
        let value = self.value.trim_ascii();
        match place {
            Place::Usage => {
                if value.starts_with(b"{")
                    && let Ok(told) = serde_json::from_slice::<Tokens>(value)
                {
                    self.tokens.0 = told.prompt_tokens.or(told.input_tokens).or(self.tokens.0);
                    self.tokens.1 = told.completion_tokens.or(told.output_tokens).or(self.tokens.1);
                }
            }
            Place::Native(key) => {
                if self.native.len() <= MAX_VALUE_BYTES {
                    self.native.extend([b"\"".as_slice(), key.as_bytes(), b"\":", value, b","].concat());
                }
            }
        }
    }
}
