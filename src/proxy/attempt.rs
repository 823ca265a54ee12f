//! One try at one server: the choice, the connection, and the verdict when it fails.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::context::{Exchange, RequestContext, Stop};
use super::exchange::{Broken, Traffic, request_length};
use super::server::{ConnectFault, Order, RequestHead, Server};
use super::{again, body_scan, headers, poison, queue, reply, trace, waiting_stream};
use crate::clock;
use crate::fleet::permit::Verdict;
use crate::fleet::running::Phase;
use crate::fleet::server::ServerState;
use crate::fleet::snapshot::{HashOn, Route, Upstream};
use crate::ollama::complaint::Complaint;
use crate::policy::balance::consistent_hash::hash_key;
use crate::policy::balance::scramble;
use crate::policy::balance::sticky::cookie_key;
use crate::policy::circuit::Outcome;
use crate::policy::failure::Reason;
use crate::policy::retry::{Decision, Failure};

/// A place that comes sooner was not waited for.
const WAIT: Duration = Duration::from_millis(1);
/// How long a server may take to notice that a client has left.
const LEAVING: Duration = Duration::from_secs(5);

/// Tries servers until one has answered or the rule of retries says that it is enough.
///
/// # Errors
/// When the client has not got a whole answer.
pub async fn run(exchange: &mut Exchange<'_>, route: &Arc<Route>, upstream: &Arc<Upstream>) -> Result<(), Stop> {
    upstream.state.retries.count();
    poison::refuse(exchange, upstream).await?;
    waiting_stream::begin(exchange, upstream);
    loop {
        let server = begin(exchange, upstream).await?;
        let Err(broken) = once(exchange, route, upstream, &server).await else {
            return Ok(());
        };
        let reason = broken.reason;
        exchange.ctx.reason = Some(reason);
        trace::attempt_ends(&mut exchange.ctx, reason);
        if !matches!(broken.failure, Failure::StaleConnection | Failure::Refused) {
            judge(&mut exchange.ctx, reason);
        }
        match again::decide(exchange, broken.failure) {
            Decision::Retry => again::prepare(exchange, broken.failure, false),
            Decision::RetryWarm => again::prepare(exchange, broken.failure, true),
            Decision::RetryFresh => {
                exchange.ctx.stale_retried = true;
                exchange.ctx.attempts = exchange.ctx.attempts.saturating_sub(1);
                // The server itself did nothing wrong.
                exchange.ctx.tried.pop();
                exchange.ctx.tried_servers.pop();
            }
            Decision::GiveUp(why) => {
                tracing::debug!(reason = reason.as_str(), why = why.as_str(), "attempt failed");
                return Err(reply::give_up(&mut exchange.ctx, reason));
            }
        }
        // What it had of that server is free before another one is waited for.
        if let Some(attempt) = exchange.ctx.attempt.as_mut() {
            attempt.held = None;
        }
        exchange.body.rewind();
        exchange.service.metrics.retried(&upstream.name, reason);
    }
}

/// Waits for a place on a server.
async fn begin(exchange: &mut Exchange<'_>, upstream: &Upstream) -> Result<Arc<ServerState>, Stop> {
    let ctx = &mut exchange.ctx;
    let scheduled = ctx
        .model
        .as_ref()
        .filter(|model| upstream.is_scheduled() && ctx.takes_slot && upstream.models.load().holders(model).is_some())
        .cloned();
    let since = clock::now();
    let attempt = match scheduled {
        Some(model) => queue::scheduled(exchange, upstream, &model, since).await,
        None => {
            let key = hash_of(upstream, &exchange.head.headers, ctx);
            queue::by_rule(exchange, upstream, key, since).await
        }
    };
    let ctx = &mut exchange.ctx;
    // Whoever got no place has waited too.
    let waited = attempt.as_ref().map_or_else(|_| clock::now(), |attempt| attempt.started) - since;
    if waited >= WAIT {
        ctx.queued += waited;
        trace::waited(ctx, since, waited);
    }
    let attempt = attempt?;
    ctx.reason = None;
    ctx.attempts += 1;
    ctx.again.since.get_or_insert(attempt.started);
    ctx.body_in = 0;
    let server = Arc::clone(&attempt.server);
    ctx.tried.push(attempt.index);
    ctx.tried_servers.push(Arc::clone(&server));
    ctx.attempt = Some(attempt);
    trace::attempt_begins(ctx);
    Ok(server)
}

fn hash_of(upstream: &Upstream, headers: &HeaderMap, ctx: &mut RequestContext) -> u64 {
    if let HashOn::Cookie(name) = &upstream.balance.hash_on {
        return cookie_key(headers, name).unwrap_or_else(|| issue(upstream, ctx));
    }
    let client = || hash_key(ctx.client_ip.as_bytes());
    match &upstream.balance.hash_on {
        HashOn::ClientIp | HashOn::Cookie(_) => client(),
        HashOn::Model => ctx.model.as_deref().map_or_else(client, |model| hash_key(model.as_bytes())),
        HashOn::Header(name) => headers.get(name).map_or_else(client, |value| hash_key(value.as_bytes())),
    }
}

/// The key of a client that has no cookie yet: it gets one, or is known by its address.
fn issue(upstream: &Upstream, ctx: &mut RequestContext) -> u64 {
    let Some(sticky) = &upstream.balance.sticky else { return hash_key(ctx.client_ip.as_bytes()) };
    let mut random = [0; 16];
    // Without randomness it is the address that keeps clients apart.
    if getrandom::fill(&mut random).is_err() {
        return hash_key(ctx.client_ip.as_bytes());
    }
    let (key, cookie) = sticky.issue(u128::from_ne_bytes(random));
    ctx.set_cookie = cookie;
    key
}

/// One attempt, from the connection to the last byte.
async fn once(
    exchange: &mut Exchange<'_>,
    route: &Route,
    upstream: &Upstream,
    server: &Arc<ServerState>,
) -> Result<(), Broken> {
    let now = exchange.ctx.attempt.as_ref().map_or_else(clock::now, |attempt| attempt.started);
    let order = Order { server, upstream, timeouts: &route.timeouts, fresh: exchange.ctx.stale_retried, now };
    let mut connection = connect(exchange, order).await?;
    if let Some(attempt) = &exchange.ctx.attempt {
        attempt.reached(Phase::Waiting);
    }
    if upstream.http2 && body_scan::answer_expectation(exchange).await.is_err() {
        return Err(Reason::ClientClosed.into());
    }
    let length = request_length(exchange);
    headers::for_server(&mut exchange.head, upstream.kind, server, length);
    trace::for_server(&exchange.ctx, &mut exchange.head.headers);
    connection.send(
        &RequestHead {
            method: &exchange.head.method,
            target: exchange.target(),
            tls: server.location.tls,
            headers: &exchange.head.headers,
        },
        length,
    );
    let traffic = Traffic::new(exchange, &mut connection, route.timeouts, route.body_limit);
    if let Err(broken) = traffic.run().await {
        if broken.reason == Reason::ClientClosed && upstream.has_models() {
            leave(exchange, connection);
        }
        return Err(broken);
    }
    let order = Order { now: clock::now(), ..order };
    exchange.service.connector.give_back(connection, order);
    Ok(())
}

/// The client has left. Its slot is busy until the server has noticed, which ends its work and the connection.
fn leave(exchange: &mut Exchange<'_>, connection: Server) {
    let Some(attempt) = exchange.ctx.attempt.as_mut() else { return };
    let held = attempt.held.take();
    // The process does not wait for this when it stops.
    tokio::spawn(async move {
        drop(tokio::time::timeout(LEAVING, connection.leave()).await);
        drop(held);
    });
}

/// A connection, unless the client leaves or time is up before.
async fn connect(exchange: &mut Exchange<'_>, order: Order<'_>) -> Result<Server, Broken> {
    if let Some(idle) = exchange.service.connector.idle(order) {
        return Ok(idle);
    }
    let service = exchange.service;
    // Boxed: it holds a whole TLS handshake, and most requests find a connection that is open.
    let mut connecting = Box::pin(service.connector.connect(order));
    match queue::wait(exchange, None, |cx| connecting.as_mut().poll(cx)).await {
        Err(reason) => Err(reason.into()),
        Ok(None) => Err(Reason::RequestTimeout.into()),
        Ok(Some(connected)) => connected.map_err(|fault| Broken {
            reason: match fault {
                ConnectFault::Failed => Reason::ConnectFailed,
                ConnectFault::TimedOut => Reason::ConnectTimeout,
                ConnectFault::Tls => Reason::TlsFailed,
            },
            failure: Failure::Connect,
        }),
    }
}

/// Tells the server's circuits and metrics how the attempt ended; once for each attempt.
pub fn judge(ctx: &mut RequestContext, reason: Reason) {
    let Some(attempt) = ctx.attempt.as_mut() else { return };
    let Some(permit) = attempt.permit.take() else { return };
    attempt.server.metrics.attempt(reason);
    let has_models = ctx.upstream.as_ref().is_some_and(|upstream| upstream.has_models());
    let (status, complaint) = (attempt.status, attempt.complaint);
    let Some(outcome) = outcome(reason, status, complaint) else { return };
    let now = clock::now();
    if outcome != Outcome::Success {
        attempt.server.failed(now);
    }
    let blame = reason.blames(status);
    // Where models are run, only a request that runs one shows that this works, or does not.
    if has_models && !ctx.inference && (outcome == Outcome::Success || !blame.server()) {
        return;
    }
    // The low bits of a duration are as good as random.
    let random = scramble(u64::try_from((now - attempt.started).as_nanos()).unwrap_or(u64::MAX));
    let model = ctx.model.as_deref().filter(|_| has_models && ctx.inference);
    permit.record(Verdict { outcome, blame, model, reason: reason.as_str(), now, random });
}

fn outcome(reason: Reason, status: Option<u16>, complaint: Option<Complaint>) -> Option<Outcome> {
    match (reason.verdict(status)?, complaint) {
        // What the client sent was wrong, whatever the status.
        (outcome, Some(Complaint::Request)) if outcome != Outcome::Success => None,
        (Outcome::Failure, Some(Complaint::Crash)) => Some(Outcome::Crash),
        (outcome, _) => Some(outcome),
    }
}
