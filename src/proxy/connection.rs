//! One client connection: waits for a request head, checks it, hands it to Pingora, and again.
//!
//! The head is read here rather than by Pingora, because Pingora limits each read and not the whole
//! head, accepts a megabyte of fields, and keeps a buffer for every idle connection. Pingora gets
//! the checked head as bytes that "were read already" and parses nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use pingora_core::apps::{HttpServerApp, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::net::TcpStream;

use super::client_stream::{ClientStream, Connection};
use super::deadline::LazyTimer;
use super::head::{self, Framing, HeadLimits, Violation};
use super::service::Service;
use super::watchdog::look_after;
use crate::clock;
use crate::fleet::snapshot::ListenerSettings;
use crate::fleet::store::Store;
use crate::ollama::dialect::{Dialect, error_body};
use crate::policy::failure::Reason;
use crate::telemetry::metrics::Metrics;

/// Most request heads fit; a larger one, or a body behind it, grows the buffer. It lives as long as the
/// request, so a stream pays for every byte of it.
const HEAD_BUFFER: usize = 1024;
/// By how much the buffer grows.
const HEAD_GROWTH: usize = 8192;

/// What all connections of a listener share.
pub struct Acceptor {
    /// Pingora's engine with our hooks.
    pub proxy: Arc<HttpProxy<Service>>,
    /// The configuration in force.
    pub store: Arc<Store>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Index of the listener in the snapshot.
    pub listener: usize,
    /// Turns true when no new request may begin.
    pub shutdown: ShutdownWatch,
}

/// What came on a connection that was waiting.
enum Next {
    Request { head: BytesMut, rest: BytesMut, framing: Framing },
    Http2(BytesMut),
    Refused(Violation),
    Closed,
}

impl Acceptor {
    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Self>, tcp: TcpStream, client: std::net::SocketAddr) {
        let _open = self.count();
        let connection = Arc::new(Connection::new(tcp, client, self.listener));
        let Ok(mut stream) = ClientStream::new(Arc::clone(&connection)).map(Box::new) else { return };
        let mut timer = LazyTimer::default();
        let mut first = true;
        loop {
            let Some(settings) = self.store.load().listeners.get(self.listener).cloned() else { return };
            match self.next(&mut stream, &settings, first).await {
                Next::Closed => return,
                Next::Refused(violation) => {
                    self.metrics.refused(reason_of(&violation));
                    stream.refuse(&refusal(&violation)).await;
                    return;
                }
                Next::Http2(bytes) if settings.h2c => {
                    stream.begin_http2(bytes);
                    self.proxy.process_new(stream as Stream, &self.shutdown).await;
                    return;
                }
                Next::Http2(_) => {
                    let violation = Violation { status: 400, what: "HTTP/2 is not enabled on this listener" };
                    self.metrics.refused(reason_of(&violation));
                    stream.refuse(&refusal(&violation)).await;
                    return;
                }
                Next::Request { head, rest, framing } => {
                    let Ok(head) = stream.begin_request(head, framing, rest, settings.body_timeout) else {
                        let violation = Violation { status: 400, what: "malformed chunked body" };
                        self.metrics.refused(reason_of(&violation));
                        stream.refuse(&refusal(&violation)).await;
                        return;
                    };
                    let mut session = ServerSession::new_http1(stream as Stream);
                    session.set_pipelined_prefix(head);
                    let request = self.proxy.process_new_http(session, &self.shutdown);
                    let Some(reused) = look_after(request, &connection, &mut timer).await else { return };
                    let (used, _) = reused.consume();
                    let Ok(used) = used.into_any().downcast::<ClientStream>() else { return };
                    stream = used;
                }
            }
            first = false;
        }
    }

    /// Counts the connection until the returned guard is dropped.
    fn count(&self) -> impl Drop + use<> {
        struct Open(Arc<Metrics>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.connections.dec();
            }
        }
        self.metrics.accepted.inc();
        self.metrics.connections.inc();
        Open(Arc::clone(&self.metrics))
    }

    /// Waits for the next head.
    async fn next(&self, stream: &mut ClientStream, settings: &ListenerSettings, first: bool) -> Next {
        let mut buffer = stream.take_held();
        if buffer.is_empty() {
            let patience = if first { settings.header_timeout } else { settings.keepalive };
            buffer = match self.first_bytes(stream, clock::now() + patience).await {
                Some(bytes) => bytes,
                None => return Next::Closed,
            };
        }
        let deadline = clock::now() + settings.header_timeout;
        let limits =
            HeadLimits { bytes: settings.header_bytes, fields: settings.header_fields, target: settings.target_bytes };
        match read_head(stream, buffer, limits, deadline).await {
            Ok(Some((head, rest))) if &head[..] == head::H2_PREFACE_HEAD => {
                let mut bytes = head;
                bytes.unsplit(rest);
                Next::Http2(bytes)
            }
            Ok(Some((head, rest))) => match head::check(&head, limits) {
                Ok(framing) => Next::Request { head, rest, framing },
                Err(violation) => Next::Refused(violation),
            },
            Ok(None) => Next::Closed,
            Err(violation) => Next::Refused(violation),
        }
    }

    /// The first bytes of a request; `None` when none came before the deadline, or the client left. No
    /// buffer exists while it waits.
    async fn first_bytes(&self, stream: &mut ClientStream, deadline: Instant) -> Option<BytesMut> {
        // Readiness may be left over from before: only a read tells.
        while self.wait(stream, deadline).await? {
            let mut buffer = BytesMut::with_capacity(HEAD_BUFFER);
            match stream.try_read(&mut buffer) {
                Ok(Some(0)) | Err(_) => return None,
                Ok(Some(_)) => return Some(buffer),
                Ok(None) => {}
            }
        }
        None
    }

    /// Whether bytes came before the deadline; `None` when the process is shutting down.
    async fn wait(&self, stream: &mut ClientStream, deadline: Instant) -> Option<bool> {
        if *self.shutdown.borrow() {
            return None;
        }
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            biased;
            readable = stream.wait_readable(deadline) => Some(readable.unwrap_or(false)),
            _ = shutdown.wait_for(|stop| *stop) => None,
        }
    }
}

/// Reads until the head is complete; `None` when the client left without sending anything.
async fn read_head(
    stream: &mut ClientStream,
    mut buffer: BytesMut,
    limits: HeadLimits,
    deadline: Instant,
) -> Result<Option<(BytesMut, BytesMut)>, Violation> {
    const TIMEOUT: Violation = Violation { status: 408, what: "request head took too long" };
    const GONE: Violation = Violation { status: 400, what: "connection closed inside the request head" };
    let mut searched = 0;
    let mut empty_line = false;
    loop {
        // One empty line before a request is tolerated (RFC 9112 2.2).
        if !empty_line && buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            empty_line = true;
            searched = 0;
        }
        if let Some(end) = head::find_end(&buffer, searched) {
            let rest = buffer.split_off(end);
            return Ok(Some((buffer, rest)));
        }
        if buffer.len() > limits.bytes {
            return Err(Violation { status: 431, what: "request head too large" });
        }
        head::check_partial(&buffer)?;
        searched = buffer.len();
        if buffer.capacity() == buffer.len() {
            buffer.reserve(HEAD_GROWTH);
        }
        match stream.try_read(&mut buffer) {
            Ok(Some(0)) if buffer.is_empty() => return Ok(None),
            Ok(Some(0)) => return Err(GONE),
            Ok(Some(_)) => {
                if clock::now() >= deadline {
                    return Err(TIMEOUT);
                }
            }
            Ok(None) => match stream.wait_readable(deadline).await {
                Ok(true) => {}
                Ok(false) if buffer.is_empty() => return Ok(None),
                Ok(false) => return Err(TIMEOUT),
                Err(_) => return Ok(None),
            },
            Err(_) => return Ok(None),
        }
    }
}

/// The whole answer to a request that never reached Pingora.
fn refusal(violation: &Violation) -> Vec<u8> {
    let phrase = http::StatusCode::from_u16(violation.status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error");
    let body = error_body(Dialect::Native, violation.status, violation.what);
    format!(
        "HTTP/1.1 {} {phrase}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\
         X-Arriero-Reason: {}\r\nConnection: close\r\n\r\n{body}",
        violation.status,
        body.len(),
        reason_of(violation).as_str(),
    )
    .into_bytes()
}

/// The word for a refused head.
pub fn reason_of(violation: &Violation) -> Reason {
    match violation.status {
        408 => Reason::HeaderTimeout,
        405 => Reason::MethodNotAllowed,
        414 => Reason::TargetTooLong,
        431 => Reason::HeaderTooLarge,
        _ => Reason::BadRequest,
    }
}

/// How long a listener pauses after an error that a retry at once would repeat (no free descriptors).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
