//! The heart of the hot path: which model is this request for? Read from the body while it streams.
//!
//! A scan reads the whole body in one pass, and can be stopped and resumed between any two bytes. It *looks* only
//! at the keys of the outermost object and of its `options`; everything else (messages, base64 images, tool
//! schemas) is checked at some gigabytes a second and forgotten. It holds one key or one value of at most 1 KiB,
//! never the body.
//!
//! **Two questions, two answers.** [`ModelScan::push`] says whether the model is known, so that a server can be
//! chosen while megabytes are still to come. [`ModelScan::violation`] says whether the body must not reach a server
//! at all; the caller asks it after *each* piece and *before* the piece is passed on, and asks
//! [`ModelScan::at_end`] before the last one. Ollama reads a body to its end before it acts on it, so a body that
//! is cut off there was never acted on.
//!
//! **Never another model than Ollama will run.** What reads the body after us is Go's `encoding/json`: of two
//! equal keys the last one counts, keys match whatever their letter case (and `ſ` is an `s`), `\u006dodel` is
//! `model`, bytes that are not UTF-8 are replaced, what follows the object is ignored. Whoever can show two readers
//! two models can have a request decided by one and run by the other. So all that is read one way only is taken,
//! and the rest is a [`Violation`]: a second `model`, `stream`, `keep_alive` or `options` in any spelling, bytes
//! that are not UTF-8, nesting beyond 64 levels, anything behind the object, anything that is not JSON.
//!
//! ```text
//! Start -{-> FirstKey -"-> Key -"-> Colon -:-> Value -> Text | Skipped | Number | Word  \
//!                           ^                    |                                      |-> AfterValue -}-> Closed
//!                           |                    '-> [ or {: one level deeper           /        |
//!                           '------------------ NextKey <---------------------------------------,'
//! ```

mod fields;
mod number;
mod string;
#[cfg(test)]
mod tests;
mod utf8;
mod violation;

use fields::{Fields, Role};
use number::Number;
use string::{Fed, StringReader};

pub use fields::{Key, Setting};
pub use violation::Violation;

/// The longest model name captured, in decoded bytes.
pub const MAX_VALUE_BYTES: usize = 1024;
/// Open brackets at a time, the outermost object included. Go would take 10,000; no client needs them.
pub const MAX_DEPTH: u32 = 64;
/// Enough for any key we look for, written with the longest letters that fold to it.
const MAX_KEY_BYTES: usize = 32;

/// Which key names the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// `model`, and `name` where `model` is missing or empty (Ollama: `cmp.Or(req.Model, req.Name)`).
    Model,
    /// `model` alone: inference, where Ollama does not look at `name`.
    ModelOnly,
    /// `source`, and beside it `destination`: `/api/copy`.
    Source,
    /// `model` or `name`, and beside it `from`: `/api/create`.
    Create,
}

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The model may still come.
    NeedMore,
    /// The model is known ([`ModelScan::model`]); the rest of the body can stream, as long as there is no
    /// [`ModelScan::violation`]. Once found, always found.
    Found,
    /// The object is closed. [`ModelScan::model`] is now the `name`, or `None`.
    End,
    /// Refused before the model was known; [`ModelScan::violation`] says why.
    NotJson,
    /// Refused: the model's name is longer than [`MAX_VALUE_BYTES`].
    TooLong,
    /// Refused: nested deeper than [`MAX_DEPTH`].
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
    state: State,
    violation: Option<Violation>,
    /// The key whose value is being read, where it is one of ours.
    key: Option<Key>,
    fields: Fields,
    string: StringReader,
    number: Number,
    /// Open brackets, the outermost object included.
    depth: u32,
    /// One bit for each of them, the innermost lowest: set for `{`.
    objects: u64,
    /// The bracket below the outermost one is that of its `options`.
    options: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// Behind `{`: a key, or `}`.
    FirstKey,
    /// Behind a comma in an object: a key.
    NextKey,
    Key,
    /// A key where none is ours.
    SkippedKey,
    Colon,
    /// Behind `[`: a value, or `]`.
    FirstItem,
    Value,
    /// A string that is kept.
    Text,
    Skipped,
    Number,
    /// `true`, `false` or `null`, of which this many bytes have been read.
    Word(&'static str, usize),
    AfterValue,
    Closed,
}

impl ModelScan {
    /// A scan that has read nothing yet.
    pub fn new(want: Want) -> ModelScan {
        ModelScan {
            state: State::Start,
            violation: None,
            key: None,
            fields: Fields::new(want),
            string: StringReader::new(),
            number: Number::new(),
            depth: 0,
            objects: 0,
            options: false,
        }
    }

    /// Reads the next bytes of the body, in order, all of them. Ask [`ModelScan::violation`] before they go on.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while at < bytes.len() && self.violation.is_none() {
            at += self.step(&bytes[at..]);
        }
        self.progress()
    }

    /// The body has ended: whether it was whole. To be asked before its last bytes are passed on.
    ///
    /// # Errors
    /// The violation found before, or that the body is empty or breaks off.
    pub fn at_end(&mut self) -> Result<(), Violation> {
        if self.violation.is_none() {
            self.violation = match self.state {
                State::Closed => None,
                State::Start => Some(Violation::Empty),
                _ => Some(Violation::Truncated),
            };
        }
        self.violation.map_or(Ok(()), Err)
    }

    /// Why the body must not reach a server, as soon as that is certain.
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// What the last [`ModelScan::push`] came to.
    pub fn progress(&self) -> Progress {
        match (self.state, self.violation) {
            _ if self.fields.model.is_some() => Progress::Found,
            (State::Closed, _) => Progress::End,
            (_, None) => Progress::NeedMore,
            (_, Some(Violation::TooLong(_))) => Progress::TooLong,
            (_, Some(Violation::TooDeep)) => Progress::TooDeep,
            (_, Some(_)) => Progress::NotJson,
        }
    }

    /// The model, as far as it is known: see [`Progress`].
    pub fn model(&self) -> Option<&str> {
        let fallback = self.fields.name.as_deref().filter(|_| self.is_closed());
        self.fields.model.as_deref().or(fallback)
    }

    /// Other models that have been named so far, as the client wrote them: `destination`, `from`.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.fields.others.iter().map(String::as_str)
    }

    /// Whether a `modelfile` has been seen so far, which may name any model.
    pub fn has_modelfile(&self) -> bool {
        self.fields.setting(Key::Modelfile).is_some()
    }

    /// The value of `stream`, if it has been seen so far.
    pub fn stream(&self) -> Option<bool> {
        self.fields.stream
    }

    /// The value of `keep_alive`, if it has been seen so far.
    pub fn keep_alive(&self) -> Option<&Setting> {
        self.fields.setting(Key::KeepAlive)
    }

    /// The value of `options.num_ctx`, if it has been seen so far.
    pub fn num_ctx(&self) -> Option<&Setting> {
        self.fields.setting(Key::NumCtx)
    }

    /// The value of `options.num_predict`, if it has been seen so far.
    pub fn num_predict(&self) -> Option<&Setting> {
        self.fields.setting(Key::NumPredict)
    }

    /// The value of `options.num_gpu`, if it has been seen so far.
    pub fn num_gpu(&self) -> Option<&Setting> {
        self.fields.setting(Key::NumGpu)
    }

    /// Everything seen so far that a cap may be about, in the order of the body.
    pub fn settings(&self) -> impl Iterator<Item = (Key, &Setting)> {
        self.fields.settings()
    }

    /// Whether the outermost object has been read to its closing brace.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// What has been read. A `name` counts only in a body that was read to its end.
    pub fn finish(self) -> Scanned {
        let closed = self.is_closed();
        let Fields { model, name, stream, .. } = self.fields;
        Scanned { model: model.or(name.filter(|_| closed)), stream }
    }

    /// Takes bytes of a non-empty slice and says how many; where that is none, the state has changed.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Key | State::SkippedKey | State::Text | State::Skipped => self.read_string(bytes),
            State::Number => self.read_number(bytes),
            State::Word(word, read) => self.read_word(bytes[0], word, read),
            _ => match bytes.iter().position(|&byte| !is_space(byte)) {
                None => bytes.len(),
                Some(space) => {
                    self.between(bytes[space]);
                    space + 1
                }
            },
        }
    }

    fn in_options(&self) -> bool {
        self.depth == 2 && self.options
    }

    fn refuse(&mut self, violation: Violation) {
        self.violation = Some(violation);
    }

    /// One byte that is not white space, between keys and values.
    fn between(&mut self, byte: u8) {
        let in_object = self.objects & 1 == 1;
        match (self.state, byte) {
            (State::Start, b'{') => self.open(true),
            (State::Start, 0xef | 0xfe | 0xff) => self.refuse(Violation::ByteOrderMark),
            (State::Start, _) => self.refuse(Violation::NotAnObject),
            (State::FirstKey | State::NextKey, b'"') => {
                let ours = self.depth == 1 || self.in_options();
                self.string.begin(if ours { MAX_KEY_BYTES } else { 0 });
                self.state = if ours { State::Key } else { State::SkippedKey };
            }
            (State::FirstKey, b'}') | (State::FirstItem, b']') => self.close(),
            (State::AfterValue, b'}') if in_object => self.close(),
            (State::AfterValue, b']') if !in_object => self.close(),
            (State::AfterValue, b',') => self.state = if in_object { State::NextKey } else { State::Value },
            (State::Colon, b':') => self.state = State::Value,
            (State::Value | State::FirstItem, _) => self.begin_value(byte),
            (State::Closed, _) => self.refuse(Violation::Trailing),
            _ => self.refuse(Violation::Malformed),
        }
    }

    fn open(&mut self, object: bool) {
        if self.depth == MAX_DEPTH {
            return self.refuse(Violation::TooDeep);
        }
        if self.depth == 1 {
            self.options = object && self.key == Some(Key::Options);
        }
        self.key = None;
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(object);
        self.state = if object { State::FirstKey } else { State::FirstItem };
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
        self.state = if self.depth == 0 { State::Closed } else { State::AfterValue };
    }

    /// The first byte of a value.
    fn begin_value(&mut self, byte: u8) {
        let role = self.key.map(Key::role);
        if let (Some(Role::Name), Some(key)) = (role, self.key)
            // Older clients write `"name": null` beside the model.
            && !(byte == b'"' || byte == b'n' && matches!(key, Key::Name | Key::From))
        {
            return self.refuse(Violation::NotText(key));
        }
        match byte {
            b'"' => {
                let kept = self.key.map_or(0, Key::kept);
                self.string.begin(kept);
                self.state = if kept > 0 { State::Text } else { State::Skipped };
            }
            b'{' | b'[' => {
                if let (Some(Role::Setting), Some(key)) = (role, self.key) {
                    self.fields.keep_setting(key, Setting::Other);
                }
                self.open(byte == b'{');
            }
            b'-' | b'0'..=b'9' => {
                self.number.begin(byte, role == Some(Role::Setting));
                self.state = State::Number;
            }
            b't' => self.state = State::Word("true", 1),
            b'f' => self.state = State::Word("false", 1),
            b'n' => self.state = State::Word("null", 1),
            _ => self.refuse(Violation::Malformed),
        }
    }

    fn read_string(&mut self, bytes: &[u8]) -> usize {
        let fed = self.string.feed(bytes);
        if self.state == State::Text && self.string.overflowed() {
            match self.key {
                Some(key) if key.role() == Role::Name => {
                    self.refuse(Violation::TooLong(key));
                    return bytes.len();
                }
                _ => {}
            }
        }
        match fed {
            Fed::More => return bytes.len(),
            Fed::Closed(taken) => {
                match self.state {
                    State::Key => self.end_key(),
                    State::SkippedKey => self.state = State::Colon,
                    _ => self.end_text(),
                }
                return taken;
            }
            Fed::Control => self.refuse(Violation::ControlCharacter),
            Fed::Escape => self.refuse(Violation::BadEscape),
            Fed::NotUtf8 => self.refuse(Violation::NotUtf8),
        }
        bytes.len()
    }

    fn end_key(&mut self) {
        self.state = State::Colon;
        if self.string.overflowed() {
            return;
        }
        self.key = self.fields.find(self.string.bytes(), self.in_options());
        if let Some(key) = self.key
            && !self.fields.see(key)
        {
            self.refuse(Violation::Repeated(key));
        }
    }

    fn end_text(&mut self) {
        let text = (self.state == State::Text && !self.string.overflowed())
            .then(|| String::from_utf8_lossy(self.string.bytes()).into_owned());
        self.state = State::AfterValue;
        let Some(key) = self.key.take() else { return };
        match (key.role(), text) {
            (Role::Name, Some(text)) => {
                if text.chars().any(|letter| letter.is_control() || letter == char::REPLACEMENT_CHARACTER) {
                    self.refuse(Violation::Unprintable(key));
                } else {
                    self.fields.keep_name(key, text);
                }
            }
            (Role::Setting, text) => {
                let setting = text.map_or(Setting::Other, |text| Setting::Text(text.into_boxed_str()));
                self.fields.keep_setting(key, setting);
            }
            _ => {}
        }
    }

    /// Inside a number; its end belongs to the next state.
    fn read_number(&mut self, bytes: &[u8]) -> usize {
        let taken = self.number.read(bytes);
        if taken == bytes.len() {
            return taken;
        }
        if !self.number.is_whole() {
            self.refuse(Violation::Malformed);
        } else if self.number.is_huge() {
            self.refuse(Violation::HugeNumber);
        } else if let Some(key) = self.key.take()
            && key.role() == Role::Setting
        {
            let setting = self.number.value().map_or(Setting::Other, Setting::Number);
            self.fields.keep_setting(key, setting);
        }
        self.state = State::AfterValue;
        taken
    }

    fn read_word(&mut self, byte: u8, word: &'static str, read: usize) -> usize {
        if word.as_bytes().get(read) != Some(&byte) {
            self.refuse(Violation::Malformed);
        } else if read + 1 < word.len() {
            self.state = State::Word(word, read + 1);
        } else {
            self.state = State::AfterValue;
            match (self.key.take(), word) {
                (Some(Key::Stream), "true" | "false") => self.fields.stream = Some(word == "true"),
                (Some(key), "true" | "false") if key.role() == Role::Setting => {
                    self.fields.keep_setting(key, Setting::Other);
                }
                _ => {}
            }
        }
        1
    }
}

/// JSON's white space (RFC 8259, section 2).
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
