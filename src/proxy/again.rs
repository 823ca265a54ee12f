//! Another attempt: what is known when one failed, what the rule says, and what is settled before the next.
//!
//! The rule is [`crate::policy::retry`]; here its questions are answered from the request, the upstream and its servers.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::context::{Exchange, RequestContext};
use crate::clock;
use crate::fleet::choose::{Ask, has_other_holder, has_warm_server};
use crate::fleet::dispatch::Place;
use crate::fleet::upstream_state::Retrying;
use crate::ollama::complaint::Complaint;
use crate::policy::balance::scramble;
use crate::policy::failure::Reason;
use crate::policy::retry::{Context, Decision, Failure, GiveUp};

/// Says that whoever is asked must not try again: somebody in front does so.
const NO_RETRY: HeaderName = HeaderName::from_static("x-arriero-no-retry");
/// How long a server that had too much to do is asked last.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// Hundredths of the other servers that may be busy when a request is sent on by one that was.
const MOST_BUSY: usize = 30;

/// What a request carries for its further attempts.
#[derive(Default)]
pub struct Again {
    /// When its first attempt began.
    pub since: Option<Instant>,
    /// A server that was busy or did not have the model sent it on.
    pub sent_on: bool,
    /// From here on only a server will do that has the model in memory.
    pub warm: bool,
    /// Nobody wants another attempt.
    pub only_once: bool,
    /// It only reads.
    pub only_reads: bool,
    /// It is on another attempt.
    retrying: Option<Retrying>,
}

impl Again {
    /// It is over, and makes room for another one, before the client can know that and ask again.
    pub fn settle(&mut self) {
        self.retrying = None;
    }
}

/// What client and method say about further attempts.
pub fn begin(ctx: &mut RequestContext, method: &Method, headers: &HeaderMap) {
    ctx.again.only_once = headers.contains_key(NO_RETRY);
    ctx.again.only_reads = matches!(*method, Method::GET | Method::HEAD);
    ctx.idempotent = method.is_idempotent() && !ctx.again.only_once;
}

/// It changes a server: there is one attempt, at one server.
pub fn never(ctx: &mut RequestContext) {
    ctx.again.only_once = true;
    ctx.again.only_reads = false;
    ctx.idempotent = false;
}

/// What the rule says about an attempt that failed.
pub fn decide(exchange: &Exchange<'_>, failure: Failure) -> Decision {
    let ctx = &exchange.ctx;
    let (Some(route), Some(upstream)) = (&ctx.route, &ctx.upstream) else {
        return Decision::GiveUp(GiveUp::NoOtherServer);
    };
    let now = clock::now();
    let ask = ask(ctx, now);
    let context = Context {
        attempts_made: ctx.attempts,
        elapsed: ctx.again.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
        stale_retried: ctx.stale_retried,
        sent_on: ctx.again.sent_on,
        only_once: ctx.again.only_once,
        method_idempotent: ctx.idempotent,
        only_reads: ctx.again.only_reads,
        body_held: exchange.body.is_kept(),
        response_started: ctx.is_answered(),
        another_server: match failure {
            Failure::NoModel => has_other_holder(upstream, ask),
            _ => upstream.servers.len() > ctx.tried.len(),
        },
        warm_server: failure == Failure::Busy && has_warm_server(upstream, ask, MOST_BUSY),
        budget: ctx.again.retrying.is_some() || upstream.state.retries.has_room(upstream.in_flight(), now),
    };
    let decision = route.retry.decide(failure, context);
    if decision == Decision::GiveUp(GiveUp::Budget) {
        exchange.service.metrics.retry_refused(&upstream.name);
    }
    decision
}

fn ask(ctx: &RequestContext, now: Instant) -> Ask<'_> {
    Ask {
        model: ctx.model.as_deref(),
        first: ctx.first_server,
        takes_slot: true,
        warm: false,
        key: 0,
        tried: &ctx.tried,
        now,
    }
}

/// Takes a place in the budget for an attempt that will be made: an answer that could have been passed on is given up for it.
pub fn reserve(ctx: &mut RequestContext) {
    if let Some(upstream) = &ctx.upstream {
        ctx.again.retrying.get_or_insert_with(|| Retrying::begin(&upstream.state));
    }
}

/// Settles what holds for the next attempt, at another server.
pub fn prepare(exchange: &mut Exchange<'_>, failure: Failure, warm: bool) {
    reserve(&mut exchange.ctx);
    let again = &mut exchange.ctx.again;
    again.warm |= warm;
    again.sent_on |= warm || failure == Failure::NoModel;
    // If the server is another Arriero, it leaves further attempts to us.
    exchange.head.headers.insert(NO_RETRY, HeaderValue::from_static("1"));
}

/// How an attempt failed that was answered with this status, and for the log why.
pub fn of_answer(status: u16, complaint: Option<Complaint>) -> (Failure, Reason) {
    match (status, complaint) {
        (503, Some(Complaint::Busy)) => (Failure::Busy, Reason::ServerBusy),
        (404, Some(Complaint::NoModel)) => (Failure::NoModel, Reason::ModelNotFound),
        (_, Some(Complaint::Crash)) => (Failure::Crash, Reason::UpstreamError),
        _ => (Failure::Status(status), Reason::UpstreamError),
    }
}

/// What follows from a server's error, whatever becomes of the request.
pub fn heed(ctx: &RequestContext, complaint: Complaint) {
    let Some(attempt) = &ctx.attempt else { return };
    let server = &attempt.server;
    match complaint {
        Complaint::Busy => {
            server.hold_back(BUSY_FOR, clock::now());
            attempt.place().into_iter().for_each(Place::busy);
        }
        Complaint::NoModel => server.want_inventory(),
        _ => {}
    }
}

/// A server that is busy does not say when to come again: in 1 to 5 seconds, not all clients at once.
pub fn retry_after(ctx: &RequestContext, status: u16, headers: &mut HeaderMap) {
    let busy = ctx.attempt.as_ref().is_some_and(|attempt| attempt.complaint == Some(Complaint::Busy));
    if status == 503 && busy && !headers.contains_key(header::RETRY_AFTER) {
        let nanos = (clock::now() - ctx.started).as_nanos();
        let seconds = 1 + scramble(u64::try_from(nanos).unwrap_or(0)) % 5;
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Whether a request that ended like this was shed: nobody had room for it.
pub fn was_shed(status: u16, reason: Reason) -> bool {
    status == 503
        && matches!(
            reason,
            Reason::ServerBusy | Reason::QueueFull | Reason::QueueTimeout | Reason::NotLoaded | Reason::UpstreamError
        )
}
