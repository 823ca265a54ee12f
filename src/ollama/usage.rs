//! What a stream of an answer says about itself, read in passing: how it ended, token counts, durations, and
//! the error that Ollama puts into a stream whose status was 200.
//!
//! | kind | an event | the end | an error in the stream |
//! |---|---|---|---|
//! | NDJSON (`/api/chat`, `/api/generate`, `/api/pull`) | a line | the object with `"done":true` | `{"error":"…"}`, then a clean end |
//! | SSE (`/v1`) | `data: …` | `[DONE]`, `message_stop`, `response.completed` | `data: {"error":…}`, `event: error`, a bare `{"error":…}` line; Ollama: an empty chunk of no model |
//! | JSON (`"stream":false`) | the body | its last byte | the status says it |
//!
//! The fields are those of `api/types.go` (`Metrics`: nanoseconds, absent when zero) and the `usage` object of
//! OpenAI and Anthropic, the last one that counts (Anthropic's `message_start` holds an estimate; `message_delta`
//! corrects it).
//!
//! A token's chunk costs one search for its newline, one copy of its line, one look at the line's first bytes and one for the
//! keys that tokens have.
//! Of a line longer than 64 KiB (the final object of `/api/generate` may hold a huge `context`) the beginning and
//! the end are kept, and the middle is cut out: what we read stands in those two. Counts are read at the depth where a server
//! writes them ([`places`]).

mod fields;
mod places;
#[cfg(test)]
mod tests;
mod tokens;

use std::time::Duration;

use memchr::memchr;

use fields::Native;
use places::Places;

/// The most that is kept of one line.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Of a longer line: this much of its beginning is kept …
const HEAD_BYTES: usize = 1024;
/// … and at least this much of its end.
const TAIL_BYTES: usize = 32 * 1024;
/// More tokens than one request can use, of its prompt or of its answer: what a server tells beyond is nonsense, and would
/// make sums of many requests overflow.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageKind {
    /// `application/x-ndjson`.
    Ndjson,
    /// `application/json`.
    Json,
    /// `text/event-stream`.
    Sse,
}

impl UsageKind {
    /// From the answer's Content-Type; `None` for one that has nothing to read.
    pub fn of_content_type(value: &str) -> Option<UsageKind> {
        let essence = value.split(';').next().unwrap_or(value).trim();
        [
            ("application/x-ndjson", UsageKind::Ndjson),
            ("application/json", UsageKind::Json),
            ("text/event-stream", UsageKind::Sse),
        ]
        .into_iter()
        .find_map(|(name, kind)| essence.eq_ignore_ascii_case(name).then_some(kind))
    }
}

/// What was read. `None` is "not said": Ollama leaves out what is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whether the stream's own end was seen; a transport may end cleanly without it.
    pub finished: bool,
    /// Whether a stream of lines ended after one that says that it goes on.
    pub ends_early: bool,
    /// `stop`, `length`, `load` or `unload`.
    pub done_reason: Option<String>,
    /// Tokens of the prompt (OpenAI: `prompt_tokens`, Anthropic: `input_tokens`).
    pub prompt_eval_count: Option<u64>,
    /// Tokens of the answer (OpenAI: `completion_tokens`, Anthropic: `output_tokens`).
    pub eval_count: Option<u64>,
    /// From the request's arrival to its end, as the server saw it.
    pub total_duration: Option<Duration>,
    /// Far above zero where the model had to be loaded first.
    pub load_duration: Option<Duration>,
    /// Time on the prompt.
    pub prompt_eval_duration: Option<Duration>,
    /// Time on the answer's tokens.
    pub eval_duration: Option<Duration>,
    /// The message of an error inside the stream.
    pub error: Option<String>,
    /// Pieces of the answer's text in a stream, where they are counted; Ollama makes one of each token.
    pub pieces: u64,
}

impl Usage {
    /// Whether the server told how many tokens there were. One that only loaded or unloaded a model had none.
    #[must_use]
    pub fn tells_tokens(&self) -> bool {
        let only_loads = matches!(self.done_reason.as_deref(), Some("load" | "unload"));
        self.prompt_eval_count.is_some() || self.eval_count.is_some() || only_loads
    }

    /// Tokens of the prompt and of the answer, as far as they are known: what the server told and, where its last word is
    /// missing, at least a token for each piece.
    #[must_use]
    pub fn tokens(&self) -> (u64, u64) {
        let output = match self.eval_count {
            Some(told) if self.finished => told,
            told => told.unwrap_or(0).max(self.pieces),
        };
        (self.prompt_eval_count.unwrap_or(0), output)
    }
}

/// An incremental reader of one answer.
#[derive(Clone, Debug)]
pub struct UsageScan {
    kind: UsageKind,
    /// The line that is being read or, of NDJSON, the last one that was.
    line: Vec<u8>,
    /// `line` ended with a newline: the next byte begins another.
    line_ended: bool,
    /// What stands in `line` up to the end of its middle, which has been cut out.
    line_cut: Option<Box<Places>>,
    /// Said so far.
    usage: Usage,
    failed: bool,
    /// The error is known only by what stands in its place.
    lost: bool,
    /// A token has come since that was asked last.
    token: bool,
    /// What the line `event:` before the next data says: whether its data is a piece of an answer.
    named_piece: Option<bool>,
    /// Whether pieces are counted.
    counts: bool,
}

impl UsageScan {
    /// A scan that has read nothing yet.
    pub fn new(kind: UsageKind) -> UsageScan {
        UsageScan {
            kind,
            line: Vec::new(),
            line_ended: false,
            line_cut: None,
            usage: Usage::default(),
            failed: false,
            lost: false,
            token: false,
            named_piece: None,
            counts: false,
        }
    }

    /// The same, and counts the pieces of a stream if `counts`.
    #[must_use]
    pub fn counting(self, counts: bool) -> UsageScan {
        UsageScan { counts, ..self }
    }

    /// Reads the next bytes of the answer.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.kind == UsageKind::Json {
            self.keep(bytes);
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let newline = memchr(b'\n', rest);
            let mut part = &rest[..newline.unwrap_or(rest.len())];
            // An empty line, `\r\n` too, is not a line.
            while let ([b'\r', after @ ..], true) = (part, self.line_ended || self.line.is_empty()) {
                part = after;
            }
            if !part.is_empty() {
                if self.line_ended {
                    self.line.clear();
                    self.line_cut = None;
                    self.line_ended = false;
                }
                self.keep(part);
            }
            match newline {
                None => return,
                Some(end) => {
                    self.end_line();
                    rest = &rest[end + 1..];
                }
            }
        }
    }

    /// How the answer is written.
    pub fn kind(&self) -> UsageKind {
        self.kind
    }

    /// Whether the last line that came has not ended yet.
    pub fn is_inside_line(&self) -> bool {
        !self.line.is_empty() && !self.line_ended
    }

    /// Whether what was read since the last call brought a token ([`tokens`]). A line counts once its end has come.
    pub fn takes_token(&mut self) -> bool {
        std::mem::take(&mut self.token)
    }

    /// Whether an error has been seen in the stream so far.
    pub fn error_seen(&self) -> bool {
        self.failed
    }

    /// The message of that error, once its line is complete.
    pub fn error(&self) -> Option<&str> {
        self.usage.error.as_deref()
    }

    /// Whether there was an error that the stream does not tell: Ollama's layer for OpenAI's API reads it as a chunk
    /// without content (`middleware/openai.go`), and ends the stream well.
    pub fn error_is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the last line of a stream says that another one follows: the end is none, however well the transport ends.
    pub fn ends_early(&self) -> bool {
        self.kind == UsageKind::Ndjson && !self.failed && self.native().done == Some(false)
    }

    /// The answer has ended, well or not.
    pub fn finish(mut self) -> Usage {
        self.end_line();
        match self.kind {
            UsageKind::Ndjson => fields::read_native(&self.line, self.native(), &mut self.usage),
            UsageKind::Json => {
                let closed = self.line.trim_ascii_end().ends_with(b"}");
                fields::read_native(&self.line, self.native(), &mut self.usage);
                self.read_usage_object();
                self.usage.finished = closed && self.usage.error.is_none();
                self.usage.ends_early = false;
            }
            UsageKind::Sse => {}
        }
        let usage = &mut self.usage;
        for count in [&mut usage.prompt_eval_count, &mut usage.eval_count] {
            *count = count.map(|count| count.min(MOST_TOKENS));
        }
        self.usage
    }

    /// What stands where in the line.
    fn places(&self) -> Places {
        let (mut places, rest) = match self.line_cut.as_deref() {
            Some(places) => (places.clone(), &self.line[HEAD_BYTES..]),
            None => (Places::default(), self.line.as_slice()),
        };
        places.push(rest);
        places
    }

    /// The line as an object of Ollama's own API.
    fn native(&self) -> Native {
        match self.line_cut {
            Some(_) => self.places().native(),
            None => serde_json::from_slice(&self.line).unwrap_or_default(),
        }
    }

    /// Reads the `usage` of the line; what it does not say stays as it was.
    fn read_usage_object(&mut self) {
        if self.line_cut.is_none() && !fields::mentions_usage(&self.line) {
            return;
        }
        let (prompt, output) = self.places().tokens();
        self.usage.prompt_eval_count = prompt.or(self.usage.prompt_eval_count);
        self.usage.eval_count = output.or(self.usage.eval_count);
    }

    fn keep(&mut self, part: &[u8]) {
        // In pieces, so that even one huge chunk does not make the buffer grow.
        for piece in part.chunks(TAIL_BYTES) {
            if self.line.len() + piece.len() > MAX_LINE_BYTES {
                let cut_to = self.line.len().saturating_sub(TAIL_BYTES - piece.len()).max(HEAD_BYTES);
                let read_to = if self.line_cut.is_some() { HEAD_BYTES } else { 0 };
                self.line_cut.get_or_insert_default().push(&self.line[read_to..cut_to]);
                self.line.drain(HEAD_BYTES..cut_to);
            }
            self.line.extend_from_slice(piece);
        }
    }

    fn end_line(&mut self) {
        if self.line_ended || self.line.is_empty() {
            return;
        }
        self.line_ended = true;
        match self.kind {
            UsageKind::Json => {}
            UsageKind::Ndjson => {
                if fields::begins_with_error(&self.line) {
                    self.fail(0);
                } else {
                    let brings_token = tokens::brings_token(&self.line);
                    self.token |= brings_token;
                    self.usage.pieces += u64::from(self.counts && brings_token);
                }
            }
            UsageKind::Sse => self.end_sse_line(),
        }
    }

    fn end_sse_line(&mut self) {
        let line = self.line.as_slice();
        let Some(data) = line.strip_prefix(b"data:") else {
            let event = line.strip_prefix(b"event:").map(<[u8]>::trim_ascii);
            self.named_piece = event.and_then(tokens::is_piece).or(self.named_piece);
            // `error:` is the field that llama.cpp's server used before it followed the others.
            if event == Some(b"error") || line.starts_with(b"error:") || fields::begins_with_error(line) {
                self.fail(0);
            }
            return;
        };
        let start = line.len() - data.trim_ascii_start().len();
        let data = &line[start..];
        let named_piece = self.named_piece.take();
        if data.starts_with(b"[DONE]") || fields::is_last_event(data) {
            self.usage.finished = true;
        }
        if fields::begins_with_error(data) {
            self.fail(start);
        } else if fields::stands_for_error(data) {
            self.lost = true;
            self.fail(start);
        } else {
            let is_piece = named_piece.or_else(|| tokens::is_piece(fields::event_type(data)?)).unwrap_or(true);
            let brings_token = is_piece && tokens::brings_token(data);
            self.token |= brings_token;
            self.usage.pieces += u64::from(self.counts && brings_token);
            self.read_usage_object();
        }
    }

    fn fail(&mut self, start: usize) {
        self.failed = true;
        if let Some(message) = fields::error_message(&self.line[start..]) {
            self.usage.error = Some(message);
        } else if self.usage.error.is_none() {
            self.usage.error = Some(String::new());
        }
    }
}
