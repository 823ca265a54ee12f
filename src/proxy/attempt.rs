//! One try at one server: the choice, the connection, and the verdict when it fails.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::classify;
use super::context::{Attempt, RequestContext};
use super::service::Service;
use crate::clock;
use crate::fleet::choose::{Ask, choose};
use crate::fleet::server::ServerState;
use crate::fleet::snapshot::{HashOn, Route, Upstream};
use crate::policy::balance::consistent_hash::hash_key;
use crate::policy::balance::scramble;
use crate::policy::balance::sticky::cookie_key;
use crate::policy::failure::Reason;
use crate::policy::retry::{Context, Decision, Failure};

/// Requests that share one HTTP/2 connection to a server.
const HTTP2_STREAMS: usize = 100;

/// Chooses a server and says how to reach it.
pub fn choose_peer(session: &Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
    let Some(route) = ctx.route.clone() else { return fail(ctx, Reason::NoRoute) };
    let Some(upstream) = route.upstream() else { return fail(ctx, Reason::NoServer) };
    loop {
        let now = clock::now();
        let ask = Ask {
            model: ctx.model.as_deref(),
            key: hash_of(upstream, &session.req_header().headers, ctx),
            tried: &ctx.tried,
            now,
        };
        let chosen = match choose(upstream, ask) {
            Ok(chosen) => chosen,
            // An attempt before this one failed: that is what the client is told.
            Err(_) if ctx.attempt.is_some() => {
                let before = ctx.reason.unwrap_or(Reason::NoServer);
                return fail(ctx, before);
            }
            Err(reason) => return fail(ctx, reason),
        };
        ctx.reason = None;
        ctx.attempts += 1;
        ctx.body_in = 0;
        ctx.sent = false;
        let attempt = Attempt::new(chosen, now);
        let server = Arc::clone(attempt.slot.server());
        ctx.tried.push(attempt.index);
        ctx.attempt = Some(attempt);
        if let Some(address) = server.address() {
            return Ok(Box::new(peer(&route, upstream, &server, address)));
        }
        // A host name without an address is a server that cannot be connected to.
        judge(ctx, Reason::ConnectFailed);
        ctx.reason = Some(Reason::ConnectFailed);
        if ctx.attempts >= route.retry.attempts {
            return fail(ctx, Reason::ConnectFailed);
        }
    }
}

fn fail<T>(ctx: &mut RequestContext, reason: Reason) -> Result<T> {
    ctx.reason = Some(reason);
    Error::e_explain(ErrorType::HTTPStatus(reason.status().unwrap_or(502)), reason.as_str())
}

fn hash_of(upstream: &Upstream, headers: &HeaderMap, ctx: &RequestContext) -> u64 {
    let client = || ctx.connection.as_ref().map_or(0, |connection| hash_key(connection.client_ip.as_bytes()));
    match &upstream.balance.hash_on {
        HashOn::ClientIp => client(),
        HashOn::Model => ctx.model.as_deref().map_or_else(client, |model| hash_key(model.as_bytes())),
        HashOn::Header(name) => headers.get(name).map_or_else(client, |value| hash_key(value.as_bytes())),
        HashOn::Cookie(name) => cookie_key(headers, name).unwrap_or_else(client),
    }
}

fn peer(route: &Route, upstream: &Upstream, server: &Arc<ServerState>, address: std::net::SocketAddr) -> HttpPeer {
    let location = &server.location;
    // An empty SNI would switch certificate verification off.
    let sni = if location.tls { location.host.clone() } else { String::new() };
    let mut peer = HttpPeer::new(address, location.tls, sni);
    let timeouts = &route.timeouts;
    let options = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = location.tls.then(|| timeouts.connect + timeouts.tls);
    // Reads are limited by the request's own deadline, which knows what it waits for.
    options.read_timeout = None;
    options.write_timeout = Some(timeouts.write);
    let surplus = server.connections() > upstream.max_idle;
    options.idle_timeout = Some(if surplus { Duration::ZERO } else { upstream.idle_timeout });
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 6,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    });
    options.tracer = Some(Tracer(Box::new(Counted(Arc::clone(server)))));
    if upstream.http2 {
        options.set_http_version(2, 2);
        options.max_h2_streams = HTTP2_STREAMS;
    }
    peer
}

/// Counts the open connections of a server.
#[derive(Clone)]
struct Counted(Arc<ServerState>);

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

impl Tracing for Counted {
    fn on_connected(&self) {
        self.0.connected();
    }

    fn on_disconnected(&self) {
        self.0.disconnected();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

/// The request is about to be sent: from now on the server's time counts.
pub fn sending(ctx: &RequestContext) {
    if let Some(route) = &ctx.route {
        ctx.deadline.phase(clock::now() + route.timeouts.first_byte);
    }
}

/// A connection to the server stands.
pub fn connected(ctx: &RequestContext, http1: bool, server: RawFd) {
    // Over HTTP/2, on either side, the connection is not this request's alone.
    let alone = http1 && ctx.route.as_ref().and_then(|route| route.upstream()).is_some_and(|upstream| !upstream.http2);
    if let Some(connection) = ctx.connection.as_ref().filter(|_| alone) {
        connection.watch.arm(server);
    }
}

/// The connection to the server is not watched any more.
pub fn disconnected(ctx: &RequestContext) {
    if let Some(connection) = &ctx.connection {
        connection.watch.disarm();
    }
}

/// The server could not be connected to: nothing was sent.
pub fn failed_to_connect(
    service: &Service,
    session: &mut Session,
    ctx: &mut RequestContext,
    error: Box<Error>,
) -> Box<Error> {
    let mut error = error.into_up();
    let reason = match classify::reason(&error, ctx) {
        reason @ (Reason::ConnectTimeout | Reason::TlsFailed) => reason,
        _ => Reason::ConnectFailed,
    };
    // What timed out while connecting with TLS may have been either; the handshake has its own word.
    decide(service, session, ctx, &mut error, reason, Failure::Connect);
    error
}

/// The attempt failed after it was connected.
pub fn failed(
    service: &Service,
    session: &mut Session,
    ctx: &mut RequestContext,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    let reason = classify::reason(&error, ctx);
    let failure = classify::failure(reason, &error, ctx, reused);
    decide(service, session, ctx, &mut error, reason, failure);
    error
}

fn decide(
    service: &Service,
    session: &mut Session,
    ctx: &mut RequestContext,
    error: &mut Error,
    reason: Reason,
    failure: Failure,
) {
    disconnected(ctx);
    ctx.reason = Some(reason);
    if failure != Failure::StaleConnection {
        judge(ctx, reason);
    }
    let decision = decision(session, ctx, failure);
    error.retry = pingora_error::RetryType::Decided(matches!(decision, Decision::Retry | Decision::RetryFresh));
    match decision {
        Decision::Retry => {
            ctx.deadline.begin(total_deadline(ctx));
        }
        Decision::RetryFresh => {
            ctx.stale_retried = true;
            ctx.attempts = ctx.attempts.saturating_sub(1);
            // The server itself did nothing wrong.
            ctx.tried.pop();
        }
        Decision::GiveUp(why) => {
            tracing::debug!(reason = reason.as_str(), why = why.as_str(), %error, "attempt failed");
            return;
        }
    }
    if let Some(upstream) = ctx.route.as_ref().and_then(|route| route.upstream()) {
        service.metrics.retried(&upstream.name, reason);
    }
}

fn total_deadline(ctx: &RequestContext) -> Option<std::time::Instant> {
    let limit = ctx.route.as_ref()?.timeouts.request?;
    Some(ctx.started + limit)
}

fn decision(session: &mut Session, ctx: &RequestContext, failure: Failure) -> Decision {
    let Some(route) = &ctx.route else { return Decision::GiveUp(crate::policy::retry::GiveUp::NoOtherServer) };
    let started = session.response_written().is_some_and(|header| !header.status.is_informational());
    let context = Context {
        attempts_made: ctx.attempts,
        stale_retried: ctx.stale_retried,
        method_idempotent: ctx.idempotent,
        body_held: !session.as_downstream().retry_buffer_truncated(),
        response_started: started,
        another_server: route.upstream().is_some_and(|upstream| upstream.servers.len() > ctx.tried.len()),
    };
    route.retry.decide(failure, context)
}

/// Whether a status would be tried again, so that it is not passed on yet.
pub fn would_retry_status(session: &mut Session, ctx: &RequestContext, status: u16) -> bool {
    decision(session, ctx, Failure::Status(status)) == Decision::Retry
}

/// Tells the server's circuit and metrics how the attempt ended; once for each attempt.
pub fn judge(ctx: &mut RequestContext, reason: Reason) {
    let Some(attempt) = ctx.attempt.as_mut() else { return };
    let server = Arc::clone(attempt.slot.server());
    server.metrics.attempt(reason);
    let Some(pass) = attempt.pass.take() else { return };
    let Some(outcome) = reason.verdict(attempt.status) else {
        server.release(pass);
        return;
    };
    let now = clock::now();
    // The low bits of a duration are as good as random.
    let random = scramble(u64::try_from((now - attempt.started).as_nanos()).unwrap_or(u64::MAX));
    if let Some(change) = server.record(pass, outcome, now, random) {
        tracing::warn!(
            server = server.name(),
            upstream = server.identity.upstream,
            from = change.from.as_str(),
            to = change.to.as_str(),
            reason = reason.as_str(),
            "circuit changed"
        );
    }
}
