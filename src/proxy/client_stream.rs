//! The client's side of a connection, as Pingora sees it.
//!
//! Pingora reads requests from any type that implements its stream traits, so this one stands
//! between the socket and Pingora's parser and keeps what Pingora does not promise:
//!
//! - no more bytes than the request's own body reach the parser; what a client sends early waits
//!   here for its turn, so pipelining cannot mix two requests;
//! - chunked bodies pass the strict grammar of [`super::chunked`] or the read fails;
//! - silence in the middle of a body ends at the listener's limit, and the request's own
//!   [`Deadline`] ends a wait for the upstream;
//! - no buffer exists while a connection is idle; small writes are gathered into one;
//! - a connection that closes while the client still sends is drained for a moment, so that the
//!   answer (413, say) is not lost to a reset.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use http::HeaderValue;
use pingora_core::protocols::http::v2;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use pingora_http::ResponseHeader;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::chunked::{ChunkFraming, MalformedChunk};
use super::deadline::{Deadline, LazyTimer};
use super::head::Framing;
use super::watchdog::Watch;
use crate::clock;

/// Writes smaller than this are gathered until the flush.
const GATHER: usize = 4096;
/// How long, and how many bytes, a closing connection is drained.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 64 << 20;

/// What a request's hooks may know of the connection that it came on.
#[derive(Debug)]
pub struct Connection {
    /// Address of the client's socket.
    pub client: SocketAddr,
    /// Its IP address as a header value.
    pub client_ip: HeaderValue,
    /// Index of the listener in the snapshot.
    pub listener: usize,
    /// The socket.
    pub tcp: TcpStream,
    /// Time limit of the HTTP/1 request that is being served.
    pub deadline: Arc<Deadline>,
    /// Ends its wait for a server when nobody else would.
    pub watch: Watch,
}

impl Connection {
    /// The facts of a new connection.
    pub fn new(tcp: TcpStream, client: SocketAddr, listener: usize) -> Self {
        let ip = client.ip().to_canonical().to_string();
        Self {
            client,
            client_ip: HeaderValue::try_from(ip).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            listener,
            tcp,
            deadline: Arc::default(),
            watch: Watch::default(),
        }
    }
}

/// What the bytes that arrive belong to.
#[derive(Debug)]
enum Input {
    /// A body of which this many bytes are left.
    Length(u64),
    /// A chunked body.
    Chunked(ChunkFraming),
    /// The request is complete; more bytes are the next one's.
    Complete,
    /// Another protocol: HTTP/2, or a WebSocket.
    Raw,
}

/// The client's socket with the rules of this module.
pub struct ClientStream {
    /// Bytes that were read but not yet asked for.
    held: BytesMut,
    input: Input,
    output: BytesMut,
    timer: LazyTimer,
    /// When the read that is waiting began to wait.
    waiting_since: Option<Instant>,
    body_timeout: Duration,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    http2: bool,
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").field("client", &self.connection.client).field("input", &self.input).finish()
    }
}

impl ClientStream {
    /// Takes over a socket.
    ///
    /// # Errors
    /// When Pingora cannot build an empty response header, which it always can.
    pub fn new(connection: Arc<Connection>) -> pingora_error::Result<Self> {
        let header = Box::new(ResponseHeader::build(200, Some(0))?);
        let digest = Arc::new(ProxyDigest::new(header, Some(Box::new(Arc::clone(&connection)))));
        Ok(Self {
            held: BytesMut::new(),
            input: Input::Complete,
            output: BytesMut::new(),
            timer: LazyTimer::default(),
            waiting_since: None,
            body_timeout: Duration::from_secs(30),
            connection,
            digest,
            http2: false,
        })
    }

    /// Prepares for the next request. `rest` is what followed its head: what of it belongs to the body
    /// is returned with the head for Pingora, what does not waits for its turn.
    ///
    /// # Errors
    /// When the body breaks the chunk grammar already.
    pub fn begin_request(
        &mut self,
        mut head: BytesMut,
        framing: Framing,
        mut rest: BytesMut,
        body_timeout: Duration,
    ) -> Result<BytesMut, MalformedChunk> {
        self.body_timeout = body_timeout;
        self.waiting_since = None;
        self.input = match framing {
            Framing::None => Input::Complete,
            Framing::Length(length) => Input::Length(length),
            Framing::Chunked => Input::Chunked(ChunkFraming::default()),
            Framing::Upgrade => Input::Raw,
        };
        let body = self.take_in(&rest)?;
        self.held = rest.split_off(body);
        // They were one buffer: joining them again copies nothing.
        head.unsplit(rest);
        Ok(head)
    }

    /// Counts bytes against the body; how many of them belong to it.
    fn take_in(&mut self, bytes: &[u8]) -> Result<usize, MalformedChunk> {
        let (taken, done) = match &mut self.input {
            Input::Complete => (0, false),
            Input::Raw => (bytes.len(), false),
            Input::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Input::Chunked(framing) => {
                let taken = framing.advance(bytes)?;
                (taken, framing.is_done())
            }
        };
        if done {
            self.input = Input::Complete;
        }
        Ok(taken)
    }

    /// Hands the connection to HTTP/2; `bytes` is what was read so far.
    pub fn begin_http2(&mut self, bytes: BytesMut) {
        self.held = bytes;
        self.input = Input::Raw;
        self.http2 = true;
    }

    /// Takes the bytes that arrived before their request's turn.
    pub fn take_held(&mut self) -> BytesMut {
        std::mem::take(&mut self.held)
    }

    /// Waits until bytes can be read, without a buffer for them; false when `deadline` passed first.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn wait_readable(&mut self, deadline: Instant) -> io::Result<bool> {
        let tcp = &self.connection.tcp;
        let timer = &mut self.timer;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(ready) = tcp.poll_read_ready(cx) {
                return Poll::Ready(ready.map(|()| true));
            }
            timer.poll(cx, deadline).map(|()| Ok(false))
        })
        .await
    }

    /// Reads what is there; `None` when nothing is.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
        match self.connection.tcp.try_read_buf(buffer) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Answers without Pingora and closes.
    pub async fn refuse(&mut self, answer: &[u8]) {
        if self.write_all(answer).await.is_ok() && self.flush().await.is_ok() {
            self.input = Input::Raw;
        }
    }

    /// Moves bytes to `buffer`, from what is held or from the socket.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            let take = self.held.len().min(buffer.remaining());
            buffer.put_slice(&self.held[..take]);
            self.held.advance(take);
            if self.held.is_empty() {
                self.held = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        poll_socket(&self.connection.tcp, cx, buffer)
    }

    /// Ends a wait that took too long; called when a read has nothing to return.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let now = clock::now();
        let body = match self.input {
            Input::Length(_) | Input::Chunked(_) => Some(*self.waiting_since.get_or_insert(now) + self.body_timeout),
            Input::Complete | Input::Raw => None,
        };
        // While the client is due, only the limit of the whole request is not the server's.
        let deadline = &self.connection.deadline;
        let deadline = if self.http2 || body.is_some() && !deadline.is_total() { None } else { deadline.get() };
        let Some(at) = [body, deadline].into_iter().flatten().min() else { return Poll::Pending };
        ready!(self.timer.poll(cx, at));
        if deadline == Some(at) {
            self.connection.deadline.expire();
        }
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "time limit reached"))
    }

    fn poll_input(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.input {
            Input::Raw => return self.poll_bytes(cx, buffer),
            Input::Complete => return self.poll_gone(cx),
            Input::Length(_) | Input::Chunked(_) => {}
        }
        let before = buffer.filled().len();
        ready!(self.poll_bytes(cx, buffer))?;
        let fresh = &buffer.filled()[before..];
        let taken =
            self.take_in(fresh).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body"))?;
        if taken < fresh.len() {
            // The start of the next request came with the end of this body.
            let mut held = BytesMut::from(&fresh[taken..]);
            held.unsplit(std::mem::take(&mut self.held));
            self.held = held;
            buffer.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
    }

    /// After the request: waits for the client to go. Bytes of its next request are kept, unseen.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            // Somebody who pipelines is not watched for leaving; the next write finds out.
            return Poll::Pending;
        }
        let mut bytes = [0; 512];
        let mut probe = ReadBuf::new(&mut bytes);
        ready!(poll_socket(&self.connection.tcp, cx, &mut probe))?;
        if probe.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.held = BytesMut::from(probe.filled());
        Poll::Pending
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let in_body = matches!(self.input, Input::Length(_) | Input::Chunked(_));
        if let Poll::Ready(result) = self.poll_input(cx, buffer) {
            self.waiting_since = None;
            if in_body {
                self.connection.watch.set_client_is_due(false);
            }
            return Poll::Ready(result);
        }
        if in_body {
            self.connection.watch.set_client_is_due(true);
        }
        self.poll_limits(cx).map(Err)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.output.len() + data.len() <= GATHER {
            this.output.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        let tcp = &this.connection.tcp;
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let slices = [io::IoSlice::new(&this.output), io::IoSlice::new(data)];
            let written = match tcp.try_write_vectored(&slices) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let gathered = this.output.len().min(written);
            this.output.advance(gathered);
            if written > gathered {
                return Poll::Ready(Ok(written - gathered));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.output.is_empty() {
            ready!(this.connection.tcp.poll_write_ready(cx))?;
            match this.connection.tcp.try_write(&this.output) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => this.output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // The memory goes back until it is needed again: a stream is mostly silence.
        this.output = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Poll::Ready(SockRef::from(&self.connection.tcp).shutdown(std::net::Shutdown::Write))
    }
}

/// Reads from a socket that is shared.
fn poll_socket(tcp: &TcpStream, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        match tcp.try_read_buf(buffer) {
            Ok(_) => return Poll::Ready(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if !matches!(self.input, Input::Length(_) | Input::Chunked(_)) || self.connection.deadline.is_expired() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(drain(Arc::clone(&self.connection), std::mem::take(&mut self.output)));
        }
    }
}

/// Reads what a client still sends, for a moment, so that closing does not reset the connection
/// under an answer that it has not read yet (RFC 9112 9.6).
async fn drain(connection: Arc<Connection>, mut output: BytesMut) {
    let tcp = &connection.tcp;
    let work = async {
        while !output.is_empty() {
            tcp.writable().await?;
            match tcp.try_write(&output) {
                Ok(written) => output.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        SockRef::from(tcp).shutdown(std::net::Shutdown::Write)?;
        let mut left = LINGER_BYTES;
        let mut buffer = BytesMut::with_capacity(16 << 10);
        while left > 0 {
            tcp.readable().await?;
            buffer.clear();
            match tcp.try_read_buf(&mut buffer) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        io::Result::Ok(())
    };
    // Whether it ends, fails or takes too long, the connection closes now.
    drop(tokio::time::timeout(LINGER, work).await);
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        // A client that is gone already cannot be told.
        drop(AsyncWriteExt::shutdown(self).await);
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> i32 {
        self.connection.tcp.as_raw_fd()
    }
}

impl Ssl for ClientStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.http2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for ClientStream {}

/// HTTP/2 limits, from Pingora's guarded defaults and never from `H2Options::default()`, which
/// leaves the header list unbounded (CVE-2026-105297).
pub fn http2_options() -> v2::server::H2Options {
    v2::server::default_h2_options()
}
