//! Strict chunk framing (RFC 9112 7.1), taken off as bytes arrive and without copying them.
//!
//! Lenient readers accept `0x2`, an empty size, a bare LF or data longer than its chunk, and each
//! reads another message. This one accepts exactly the grammar: 1 to 16 hexadecimal digits, an
//! optional extension, CRLF, data, CRLF, the last chunk, trailer fields, CRLF.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes that all extensions of one chunk, or all trailer fields, may take.
const MAX_EXTRA: usize = 4096;

/// Chunk framing that is not exactly the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedChunk;

/// Where in a chunked body the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
        value: u64,
    },
    Extension {
        value: u64,
        length: usize,
    },
    SizeLineFeed {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataLineFeed,
    /// At the start of a trailer line.
    Trailer {
        length: usize,
    },
    InTrailer {
        length: usize,
    },
    TrailerLineFeed {
        length: usize,
    },
    LastLineFeed,
    Done,
}

/// Follows a chunked body from its first byte to its end.
#[derive(Clone, Debug)]
pub struct ChunkFraming {
    state: State,
}

impl Default for ChunkFraming {
    fn default() -> Self {
        Self { state: State::Size { digits: 0, value: 0 } }
    }
}

impl ChunkFraming {
    /// Whether the whole body has passed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether nothing of another chunk has come.
    pub fn is_between_chunks(&self) -> bool {
        matches!(self.state, State::Size { digits: 0, .. })
    }

    /// Takes the next piece of data out of what arrived; `None` when more must arrive first, or the body is
    /// complete. What stands behind the body stays.
    ///
    /// # Errors
    /// When the bytes break the grammar.
    pub fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<Bytes>, MalformedChunk> {
        let mut at = 0;
        while at < arrived.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                arrived.advance(at);
                let take = left.min(arrived.len() as u64);
                self.state = if take == left { State::DataReturn } else { State::Data { left: left - take } };
                return Ok(Some(arrived.split_to(take as usize).freeze()));
            }
            self.state = self.step(arrived[at])?;
            at += 1;
        }
        arrived.advance(at);
        Ok(None)
    }

    fn step(&self, byte: u8) -> Result<State, MalformedChunk> {
        let trailer = |length: usize| if length < MAX_EXTRA { Ok(length + 1) } else { Err(MalformedChunk) };
        Ok(match (self.state, byte) {
            (State::Size { digits, value }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 16 => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                State::Size { digits: digits + 1, value: value << 4 | u64::from(digit) }
            }
            (State::Size { digits: 1.., value }, b'\r') => State::SizeLineFeed { value },
            (State::Size { digits: 1.., value }, b';') => State::Extension { value, length: 1 },
            (State::Extension { value, .. }, b'\r') => State::SizeLineFeed { value },
            (State::Extension { value, length }, b'\t' | b' '..=b'~' | 0x80..) => {
                State::Extension { value, length: trailer(length)? }
            }
            (State::SizeLineFeed { value: 0 }, b'\n') => State::Trailer { length: 0 },
            (State::SizeLineFeed { value }, b'\n') => State::Data { left: value },
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size { digits: 0, value: 0 },
            (State::Trailer { .. }, b'\r') => State::LastLineFeed,
            (State::InTrailer { length }, b'\r') => State::TrailerLineFeed { length },
            (State::TrailerLineFeed { length }, b'\n') => State::Trailer { length },
            (State::Trailer { length }, b'!'..=b'~') => State::InTrailer { length: trailer(length)? },
            (State::InTrailer { length }, b'\t' | b' '..=b'~' | 0x80..) => {
                State::InTrailer { length: trailer(length)? }
            }
            (State::LastLineFeed, b'\n') => State::Done,
            _ => return Err(MalformedChunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds bytes; how many of them belong to the body.
    fn advance(framing: &mut ChunkFraming, bytes: &[u8]) -> Result<usize, MalformedChunk> {
        let mut arrived = BytesMut::from(bytes);
        while framing.take(&mut arrived)?.is_some() {}
        Ok(bytes.len() - arrived.len())
    }

    /// The verdict at once and split at every byte: how many bytes belong to the body, if it is whole.
    fn verdict(bytes: &[u8]) -> Result<Option<usize>, MalformedChunk> {
        let mut whole = ChunkFraming::default();
        let at_once = advance(&mut whole, bytes).map(|taken| whole.is_done().then_some(taken));
        let mut split = ChunkFraming::default();
        let mut taken = 0;
        let mut bytewise = Ok(());
        for byte in bytes {
            match advance(&mut split, std::slice::from_ref(byte)) {
                Ok(n) => taken += n,
                Err(error) => {
                    bytewise = Err(error);
                    break;
                }
            }
        }
        assert_eq!(bytewise.map(|()| split.is_done().then_some(taken)), at_once);
        at_once
    }

    #[test]
    fn a_chunk_has_ended_when_its_last_line_feed_has_come() {
        let mut framing = ChunkFraming::default();
        assert!(framing.is_between_chunks());
        for (bytes, between) in [("2", false), ("\r\n", false), ("{", false), ("}", false), ("\r", false), ("\n", true)]
        {
            advance(&mut framing, bytes.as_bytes()).unwrap();
            assert_eq!(framing.is_between_chunks(), between, "{bytes:?}");
        }
    }

    #[test]
    fn good_bodies_end_where_they_end() {
        assert_eq!(verdict(b"2\r\n{}\r\n0\r\n\r\nGET"), Ok(Some(12)));
        assert_eq!(verdict(b"2;a=b\r\n{}\r\n0\r\n\r\n"), Ok(Some(16)));
        assert_eq!(verdict(b"0\r\nX: y\r\n\r\n"), Ok(Some(11)));
        assert_eq!(verdict(b"00A\r\n0123456789\r\n000\r\n\r\n"), Ok(Some(24)));
        assert_eq!(verdict(b"5\r\n123"), Ok(None));
    }

    #[test]
    fn everything_else_is_refused() {
        for bytes in [
            &b"0x2\r\n{}\r\n0\r\n\r\n"[..],
            b"0_2\r\n{}\r\n0\r\n\r\n",
            b"-0\r\n\r\n",
            b"10000000000000002\r\n{}\r\n0\r\n\r\n",
            b"2\n{}\r\n0\r\n\r\n",
            b"0\n\r\n",
            b"2;\n{}\r\n0\r\n\r\n",
            b"2\r\n{}XX\r\n0\r\n\r\n",
            b"\r\n\r\n",
            b"5\r\r;ABCD\r\n34\r\nE\r\n0\r\n\r\n",
            b" 2\r\n{}\r\n",
            b"2 \r\n{}\r\n",
            b"0\r\n X: y\r\n\r\n",
            b"0\r\nX: y\n\r\n",
        ] {
            assert_eq!(verdict(bytes), Err(MalformedChunk), "{}", bytes.escape_ascii());
        }
        let long = [b"2;".as_slice(), &[b'a'; 5000], b"\r\n{}\r\n"].concat();
        assert_eq!(verdict(&long), Err(MalformedChunk));
    }
}
