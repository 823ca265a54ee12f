//! The client's side of one request, whichever protocol it speaks.
//!
//! Everything is polled, so that one task can move a request both ways and watch the client and the clock
//! meanwhile.

mod http1;
mod http2;
mod socket;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::framing::{Length, WrongLength};
use super::message::AnswerHead;

pub use http1::Http1;
pub use http2::Http2;
pub use socket::ClientSocket;

/// Why a client cannot be served any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// It left.
    Gone,
    /// What it sends is not HTTP as it should be.
    Malformed,
}

/// The client of one request.
#[derive(Debug)]
pub enum Client<'c> {
    /// Over HTTP/1; the connection outlives the request.
    Http1(&'c mut Http1),
    /// Over HTTP/2; the stream is the request's own.
    Http2(Box<Http2>),
    /// There is none: what is asked for is wanted here.
    Nobody,
}

impl Client<'_> {
    /// The next piece of the request's body; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientFault>> {
        match self {
            Self::Http1(client) => client.poll_body(cx),
            Self::Http2(client) => client.poll_body(cx),
            Self::Nobody => Poll::Ready(Ok(None)),
        }
    }

    /// Whether the whole body has been read.
    pub fn body_is_done(&self) -> bool {
        match self {
            Self::Http1(client) => client.body_is_done(),
            Self::Http2(client) => client.body_is_done(),
            Self::Nobody => true,
        }
    }

    /// Whether its body comes in the chunks of HTTP/1, and is not at its end.
    pub fn is_chunked(&self) -> bool {
        matches!(self, Self::Http1(client) if client.is_chunked())
    }

    /// The same, and nothing of another chunk has come.
    pub fn is_between_chunks(&self) -> bool {
        matches!(self, Self::Http1(client) if client.is_between_chunks())
    }

    /// Ready when the client has left. While its body is being read over HTTP/1, that read finds out; while
    /// nobody reads, it is not told and has to be asked for again.
    pub fn poll_left(&mut self, cx: &mut Context<'_>, nobody_reads: bool) -> Poll<()> {
        match self {
            Self::Http1(client) if client.body_is_done() => client.poll_gone(cx),
            Self::Http1(client) if nobody_reads && client.socket.has_left() => Poll::Ready(()),
            Self::Http1(_) | Self::Nobody => Poll::Pending,
            Self::Http2(client) => client.poll_gone(cx),
        }
    }

    /// Answers 100 to a client that waits for permission to send its body.
    ///
    /// # Errors
    /// When it has left.
    pub async fn allow_body(&mut self) -> Result<(), ClientFault> {
        match self {
            Self::Http1(client) => client.allow_body().await,
            Self::Http2(_) | Self::Nobody => Ok(()),
        }
    }

    /// Appends the head of the answer. `last` when no other request may follow on the connection.
    pub fn head(&mut self, head: AnswerHead, body: Length, last: bool) {
        match self {
            Self::Http1(client) => client.head(head, body, last),
            Self::Http2(client) => client.head(head, body),
            Self::Nobody => {}
        }
    }

    /// Whether the answer may still have any number of bytes.
    pub fn is_open_ended(&self) -> bool {
        match self {
            Self::Http1(client) => client.is_open_ended(),
            Self::Http2(client) => client.is_open_ended(),
            Self::Nobody => false,
        }
    }

    /// Appends a head that another one follows.
    pub fn interim(&mut self, head: &AnswerHead) {
        if let Self::Http1(client) = self {
            client.interim(head);
        }
    }

    /// Appends a piece of the answer's body.
    ///
    /// # Errors
    /// When the body is longer than its head said.
    pub fn push(&mut self, piece: Bytes) -> Result<(), WrongLength> {
        match self {
            Self::Http1(client) => client.push(piece),
            Self::Http2(client) => client.push(piece),
            Self::Nobody => Ok(()),
        }
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// When its body is shorter than its head said.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), WrongLength> {
        match self {
            Self::Http1(client) => client.finish(),
            Self::Http2(client) => client.finish(trailers),
            Self::Nobody => Ok(()),
        }
    }

    /// Sends what was appended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        match self {
            Self::Http1(client) => client.poll_flush(cx),
            Self::Http2(client) => client.poll_flush(cx),
            Self::Nobody => Poll::Ready(Ok(())),
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        match self {
            Self::Http1(client) => client.queued(),
            Self::Http2(client) => client.queued(),
            Self::Nobody => 0,
        }
    }

    /// Bytes sent so far; only differences mean something.
    pub fn written(&self) -> u64 {
        match self {
            Self::Http1(client) => client.written(),
            Self::Http2(client) => client.written(),
            Self::Nobody => 0,
        }
    }

    /// The answer broke off: whatever the protocol has to say so is said. Over HTTP/1 that is the end of the
    /// connection without the end of the message, which the connection's own task sees to.
    pub fn abort(&mut self) {
        if let Self::Http2(client) = self {
            client.abort();
        }
    }
}
