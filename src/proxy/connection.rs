//! One client connection: waits for a request head, checks it, serves the request, and again.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::client::{Client, ClientSocket, Http1};
use super::context::Connection;
use super::head::{self, Framing, HeadLimits, Violation};
use super::proxy_protocol::{self, Header};
use super::service::{Arrival, Service};
use super::timer::LazyTimer;
use super::{http2, message};
use crate::clock;
use crate::fleet::connections::{Connections, OpenConnection, Phase, TooMany};
use crate::fleet::snapshot::ListenerSettings;
use crate::ollama::dialect::{Dialect, error_body};
use crate::policy::failure::Reason;

/// What all connections of a listener share.
pub struct Acceptor {
    /// What all requests share.
    pub service: Arc<Service>,
}

/// Ready when a connection that has no request is to end, because its listener has closed.
pub type Farewell<'f> = Pin<&'f mut (dyn Future<Output = ()> + Send)>;

/// What came on a connection that was waiting.
enum Next {
    Request(BytesMut, Framing),
    /// The preface of HTTP/2, up to where an HTTP/1 head would end.
    Http2(BytesMut),
    Refused(Violation),
    Closed,
}

impl Acceptor {
    /// Serves one connection to its end.
    pub async fn serve(
        self,
        tcp: TcpStream,
        address: SocketAddr,
        listener: Arc<ListenerSettings>,
        mut open: OpenConnection,
    ) {
        let _counted = self.count();
        let mut farewell: Farewell<'_> = std::pin::pin!(farewell(&self.service, &listener.connections));
        // What comes and goes is boxed: a connection that waits is to cost no more than what waits.
        let greeted = tokio::select! {
            biased;
            greeted = Box::pin(self.greet(tcp, address.ip(), &listener, &mut open)) => greeted,
            () = farewell.as_mut() => None,
        };
        let Some((socket, peer)) = greeted else { return };
        let facts = Arc::new(Connection::new(peer, socket.is_tls(), Arc::clone(&listener)));
        if socket.speaks_http2() {
            let connection = Http1::new(socket);
            return Box::pin(http2::serve(&self.service, connection, BytesMut::new(), &facts, farewell)).await;
        }
        self.serve_http1(Http1::new(socket), &facts, open, farewell).await;
    }

    /// What comes before HTTP: the header of a proxy in front of us, and the TLS handshake.
    async fn greet(
        &self,
        mut tcp: TcpStream,
        address: IpAddr,
        listener: &ListenerSettings,
        open: &mut OpenConnection,
    ) -> Option<(ClientSocket, IpAddr)> {
        let mut peer = address;
        if listener.proxy_protocol {
            let read = tokio::time::timeout(listener.header_timeout, proxy_protocol::read(&mut tcp)).await;
            if let Header::Proxied { source, .. } = read.ok()?.ok()? {
                peer = source.ip();
            }
            // Before the handshake, which costs more than anything else here.
            if !open.belongs_to(peer) {
                self.service.metrics.connection_refused("client");
                return None;
            }
        }
        let Some(tls) = &listener.tls else { return Some((ClientSocket::Plain(tcp), peer)) };
        let accepted = TlsAcceptor::from(tls.server_config()).accept(tcp);
        let stream = tokio::time::timeout(listener.tls_timeout, accepted).await.ok()?.ok()?;
        Some((ClientSocket::Tls(Box::new(stream)), peer))
    }

    /// Serves the requests of a connection, one after the other.
    async fn serve_http1(
        &self,
        mut connection: Http1,
        facts: &Arc<Connection>,
        mut open: OpenConnection,
        mut farewell: Farewell<'_>,
    ) {
        let mut timer = LazyTimer::default();
        let mut first = true;
        loop {
            let listener = self.service.store.load().listener(&facts.listener);
            let next = tokio::select! {
                biased;
                next = next(&mut connection, &mut timer, &listener, first) => next,
                () = farewell.as_mut() => return,
            };
            let (head, framing) = match next {
                Next::Closed => return,
                Next::Refused(violation) => return Box::pin(self.refuse(connection, &violation, farewell)).await,
                Next::Http2(preface) if listener.h2c => {
                    return Box::pin(http2::serve(&self.service, connection, preface, facts, farewell)).await;
                }
                Next::Http2(_) => {
                    let violation = Violation { status: 400, what: "HTTP/2 is not enabled on this listener" };
                    return Box::pin(self.refuse(connection, &violation, farewell)).await;
                }
                Next::Request(head, framing) => (head, framing),
            };
            let Some(head) = message::request(&head.freeze()) else {
                let violation = Violation { status: 400, what: "malformed request target" };
                return Box::pin(self.refuse(connection, &violation, farewell)).await;
            };
            // A request begins on the configuration that is in force when its head is complete.
            let snapshot = self.service.store.pin();
            let has_room = open.works(self.service.descriptors(&snapshot));
            connection.begin(head.version, &head.headers, framing, has_room && !listener.keepalive.is_zero());
            let wants_upgrade = framing == Framing::Upgrade;
            let arrival = Arrival { head, snapshot, listener, wants_upgrade, has_room };
            Box::pin(self.service.serve(Client::Http1(&mut connection), arrival, facts, &mut timer)).await;
            if !connection.can_continue() {
                if connection.must_linger() {
                    Box::pin(linger(connection, farewell)).await;
                }
                return;
            }
            first = false;
            open.rests();
        }
    }

    /// Counts the connection until the returned guard is dropped.
    fn count(&self) -> impl Drop + use<> {
        struct Open(Arc<crate::telemetry::metrics::Metrics>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.connections.dec();
            }
        }
        let metrics = &self.service.metrics;
        metrics.accepted.inc();
        metrics.connections.inc();
        Open(Arc::clone(metrics))
    }

    /// Answers a head that is refused, and closes.
    async fn refuse(&self, mut connection: Http1, violation: &Violation, farewell: Farewell<'_>) {
        self.service.metrics.refused(reason_of(violation));
        let answer = refusal(violation);
        if matches!(tokio::time::timeout(REFUSAL, connection.socket.write_all(&answer)).await, Ok(Ok(()))) {
            linger(connection, farewell).await;
        }
    }
}

/// Counts a connection that was accepted; `None` when it is to be closed.
pub fn admit(service: &Service, listener: &ListenerSettings, client: IpAddr) -> Option<OpenConnection> {
    let proxied = listener.proxy_protocol;
    if proxied && !listener.trusted_proxies.contains(client) {
        return None;
    }
    let open = listener.connections.try_open((!proxied).then_some(client));
    open.map_err(|limit| {
        service.metrics.connection_refused(match limit {
            TooMany::OfListener => "listener",
            TooMany::OfClient => "client",
        });
    })
    .ok()
}

/// Waits for the next head.
async fn next(connection: &mut Http1, timer: &mut LazyTimer, listener: &ListenerSettings, first: bool) -> Next {
    if connection.input.bytes.is_empty() {
        let patience = if first { listener.header_timeout } else { listener.keepalive };
        let Http1 { socket, input, .. } = connection;
        let came = timer.limit(Some(clock::now() + patience), |cx| input.poll_fill(socket, cx)).await;
        if !matches!(came, Some(Ok(1..))) {
            return Next::Closed;
        }
    }
    let deadline = clock::now() + listener.header_timeout;
    let limits =
        HeadLimits { bytes: listener.header_bytes, fields: listener.header_fields, target: listener.target_bytes };
    match read_head(connection, timer, limits, deadline).await {
        Ok(Some(head)) if &head[..] == head::H2_PREFACE_HEAD => Next::Http2(head),
        Ok(Some(head)) => match head::check(&head, limits) {
            Ok(framing) => Next::Request(head, framing),
            Err(violation) => Next::Refused(violation),
        },
        Ok(None) => Next::Closed,
        Err(violation) => Next::Refused(violation),
    }
}

/// Waits for the end of a connection without a request. When the listener closes, a request may be on its way: it
/// has a moment to come, so that its client does not find the door shut in its face.
async fn farewell(service: &Service, listener: &Connections) {
    let closed = async {
        listener.reaches(Phase::Closed).await;
        tokio::time::sleep(LAST_CALL).await;
    };
    tokio::select! {
        () = closed => {}
        () = service.is_cut_off() => {}
    }
}

async fn linger(connection: Http1, farewell: Farewell<'_>) {
    tokio::select! {
        biased;
        () = connection.linger() => {}
        () = farewell => {}
    }
}

/// Takes the head once it is complete; `None` when the client left without sending anything.
async fn read_head(
    connection: &mut Http1,
    timer: &mut LazyTimer,
    limits: HeadLimits,
    deadline: Instant,
) -> Result<Option<BytesMut>, Violation> {
    const TIMEOUT: Violation = Violation { status: 408, what: "request head took too long" };
    const GONE: Violation = Violation { status: 400, what: "connection closed inside the request head" };
    let Http1 { socket, input, .. } = connection;
    let mut searched = 0;
    let mut empty_line = false;
    loop {
        // One empty line before a request is tolerated (RFC 9112 2.2).
        if !empty_line && input.bytes.starts_with(b"\r\n") {
            input.bytes.advance(2);
            empty_line = true;
            searched = 0;
        }
        if let Some(end) = head::find_end(&input.bytes, searched) {
            return Ok(Some(message::take(&mut input.bytes, end)));
        }
        if input.bytes.len() > limits.bytes {
            return Err(Violation { status: 431, what: "request head too large" });
        }
        head::check_partial(&input.bytes)?;
        searched = input.bytes.len();
        match timer.limit(Some(deadline), |cx| input.poll_fill(socket, cx)).await {
            Some(Ok(1..)) if clock::now() < deadline => {}
            Some(Ok(0)) if input.bytes.is_empty() => return Ok(None),
            Some(Ok(0)) => return Err(GONE),
            Some(Err(_)) => return Ok(None),
            None if input.bytes.is_empty() => return Ok(None),
            Some(Ok(_)) | None => return Err(TIMEOUT),
        }
    }
}

/// The whole answer to a request that is refused by its head.
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

/// How long a request may still arrive on an idle connection when its listener has closed.
pub const LAST_CALL: Duration = Duration::from_millis(500);

/// How long a refusal may take to be written.
const REFUSAL: Duration = Duration::from_secs(5);

/// How long a listener pauses after an error that a retry at once would repeat (no free descriptors).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
