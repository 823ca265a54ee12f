//! The `model` field of a form: `/v1/audio/transcriptions` is the one call whose model is not in JSON.
//!
//! Like [`super::scan`]: fed as the body arrives, resumable between any two bytes, memory bounded (one part's
//! headers, or one value of 1 KiB). A file is jumped over from carriage return to carriage return.
//!
//! It reads as Go's `mime/multipart` reads (RFC 2046, 5.1; RFC 7578), because Ollama does
//! (`middleware/openai.go`, `TranscriptionMiddleware`: `ParseMultipartForm`, then `FormValue("model")`): the first
//! `model` that is not a file counts, even if it is empty; lines may end in a bare newline if the first boundary's
//! does. What Go would decode and a plain reader would not (`name*=` of RFC 2231, a quoted-printable part, a name
//! given twice) is refused instead, so that nobody can show us one model and Ollama another.
//!
//! One thing cannot be seen from here: Go's `FormValue` prefers a `?model=` in the query to the form's. The guard
//! must refuse a query on this path, or at least that key.

mod header;
#[cfg(test)]
mod tests;

use memchr::memchr;

pub use header::boundary;
use header::{Disposition, read_headers};

use super::scan::{MAX_VALUE_BYTES, Progress};

/// The most that one part's headers may take.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// The longest first line read, before the first boundary must have come.
const MAX_PADDING_BYTES: usize = 1024;

/// An incremental scan of one form.
#[derive(Clone, Debug)]
pub struct MultipartScan {
    /// `--BOUNDARY`
    dash_boundary: Vec<u8>,
    /// What must stand before it: `\r\n`, or `\n` in a form that uses bare newlines.
    line_end: &'static [u8],
    state: State,
    /// The line, the headers or the value being read.
    buffer: Vec<u8>,
    /// The bytes of line end and boundary matched so far, inside a part.
    matched: usize,
    /// The line end among them is the headers' own: the part has only begun.
    part_began: bool,
    model: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Lines before the first boundary. Go ignores them; so do we.
    Preamble,
    /// Behind a boundary: padding and a newline, or `--`.
    BoundaryTail,
    Headers,
    /// Inside a part: whether it is the one we want.
    Content {
        wanted: bool,
    },
    /// A whole boundary has been matched inside a part; the next byte says whether it is one.
    AfterBoundary {
        wanted: bool,
    },
    End,
    Failed(Progress),
}

impl MultipartScan {
    /// A scan for a body with this boundary (see [`boundary`]).
    pub fn new(boundary: &str) -> MultipartScan {
        MultipartScan {
            dash_boundary: [b"--", boundary.as_bytes()].concat(),
            line_end: b"\r\n",
            state: State::Preamble,
            buffer: Vec::new(),
            matched: 0,
            part_began: false,
            model: None,
        }
    }

    /// A scan for a body with this Content-Type; `None` where it is not `multipart/form-data` with a boundary.
    pub fn of_content_type(content_type: &str) -> Option<MultipartScan> {
        boundary(content_type).map(|boundary| MultipartScan::new(&boundary))
    }

    /// Reads the next bytes of the body. [`Progress::NotJson`] stands for "not a form".
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, State::End | State::Failed(_)) {
            at += self.step(&bytes[at..]);
        }
        self.progress()
    }

    /// What the last [`MultipartScan::push`] came to.
    pub fn progress(&self) -> Progress {
        match self.state {
            State::End if self.model.is_some() => Progress::Found,
            State::End => Progress::End,
            State::Failed(refusal) => refusal,
            _ => Progress::NeedMore,
        }
    }

    /// The model, once it is found; never empty.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The model, if it was found.
    pub fn finish(self) -> Option<String> {
        self.model
    }

    /// Takes bytes of a non-empty slice and says how many; where that is none, the state has changed.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Preamble => self.read_preamble(bytes),
            State::BoundaryTail => self.read_boundary_tail(bytes[0]),
            State::Headers => self.read_header_byte(bytes[0]),
            State::Content { wanted } => self.read_content(bytes, wanted),
            State::AfterBoundary { wanted } => self.read_after_boundary(bytes[0], wanted),
            State::End | State::Failed(_) => bytes.len(),
        }
    }

    fn fail(&mut self, refusal: Progress) {
        self.state = State::Failed(refusal);
        self.buffer = Vec::new();
    }

    /// Up to the line that is the first boundary.
    fn read_preamble(&mut self, bytes: &[u8]) -> usize {
        let newline = memchr(b'\n', bytes);
        let part = &bytes[..newline.map_or(bytes.len(), |at| at + 1)];
        let keep = (self.dash_boundary.len() + MAX_PADDING_BYTES).saturating_sub(self.buffer.len());
        self.buffer.extend_from_slice(&part[..part.len().min(keep)]);
        if newline.is_some() {
            if let Some(rest) = self.buffer.strip_prefix(self.dash_boundary.as_slice()) {
                if rest.starts_with(b"--") {
                    self.state = State::End;
                } else if rest.ends_with(b"\n") && rest.trim_ascii().is_empty() {
                    self.line_end = if rest.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
                    self.state = State::Headers;
                }
            }
            self.buffer.clear();
        }
        part.len()
    }

    fn read_boundary_tail(&mut self, byte: u8) -> usize {
        self.buffer.push(byte);
        match (self.buffer.as_slice(), byte) {
            ([b'-', b'-', ..], _) => self.state = State::End,
            ([b'-'], _) => {}
            (_, b' ' | b'\t' | b'\r') if self.buffer.len() < MAX_PADDING_BYTES => {}
            (_, b'\n') => {
                self.buffer.clear();
                self.state = State::Headers;
            }
            _ => self.fail(Progress::NotJson),
        }
        1
    }

    /// Collects a part's headers, to the empty line.
    fn read_header_byte(&mut self, byte: u8) -> usize {
        if self.buffer.len() == MAX_HEADER_BYTES {
            self.fail(Progress::TooLong);
            return 1;
        }
        self.buffer.push(byte);
        let headers = self.buffer.as_slice();
        if matches!(headers, b"\n" | b"\r\n") || headers.ends_with(b"\n\n") || headers.ends_with(b"\n\r\n") {
            match read_headers(headers) {
                Disposition::Model => self.state = State::Content { wanted: true },
                Disposition::Other => self.state = State::Content { wanted: false },
                Disposition::Ambiguous => self.fail(Progress::NotJson),
            }
            self.buffer.clear();
            // A part may be empty: its boundary then follows at once, and its line end is the headers' own.
            self.matched = self.line_end.len();
            self.part_began = true;
        }
        1
    }

    /// The byte at this place of line end and boundary.
    fn delimiter(&self, at: usize) -> Option<u8> {
        let boundary_at = at.checked_sub(self.line_end.len());
        match boundary_at {
            None => self.line_end.get(at).copied(),
            Some(at) => self.dash_boundary.get(at).copied(),
        }
    }

    /// Inside a part, looking for line end and boundary. Its first byte occurs nowhere else in it, so that after a
    /// mismatch the search begins anew at the byte that did not match.
    fn read_content(&mut self, bytes: &[u8], wanted: bool) -> usize {
        let first = self.line_end[0];
        if self.matched == 0 {
            let plain = memchr(first, bytes).unwrap_or(bytes.len());
            if plain > 0 {
                self.keep(wanted, &bytes[..plain]);
                return plain;
            }
        }
        if self.delimiter(self.matched) != Some(bytes[0]) {
            self.keep_matched(wanted);
            // The byte is read again, now as content or as the beginning of a line end.
            return 0;
        }
        self.matched += 1;
        if self.delimiter(self.matched).is_none() {
            self.state = State::AfterBoundary { wanted };
        }
        1
    }

    /// `--BOUNDARYx` is content; `--BOUNDARY` and white space or `-` is a boundary (Go: `matchAfterPrefix`).
    fn read_after_boundary(&mut self, byte: u8, wanted: bool) -> usize {
        if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'-') {
            self.state = State::Content { wanted };
            self.keep_matched(wanted);
            return 0;
        }
        self.matched = 0;
        if wanted {
            let value = String::from_utf8_lossy(&self.buffer).into_owned();
            self.model = Some(value).filter(|value| !value.is_empty());
            self.state = State::End;
        } else {
            self.state = State::BoundaryTail;
        }
        self.buffer.clear();
        0
    }

    /// What looked like a boundary was content.
    fn keep_matched(&mut self, wanted: bool) {
        let matched = std::mem::take(&mut self.matched);
        let headers_own = if std::mem::take(&mut self.part_began) { self.line_end.len() } else { 0 };
        if wanted {
            let looked: Vec<u8> = (headers_own..matched).filter_map(|at| self.delimiter(at)).collect();
            self.keep(wanted, &looked);
        }
    }

    fn keep(&mut self, wanted: bool, bytes: &[u8]) {
        if wanted && self.buffer.len() + bytes.len() > MAX_VALUE_BYTES {
            self.fail(Progress::TooLong);
        } else if wanted {
            self.buffer.extend_from_slice(bytes);
        }
    }
}
