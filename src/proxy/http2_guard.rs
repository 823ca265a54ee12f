//! Counts the frames of an HTTP/2 client on their way in, and gives the alarm when they are a flood.
//!
//! # Problem
//!
//! PING, SETTINGS, WINDOW_UPDATE, PRIORITY, RST_STREAM and unknown frames cost the client nine bytes and us an answer, a
//! wakeup or a walk over all streams. No stream belongs to them, so no limit of requests or of bodies holds them
//! back, and the library does not count them (CVE-2019-9512, 9515, 9517). A client may also ask for its answer a byte
//! at a time.
//!
//! # How
//!
//! [`Guarded`] stands between the socket and the library and reads the nine bytes in front of each frame (RFC 9113
//! 4.1) as they pass; payloads are skipped, not looked at. More of a kind in a second than any client needs rings
//! the [`Alarm`]: from then on the library gets nothing more, and whoever serves the connection closes it with
//! ENHANCE_YOUR_CALM. A client that takes an answer in small pieces needs a WINDOW_UPDATE for each, so what has
//! been written gives it more of those.
//!
//! A connection that closes is read until the client has closed too, for a moment: otherwise the frames still
//! under way would reset it, and the GOAWAY that says why would be lost.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::clock;

/// Frames are counted within such a time.
const WINDOW: Duration = Duration::from_secs(1);
/// Bytes in front of the first frame (RFC 9113 3.4).
const PREFACE: usize = 24;
/// Bytes in front of a payload.
const HEAD: usize = 9;
/// Bytes written that allow one more WINDOW_UPDATE: a DATA frame of one byte has ten.
const BYTES_PER_UPDATE: u64 = 8;
/// Requests without an answer that a client may give up, beyond those that were answered, before its connection is
/// closed (CVE-2023-44487).
const GIVEN_UP: usize = 50;
/// How long a connection that closes is read.
const LINGER: Duration = Duration::from_secs(1);

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// PING, also as an answer.
    Ping,
    /// SETTINGS, also as an answer.
    Settings,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// PRIORITY, RST_STREAM, GOAWAY and frames of unknown kinds.
    Other,
    /// Requests that were given up before they were answered.
    GivenUp,
}

impl Flood {
    /// The kind that a frame belongs to; what carries requests has other limits.
    const fn of(kind: u8) -> Option<Self> {
        match kind {
            0 | 1 | 9 => None,
            4 => Some(Self::Settings),
            6 => Some(Self::Ping),
            8 => Some(Self::WindowUpdate),
            _ => Some(Self::Other),
        }
    }

    /// Most frames in a window.
    const fn limit(self) -> u64 {
        match self {
            Self::Ping => 100,
            Self::Settings => 50,
            Self::WindowUpdate | Self::Other | Self::GivenUp => 1000,
        }
    }
}

/// Counts frames by their heads.
#[derive(Debug)]
struct FrameCount {
    /// Bytes that are not looked at: the preface, then payloads.
    skip: usize,
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    since: Option<Instant>,
    counts: [u64; 4],
    /// Bytes written in this window.
    written: u64,
}

impl FrameCount {
    const fn new() -> Self {
        Self { skip: PREFACE, head: [0; HEAD], have: 0, since: None, counts: [0; 4], written: 0 }
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.counts) = (Some(now), [0; 4]);
            // What was written just before is being acknowledged only now.
            self.written /= 2;
        }
        while !bytes.is_empty() {
            let skip = self.skip.min(bytes.len());
            self.skip -= skip;
            bytes.advance(skip);
            let take = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes.advance(take);
            if self.have == HEAD {
                self.have = 0;
                let [a, b, c, kind, ..] = self.head;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.count(kind)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: u8) -> Result<(), Flood> {
        let Some(flood) = Flood::of(kind) else { return Ok(()) };
        let more = if flood == Flood::WindowUpdate { self.written / BYTES_PER_UPDATE } else { 0 };
        let count = &mut self.counts[flood as usize];
        *count += 1;
        if *count > flood.limit() + more { Err(flood) } else { Ok(()) }
    }
}

/// Rings at most once in the life of a connection.
#[derive(Debug, Default)]
pub struct Alarm {
    flood: OnceLock<Flood>,
    rang: Notify,
    given_up: AtomicUsize,
}

impl Alarm {
    /// A request ended; `answered` when the client got at least the head of an answer.
    pub fn ended(&self, answered: bool) {
        if !answered {
            if self.given_up.fetch_add(1, Ordering::Relaxed) >= GIVEN_UP {
                self.ring(Flood::GivenUp);
            }
            return;
        }
        // Who also waits for answers may change his mind as often.
        let _ = self.given_up.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }

    /// Waits until it rings.
    pub async fn rang(&self) -> Flood {
        loop {
            let rang = self.rang.notified();
            if let Some(flood) = self.flood.get() {
                return *flood;
            }
            rang.await;
        }
    }

    fn ring(&self, flood: Flood) {
        if self.flood.set(flood).is_ok() {
            self.rang.notify_one();
        }
    }

    fn has_rung(&self) -> bool {
        self.flood.get().is_some()
    }
}

/// A socket whose incoming frames are counted.
pub struct Guarded<S> {
    /// What had been read from the socket already.
    before: BytesMut,
    socket: S,
    frames: FrameCount,
    alarm: Arc<Alarm>,
    lingering: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// A socket of which the first bytes, from the preface on, have been read.
    pub fn new(before: BytesMut, socket: S, alarm: Arc<Alarm>) -> Self {
        Self { before, socket, frames: FrameCount::new(), alarm, lingering: None }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let take = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before[..take]);
        self.before.advance(take);
        if self.before.is_empty() {
            self.before = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what nobody wants any more; ready when the client has closed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            if ready!(self.poll_source(cx, &mut buffer)).is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.alarm.has_rung() {
            return self.poll_drain(cx).map(Ok);
        }
        let before = buffer.filled().len();
        ready!(self.poll_source(cx, buffer))?;
        let Err(flood) = self.frames.pass(&buffer.filled()[before..], clock::now()) else {
            return Poll::Ready(Ok(()));
        };
        buffer.set_filled(before);
        self.alarm.ring(flood);
        self.poll_drain(cx).map(Ok)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.frames.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, slices))?;
        self.frames.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
        }
        let lingering = self.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if lingering.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(cx).map(Ok)
    }
}

#[cfg(test)]
#[path = "http2_guard_tests.rs"]
mod tests;
