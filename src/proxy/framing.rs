//! Where the body of an HTTP/1 message ends (RFC 9112 6): taken apart as it arrives, put together as it leaves.

use std::fmt::Write;

use bytes::{Bytes, BytesMut};

use super::chunked::{ChunkFraming, MalformedChunk};
use super::message;
use super::output::Output;

/// What is known about the length of a body before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// There is no body.
    None,
    /// This many bytes.
    Known(u64),
    /// It ends when it ends.
    Unknown,
}

/// How the bytes that arrive belong together.
#[derive(Debug)]
pub enum Decoder {
    /// A body of which this many bytes are left.
    Length(u64),
    /// A chunked body.
    Chunked(ChunkFraming),
    /// Everything until the connection closes.
    Close,
    /// The message is complete.
    Done,
}

impl Decoder {
    /// A body of known length.
    pub fn length(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    /// A chunked body.
    pub fn chunked() -> Self {
        Self::Chunked(ChunkFraming::default())
    }

    /// Whether the whole body has passed.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Whether it is a body in chunks that has not come to its end.
    pub fn is_chunked(&self) -> bool {
        matches!(self, Self::Chunked(_))
    }

    /// The same, and nothing of another chunk has come.
    pub fn is_between_chunks(&self) -> bool {
        matches!(self, Self::Chunked(framing) if framing.is_between_chunks())
    }

    /// Takes the next piece of the body from what arrived; `None` when more must arrive first or the body is
    /// complete. Bytes behind the body stay.
    ///
    /// # Errors
    /// When the bytes break the grammar of chunks.
    pub fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Bytes>, MalformedChunk> {
        match self {
            Self::Length(left) => {
                let take = arrived.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(some(message::take(arrived, take)))
            }
            Self::Close => Ok(some(std::mem::take(arrived))),
            Self::Chunked(framing) => {
                let piece = framing.take(arrived)?;
                if framing.is_done() {
                    *self = Self::Done;
                }
                Ok(piece)
            }
            Self::Done => Ok(None),
        }
    }

    /// The connection closed: whether the body is complete.
    pub fn close(&mut self) -> bool {
        let complete = matches!(self, Self::Close | Self::Done);
        if complete {
            *self = Self::Done;
        }
        complete
    }
}

fn some(bytes: BytesMut) -> Option<Bytes> {
    (!bytes.is_empty()).then(|| bytes.freeze())
}

/// How the bytes that leave are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// A body of which this many bytes are left.
    Length(u64),
    /// A chunked body.
    Chunked,
    /// Everything until the connection closes.
    Close,
    /// No body follows, or it is complete.
    Done,
}

/// More bytes, or fewer, than the head of the message promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongLength;

impl Encoder {
    /// Appends a piece of the body.
    ///
    /// # Errors
    /// When the body is longer than its head said.
    pub fn push(&mut self, piece: Bytes, output: &mut Output) -> Result<(), WrongLength> {
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or(WrongLength)?;
                output.push(piece);
            }
            Self::Close => output.push(piece),
            Self::Chunked if piece.is_empty() => {}
            Self::Chunked => {
                output.append(|buffer| {
                    buffer.reserve(piece.len().min(4096) + 16);
                    // Writing to a buffer in memory does not fail.
                    let _ = write!(buffer, "{:x}\r\n", piece.len());
                });
                output.push(piece);
                output.copy(b"\r\n");
            }
            Self::Done if piece.is_empty() => {}
            Self::Done => return Err(WrongLength),
        }
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When it is shorter than its head said.
    pub fn finish(&mut self, output: &mut Output) -> Result<(), WrongLength> {
        match std::mem::replace(self, Self::Done) {
            Self::Length(1..) => return Err(WrongLength),
            Self::Chunked => output.copy(b"0\r\n\r\n"),
            Self::Length(0) | Self::Close | Self::Done => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(mut decoder: Decoder, bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool, Vec<u8>), MalformedChunk> {
        let mut arrived = BytesMut::new();
        let mut body = Vec::new();
        for piece in bytes.chunks(step) {
            arrived.extend_from_slice(piece);
            while let Some(piece) = decoder.take(&mut arrived)? {
                body.extend_from_slice(&piece);
            }
        }
        Ok((body, decoder.is_done(), arrived.to_vec()))
    }

    #[test]
    fn a_body_is_found_at_every_step() {
        let chunked = b"5\r\nhello\r\n00a;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET /";
        for step in 1..chunked.len() {
            let (body, done, rest) = decode(Decoder::chunked(), chunked, step).unwrap();
            assert_eq!((body.as_slice(), done, rest.as_slice()), (&b"hello0123456789"[..], true, &b"GET /"[..]));
            let (body, done, rest) = decode(Decoder::length(5), b"helloGET /", step).unwrap();
            assert_eq!((body.as_slice(), done, rest.as_slice()), (&b"hello"[..], true, &b"GET /"[..]));
            let (body, done, rest) = decode(Decoder::Close, b"hello", step).unwrap();
            assert_eq!((body.as_slice(), done, rest.as_slice()), (&b"hello"[..], false, &b""[..]));
        }
        assert!(decode(Decoder::chunked(), b"5\r\nhelloX\n", 3).is_err());
    }

    #[test]
    fn only_a_body_that_ends_with_its_connection_is_complete_when_it_closes() {
        assert!(Decoder::Close.close());
        assert!(!Decoder::length(3).close());
        assert!(!Decoder::chunked().close());
        assert!(Decoder::length(0).is_done());
    }

    #[test]
    fn lengths_are_kept_exactly() {
        let mut output = Output::default();
        assert_eq!(Encoder::Length(3).push("four".into(), &mut output), Err(WrongLength));
        assert_eq!(Encoder::Length(3).finish(&mut output), Err(WrongLength));
        let mut encoder = Encoder::Length(4);
        assert_eq!(encoder.push("four".into(), &mut output), Ok(()));
        assert_eq!(encoder.finish(&mut output), Ok(()));
        assert_eq!(encoder.push("more".into(), &mut output), Err(WrongLength));
        assert_eq!(output.queued(), 4);
    }

    #[tokio::test]
    async fn a_chunked_body_has_one_end() {
        let mut output = Output::default();
        let mut encoder = Encoder::Chunked;
        for piece in ["", "hello", "", "0123456789abcdef"] {
            encoder.push(piece.into(), &mut output).unwrap();
        }
        encoder.finish(&mut output).unwrap();
        encoder.finish(&mut output).unwrap();
        let mut wire = Vec::new();
        std::future::poll_fn(|cx| output.poll_flush(&mut wire, cx)).await.unwrap();
        assert_eq!(wire, b"5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
    }
}
