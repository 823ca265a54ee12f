//! Reads a request body of any size: hashed and counted as it streams, kept only in outline.
//!
//! The outline is the same JSON with every long string cut short: a base64 image of 80 MB leaves
//! a kilobyte. So keys are found wherever they stand, and memory stays bounded.

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};

use super::ledger::Record;
use super::model::hex;

/// What is kept of each string.
const STRING_LIMIT: usize = 1024;

/// What is kept of a body in all; one with a longer outline is taken for bad JSON.
const OUTLINE_LIMIT: usize = 8 * 1024 * 1024;

/// Keeps the outline of JSON that arrives in pieces.
#[derive(Default)]
pub(super) struct Outline {
    kept: Vec<u8>,
    in_string: bool,
    /// Bytes of the present string so far.
    length: usize,
    /// Bytes of an escape still to come, which may not be parted.
    escape: usize,
    cut: bool,
}

impl Outline {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push_byte(byte);
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.kept
    }

    fn push_byte(&mut self, byte: u8) {
        if !self.in_string {
            if byte == b'"' {
                (self.in_string, self.length, self.escape, self.cut) = (true, 0, 0, false);
            }
            return self.keep(byte);
        }
        self.length += 1;
        match (self.escape, byte) {
            (0, b'"') => {
                self.in_string = false;
                return self.keep(byte);
            }
            (0, b'\\') => {
                // Cut before an escape, never inside one or between a pair of surrogates.
                self.cut |= self.length > STRING_LIMIT && !self.ends_in_high_surrogate();
                self.escape = 5;
            }
            (0, _) => self.cut |= self.length > STRING_LIMIT,
            // The letter after the backslash: only \u has more to come.
            (5, b'u') => self.escape = 4,
            (5, _) => self.escape = 0,
            (left, _) => self.escape = left - 1,
        }
        if !self.cut {
            self.keep(byte);
        }
    }

    fn ends_in_high_surrogate(&self) -> bool {
        match self.kept.as_slice() {
            [.., b'\\', b'u', b'd' | b'D', second, _, _] => {
                matches!(second, b'8' | b'9' | b'a'..=b'b' | b'A'..=b'B')
            }
            _ => false,
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.kept.len() < OUTLINE_LIMIT {
            self.kept.push(byte);
        }
    }
}

/// A body that has been read.
pub(super) struct Body {
    /// Its outline; empty if none was wanted.
    pub(super) outline: Vec<u8>,
    /// Its length in bytes.
    pub(super) length: u64,
    /// Hex SHA-256; None when the host does not record.
    pub(super) sha256: Option<String>,
}

/// Reads a whole body and notes it in the ledger. None if the client broke off.
pub(super) async fn read(mut incoming: Incoming, record: &Record, recording: bool, outlined: bool) -> Option<Body> {
    let mut outline = Outline::default();
    let mut hash = Sha256::new();
    let mut length = 0;
    while let Some(frame) = incoming.frame().await {
        let Ok(mut data) = frame.ok()?.into_data() else {
            continue;
        };
        let count = data.remaining() as u64;
        length += count;
        while data.has_remaining() {
            let chunk = data.chunk();
            if outlined {
                outline.push(chunk);
            }
            if recording {
                hash.update(chunk);
            }
            let taken = chunk.len();
            data.advance(taken);
        }
        record.update(|entry| entry.body_bytes += count);
    }
    let sha256 = recording.then(|| hex(&hash.finalize()));
    record.update(|entry| entry.body_sha256.clone_from(&sha256));
    Some(Body { outline: outline.into_bytes(), length, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fields::Fields;

    fn outline(text: &str, step: usize) -> Vec<u8> {
        let mut outline = Outline::default();
        text.as_bytes().chunks(step).for_each(|piece| outline.push(piece));
        outline.into_bytes()
    }

    #[test]
    fn short_bodies_are_kept_as_they_are() {
        let text = r#"{"model":"a\"b\\","messages":[{"content":"\u00e9"}]}"#;
        for step in [1, 3, 1000] {
            assert_eq!(outline(text, step), text.as_bytes());
        }
    }

    #[test]
    fn long_strings_are_cut_and_later_keys_are_found() {
        for filler in ["A", "\\u00e9", "\\ud83d\\ude00", "\\\"", "\\\\", "é"] {
            let text = format!(r#"{{"images":["{}"],"model":"llava"}}"#, filler.repeat(3000));
            for step in [1, 7, 100_000] {
                let kept = outline(&text, step);
                assert!(kept.len() < 2100, "{filler}: {}", kept.len());
                let fields = Fields::decode(&kept).unwrap_or_default();
                assert_eq!(fields.text("model"), Ok("llava"), "{filler} by {step}");
            }
        }
    }
}
