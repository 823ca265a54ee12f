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
//! A token's chunk costs one search for its newline, one copy of its line and one look at the line's first bytes.
//! Of a line longer than 64 KiB (the final object of `/api/generate` may hold a huge `context`) the beginning and
//! the end are kept, and the middle is cut out: what we read stands in those two.

mod fields;
#[cfg(test)]
mod tests;

use std::time::Duration;

use memchr::{memchr, memmem};

/// The most that is kept of one line.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Of a longer line: this much of its beginning is kept …
const HEAD_BYTES: usize = 1024;
/// … and at least this much of its end.
const TAIL_BYTES: usize = 32 * 1024;

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
}

/// An incremental reader of one answer.
#[derive(Clone, Debug)]
pub struct UsageScan {
    kind: UsageKind,
    /// The line that is being read or, of NDJSON, the last one that was.
    line: Vec<u8>,
    /// `line` ended with a newline: the next byte begins another.
    line_ended: bool,
    /// The middle of `line` has been cut out.
    line_cut: bool,
    /// Said so far.
    usage: Usage,
    failed: bool,
    /// The error is known only by what stands in its place.
    lost: bool,
}

impl UsageScan {
    /// A scan that has read nothing yet.
    pub fn new(kind: UsageKind) -> UsageScan {
        UsageScan {
            kind,
            line: Vec::new(),
            line_ended: false,
            line_cut: false,
            usage: Usage::default(),
            failed: false,
            lost: false,
        }
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
                    self.line_cut = false;
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
        self.kind == UsageKind::Ndjson && !self.failed && fields::goes_on(&self.line, self.line_cut)
    }

    /// The answer has ended, well or not.
    pub fn finish(mut self) -> Usage {
        self.end_line();
        match self.kind {
            UsageKind::Ndjson => fields::read_native(&self.line, self.line_cut, &mut self.usage),
            UsageKind::Json => {
                let closed = self.line.trim_ascii_end().ends_with(b"}");
                fields::read_native(&self.line, self.line_cut, &mut self.usage);
                fields::read_usage_object(&self.line, &mut self.usage);
                self.usage.finished = closed && self.usage.error.is_none();
                self.usage.ends_early = false;
            }
            UsageKind::Sse => {}
        }
        self.usage
    }

    fn keep(&mut self, part: &[u8]) {
        // In pieces, so that even one huge chunk does not make the buffer grow.
        for piece in part.chunks(TAIL_BYTES) {
            if self.line.len() + piece.len() > MAX_LINE_BYTES {
                let cut_to = self.line.len().saturating_sub(TAIL_BYTES - piece.len()).max(HEAD_BYTES);
                self.line.drain(HEAD_BYTES..cut_to);
                self.line_cut = true;
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
                }
            }
            UsageKind::Sse => self.end_sse_line(),
        }
    }

    fn end_sse_line(&mut self) {
        let line = self.line.as_slice();
        let Some(data) = line.strip_prefix(b"data:") else {
            let event = line.strip_prefix(b"event:").map(<[u8]>::trim_ascii);
            // `error:` is the field that llama.cpp's server used before it followed the others.
            if event == Some(b"error") || line.starts_with(b"error:") || fields::begins_with_error(line) {
                self.fail(0);
            }
            return;
        };
        let start = line.len() - data.trim_ascii_start().len();
        let data = &line[start..];
        if data.starts_with(b"[DONE]") || fields::is_last_event(data) {
            self.usage.finished = true;
        }
        if fields::begins_with_error(data) {
            self.fail(start);
        } else if fields::stands_for_error(data) {
            self.lost = true;
            self.fail(start);
        } else if memmem::find(data, b"\"usage\"").is_some() {
            fields::read_usage_object(data, &mut self.usage);
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
