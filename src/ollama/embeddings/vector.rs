//! One embedding, kept small and exact.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::number::{push_double, push_single};

/// An embedding as a server wrote it. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vector {
    form: Form,
    bytes: Arc<[u8]>,
}

/// How it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A list of numbers of 32 bits; kept are the numbers, little-endian.
    Single,
    /// A list of numbers of 32 bits, written as if they had 64 (`/api/embeddings` does so).
    Double,
    /// The numbers in base64, as a string.
    Packed,
    /// Otherwise; kept is the text.
    Text,
}

impl Vector {
    /// Takes a JSON value over; [`Vector::write`] gives it back to the byte.
    #[must_use]
    pub fn read(json: &str) -> Self {
        let kept = if json.starts_with('[') {
            numbers::<f32>(json)
                .filter(|bytes| written_as(bytes, Form::Single, json))
                .map(|bytes| (Form::Single, bytes))
                .or_else(|| {
                    let bytes = numbers::<f64>(json)?;
                    written_as(&bytes, Form::Double, json).then_some((Form::Double, bytes))
                })
        } else {
            packed(json).map(|bytes| (Form::Packed, bytes))
        };
        let (form, bytes) = kept.unwrap_or_else(|| (Form::Text, json.as_bytes().to_vec()));
        Self { form, bytes: bytes.into() }
    }

    /// Appends it as JSON.
    pub fn write(&self, out: &mut String) {
        write(&self.bytes, self.form, out);
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

fn write(bytes: &[u8], form: Form, out: &mut String) {
    match form {
        Form::Single => list(bytes, out, push_single),
        Form::Double => list(bytes, out, |out, number| push_double(out, f64::from(number))),
        Form::Packed => {
            out.push('"');
            STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        Form::Text => out.push_str(&String::from_utf8_lossy(bytes)),
    }
}

fn list(bytes: &[u8], out: &mut String, push: impl Fn(&mut String, f32)) {
    out.push('[');
    for (place, number) in bytes.as_chunks::<4>().0.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        push(out, f32::from_le_bytes(*number));
    }
    out.push(']');
}

fn written_as(bytes: &[u8], form: Form, json: &str) -> bool {
    let mut text = String::with_capacity(json.len() + 16);
    write(bytes, form, &mut text);
    text == json
}

/// A type that numbers are read as before they become numbers of 32 bits.
trait Number: std::str::FromStr {
    /// The same, if it is one of 32 bits.
    fn single(self) -> Option<f32>;
}

impl Number for f32 {
    fn single(self) -> Option<f32> {
        Some(self)
    }
}

impl Number for f64 {
    fn single(self) -> Option<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "what is lost is looked at")]
        let single = self as f32;
        (f64::from(single).to_bits() == self.to_bits()).then_some(single)
    }
}

/// The numbers of a list, little-endian.
fn numbers<N: Number>(json: &str) -> Option<Vec<u8>> {
    let inside = json.strip_prefix('[')?.strip_suffix(']')?;
    if inside.is_empty() {
        return Some(Vec::new());
    }
    let mut bytes = Vec::with_capacity(inside.len() / 2);
    for text in inside.split(',') {
        bytes.extend_from_slice(&text.parse::<N>().ok()?.single()?.to_le_bytes());
    }
    bytes.shrink_to_fit();
    Some(bytes)
}

fn packed(json: &str) -> Option<Vec<u8>> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    let bytes = STANDARD.decode(inside).ok()?;
    (STANDARD.encode(&bytes) == inside).then_some(bytes)
}
