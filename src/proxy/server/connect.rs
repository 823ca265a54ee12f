//! Opens connections to servers, TCP and TLS, by Pingora's connectors.
//!
//! Idle HTTP/1.1 connections are kept by the server that they lead to ([`crate::fleet::idle`]); HTTP/2 connections
//! are shared and kept by Pingora.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pingora_core::connectors::http::v2;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_error::{Error, ErrorType};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{Http1, Http2, Server};
use crate::clock;
use crate::fleet::idle::Connection;
use crate::fleet::server::ServerState;
use crate::fleet::snapshot::{Timeouts, Upstream};
use crate::fleet::upstream_tls::UpstreamTls;

/// Requests that share one HTTP/2 connection to a server.
const HTTP2_STREAMS: usize = 100;
/// Idle HTTP/2 connections in all.
const HTTP2_POOL: usize = 4096;

/// What is wanted.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// To which server.
    pub server: &'a Arc<ServerState>,
    /// Of which upstream.
    pub upstream: &'a Upstream,
    /// How long it may take.
    pub timeouts: &'a Timeouts,
    /// Whether an idle connection will not do.
    pub fresh: bool,
    /// The present.
    pub now: Instant,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFault {
    /// The server could not be connected to.
    Failed,
    /// It took too long.
    TimedOut,
    /// The TLS handshake failed or took too long.
    Tls,
}

/// Opens connections and takes them back.
pub struct Connector {
    transport: TransportConnector,
    http2: v2::Connector,
}

impl Connector {
    /// A connector without connections.
    pub fn new() -> Self {
        Self {
            transport: TransportConnector::new(Some(ConnectorOptions::new(0))),
            http2: v2::Connector::new(Some(ConnectorOptions::new(HTTP2_POOL))),
        }
    }

    /// The youngest idle connection that still is one, over HTTP/1.1.
    pub fn idle(&self, order: Order<'_>) -> Option<Server> {
        if order.fresh || order.upstream.http2 {
            return None;
        }
        let group = order.upstream.tls.as_ref().map_or(0, |tls| tls.trust().group);
        while let Some(connection) = order.server.idle.take(order.now, order.upstream.idle_timeout) {
            if let Ok(connection) = connection.downcast::<Http1>()
                && connection.group == group
                && connection.is_quiet()
            {
                order.server.metrics.reused.inc();
                return Some(Server::Http1(connection));
            }
        }
        None
    }

    /// A new connection, or a stream on one that is shared.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn connect(&self, order: Order<'_>) -> Result<Server, ConnectFault> {
        if !order.upstream.http2 {
            let peer = peer(order)?;
            let stream = self.transport.new_stream(&peer).await.map_err(|error| fault(&error))?;
            opened(order);
            return Ok(Server::Http1(Box::new(Http1::new(stream, peer.group_key))));
        }
        let peer = peer(order)?;
        if !order.fresh
            && let Ok(Some(session)) = self.http2.reused_http_session(&peer).await
        {
            order.server.metrics.reused.inc();
            return Ok(Server::Http2(Box::new(Http2::new(session, peer))));
        }
        match self.http2.new_http_session::<_, ()>(&peer).await {
            Ok(HttpSession::H2(session)) => {
                opened(order);
                Ok(Server::Http2(Box::new(Http2::new(session, peer))))
            }
            Ok(_) => Err(ConnectFault::Failed),
            Err(error) => Err(fault(&error)),
        }
    }

    /// Takes a connection back after its exchange; one that is of no more use is closed.
    pub fn give_back(&self, server: Server, order: Order<'_>) {
        match server {
            Server::Http1(mut connection) => {
                if connection.recycle() {
                    order.server.idle.put(connection, order.now, order.upstream.max_idle as usize);
                }
            }
            Server::Http2(stream) => {
                if let Some((session, peer)) = stream.into_finished() {
                    self.http2.release_http_session(session, &peer, Some(order.upstream.idle_timeout));
                }
            }
        }
    }
}

/// Counts a connection that was opened for an attempt.
fn opened(order: Order<'_>) {
    let metrics = &order.server.metrics;
    metrics.fresh.inc();
    metrics.connect.observe(clock::now().saturating_duration_since(order.now).as_secs_f64());
}

/// Closes idle connections that are too old or were closed by their server.
pub fn prune(server: &ServerState, upstream: &Upstream, now: Instant) {
    let usable = |connection: &mut Connection| connection.downcast_ref::<Http1>().is_some_and(Http1::is_quiet);
    server.idle.prune(now, upstream.idle_timeout, usable);
}

fn peer(order: Order<'_>) -> Result<HttpPeer, ConnectFault> {
    // A host name without an address is a server that cannot be connected to.
    let address: SocketAddr = order.server.address().ok_or(ConnectFault::Failed)?;
    let location = &order.server.location;
    // An empty SNI would switch certificate verification off.
    let name = order.upstream.tls.as_ref().map_or(location.host.as_str(), |tls| tls.name(&location.host));
    let sni = if location.tls { name.to_owned() } else { String::new() };
    let mut peer = HttpPeer::new(address, location.tls, sni);
    if let Some(tls) = order.upstream.tls.as_ref().filter(|_| location.tls) {
        trust(&mut peer, tls);
    }
    let options = &mut peer.options;
    options.connection_timeout = Some(order.timeouts.connect);
    options.total_connection_timeout = location.tls.then(|| order.timeouts.connect + order.timeouts.tls);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 6,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    });
    options.tracer = Some(Tracer(Box::new(Counted(Arc::clone(order.server.connection_counter())))));
    if order.upstream.http2 {
        options.set_http_version(2, 2);
        options.max_h2_streams = HTTP2_STREAMS;
    }
    Ok(peer)
}

/// Whom the server's certificate must come from, and what we show it.
fn trust(peer: &mut HttpPeer, tls: &UpstreamTls) {
    let trust = tls.trust();
    // Connections of different trust are never shared.
    peer.group_key = trust.group;
    peer.options.verify_cert = tls.verify();
    peer.options.verify_hostname = tls.verify();
    peer.options.ca = trust.ca.as_ref().map(|certificates| {
        let wrap = |certificate: &CertificateDer<'_>| WrappedX509::new(certificate.to_vec(), parse_x509);
        certificates.iter().map(wrap).collect::<Vec<_>>().into()
    });
    peer.client_cert_key = trust.client.as_ref().map(|client| {
        let chain = client.chain.iter().map(|certificate| certificate.to_vec()).collect();
        Arc::new(CertKey::new(chain, client.key.secret_der().to_vec()))
    });
}

/// Counts the open connections of a server.
#[derive(Clone, Debug)]
struct Counted(Arc<AtomicU32>);

impl Tracing for Counted {
    fn on_connected(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn on_disconnected(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

fn fault(error: &Error) -> ConnectFault {
    match error.etype() {
        ErrorType::ConnectTimedout => ConnectFault::TimedOut,
        ErrorType::TLSHandshakeFailure | ErrorType::TLSHandshakeTimedout | ErrorType::InvalidCert => ConnectFault::Tls,
        _ => ConnectFault::Failed,
    }
}
