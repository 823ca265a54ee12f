//! Bytes on their way to a socket: gathered, written together, never lost half way.
//!
//! Small pieces (heads, chunk sizes, tokens) are copied next to each other, large ones are kept as they are;
//! one vectored write takes as many as it can. Nothing is held back: whoever fills an output flushes it
//! before it waits for anything else. An empty output owns no memory, so a stream that is silent costs none.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Pieces up to this size are copied; below it a copy costs less than another entry of a vectored write.
const SMALL: usize = 2048;
/// Entries of one vectored write.
const SLICES: usize = 16;

/// Bytes that wait to be written, in order.
#[derive(Debug, Default)]
pub struct Output {
    large: VecDeque<Bytes>,
    /// Behind everything in `large`.
    small: BytesMut,
    queued: usize,
    written: u64,
    /// Whether the socket may hold bytes back that it took: TLS does.
    unflushed: bool,
}

impl Output {
    /// Bytes that wait.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that the socket took, since the beginning.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends bytes by copying them.
    pub fn copy(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        self.queued += bytes.len();
    }

    /// Appends bytes without copying more than a few.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= SMALL {
            return self.copy(&bytes);
        }
        if !self.small.is_empty() {
            self.large.push_back(self.small.split().freeze());
        }
        self.queued += bytes.len();
        self.large.push_back(bytes);
    }

    /// Lets `fill` append to the buffer of small pieces.
    pub fn append(&mut self, fill: impl FnOnce(&mut BytesMut)) {
        let before = self.small.len();
        fill(&mut self.small);
        self.queued += self.small.len() - before;
    }

    /// Writes everything; ready when nothing is left.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_flush<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.queued == 0 && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        while self.queued > 0 {
            let written = ready!(self.poll_write(socket, cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.small = BytesMut::new();
        ready!(Pin::new(socket).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_write<S: AsyncWrite + Unpin>(&self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let socket = Pin::new(socket);
        if self.large.is_empty() {
            return socket.poll_write(cx, &self.small);
        }
        if !socket.is_write_vectored() {
            return socket.poll_write(cx, &self.large[0]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let pieces = self.large.iter().map(|piece| &piece[..]).chain([&self.small[..]]);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        socket.poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        self.queued -= written;
        self.written += written as u64;
        self.unflushed = true;
        while let Some(first) = self.large.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.large.pop_front();
        }
        self.small.advance(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, is busy in between, and needs to be asked twice to let go of them.
    struct Reluctant {
        taken: Vec<u8>,
        flushed: usize,
        step: usize,
        busy: bool,
        vectored: bool,
    }

    impl AsyncWrite for Reluctant {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.busy = !self.busy;
            if self.busy {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let take = bytes.len().min(self.step);
            self.taken.extend_from_slice(&bytes[..take]);
            Poll::Ready(Ok(take))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(self.step).collect();
            self.taken.extend_from_slice(&all);
            Poll::Ready(Ok(all.len()))
        }

        fn is_write_vectored(&self) -> bool {
            self.vectored
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.busy = !self.busy;
            if self.busy {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.flushed = self.taken.len();
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn every_byte_arrives_once_and_in_order() {
        for vectored in [false, true] {
            for step in [1, 7, 1000, 5000, 1 << 20] {
                let mut socket = Reluctant { taken: Vec::new(), flushed: 0, step, busy: false, vectored };
                let mut output = Output::default();
                let mut expected = Vec::new();
                for number in 0..40_usize {
                    let piece = vec![number as u8; number * 997 % 5000];
                    expected.extend_from_slice(&piece);
                    output.push(piece.into());
                    output.copy(b"\r\n");
                    expected.extend_from_slice(b"\r\n");
                }
                assert_eq!(output.queued(), expected.len());
                std::future::poll_fn(|cx| output.poll_flush(&mut socket, cx)).await.unwrap();
                assert_eq!((output.queued(), output.written()), (0, expected.len() as u64));
                assert!(socket.taken == expected, "{step} bytes at a time");
                assert_eq!(socket.flushed, expected.len(), "nothing is held back");
            }
        }
    }
}
