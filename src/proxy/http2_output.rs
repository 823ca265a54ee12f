//! The writing half of one HTTP/2 stream, ours towards a client or towards a server.
//!
//! Data is handed to the connection only as far as the other side's windows allow (RFC 9113 5.2), so a reader
//! that stops holds its own stream back and nothing piles up behind it.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

/// What waits to be sent on a stream.
#[derive(Debug)]
pub struct Http2Output {
    stream: SendStream<Bytes>,
    pieces: VecDeque<Bytes>,
    queued: usize,
    written: u64,
    end: End,
}

#[derive(Debug)]
enum End {
    Open,
    /// To be sent behind the last piece.
    Due(Option<HeaderMap>),
    Sent,
}

impl Http2Output {
    /// A stream whose head was sent; `ended` when the head was all.
    pub fn new(stream: SendStream<Bytes>, ended: bool) -> Self {
        let end = if ended { End::Sent } else { End::Open };
        Self { stream, pieces: VecDeque::new(), queued: 0, written: 0, end }
    }

    /// Bytes that wait.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that the connection took.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the end was sent.
    pub fn is_ended(&self) -> bool {
        matches!(self.end, End::Sent)
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.queued += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Nothing more follows, but perhaps trailers.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) {
        if matches!(self.end, End::Open) {
            self.end = End::Due(trailers);
        }
    }

    /// Sends what waits, as far as the windows allow.
    ///
    /// # Errors
    /// When the stream or its connection is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while let Some(piece) = self.pieces.front_mut() {
            self.stream.reserve_capacity(piece.len());
            while self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Err(h2::Reason::CANCEL.into())),
                }
            }
            let take = self.stream.capacity().min(piece.len());
            let data = piece.split_to(take);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            self.queued -= take;
            self.written += take as u64;
            let last = self.pieces.is_empty() && matches!(self.end, End::Due(None));
            self.stream.send_data(data, last)?;
            if last {
                self.end = End::Sent;
            }
        }
        match std::mem::replace(&mut self.end, End::Sent) {
            End::Open => self.end = End::Open,
            End::Due(None) => self.stream.send_data(Bytes::new(), true)?,
            End::Due(Some(trailers)) => self.stream.send_trailers(trailers)?,
            End::Sent => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the other side has given the stream up.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<h2::Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }

    /// Gives the stream up, unless its end was sent.
    pub fn reset(&mut self, reason: h2::Reason) {
        if !self.is_ended() {
            self.stream.send_reset(reason);
            self.end = End::Sent;
        }
    }
}
