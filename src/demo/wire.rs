//! The socket under hyper, with a hand on it: it can be reset or closed at an exact byte.
//!
//! A handler asks its connection's [`Control`] to end it, now or once everything written so far is
//! flushed. The task that drives the connection hears of it and drops the socket; whether that
//! sends FIN or RST is decided here, in `Drop`, by `SO_LINGER`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// One connection's remote control.
#[derive(Debug)]
pub(super) struct Control {
    /// The connection's number on its host.
    pub(super) id: u64,
    ending: AtomicU8,
    when_flushed: AtomicBool,
    injected: Mutex<Bytes>,
    waker: Mutex<Option<Waker>>,
    ended: Notify,
}

impl Control {
    pub(super) fn new(id: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            ending: AtomicU8::new(0),
            when_flushed: AtomicBool::new(false),
            injected: Mutex::new(Bytes::new()),
            waker: Mutex::new(None),
            ended: Notify::new(),
        })
    }

    /// Ends the connection at once, whatever is still in our buffers.
    pub(super) fn end_now(&self, ending: Ending) {
        self.choose(ending);
        self.ended.notify_one();
    }

    /// Ends the connection once all that has been written is with the kernel.
    pub(super) fn end_when_flushed(&self, ending: Ending) {
        self.choose(ending);
        self.when_flushed.store(true, Ordering::Release);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Writes bytes past hyper, then closes.
    pub(super) fn inject_and_close(&self, bytes: Bytes) {
        *self.injected.lock() = bytes;
        self.end_when_flushed(Ending::Close);
    }

    /// Whether the host has decided to end this connection.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire) != 0
    }

    /// Lets go of the connection, without a verdict on how it ended.
    pub(super) fn hang_up(&self) {
        self.ended.notify_one();
    }

    /// Returns when the connection is to be dropped.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    fn choose(&self, ending: Ending) {
        let code = if ending == Ending::Reset { 2 } else { 1 };
        self.ending.store(code, Ordering::Release);
    }

    fn remember(&self, waker: &Waker) {
        let mut place = self.waker.lock();
        if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }
}

/// The socket.
pub(super) struct Wire {
    stream: TcpStream,
    prefix: Bytes,
    http2: bool,
    /// Over HTTP/2 the last token may be queued by another task while a flush is under way; only
    /// a flush in a turn that began after the decision has it.
    turn_begun: bool,
    control: Arc<Control>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, control: Arc<Control>) -> Self {
        Self { stream, prefix: Bytes::new(), http2: false, turn_begun: false, control }
    }

    /// Reads just enough to tell whether the client speaks HTTP/2; nothing is lost.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        let mut seen = Vec::with_capacity(PREFACE.len());
        while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
            let mut buffer = [0; 24];
            let wanted = PREFACE.len() - seen.len();
            let count = self.stream.read(buffer.get_mut(..wanted).unwrap_or_default()).await?;
            if count == 0 {
                break;
            }
            seen.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        self.http2 = seen == PREFACE;
        self.prefix = Bytes::from(seen);
        Ok(self.http2)
    }

    fn poll_inject(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let bytes = self.control.injected.lock().clone();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &bytes))?;
            let mut left = self.control.injected.lock();
            let count = count.min(left.len());
            left.advance(count);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.control.remember(context.waker());
        if self.prefix.is_empty() {
            let when_flushed = self.control.when_flushed.load(Ordering::Acquire);
            let read = Pin::new(&mut self.stream).poll_read(context, buffer);
            self.turn_begun |= when_flushed && read.is_pending();
            return read;
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes only when it has handed everything to `poll_write`, so here all is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.remember(context.waker());
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.control.when_flushed.load(Ordering::Acquire) && (!self.http2 || self.turn_begun) {
            ready!(self.poll_inject(context))?;
            self.control.ended.notify_one();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.control.ending.load(Ordering::Acquire) == 2 {
            // A socket that cannot linger is closed in the ordinary way.
            let _ = self.stream.set_zero_linger();
        }
    }
}
