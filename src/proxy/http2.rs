//! An HTTP/2 connection of a client, over TLS or begun with its preface: the handshake, then one task for each request.
//!
//! Limits begin from Pingora's guarded defaults and never from those of the library, which leave the header list
//! unbounded (CVE-2026-105297). What the library does not limit, [`super::http2_guard`] does. A connection on which no
//! request ever came is closed like an HTTP/1 head that does not end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use pingora_core::protocols::http::authority::validate_request_authority;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_http::RequestHeader;
use tokio::sync::Notify;

use super::client::{Client, Http1, Http2};
use super::connection::{Farewell, LAST_CALL};
use super::context::Connection;
use super::http2_guard::{Alarm, Guarded};
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
/// Requests that a client may give up before they are taken up, and streams that it may make us give up, before its
/// connection is closed (CVE-2023-44487, CVE-2025-8671).
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
    let alarm = Arc::new(Alarm::default());
    let guarded = Guarded::new(before, socket, Arc::clone(&alarm));
    let handshake = options(&listener).handshake::<_, Bytes>(guarded);
    let greeted = tokio::select! {
        biased;
        greeted = tokio::time::timeout(listener.header_timeout, handshake) => greeted,
        () = farewell.as_mut() => return,
    };
    let Ok(Ok(mut connection)) = greeted else { return };
    let open = Arc::new(OpenStreams::new(alarm));
    let phases = &listener.connections;
    let (mut told, mut used) = (false, false);
    loop {
        let patience = if used { listener.keepalive } else { listener.header_timeout };
        tokio::select! {
            biased;
            flood = open.alarm.rang() => {
                tracing::debug!(client = %facts.peer, ?flood, "an HTTP/2 client sends too much of a kind");
                service.metrics.connection_refused("flood");
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                break;
            }
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
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
                if !used {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    break;
                }
                told = true;
                connection.graceful_shutdown();
            }
            () = open.idle_for(FAREWELL), if told => return,
            () = closed_and_idle(phases, &open), if told => return,
        }
    }
    // The GOAWAY still has to go out; requests that run end with the connection.
    drop(tokio::time::timeout(FAREWELL, std::future::poll_fn(|cx| connection.poll_closed(cx))).await);
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
    open: OpenStream,
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
        open.open.alarm.ended(false);
        return;
    }
    let snapshot = service.store.pin();
    let listener = snapshot.listener(&facts.listener);
    let client = Client::Http2(Box::new(Http2::new(body, respond)));
    let mut timer = LazyTimer::default();
    let arrival = Arrival { head: head.into(), snapshot, listener, wants_upgrade: false, has_room: true };
    let answered = service.serve(client, arrival, &facts, &mut timer).await;
    open.open.alarm.ended(answered);
}

/// Counts the requests that run on a connection.
struct OpenStreams {
    count: AtomicUsize,
    ended: Notify,
    alarm: Arc<Alarm>,
}

/// One of them; it has ended when this is dropped.
struct OpenStream {
    open: Arc<OpenStreams>,
}

impl OpenStreams {
    fn new(alarm: Arc<Alarm>) -> Self {
        Self { count: AtomicUsize::new(0), ended: Notify::new(), alarm }
    }

    fn count(self: &Arc<Self>) -> OpenStream {
        self.count.fetch_add(1, Ordering::Relaxed);
        OpenStream { open: Arc::clone(self) }
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
        self.open.count.fetch_sub(1, Ordering::Relaxed);
        self.open.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn options_begin_from_guarded_defaults_everywhere() {
        let mut sources = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut builders = 0;
        while let Some(path) = sources.pop() {
            if path.is_dir() {
                sources.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                // In two pieces, or this line would find itself.
                for unguarded in [
                    concat!("H2Options", "::"),
                    concat!("h2::server::Builder", "::"),
                    concat!("server::Builder", "::new"),
                ] {
                    assert!(!line.contains(unguarded), "{}: {line}", path.display());
                }
                builders += usize::from(line.contains(concat!("default_h2", "_options()")));
            }
            // Under whichever name it was imported.
            let imported =
                text.contains(concat!("h2::server::{", "Builder")) || text.contains(concat!("h2::server::", "Builder"));
            let bare = [concat!(" Builder", "::new()"), concat!(" Builder", "::default()")];
            assert!(!imported || !bare.iter().any(|made| text.contains(made)), "{}", path.display());
        }
        assert_eq!(builders, 1, "the one place where options are made");
    }
}
