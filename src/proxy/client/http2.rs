//! The client's side of one HTTP/2 stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Version, header};

use super::ClientFault;
use crate::proxy::framing::{Encoder, Length, WrongLength};
use crate::proxy::http2_output::Http2Output;
use crate::proxy::message::AnswerHead;

/// One request of an HTTP/2 connection. Dropped while the client still sends, it tells the client to stop, after the
/// answer (RFC 9113 8.1); dropped before the answer is whole, it cancels the stream.
#[derive(Debug)]
pub struct Http2 {
    body: RecvStream,
    done: bool,
    respond: SendResponse<Bytes>,
    output: Option<Http2Output>,
    /// Watches over the promised length; the frames themselves need none.
    length: Encoder,
    /// The head could not be sent any more.
    failed: bool,
}

impl Http2 {
    /// A request that has arrived.
    pub fn new(body: RecvStream, respond: SendResponse<Bytes>) -> Self {
        let done = body.is_end_stream();
        Self { body, done, respond, output: None, length: Encoder::Done, failed: false }
    }

    /// The next piece of the body; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientFault>> {
        while !self.done {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(piece)) => {
                    // Pieces are asked for only when there is room for them: the window may open again.
                    let _ = self.body.flow_control().release_capacity(piece.len());
                    self.done = self.body.is_end_stream();
                    if !piece.is_empty() {
                        return Poll::Ready(Ok(Some(piece)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(fault(&error))),
                None => self.done = true,
            }
        }
        Poll::Ready(Ok(None))
    }

    /// Whether the whole body has been read.
    pub fn body_is_done(&self) -> bool {
        self.done
    }

    /// Ready when the client has given the request up.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.output {
            Some(output) => output.poll_reset(cx).map(drop),
            None => self.respond.poll_reset(cx).map(drop),
        }
    }

    /// Sends the head of an answer.
    pub fn head(&mut self, mut head: AnswerHead, body: Length) {
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
            head.headers.remove(name);
        }
        self.length = match body {
            Length::None => Encoder::Done,
            Length::Known(length) => {
                head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
                Encoder::Length(length)
            }
            Length::Unknown => Encoder::Close,
        };
        let ended = matches!(body, Length::None);
        let mut response = http::Response::new(());
        *response.status_mut() = head.status;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = head.headers;
        match self.respond.send_response(response, ended) {
            Ok(stream) => self.output = Some(Http2Output::new(stream, ended)),
            Err(_) => self.failed = true,
        }
    }

    /// Whether the answer may still have any number of bytes.
    pub fn is_open_ended(&self) -> bool {
        self.output.is_some() && matches!(self.length, Encoder::Close)
    }

    /// Appends a piece of the answer's body.
    pub fn push(&mut self, piece: Bytes) -> Result<(), WrongLength> {
        match &mut self.length {
            Encoder::Length(left) => *left = left.checked_sub(piece.len() as u64).ok_or(WrongLength)?,
            Encoder::Done if !piece.is_empty() => return Err(WrongLength),
            _ => {}
        }
        if let Some(output) = &mut self.output {
            output.push(piece);
        }
        Ok(())
    }

    /// Ends the answer.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), WrongLength> {
        if matches!(std::mem::replace(&mut self.length, Encoder::Done), Encoder::Length(1..)) {
            return Err(WrongLength);
        }
        if let Some(output) = &mut self.output {
            output.finish(trailers);
        }
        Ok(())
    }

    /// Sends what was appended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        match &mut self.output {
            _ if self.failed => Poll::Ready(Err(ClientFault::Gone)),
            Some(output) => output.poll_flush(cx).map_err(|_| ClientFault::Gone),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.output.as_ref().map_or(0, Http2Output::queued)
    }

    /// Bytes sent.
    pub fn written(&self) -> u64 {
        self.output.as_ref().map_or(0, Http2Output::written)
    }

    /// Gives the request up, so that the client sees that its answer is not whole.
    pub fn abort(&mut self) {
        match &mut self.output {
            Some(output) => output.reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

/// Whether a client ended its stream or its connection, or broke the protocol.
fn fault(error: &h2::Error) -> ClientFault {
    let left = error.is_io() || error.is_remote() && error.reason() != Some(Reason::PROTOCOL_ERROR);
    if left { ClientFault::Gone } else { ClientFault::Malformed }
}
