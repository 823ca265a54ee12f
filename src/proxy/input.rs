//! Bytes that arrived on a socket and were not taken yet.
//!
//! The buffer exists while there is something in it: a connection that waits costs none. How much is read at a
//! time follows what came before, so a token stream moves in small pieces and an upload in large ones.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes read at a time, at least.
const LEAST: usize = 2 << 10;
/// Bytes read at a time, at most.
const MOST: usize = 64 << 10;

/// What arrived, in order.
#[derive(Debug)]
pub struct Input {
    /// The bytes.
    pub bytes: BytesMut,
    next: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), next: LEAST }
    }
}

impl Input {
    /// Reads more; ready with 0 when the other side has closed.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn poll_fill<S: AsyncRead + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bytes.is_empty() && self.next == LEAST {
            return self.poll_first(socket, cx);
        }
        self.bytes.reserve(self.next);
        let read = poll_read_buf(Pin::new(socket), cx, &mut self.bytes);
        match read {
            Poll::Ready(Ok(count)) if count >= self.next => self.next = (self.next * 2).min(MOST),
            Poll::Ready(Ok(count)) if count < self.next / 4 => self.next = (self.next / 2).max(LEAST),
            Poll::Pending if self.bytes.is_empty() => self.bytes = BytesMut::new(),
            _ => {}
        }
        read
    }

    /// What comes first is mostly small, and most looks find nothing: a buffer is made when it is known how large.
    fn poll_first<S: AsyncRead + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut place = [const { MaybeUninit::uninit() }; LEAST];
        let mut read = ReadBuf::uninit(&mut place);
        ready!(Pin::new(socket).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        if count == LEAST {
            self.next = LEAST * 2;
        }
        self.bytes = BytesMut::from(read.filled());
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_arrives_and_a_waiting_input_owns_nothing() {
        let (mut here, mut there) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        tokio::io::AsyncWriteExt::write_all(&mut there, &sent).await.unwrap();
        let mut input = Input::default();
        let mut got = Vec::new();
        while got.len() < sent.len() {
            std::future::poll_fn(|cx| input.poll_fill(&mut here, cx)).await.unwrap();
            got.extend_from_slice(&input.bytes.split());
        }
        assert!(got == sent);
        assert_eq!(input.next, MOST);
        let waits = std::future::poll_fn(|cx| Poll::Ready(input.poll_fill(&mut here, cx).is_pending())).await;
        assert_eq!((waits, input.bytes.capacity()), (true, 0));
        drop(there);
        assert_eq!(std::future::poll_fn(|cx| input.poll_fill(&mut here, cx)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_first_piece_takes_the_room_that_it_needs() {
        let (mut here, mut there) = tokio::io::duplex(1 << 20);
        let mut input = Input::default();
        for sent in [&b"a"[..], &[b'b'; LEAST], &[b'c'; 3 * LEAST]] {
            tokio::io::AsyncWriteExt::write_all(&mut there, sent).await.unwrap();
            let count = std::future::poll_fn(|cx| input.poll_fill(&mut here, cx)).await.unwrap();
            assert_eq!(input.bytes, sent[..count]);
            assert_eq!(count, sent.len().min(2 * LEAST), "a full piece makes the next one larger");
            assert!(input.bytes.capacity() >= count && (count > LEAST || input.bytes.capacity() == count));
            input.bytes = BytesMut::new();
        }
    }
}
