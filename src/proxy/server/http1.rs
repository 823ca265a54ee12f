//! A connection to a server that speaks HTTP/1.1.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Version, header};
use nix::sys::socket::{MsgFlags, recv};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{RequestHead, ServerFault};
use crate::proxy::framing::{Decoder, Encoder, Length};
use crate::proxy::input::Input;
use crate::proxy::message::{self, AnswerHead};
use crate::proxy::output::Output;

/// A connection and the exchange that it is used for.
#[derive(Debug)]
pub struct Http1 {
    stream: Stream,
    /// Which trust it was opened with; connections of another are not used.
    pub group: u64,
    input: Input,
    decoder: Decoder,
    output: Output,
    encoder: Encoder,
    method: Method,
    /// Whether the head of the final answer has come.
    answered: bool,
    /// Whether the server keeps the connection open.
    keep: bool,
    upgraded: bool,
    /// Exchanges before this one.
    used: u32,
}

impl Http1 {
    /// A connection that has just been opened.
    pub fn new(stream: Stream, group: u64) -> Self {
        Self {
            stream,
            group,
            input: Input::default(),
            decoder: Decoder::Done,
            output: Output::default(),
            encoder: Encoder::Done,
            method: Method::GET,
            answered: false,
            keep: true,
            upgraded: false,
            used: 0,
        }
    }

    /// Whether it served another request before.
    pub fn is_reused(&self) -> bool {
        self.used > 0
    }

    /// Whether the server has neither closed it nor sent anything unasked.
    pub fn is_quiet(&self) -> bool {
        let nothing = recv(self.stream.id(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        nothing == Err(nix::errno::Errno::EAGAIN)
    }

    /// Appends the head of a request.
    pub fn send(&mut self, head: &RequestHead<'_>, body: Length) {
        self.method = head.method.clone();
        self.answered = false;
        self.encoder = match body {
            Length::None => Encoder::Done,
            Length::Known(length) => Encoder::Length(length),
            Length::Unknown => Encoder::Chunked,
        };
        let target = head.target;
        self.output.append(|buffer| message::write_request(buffer, head.method, target, head.headers));
    }

    /// Appends a piece of the body. A body that does not fit its head is cut off by whoever checks the client.
    pub fn push(&mut self, piece: Bytes) {
        if self.upgraded {
            return self.output.push(piece);
        }
        if self.encoder.push(piece, &mut self.output).is_err() {
            self.keep = false;
        }
    }

    /// Ends the body.
    pub fn finish(&mut self) {
        if self.encoder.finish(&mut self.output).is_err() {
            self.keep = false;
        }
    }

    /// Writes what was appended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServerFault>> {
        self.output.poll_flush(&mut self.stream, cx).map_err(|_| ServerFault::Write)
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.output.queued()
    }

    /// Bytes written since the connection was opened.
    pub fn written(&self) -> u64 {
        self.output.written()
    }

    /// The next head: of an interim answer, or of the final one.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, ServerFault>> {
        loop {
            let taken =
                if self.input.bytes.is_empty() { Ok(None) } else { message::take_answer(&mut self.input.bytes) };
            if let Some((mut head, version)) = taken.map_err(|bad| ServerFault::Protocol(bad.0))? {
                self.begin_body(&mut head, version)?;
                return Poll::Ready(Ok(head));
            }
            match ready!(self.input.poll_fill(&mut self.stream, cx)) {
                Ok(1..) => {}
                // Something came, but not a whole head.
                Ok(0) if !self.input.bytes.is_empty() => {
                    return Poll::Ready(Err(ServerFault::Protocol("it ended inside its head")));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(ServerFault::Closed)),
            }
        }
    }

    fn begin_body(&mut self, head: &mut AnswerHead, version: Version) -> Result<(), ServerFault> {
        let framing = message::answer_framing(head, version, &self.method);
        self.decoder = framing.map_err(|bad| ServerFault::Protocol(bad.0))?;
        if head.status.is_informational() {
            return Ok(());
        }
        self.answered = true;
        let tokens = head.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let mut tokens = tokens.flat_map(|value| value.split(',')).map(str::trim);
        let closes = version == Version::HTTP_10
            || matches!(self.decoder, Decoder::Close)
            || tokens.any(|token| token.eq_ignore_ascii_case("close"));
        self.keep &= !closes;
        Ok(())
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ServerFault>> {
        loop {
            let taken = self.decoder.take(&mut self.input.bytes);
            if let Some(piece) = taken.map_err(|_| ServerFault::Protocol("its chunks are malformed"))? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if self.decoder.is_done() {
                return Poll::Ready(Ok(None));
            }
            match ready!(self.input.poll_fill(&mut self.stream, cx)) {
                Ok(1..) => {}
                Ok(0) if self.decoder.close() => return Poll::Ready(Ok(None)),
                Ok(0) | Err(_) => return Poll::Ready(Err(ServerFault::Closed)),
            }
        }
    }

    /// What is known about the length of the answer's body.
    pub fn length(&self) -> Length {
        match self.decoder {
            Decoder::Done => Length::None,
            Decoder::Length(length) => Length::Known(length),
            Decoder::Chunked(_) | Decoder::Close => Length::Unknown,
        }
    }

    /// Whether the body ends otherwise than by the end of the connection.
    pub fn tells_end(&self) -> bool {
        !matches!(self.decoder, Decoder::Close)
    }

    /// From here on the connection belongs to another protocol.
    pub fn upgrade(&mut self) {
        self.upgraded = true;
        self.keep = false;
        self.decoder = Decoder::Close;
        self.encoder = Encoder::Done;
    }

    /// Ends the request: nothing more is sent, what still comes is thrown away, until the server closes too.
    pub async fn leave(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; 4096];
        while matches!(self.stream.read(&mut rest).await, Ok(1..)) {}
    }

    /// Makes it ready for the next request; false when it must not be used again.
    pub fn recycle(&mut self) -> bool {
        self.used = self.used.saturating_add(1);
        self.keep
            && self.answered
            && self.decoder.is_done()
            && self.encoder == Encoder::Done
            && self.output.queued() == 0
            && self.input.bytes.is_empty()
    }
}
