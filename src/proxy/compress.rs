//! Compression of ordinary answers: whether, with what, and the encoder itself.
//!
//! # Problem
//!
//! Text shrinks to a fifth, and streams of tokens die of it: an encoder that waits for a full block holds back what a
//! person is waiting for. So the decision is narrow (a list of text-like types, never a stream, a range, or what is
//! encoded already), and what is encoded can be flushed at any piece.
//!
//! # How
//!
//! [`decide`] looks at both heads. With a coding, [`announce`] changes the head of the answer, and each piece of the
//! body goes through an [`Encoder`]: [`Encoder::push`], [`Encoder::flush`] when nothing more is there yet,
//! [`Encoder::finish`] at the end.

use std::io::{self, Write};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::config::types::Coding;

/// Smallest body of known length that is compressed, in bytes.
const MIN_LENGTH: u64 = 1024;
/// Effort: about where another step costs more time than it saves bytes.
const GZIP_LEVEL: u32 = 5;
const BROTLI_QUALITY: u32 = 4;
/// Window of brotli, 2^18 bytes: a larger one is memory for each answer and saves little.
const BROTLI_WINDOW: u32 = 18;
const ZSTD_LEVEL: i32 = 3;
/// Window of zstd, 2^19 bytes.
const ZSTD_WINDOW: u32 = 19;

/// What is to be done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The coding for its body.
    pub coding: Option<Coding>,
    /// Whether another client would have got another coding, so that caches must know.
    pub vary: bool,
}

/// Decides about an answer: `codings` are the route's, the best first; `length` is that of the body, if it is known.
#[must_use]
pub fn decide(
    codings: &[Coding],
    method: &Method,
    request: &HeaderMap,
    status: u16,
    response: &HeaderMap,
    length: Option<u64>,
) -> Verdict {
    let fit = !codings.is_empty()
        && (200..600).contains(&status)
        && !matches!(status, 204 | 205 | 206 | 304)
        && length.is_none_or(|length| length >= MIN_LENGTH)
        && !response.contains_key(header::CONTENT_ENCODING)
        && !response.contains_key(header::CONTENT_RANGE)
        && !has_token(response, header::CACHE_CONTROL, "no-transform")
        && response.get(header::CONTENT_TYPE).is_some_and(|value| is_text(value.as_bytes()));
    if !fit {
        return Verdict { coding: None, vary: false };
    }
    let coding = if method == Method::HEAD { None } else { negotiate(codings, request) };
    Verdict { coding, vary: true }
}

/// Changes the head of an answer whose body will be encoded, or might have been.
pub fn announce(response: &mut HeaderMap, verdict: Verdict) {
    if verdict.vary && !has_token(response, header::VARY, "accept-encoding") && !has_token(response, header::VARY, "*")
    {
        response.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    let Some(coding) = verdict.coding else { return };
    response.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name(coding)));
    response.remove(header::CONTENT_LENGTH);
    response.remove(header::ACCEPT_RANGES);
    // The bytes are others, so it can only mean the same thing, not the same bytes (RFC 9110 8.8.1).
    let weak = response.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    if let Some(weak) = weak.and_then(|tag| HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()).ok()) {
        response.insert(header::ETAG, weak);
    }
}

/// The name of a coding in a head.
#[must_use]
pub const fn name(coding: Coding) -> &'static str {
    match coding {
        Coding::Zstd => "zstd",
        Coding::Br => "br",
        Coding::Gzip => "gzip",
    }
}

/// The coding that the client likes best among `codings`; of those that it likes alike, the first. `None` when it takes
/// none of them, or likes the plain body better.
#[must_use]
pub fn negotiate(codings: &[Coding], request: &HeaderMap) -> Option<Coding> {
    let mut best: Option<(u16, Coding)> = None;
    for coding in codings {
        let quality = quality(request, name(*coding)).or_else(|| quality(request, "*")).unwrap_or(0);
        if quality > best.map_or(0, |(quality, _)| quality) {
            best = Some((quality, *coding));
        }
    }
    let plain = quality(request, "identity").unwrap_or(0);
    best.filter(|(quality, _)| *quality >= plain).map(|(_, coding)| coding)
}

/// How much a client likes a coding, in thousandths; `None` when it does not name it.
fn quality(request: &HeaderMap, coding: &str) -> Option<u16> {
    let fields = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|field| field.split(',')).find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next()?;
        let alias = coding == "gzip" && named.eq_ignore_ascii_case("x-gzip");
        if !named.eq_ignore_ascii_case(coding) && !alias {
            return None;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        Some(weight.map_or(1000, thousandths))
    })
}

/// A weight such as `0.5` (RFC 9110 12.4.2); what is none is 0.
fn thousandths(weight: &str) -> u16 {
    let (whole, part) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    match (whole, digits) {
        ("1", true) => 1000,
        ("0", true) => format!("{part:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let fields = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|field| field.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Whether a type is text of one piece. Streams are not, whatever they are made of.
pub fn is_text(content_type: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content_type);
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.contains("ndjson") || kind.contains("jsonl") || kind.contains("stream") || kind.contains("json-seq") {
        return false;
    }
    kind.starts_with("text/")
        || kind.ends_with("+json")
        || kind.ends_with("+xml")
        || matches!(
            kind.as_str(),
            "application/json"
                | "application/javascript"
                | "application/x-javascript"
                | "application/xml"
                | "application/wasm"
                | "application/yaml"
        )
}

/// Encodes a body piece by piece.
pub struct Encoder(Inner);

enum Inner {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// Begins a body.
    ///
    /// # Errors
    /// When the encoder cannot get its memory.
    pub fn new(coding: Coding) -> io::Result<Self> {
        Ok(Self(match coding {
            Coding::Gzip => {
                Inner::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL)))
            }
            Coding::Br => {
                let writer = brotli::CompressorWriter::new(Vec::new(), 4096, BROTLI_QUALITY, BROTLI_WINDOW);
                Inner::Br(Box::new(writer))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW)?;
                Inner::Zstd(encoder)
            }
        }))
    }

    /// Takes a piece, and gives what is ready: often nothing.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        match &mut self.0 {
            Inner::Gzip(encoder) => encoder.write_all(piece)?,
            Inner::Br(encoder) => encoder.write_all(piece)?,
            Inner::Zstd(encoder) => encoder.write_all(piece)?,
        }
        Ok(self.take())
    }

    /// Gives everything that was pushed, so that the client can decode all of it.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn flush(&mut self) -> io::Result<Bytes> {
        match &mut self.0 {
            Inner::Gzip(encoder) => encoder.flush()?,
            Inner::Br(encoder) => encoder.flush()?,
            Inner::Zstd(encoder) => encoder.flush()?,
        }
        Ok(self.take())
    }

    /// Gives the rest, and the end.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn finish(self) -> io::Result<Bytes> {
        let rest = match self.0 {
            Inner::Gzip(encoder) => encoder.finish()?,
            Inner::Br(encoder) => encoder.into_inner(),
            Inner::Zstd(encoder) => encoder.finish()?,
        };
        Ok(rest.into())
    }

    fn take(&mut self) -> Bytes {
        let out = match &mut self.0 {
            Inner::Gzip(encoder) => encoder.get_mut(),
            Inner::Br(encoder) => encoder.get_mut(),
            Inner::Zstd(encoder) => encoder.get_mut(),
        };
        std::mem::take(out).into()
    }
}

#[cfg(test)]
#[path = "compress_tests.rs"]
mod tests;
