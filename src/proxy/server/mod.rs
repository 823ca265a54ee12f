//! A connection to a server, whichever protocol it speaks: opened or taken from the idle ones, used for one
//! exchange, given back.

mod connect;
mod http1;
mod http2;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::framing::Length;
use super::message::AnswerHead;

pub use connect::{ConnectFault, Connector, Order, prune};
pub use http1::Http1;
pub use http2::Http2;

/// The head of a request as it is sent.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    /// Whether the server's URL is one of TLS.
    pub tls: bool,
    /// Fields, those that frame the body included.
    pub headers: &'a HeaderMap,
}

/// Why an exchange with a server broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFault {
    /// The request could not be written.
    Write,
    /// The connection closed before the answer was complete.
    Closed,
    /// The request was refused before anybody looked at it (RFC 9113 8.7).
    Refused,
    /// What it sends is not HTTP as it should be.
    Protocol(&'static str),
}

/// A connection in use.
pub enum Server {
    /// Over HTTP/1.1; the connection is this exchange's alone.
    Http1(Box<Http1>),
    /// Over HTTP/2; a stream among others.
    Http2(Box<Http2>),
}

impl Server {
    /// Whether the connection served another request before.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Http1(server) => server.is_reused(),
            Self::Http2(_) => false,
        }
    }

    /// Appends the head of a request.
    pub fn send(&mut self, head: &RequestHead<'_>, body: Length) {
        match self {
            Self::Http1(server) => server.send(head, body),
            Self::Http2(server) => server.send(head, body),
        }
    }

    /// Appends a piece of the request's body.
    pub fn push(&mut self, piece: Bytes) {
        match self {
            Self::Http1(server) => server.push(piece),
            Self::Http2(server) => server.push(piece),
        }
    }

    /// Ends the request's body.
    pub fn finish(&mut self) {
        match self {
            Self::Http1(server) => server.finish(),
            Self::Http2(server) => server.finish(),
        }
    }

    /// Sends what was appended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServerFault>> {
        match self {
            Self::Http1(server) => server.poll_flush(cx),
            Self::Http2(server) => server.poll_flush(cx),
        }
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        match self {
            Self::Http1(server) => server.queued(),
            Self::Http2(server) => server.queued(),
        }
    }

    /// Bytes sent so far; only differences mean something.
    pub fn written(&self) -> u64 {
        match self {
            Self::Http1(server) => server.written(),
            Self::Http2(server) => server.written(),
        }
    }

    /// The next head: of an interim answer, or of the final one.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, ServerFault>> {
        match self {
            Self::Http1(server) => server.poll_head(cx),
            Self::Http2(server) => server.poll_head(cx),
        }
    }

    /// What is known about the length of the answer's body.
    pub fn length(&self) -> Length {
        match self {
            Self::Http1(server) => server.length(),
            Self::Http2(server) => server.length(),
        }
    }

    /// Whether it would be noticed if the end of the answer's body were missing.
    pub fn tells_end(&self) -> bool {
        match self {
            Self::Http1(server) => server.tells_end(),
            Self::Http2(_) => true,
        }
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ServerFault>> {
        match self {
            Self::Http1(server) => server.poll_body(cx),
            Self::Http2(server) => server.poll_body(cx),
        }
    }

    /// Ends the request in the middle; returns when the server has ended it too. Over HTTP/2 nobody tells when that is.
    pub async fn leave(self) {
        if let Self::Http1(server) = self {
            server.leave().await;
        }
    }

    /// What follows the answer's body. Over HTTP/1.1 it is dropped.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<HeaderMap>> {
        match self {
            Self::Http1(_) => Poll::Ready(None),
            Self::Http2(server) => server.poll_trailers(cx),
        }
    }
}
