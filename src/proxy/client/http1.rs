//! The client's side of an HTTP/1 connection: one request after the other.
//!
//! No more bytes than the request's own body are taken for it. What a client sends early stays in the input and
//! waits for its turn, so pipelining cannot mix two requests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ClientFault;
use super::socket::ClientSocket;
use crate::proxy::framing::{Decoder, Encoder, Length, WrongLength};
use crate::proxy::head::Framing;
use crate::proxy::input::Input;
use crate::proxy::message::{self, AnswerHead};
use crate::proxy::output::Output;

/// How long, and how many bytes, a closing connection is drained.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 << 20;

/// A client's connection and the request that is being served on it.
#[derive(Debug)]
pub struct Http1 {
    /// The socket.
    pub socket: ClientSocket,
    /// What arrived and was not taken yet.
    pub input: Input,
    decoder: Decoder,
    output: Output,
    encoder: Encoder,
    version: Version,
    /// Whether another request may follow.
    keep: bool,
    /// Whether an answer has begun.
    answered: bool,
    upgraded: bool,
    /// Whether the client was told that nothing more comes.
    ended: bool,
}

impl Http1 {
    /// A connection without a request.
    pub fn new(socket: ClientSocket) -> Self {
        Self {
            socket,
            input: Input::default(),
            decoder: Decoder::Done,
            output: Output::default(),
            encoder: Encoder::Done,
            version: Version::HTTP_11,
            keep: true,
            answered: false,
            upgraded: false,
            ended: false,
        }
    }

    /// A request begins; its body is next in the input.
    pub fn begin(&mut self, version: Version, headers: &HeaderMap, framing: Framing, keep: bool) {
        self.decoder = match framing {
            Framing::None | Framing::Upgrade => Decoder::Done,
            Framing::Length(length) => Decoder::length(length),
            Framing::Chunked => Decoder::chunked(),
        };
        self.encoder = Encoder::Done;
        self.version = version;
        self.answered = false;
        self.keep = keep
            && match version {
                Version::HTTP_10 => names(headers, "keep-alive"),
                _ => !names(headers, "close"),
            };
    }

    /// The next piece of the body; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientFault>> {
        loop {
            if let Some(piece) = self.decoder.take(&mut self.input.bytes).map_err(|_| ClientFault::Malformed)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.decoder.is_done() {
                return Poll::Ready(Ok(None));
            }
            if ready!(self.input.poll_fill(&mut self.socket, cx)).map_err(|_| ClientFault::Gone)? == 0 {
                // The end of a connection that was upgraded is the end of its data.
                return Poll::Ready(if self.decoder.close() { Ok(None) } else { Err(ClientFault::Gone) });
            }
        }
    }

    /// Whether the whole body has been read.
    pub fn body_is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Whether its body comes in chunks, and is not at its end.
    pub fn is_chunked(&self) -> bool {
        self.decoder.is_chunked()
    }

    /// The same, and nothing of another chunk has come.
    pub fn is_between_chunks(&self) -> bool {
        self.decoder.is_between_chunks()
    }

    /// Ready when the client has left. Somebody who pipelines is not watched; the next write finds out.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.input.bytes.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.input.poll_fill(&mut self.socket, cx)) {
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(_) => Poll::Pending,
        }
    }

    /// Appends the head of an answer and settles how its body will end.
    pub fn head(&mut self, mut head: AnswerHead, body: Length, last: bool) {
        self.answered = true;
        self.keep &= !last;
        let chunks = self.version != Version::HTTP_10;
        self.encoder = match body {
            Length::None => Encoder::Done,
            Length::Known(length) => Encoder::Length(length),
            Length::Unknown if chunks => Encoder::Chunked,
            Length::Unknown => {
                self.keep = false;
                Encoder::Close
            }
        };
        head.headers.remove(header::TRANSFER_ENCODING);
        match self.encoder {
            Encoder::Chunked => {
                head.headers.remove(header::CONTENT_LENGTH);
                head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            Encoder::Length(length) if !head.headers.contains_key(header::CONTENT_LENGTH) => {
                head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            _ => {}
        }
        match (self.keep, self.version) {
            (false, _) => head.headers.insert(header::CONNECTION, HeaderValue::from_static("close")),
            (true, Version::HTTP_10) => head.headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive")),
            (true, _) => None,
        };
        let version = self.version;
        self.output.append(|buffer| message::write_answer(buffer, version, &head));
    }

    /// Appends a head that another one follows.
    pub fn interim(&mut self, head: &AnswerHead) {
        // RFC 9110 15.2: not to a client of HTTP/1.0, and never behind the head of the answer.
        if self.version != Version::HTTP_10 && !self.answered {
            self.output.append(|buffer| message::write_answer(buffer, Version::HTTP_11, head));
        }
    }

    /// Appends the head that ends HTTP on this connection: what follows belongs to another protocol.
    pub fn upgrade(&mut self, head: &AnswerHead) {
        self.answered = true;
        self.keep = false;
        self.upgraded = true;
        self.decoder = Decoder::Close;
        self.encoder = Encoder::Close;
        self.output.append(|buffer| message::write_answer(buffer, Version::HTTP_11, head));
    }

    /// Whether the answer may still have any number of bytes.
    pub fn is_open_ended(&self) -> bool {
        !self.upgraded && matches!(self.encoder, Encoder::Chunked | Encoder::Close)
    }

    /// Appends a piece of the answer's body.
    pub fn push(&mut self, piece: Bytes) -> Result<(), WrongLength> {
        self.encoder.push(piece, &mut self.output)
    }

    /// Ends the answer.
    pub fn finish(&mut self) -> Result<(), WrongLength> {
        self.encoder.finish(&mut self.output)
    }

    /// Writes what was appended. Where a whole answer was the last of a connection with TLS, that says so too
    /// (RFC 8446 6.1): without it a client cannot tell an end from a connection that was cut.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        ready!(self.output.poll_flush(&mut self.socket, cx)).map_err(|_| ClientFault::Gone)?;
        if self.is_over() {
            // The answer has been sent, whatever becomes of its farewell.
            drop(ready!(Pin::new(&mut self.socket).poll_shutdown(cx)));
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }

    fn is_over(&self) -> bool {
        let sent = self.answered && !self.keep && self.encoder == Encoder::Done;
        sent && !self.ended && self.socket.is_tls() && (self.decoder.is_done() || self.upgraded)
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.output.queued()
    }

    /// Bytes written since the connection began.
    pub fn written(&self) -> u64 {
        self.output.written()
    }

    /// Whether another request may follow on this connection.
    pub fn can_continue(&self) -> bool {
        self.keep
            && self.answered
            && self.decoder.is_done()
            && self.encoder == Encoder::Done
            && self.output.queued() == 0
    }

    /// Whether the client is still sending a request that has been answered in full.
    pub fn must_linger(&self) -> bool {
        self.answered && !self.upgraded && !self.decoder.is_done() && self.encoder == Encoder::Done
    }

    /// Reads what a client still sends, for a moment, so that closing does not reset the connection
    /// under an answer that it has not read yet (RFC 9112 9.6).
    pub async fn linger(mut self) {
        let work = async {
            self.socket.shutdown().await?;
            let mut left = LINGER_BYTES;
            let mut buffer = BytesMut::with_capacity(16 << 10);
            while left > 0 {
                buffer.clear();
                match self.socket.read_buf(&mut buffer).await? {
                    0 => break,
                    read => left = left.saturating_sub(read as u64),
                }
            }
            io::Result::Ok(())
        };
        // Whether it ends, fails or takes too long, the connection closes now.
        drop(tokio::time::timeout(LINGER, work).await);
    }

    /// Answers 100 to a client that waits for permission to send its body.
    pub async fn allow_body(&mut self) -> Result<(), ClientFault> {
        self.interim(&AnswerHead::new(StatusCode::CONTINUE));
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }
}

/// Whether `Connection` names a token.
fn names(headers: &HeaderMap, token: &str) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(token))
}
