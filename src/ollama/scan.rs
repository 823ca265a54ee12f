//! The heart of the hot path: which model is this request for? Read from the body while it streams.
//!
//! A scan looks at the keys of the outermost JSON object only. Everything else (messages, base64 images, tool
//! schemas) is jumped over: strings with memchr, nested values by counting brackets. It holds one key or one
//! value of at most 1 KiB, never the body, and it can be stopped and resumed between any two bytes.
//!
//! It reads as Go's `encoding/json` reads, because that is what will read the body after us: key names match
//! whatever their letter case (and `ſ` is an `s`), `\u006dodel` is `model`, bytes behind the object are ignored,
//! a byte order mark is refused, 10,000 levels of nesting are the limit. Brackets are counted, not paired: a
//! body that only a validator would refuse is left for the server to refuse.
//!
//! ```text
//! Start -{-> FirstKey -"-> Key -"-> Colon -:-> Value -> captured string  \
//!                           ^                     |---> skipped string    |-> AfterValue -}-> Closed
//!                           |                     |---> literal           |        |
//!                           |                     '---> nested value     /         |
//!                           '-------------------- NextKey <-----------------,------'
//! ```
//!
//! **Which model, when several are written.** Go takes the last of two `model` keys. This form answers with the
//! first that is not empty, because it wants to answer before the body has ended; a later form lets the scan
//! go on beside the stream and cuts off a request whose second `model` differs. `push` therefore reads every
//! byte it is given, also after [`Progress::Found`]: a caller may stop pushing or go on.

mod string;
#[cfg(test)]
mod tests;

use memchr::memchr2;

use string::{Fed, StringReader, is_key};

/// The longest model name captured, in decoded bytes.
pub const MAX_VALUE_BYTES: usize = 1024;
/// Go's own nesting limit (`encoding/json`, `maxNestingDepth`).
pub const MAX_DEPTH: u32 = 10_000;
/// Enough for any key we look for, written with the longest letters that fold to it.
const MAX_KEY_BYTES: usize = 32;

/// The bytes that mean something in a nested value, outside its strings.
const STRUCTURAL: [bool; 256] = {
    let mut table = [false; 256];
    table[b'"' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table[b'[' as usize] = true;
    table[b']' as usize] = true;
    table
};

/// Which key names the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// `model`, and `name` where `model` is missing or empty (Ollama: `cmp.Or(req.Model, req.Name)`).
    Model,
    /// `model` alone: inference, where Ollama does not look at `name`.
    ModelOnly,
    /// `source`: `/api/copy`.
    Source,
}

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The model may still come.
    NeedMore,
    /// The model is known ([`ModelScan::model`]); the rest of the body can stream. Once found, always found.
    Found,
    /// The object is closed. [`ModelScan::model`] is now the `name`, or `None`.
    End,
    /// Not a JSON object: Ollama would answer 400.
    NotJson,
    /// The model's name is longer than [`MAX_VALUE_BYTES`].
    TooLong,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
}

/// What a scan has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The model, as the client wrote it, never empty.
    pub model: Option<String>,
    /// The value of `stream`, where it was seen. In a body that streams through, it may stand behind the model.
    pub stream: Option<bool>,
}

/// An incremental scan of one request body.
#[derive(Clone, Debug)]
pub struct ModelScan {
    want: Want,
    state: State,
    field: Field,
    string: StringReader,
    /// A `\` was the last byte of a string that is being skipped.
    escaped: bool,
    /// Open brackets, the outermost object included.
    depth: u32,
    literal: Literal,
    model: Option<String>,
    name: Option<String>,
    stream: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    FirstKey,
    NextKey,
    Key,
    Colon,
    Value,
    CapturedString,
    SkippedString,
    Literal,
    Nested,
    NestedString,
    AfterValue,
    Closed,
    Failed(Progress),
}

/// The field whose value is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Model,
    Name,
    Stream,
    Other,
}

/// The first bytes of a `true`, `false`, `null` or number.
#[derive(Clone, Copy, Debug, Default)]
struct Literal {
    bytes: [u8; 5],
    length: usize,
}

impl ModelScan {
    /// A scan that has read nothing yet.
    pub fn new(want: Want) -> ModelScan {
        ModelScan {
            want,
            state: State::Start,
            field: Field::Other,
            string: StringReader::new(),
            escaped: false,
            depth: 0,
            literal: Literal::default(),
            model: None,
            name: None,
            stream: None,
        }
    }

    /// Reads the next bytes of the body, in order, all of them.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, State::Closed | State::Failed(_)) {
            at += self.step(&bytes[at..]);
        }
        self.progress()
    }

    /// What the last [`ModelScan::push`] came to.
    pub fn progress(&self) -> Progress {
        match self.state {
            _ if self.model.is_some() => Progress::Found,
            State::Closed => Progress::End,
            State::Failed(refusal) => refusal,
            _ => Progress::NeedMore,
        }
    }

    /// The model, as far as it is known: see [`Progress`].
    pub fn model(&self) -> Option<&str> {
        let fallback = self.name.as_deref().filter(|_| self.state == State::Closed);
        self.model.as_deref().or(fallback)
    }

    /// The value of `stream`, if it has been seen so far; the last one, as in Go.
    pub fn stream(&self) -> Option<bool> {
        self.stream
    }

    /// Whether the outermost object has been read to its closing brace.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// What has been read. A `name` counts only in a body that was read to its end.
    pub fn finish(self) -> Scanned {
        let closed = self.is_closed();
        Scanned { model: self.model.or(self.name.filter(|_| closed)), stream: self.stream }
    }

    /// Takes bytes of a non-empty slice and says how many; where that is none, the state has changed.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::CapturedString | State::Key => self.read_string(bytes),
            State::SkippedString => self.skip_string(bytes, State::AfterValue),
            State::NestedString => self.skip_string(bytes, State::Nested),
            State::Nested => self.skip_nested(bytes),
            State::Literal => self.read_literal(bytes),
            State::Start | State::FirstKey | State::NextKey | State::Colon | State::Value | State::AfterValue => {
                let space = bytes.iter().take_while(|&&byte| is_space(byte)).count();
                match bytes.get(space) {
                    None => space,
                    Some(&byte) => {
                        self.between(byte);
                        space + 1
                    }
                }
            }
            State::Closed | State::Failed(_) => bytes.len(),
        }
    }

    /// One byte that is not white space, between the keys and values of the outermost object.
    fn between(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Start, b'{') => {
                self.depth = 1;
                State::FirstKey
            }
            (State::FirstKey, b'}') | (State::AfterValue, b'}') => State::Closed,
            (State::FirstKey | State::NextKey, b'"') => {
                self.string.begin(MAX_KEY_BYTES);
                State::Key
            }
            (State::Colon, b':') => State::Value,
            (State::AfterValue, b',') => State::NextKey,
            (State::Value, b'"') => {
                if matches!(self.field, Field::Model | Field::Name) {
                    self.string.begin(MAX_VALUE_BYTES);
                    State::CapturedString
                } else {
                    State::SkippedString
                }
            }
            (State::Value, b'{' | b'[') => {
                self.depth = 2;
                State::Nested
            }
            (State::Value, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.literal = Literal::default();
                self.literal.keep(byte);
                State::Literal
            }
            _ => State::Failed(Progress::NotJson),
        };
    }

    /// Inside a key, or a value that may be the model.
    fn read_string(&mut self, bytes: &[u8]) -> usize {
        match self.string.feed(bytes) {
            Fed::More => {
                if self.state == State::CapturedString && self.string.overflowed() {
                    self.state = State::Failed(Progress::TooLong);
                }
                bytes.len()
            }
            Fed::Bad => {
                self.state = State::Failed(Progress::NotJson);
                bytes.len()
            }
            Fed::Closed(taken) => {
                if self.state == State::Key {
                    self.field = self.field_of_key();
                    self.state = State::Colon;
                } else if self.string.overflowed() {
                    self.state = State::Failed(Progress::TooLong);
                } else {
                    self.keep_value();
                    self.state = State::AfterValue;
                }
                taken
            }
        }
    }

    fn field_of_key(&self) -> Field {
        if self.string.overflowed() {
            return Field::Other;
        }
        let key = self.string.bytes();
        let wanted = match self.want {
            Want::Model | Want::ModelOnly => "model",
            Want::Source => "source",
        };
        if self.model.is_none() && is_key(key, wanted) {
            Field::Model
        } else if self.model.is_none() && self.want == Want::Model && is_key(key, "name") {
            Field::Name
        } else if is_key(key, "stream") {
            Field::Stream
        } else {
            Field::Other
        }
    }

    fn keep_value(&mut self) {
        let value = self.string.bytes();
        if value.is_empty() {
            return;
        }
        let value = String::from_utf8_lossy(value).into_owned();
        match self.field {
            Field::Model => self.model = Some(value),
            Field::Name if self.name.is_none() => self.name = Some(value),
            _ => {}
        }
    }

    /// Inside a string that nobody wants: on to its quote at memchr's speed.
    fn skip_string(&mut self, bytes: &[u8], after: State) -> usize {
        let mut at = 0;
        if self.escaped {
            self.escaped = false;
            at = 1;
        }
        while let Some(found) = memchr2(b'"', b'\\', &bytes[at..]) {
            at += found;
            if bytes[at] == b'"' {
                self.state = after;
                return at + 1;
            }
            if at + 1 == bytes.len() {
                self.escaped = true;
                return bytes.len();
            }
            at += 2;
        }
        bytes.len()
    }

    /// Inside an array or object that nobody wants, outside its strings.
    fn skip_nested(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(plain) = bytes[at..].iter().position(|&byte| STRUCTURAL[usize::from(byte)]) {
            at += plain + 1;
            match bytes[at - 1] {
                b'"' => {
                    self.state = State::NestedString;
                    return at;
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        self.state = State::Failed(Progress::TooDeep);
                        return bytes.len();
                    }
                }
                _ => {
                    self.depth -= 1;
                    if self.depth == 1 {
                        self.state = State::AfterValue;
                        return at;
                    }
                }
            }
        }
        bytes.len()
    }

    /// Inside a number, `true`, `false` or `null`; its end belongs to the next state.
    fn read_literal(&mut self, bytes: &[u8]) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.' => self.literal.keep(byte),
                _ => {
                    if self.field == Field::Stream {
                        self.stream = self.literal.as_bool().or(self.stream);
                    }
                    self.state = State::AfterValue;
                    return at;
                }
            }
        }
        bytes.len()
    }
}

impl Literal {
    fn keep(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    fn as_bool(&self) -> Option<bool> {
        match self.bytes.get(..self.length)? {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }
}

/// JSON's white space (RFC 8259, section 2).
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
