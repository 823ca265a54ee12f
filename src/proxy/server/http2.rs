//! One request on a connection to a server that speaks HTTP/2. The connection and its pool are Pingora's.

use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Uri, Version, header, uri};
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use super::{RequestHead, ServerFault};
use crate::proxy::framing::Length;
use crate::proxy::http2_output::Http2Output;
use crate::proxy::message::AnswerHead;

/// One stream; dropped before both sides have ended, it is cancelled.
pub struct Http2 {
    session: Http2Session,
    /// How the connection was opened; by this its pool knows it.
    pub peer: HttpPeer,
    output: Option<Http2Output>,
    failed: bool,
}

impl Http2 {
    /// A stream on which nothing was sent.
    pub fn new(session: Http2Session, peer: HttpPeer) -> Self {
        Self { session, peer, output: None, failed: false }
    }

    /// Sends the head of a request.
    pub fn send(&mut self, head: &RequestHead<'_>, body: Length) {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = head.method.clone();
        parts.version = Version::HTTP_2;
        parts.headers = head.headers.clone();
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::HOST] {
            parts.headers.remove(name);
        }
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let scheme = if head.tls { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
        let built = Uri::builder().scheme(scheme).authority(host).path_and_query(head.target).build();
        match built {
            Ok(uri) => parts.uri = uri,
            Err(_) => return self.failed = true,
        }
        let ended = body == Length::None;
        let sent = self.session.write_request_header(Box::new(RequestHeader::from(parts)), ended);
        match self.session.take_request_body_writer().filter(|_| sent.is_ok()) {
            Some(stream) => self.output = Some(Http2Output::new(stream, ended)),
            None => self.failed = true,
        }
    }

    /// Appends a piece of the body.
    pub fn push(&mut self, piece: Bytes) {
        if let Some(output) = &mut self.output {
            output.push(piece);
        }
    }

    /// Ends the body.
    pub fn finish(&mut self) {
        if let Some(output) = &mut self.output {
            output.finish(None);
        }
    }

    /// Sends what was appended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServerFault>> {
        match &mut self.output {
            _ if self.failed => Poll::Ready(Err(ServerFault::Write)),
            Some(output) => output.poll_flush(cx).map_err(|_| ServerFault::Write),
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

    /// The head of the answer. HTTP/2 libraries do not show interim ones.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, ServerFault>> {
        if self.failed {
            // Not even the head could be sent: the connection is ending.
            return Poll::Ready(Err(ServerFault::Refused));
        }
        ready!(self.session.poll_read_response_header(cx)).map_err(|error| fault(&error))?;
        let Some(answer) = self.session.response_header() else {
            return Poll::Ready(Err(ServerFault::Protocol("it has no head")));
        };
        let head = AnswerHead { status: answer.status, headers: answer.headers.clone(), phrase: None };
        Poll::Ready(Ok(head))
    }

    /// What is known about the length of the answer's body.
    pub fn length(&self) -> Length {
        if self.session.response_finished() {
            return Length::None;
        }
        let headers = self.session.response_header().map(|answer| &answer.headers);
        let length = headers.and_then(|headers| headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok());
        length.map_or(Length::Unknown, Length::Known)
    }

    /// The next piece of the answer's body; `None` at its end.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ServerFault>> {
        match ready!(self.session.poll_read_response_body(cx)) {
            Some(Ok(piece)) => Poll::Ready(Ok(Some(piece))),
            Some(Err(error)) => Poll::Ready(Err(fault(&error))),
            None => Poll::Ready(Ok(None)),
        }
    }

    /// What follows the body.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Option<HeaderMap>> {
        // The future has no state of its own, so another one may go on where this one stopped.
        let trailers = pin!(self.session.read_trailers());
        trailers.poll(cx).map(|trailers| trailers.ok().flatten())
    }

    /// The stream, to be given back, when both sides have ended.
    pub fn into_finished(self) -> Option<(Http2Session, HttpPeer)> {
        let sent = self.output.as_ref().is_some_and(Http2Output::is_ended);
        (sent && self.session.response_finished()).then_some((self.session, self.peer))
    }
}

fn fault(error: &h2::Error) -> ServerFault {
    // A GOAWAY ends only streams above the last one that the server takes.
    let refused = error.is_go_away() || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if error.is_remote() && refused {
        ServerFault::Refused
    } else if error.is_io() || error.is_remote() {
        ServerFault::Closed
    } else {
        ServerFault::Protocol("it is not valid HTTP/2")
    }
}
