//! An HTTP/2 connection of a client, over TLS or begun with its preface: the handshake, then one task for each request.
//!
//! Limits begin from Pingora's guarded defaults and never from those of the library, which leave the header list
//! unbounded (CVE-2026-105297).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use pingora_core::protocols::http::authority::validate_request_authority;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_http::RequestHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::client::{Client, ClientSocket, Http1, Http2};
use super::connection::{Farewell, LAST_CALL};
use super::context::Connection;
use super::service::{Arrival, Service};
use super::timer::LazyTimer;
use crate::fleet::connections::{Connections, Phase};
use crate::fleet::snapshot::ListenerSettings;

/// Bytes that a stream may receive before they are asked for.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of an answer that wait inside the library for the socket.
const SEND_BUFFER: usize = 64 << 10;
/// Requests that a client may give up while they are served, before its connection is closed (CVE-2023-44487).
const RESETS: usize = 50;

/// How long a client may take to go after it was told that no new request is taken.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves an HTTP/2 connection of which the first bytes have been read.
pub async fn serve(
    service: &Arc<Service>,
    connection: Http1,
    preface: BytesMut,
    facts: &Arc<Connection>,
    mut farewell: Farewell<'_>,
) {
    let Http1 { socket, mut input, .. } = connection;
    let mut before = preface;
    before.unsplit(input.bytes.split());
    let listener = service.store.load().listener(&facts.listener);
    let handshake = options(&listener).handshake::<_, Bytes>(Begun { before, socket });
    let greeted = tokio::select! {
        biased;
        greeted = tokio::time::timeout(listener.header_timeout, handshake) => greeted,
        () = farewell.as_mut() => return,
    };
    let Ok(Ok(mut connection)) = greeted else { return };
    let open = Arc::new(OpenStreams::default());
    let phases = &listener.connections;
    let mut patience = listener.header_timeout;
    let (mut told, mut used) = (false, false);
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    patience = listener.keepalive;
                    used = true;
                    service.tasks.spawn(stream(Arc::clone(service), request, respond, Arc::clone(facts), open.count()));
                }
                Some(Err(_)) | None => return,
            },
            // A client that has just come is not sent away before its first request.
            () = phases.reaches(if used { Phase::Leaving } else { Phase::Closed }), if !told => {
                told = true;
                connection.graceful_shutdown();
            }
            () = open.idle_for(patience), if !told => {
                told = true;
                connection.graceful_shutdown();
            }
            () = open.idle_for(FAREWELL), if told => return,
            () = closed_and_idle(phases, &open), if told => return,
        }
    }
}

/// Ready when the listener has closed, and no request has come for long enough since.
async fn closed_and_idle(listener: &Connections, open: &OpenStreams) {
    listener.reaches(Phase::Closed).await;
    open.idle_for(LAST_CALL).await;
}

fn options(listener: &ListenerSettings) -> Builder {
    let mut options = default_h2_options();
    options
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(RESETS))
        .max_header_list_size(u32::try_from(listener.header_bytes).unwrap_or(u32::MAX));
    options
}

/// Serves one request of a connection.
async fn stream(
    service: Arc<Service>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    facts: Arc<Connection>,
    _open: OpenStream,
) {
    let (head, body) = request.into_parts();
    // RFC 9113 8.3.1: whom the request is for must be plain.
    let head = RequestHeader::from(head);
    if validate_request_authority(&head).is_err() {
        let mut refusal = http::Response::new(());
        *refusal.status_mut() = http::StatusCode::BAD_REQUEST;
        // A client that has left need not be told.
        drop(respond.send_response(refusal, true));
        respond.send_reset(Reason::NO_ERROR);
        return;
    }
    let snapshot = service.store.pin();
    let listener = snapshot.listener(&facts.listener);
    let client = Client::Http2(Box::new(Http2::new(body, respond)));
    let mut timer = LazyTimer::default();
    let arrival = Arrival { head: head.into(), snapshot, listener, wants_upgrade: false };
    service.serve(client, arrival, &facts, &mut timer).await;
}

/// Counts the requests that run on a connection.
#[derive(Default)]
struct OpenStreams {
    count: AtomicUsize,
    ended: Notify,
}

/// One of them; it has ended when this is dropped.
struct OpenStream(Arc<OpenStreams>);

impl OpenStreams {
    fn count(self: &Arc<Self>) -> OpenStream {
        self.count.fetch_add(1, Ordering::Relaxed);
        OpenStream(Arc::clone(self))
    }

    /// Ready when no request has run for this long.
    async fn idle_for(&self, patience: Duration) {
        loop {
            let ended = self.ended.notified();
            if self.count.load(Ordering::Relaxed) == 0 {
                return tokio::time::sleep(patience).await;
            }
            ended.await;
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_one();
    }
}

/// A socket of which the first bytes have been read.
struct Begun {
    before: BytesMut,
    socket: ClientSocket,
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
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
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
