//! Request bodies with a Content-Encoding, decoded within bounds while they stream.
//!
//! # Problem
//!
//! The model stands inside the body, so a compressed body must be decoded before anything can be decided, and Ollama may
//! not take it otherwise. A kilobyte can decode to a megabyte of nothing: whoever decodes must be able to stop.
//!
//! # How
//!
//! [`Decoder::push`] takes what arrived, [`Decoder::next`] gives decoded pieces of at most 64 KiB, one for each call, so
//! that what is decoded ahead is never more than that; [`Decoder::finish`] says whether the body was whole.
//!
//! # Invariants
//!
//! - No more than `limit` bytes come out, and beyond the first mebibyte no more than [`MAX_RATIO`] for each that went in.
//! - Memory does not depend on what is decoded: windows of more than 8 MiB (RFC 8878 3.1.1.1.2) are refused.

use std::io::Write;

use bytes::{Buf, Bytes};
use flate2::write::MultiGzDecoder;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::stream::raw::{DParameter, Decoder as RawZstd, InBuffer, Operation, OutBuffer};

use crate::policy::failure::Reason;

/// Most decoded bytes for each encoded one, beyond [`FREE`]. Text shrinks to a tenth, seldom to a fiftieth.
pub const MAX_RATIO: u64 = 200;
/// Decoded bytes for which the ratio does not matter.
const FREE: u64 = 1 << 20;
/// Largest piece that comes out.
const PIECE: usize = 64 << 10;
/// Encoded bytes that are decoded at a time.
const STEP: usize = 4 << 10;
/// Largest window of zstd: 8 MiB, as everybody must support it.
const WINDOW_LOG: u32 = 23;

/// A coding that requests may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestCoding {
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It decodes to more than the route allows.
    #[error("the decoded body is too large")]
    TooLarge,
    /// It decodes to far more than it is.
    #[error("the body decodes to far more than it is")]
    Bomb,
    /// It is not of the coding that it names, or broke off.
    #[error("the body is not what its Content-Encoding says")]
    Corrupt,
}

impl DecodeError {
    /// The word for log and answer.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::TooLarge | Self::Bomb => Reason::BodyTooLarge,
            Self::Corrupt => Reason::BadRequest,
        }
    }
}

/// The coding of a request's body: `Ok(None)` for a plain one.
///
/// # Errors
/// [`Reason::UnsupportedEncoding`] for another coding, or more than one.
pub fn coding(headers: &HeaderMap) -> Result<Option<RequestCoding>, Reason> {
    let mut found = None;
    for value in headers.get_all(CONTENT_ENCODING) {
        for word in value.to_str().map_err(|_| Reason::UnsupportedEncoding)?.split(',').map(str::trim) {
            let coding = match word.to_ascii_lowercase().as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => RequestCoding::Gzip,
                "zstd" => RequestCoding::Zstd,
                _ => return Err(Reason::UnsupportedEncoding),
            };
            if found.replace(coding).is_some() {
                return Err(Reason::UnsupportedEncoding);
            }
        }
    }
    Ok(found)
}

/// Decodes one body.
pub struct Decoder {
    inner: Inner,
    /// What arrived and is not decoded yet.
    input: Bytes,
    received: u64,
    decoded: u64,
    limit: u64,
}

enum Inner {
    Gzip {
        decoder: Box<MultiGzDecoder<Vec<u8>>>,
        begun: bool,
    },
    /// `between` frames nothing more has to come; at first it has to.
    Zstd {
        decoder: RawZstd<'static>,
        between: bool,
        full: bool,
    },
}

impl Decoder {
    /// Begins a body that may decode to `limit` bytes.
    ///
    /// # Errors
    /// When the decoder cannot get its memory.
    pub fn new(coding: RequestCoding, limit: u64) -> std::io::Result<Self> {
        let inner = match coding {
            RequestCoding::Gzip => Inner::Gzip { decoder: Box::new(MultiGzDecoder::new(Vec::new())), begun: false },
            RequestCoding::Zstd => {
                let mut decoder = RawZstd::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
                Inner::Zstd { decoder, between: false, full: false }
            }
        };
        Ok(Self { inner, input: Bytes::new(), received: 0, decoded: 0, limit })
    }

    /// Takes what arrived; only after [`Decoder::next`] gave `None`, or it is copied.
    pub fn push(&mut self, piece: Bytes) {
        self.received += piece.len() as u64;
        self.input = if self.input.is_empty() { piece } else { [&self.input[..], &piece[..]].concat().into() };
    }

    /// The next decoded piece; `None` when more has to arrive first.
    ///
    /// # Errors
    /// The body is refused; nothing may be asked any more.
    pub fn next(&mut self) -> Result<Option<Bytes>, DecodeError> {
        loop {
            let nothing = self.input.is_empty();
            let step = &self.input[..self.input.len().min(STEP)];
            let (used, out) = self.inner.step(step)?;
            self.input.advance(used);
            if !out.is_empty() {
                self.count(out.len() as u64)?;
                return Ok(Some(out.into()));
            }
            if nothing {
                return Ok(None);
            }
            if used == 0 {
                return Err(DecodeError::Corrupt);
            }
        }
    }

    fn count(&mut self, bytes: u64) -> Result<(), DecodeError> {
        self.decoded += bytes;
        if self.decoded > self.limit {
            return Err(DecodeError::TooLarge);
        }
        if self.decoded > FREE && self.decoded / MAX_RATIO > self.received {
            return Err(DecodeError::Bomb);
        }
        Ok(())
    }

    /// The end of the body arrived: gives the last piece, which may be empty.
    ///
    /// # Errors
    /// The body broke off, or its check sum is wrong.
    pub fn finish(mut self) -> Result<Bytes, DecodeError> {
        let rest = match &mut self.inner {
            Inner::Gzip { begun: false, .. } => return Err(DecodeError::Corrupt),
            Inner::Gzip { decoder, .. } => {
                decoder.try_finish().map_err(|_| DecodeError::Corrupt)?;
                std::mem::take(decoder.get_mut())
            }
            Inner::Zstd { between: true, .. } => Vec::new(),
            Inner::Zstd { .. } => return Err(DecodeError::Corrupt),
        };
        if !self.input.is_empty() {
            return Err(DecodeError::Corrupt);
        }
        self.count(rest.len() as u64)?;
        Ok(rest.into())
    }
}

impl Inner {
    /// Decodes some of `input`: how much of it, and what came out.
    fn step(&mut self, input: &[u8]) -> Result<(usize, Vec<u8>), DecodeError> {
        match self {
            Self::Gzip { decoder, begun } => {
                if input.is_empty() {
                    if *begun {
                        decoder.flush().map_err(|_| DecodeError::Corrupt)?;
                    }
                    return Ok((0, std::mem::take(decoder.get_mut())));
                }
                *begun = true;
                let used = decoder.write(input).map_err(|_| DecodeError::Corrupt)?;
                Ok((used, std::mem::take(decoder.get_mut())))
            }
            Self::Zstd { decoder, between, full } => {
                // What the decoder still holds comes out without more input.
                if input.is_empty() && !*full {
                    return Ok((0, Vec::new()));
                }
                let mut out = Vec::with_capacity(PIECE);
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(&mut out));
                let left = decoder.run(&mut from, &mut to).map_err(|_| DecodeError::Corrupt)?;
                let (used, written) = (from.pos(), to.pos());
                // At the end of a frame nothing is held back.
                *full = written == PIECE && left != 0;
                *between = left == 0;
                Ok((used, out))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn encoded(coding: RequestCoding, plain: &[u8]) -> Vec<u8> {
        match coding {
            RequestCoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            RequestCoding::Zstd => zstd::stream::encode_all(plain, 3).unwrap(),
        }
    }

    /// Decodes `bytes` in pieces of `size`; also the largest piece that came out.
    fn decode(coding: RequestCoding, bytes: &[u8], size: usize, limit: u64) -> Result<(Vec<u8>, usize), DecodeError> {
        let mut decoder = Decoder::new(coding, limit).unwrap();
        let (mut out, mut largest) = (Vec::new(), 0);
        for piece in bytes.chunks(size) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(piece) = decoder.next()? {
                largest = largest.max(piece.len());
                out.extend_from_slice(&piece);
            }
        }
        out.extend_from_slice(&decoder.finish()?);
        Ok((out, largest))
    }

    const BOTH: [RequestCoding; 2] = [RequestCoding::Gzip, RequestCoding::Zstd];

    #[test]
    fn names_are_read_and_others_refused() {
        let of =
            |value: &'static str| coding(&HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(value))]));
        assert_eq!(coding(&HeaderMap::new()), Ok(None));
        assert_eq!(of("identity"), Ok(None));
        assert_eq!(of("GZIP"), Ok(Some(RequestCoding::Gzip)));
        assert_eq!(of("identity, zstd"), Ok(Some(RequestCoding::Zstd)));
        for other in ["br", "deflate", "gzip, gzip", "gzip, zstd", "x"] {
            assert_eq!(of(other), Err(Reason::UnsupportedEncoding), "{other}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit_or_at_the_ratio_in_small_pieces() {
        let zeros = vec![0; 64 << 20];
        for coding in BOTH {
            let bomb = encoded(coding, &zeros);
            assert_eq!(decode(coding, &bomb, 1000, u64::MAX), Err(DecodeError::Bomb), "{coding:?}");
            let bomb = encoded(coding, &zeros[..512 << 10]);
            assert_eq!(decode(coding, &bomb, 1000, 256 << 10), Err(DecodeError::TooLarge), "{coding:?}");
            let (out, largest) = decode(coding, &bomb, bomb.len(), 512 << 10).unwrap();
            assert!(out.len() == 512 << 10 && largest <= 2 * PIECE, "{coding:?}: {largest}");
        }
    }

    #[test]
    fn what_is_damaged_or_broken_off_is_refused() {
        let plain: Vec<u8> = (0..20_000_u32).flat_map(|number| number.to_string().into_bytes()).collect();
        for coding in BOTH {
            let good = encoded(coding, &plain);
            for end in [0, 1, 5, good.len() / 2, good.len() - 1] {
                assert_eq!(decode(coding, &good[..end], 700, u64::MAX), Err(DecodeError::Corrupt), "{coding:?} {end}");
            }
            let garbage = [&good[..], b"and more"].concat();
            assert_eq!(decode(coding, &garbage, 700, u64::MAX), Err(DecodeError::Corrupt), "{coding:?}");
            assert_eq!(decode(coding, b"{\"model\":\"a\"}", 700, u64::MAX), Err(DecodeError::Corrupt), "{coding:?}");
        }
        let mut wrong = encoded(RequestCoding::Gzip, &plain);
        let at = wrong.len() - 6;
        wrong[at] ^= 1;
        assert_eq!(decode(RequestCoding::Gzip, &wrong, 700, u64::MAX), Err(DecodeError::Corrupt));
    }

    #[test]
    fn what_arrived_can_be_read_before_the_rest_comes() {
        for coding in BOTH {
            let mut decoder = Decoder::new(coding, 1000).unwrap();
            let mut first = match coding {
                RequestCoding::Gzip => {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(b"{\"model\":\"llava\",").unwrap();
                    encoder.flush().unwrap();
                    encoder.get_ref().clone()
                }
                RequestCoding::Zstd => {
                    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
                    encoder.write_all(b"{\"model\":\"llava\",").unwrap();
                    encoder.flush().unwrap();
                    encoder.get_ref().clone()
                }
            };
            decoder.push(std::mem::take(&mut first).into());
            let mut out = Vec::new();
            while let Some(piece) = decoder.next().unwrap() {
                out.extend_from_slice(&piece);
            }
            assert_eq!(out, b"{\"model\":\"llava\",", "{coding:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_body_comes_back_however_it_is_cut(
            plain in proptest::collection::vec(any::<u8>(), 0..5000),
            repeat in 1..40_usize,
            size in 1..3000_usize,
            members in 1..3_usize,
        ) {
            let plain = plain.repeat(repeat);
            for coding in BOTH {
                let bytes = encoded(coding, &plain).repeat(members);
                let (out, largest) = decode(coding, &bytes, size, u64::MAX).unwrap();
                prop_assert_eq!(out.len(), plain.len() * members);
                prop_assert!(out == plain.repeat(members) && largest <= 2 * PIECE);
            }
        }

        #[test]
        fn any_bytes_end_in_a_body_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1..50_usize) {
            for (coding, magic) in BOTH.into_iter().zip([&b"\x1f\x8b\x08\0"[..], b"\x28\xb5\x2f\xfd"]) {
                let _ = decode(coding, &bytes, size, 1 << 20);
                let _ = decode(coding, &[magic, &bytes].concat(), size, 1 << 20);
            }
        }
    }
}
