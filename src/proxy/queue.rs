//! A request waits for its place on a server.
//!
//! Its client is watched meanwhile: whoever leaves, leaves the queue.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{Attempt, Exchange, RequestContext, Stop};
use super::{reply, waiting_stream};
use crate::clock;
use crate::fleet::choose::{Ask, Chosen, choose};
use crate::fleet::dispatch::{Asked, Place, Turned};
use crate::fleet::explain::Explanation;
use crate::fleet::snapshot::Upstream;
use crate::ollama::conversation;
use crate::ollama::scan::{ModelScan, Setting};
use crate::policy::balance::consistent_hash::hash_key;
use crate::policy::failure::Reason;
use crate::policy::notification::Kind;
use crate::policy::queue::{Class, Rank};
use crate::policy::schedule::{Request, RunnerOptions};

/// By which a client says who goes first, where its route allows that.
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");
/// By which a client asks why its server was chosen, where its route allows that.
const EXPLAIN: HeaderName = HeaderName::from_static("x-arriero-explain");
/// Candidates that the answer to that tells of.
const EXPLAINED: usize = 8;
/// Time between two looks at a client whose body nobody reads, and between two tries of one who waits.
const LOOK: Duration = Duration::from_millis(100);

/// A place on the server that the scheduler chooses.
///
/// # Errors
/// When there is none in time, or the client has left.
pub async fn scheduled(
    exchange: &mut Exchange<'_>,
    upstream: &Upstream,
    model: &str,
    started: Instant,
) -> Result<Attempt, Stop> {
    let end = started + upstream.queue_timeout;
    let explains =
        exchange.ctx.route.as_ref().is_some_and(|route| route.explain) && exchange.head.headers.contains_key(EXPLAIN);
    let request = Request {
        bytes: body_bytes(exchange),
        conversation: conversation(exchange),
        options: options(exchange),
        rank: rank(&exchange.head.headers, &exchange.ctx),
        warm: exchange.ctx.again.warm,
        ..Request::default()
    };
    let place = loop {
        let mut why = None;
        let ctx = &mut exchange.ctx;
        let why_wanted = explains.then_some(&mut why);
        let asked = upstream.dispatcher.ask(model, request.clone(), &ctx.tried_servers, why_wanted);
        ctx.decision = why.as_ref().and_then(decision);
        let mut waiting = match asked {
            Asked::Placed(place) => break place,
            Asked::Refused { reason, retry_after } => return Err(refuse(ctx, reason, retry_after)),
            Asked::Again => continue,
            Asked::Waits(waiting) => waiting,
        };
        let reason = match wait(exchange, Some(end), |cx| std::pin::Pin::new(&mut waiting.turn).poll(cx)).await {
            Ok(Some(Ok(Turned::Placed(place)))) => break place,
            Ok(Some(Ok(Turned::Again))) => continue,
            Ok(Some(Ok(Turned::Refused(reason)))) => reason,
            // The dispatcher is gone with its process.
            Ok(Some(Err(_))) => Reason::Shutdown,
            Ok(None) => Reason::QueueTimeout,
            Err(reason) => return Err(reply::give_up(&mut exchange.ctx, reason)),
        };
        drop(waiting);
        let retry_after = upstream.dispatcher.retry_after(model);
        return Err(refuse(&mut exchange.ctx, reason, retry_after));
    };
    attempt(upstream, place, &exchange.ctx)
}

fn attempt(upstream: &Upstream, mut place: Place, ctx: &RequestContext) -> Result<Attempt, Stop> {
    // A server that came with a later configuration has no index in the one of this request.
    let index = upstream.servers.iter().position(|member| Arc::ptr_eq(&member.state, &place.server));
    let Some(slot) = place.take_slot() else { return Err(Stop::Broken(Reason::Internal)) };
    let Some(permit) = place.permit.take() else { return Err(Stop::Broken(Reason::Internal)) };
    let chosen = Chosen { index: index.unwrap_or(usize::MAX), slot, permit };
    Ok(Attempt::new(chosen, Some(place), ctx, clock::now()))
}

/// A place on a server that the upstream's rule chooses, as soon as one has a free slot.
///
/// # Errors
/// When there is none in time, or the client has left.
pub async fn by_rule(
    exchange: &mut Exchange<'_>,
    upstream: &Upstream,
    key: u64,
    started: Instant,
) -> Result<Attempt, Stop> {
    let room = &upstream.dispatcher.room;
    let queue = if upstream.has_models() { exchange.ctx.model.clone().unwrap_or_default() } else { String::new() };
    let most = upstream.schedule.max_pending;
    // What takes no slot waits for none, and for nobody.
    let never_waits = !exchange.ctx.takes_slot;
    if never_waits || !room.is_paused() && (most == 0 || !room.has_waiters(&queue)) {
        match choose(upstream, ask(&exchange.ctx, key, started)) {
            Ok(chosen) => return Ok(Attempt::new(chosen, None, &exchange.ctx, started)),
            Err(reason) if reason != Reason::ServerBusy || most == 0 || never_waits => {
                return Err(refuse(&mut exchange.ctx, reason, None));
            }
            Err(_) => {}
        }
    }
    let rank = rank(&exchange.head.headers, &exchange.ctx);
    let Some(seat) = room.enter(&queue, rank, most, seconds(started)) else {
        return Err(refuse(&mut exchange.ctx, Reason::QueueFull, None));
    };
    let end = started + upstream.queue_timeout;
    let chosen = loop {
        if seat.bell.was_pushed_out() {
            return Err(refuse(&mut exchange.ctx, Reason::QueueFull, None));
        }
        let chosen = match room.is_paused() {
            true => Err(Reason::ServerBusy),
            false => choose(upstream, ask(&exchange.ctx, key, clock::now())),
        };
        let refused = match chosen {
            Ok(chosen) => break chosen,
            Err(reason) => reason,
        };
        let mut turn = Box::pin(seat.bell.turn.notified());
        // A server may also have come up, or be there since a reload: nobody rings for that.
        let again = clock::now() + 10 * LOOK;
        match wait(exchange, Some(end.min(again)), |cx| turn.as_mut().poll(cx)).await {
            Err(reason) => return Err(reply::give_up(&mut exchange.ctx, reason)),
            Ok(None) if clock::now() >= end => {
                let reason = if refused == Reason::ServerBusy { Reason::QueueTimeout } else { refused };
                return Err(refuse(&mut exchange.ctx, reason, None));
            }
            Ok(_) => {}
        }
    };
    drop(seat);
    Ok(Attempt::new(chosen, None, &exchange.ctx, clock::now()))
}

fn ask(ctx: &RequestContext, key: u64, now: Instant) -> Ask<'_> {
    Ask {
        model: ctx.model.as_deref().filter(|_| !ctx.first_server),
        first: ctx.first_server,
        takes_slot: ctx.takes_slot,
        warm: ctx.again.warm,
        key,
        tried: &ctx.tried,
        now,
    }
}

/// Waits for something until `end`, with an eye on the client, who may be told that it waits; `None` when time is up.
///
/// # Errors
/// When the client has left, or the whole request takes too long.
pub async fn wait<T>(
    exchange: &mut Exchange<'_>,
    end: Option<Instant>,
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> Poll<T>,
) -> Result<Option<T>, Reason> {
    let last = [exchange.ctx.end(), end].into_iter().flatten().min();
    loop {
        let now = clock::now();
        let comment = waiting_stream::tick(exchange, now);
        let Exchange { client, timer, .. } = exchange;
        let look = (!client.body_is_done()).then(|| now + LOOK);
        let until = [last, look, comment].into_iter().flatten().min();
        let done = timer.limit(until, |cx| {
            if let Poll::Ready(done) = poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if matches!(client.poll_flush(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Err(Reason::ClientClosed));
            }
            client.poll_left(cx, true).map(|()| Err(Reason::ClientClosed))
        });
        match done.await {
            Some(done) => return done.map(Some),
            None if until != last => {}
            None if last != end => return Err(Reason::RequestTimeout),
            None => return Ok(None),
        }
    }
}

/// Whose request it is, and how much it may.
fn rank(headers: &HeaderMap, ctx: &RequestContext) -> Rank {
    let flow = match &ctx.key {
        Some(key) => hash_key(key.id.as_bytes()),
        None => hash_key(ctx.client_ip.as_bytes()),
    };
    let route = ctx.route.as_ref();
    let own = route.map_or(Class::Normal, |route| route.priority);
    let asked = headers.get(PRIORITY).filter(|_| route.is_some_and(|route| route.priority_header));
    let class = asked.and_then(|value| Class::parse(value.to_str().ok()?)).unwrap_or(own);
    Rank { flow, weight: 1, class }
}

/// The reasons as the value of a header field.
fn decision(why: &Explanation) -> Option<HeaderValue> {
    let mut why = why.clone();
    why.candidates.truncate(EXPLAINED);
    HeaderValue::try_from(serde_json::to_string(&why).ok()?).ok()
}

fn conversation(exchange: &Exchange<'_>) -> Option<u64> {
    match exchange.body.short() {
        [] => None,
        [one] => conversation::key(one),
        several => conversation::key(&several.concat()),
    }
}

/// The options that the model is to be loaded with, as far as the body has come.
fn options(exchange: &Exchange<'_>) -> RunnerOptions {
    let whole = |setting: Option<&Setting>| match setting {
        Some(Setting::Number(number)) if *number >= 0.0 && *number < 4e9 => Some(*number as u32),
        _ => None,
    };
    let scan = exchange.body.scan();
    RunnerOptions {
        num_ctx: whole(scan.and_then(ModelScan::num_ctx)),
        num_gpu: whole(scan.and_then(ModelScan::num_gpu)),
    }
}

/// Bytes of the body, as far as that is known.
fn body_bytes(exchange: &Exchange<'_>) -> u64 {
    let length = exchange.head.headers.get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or_else(|| exchange.body.length())
}

fn refuse(ctx: &mut RequestContext, reason: Reason, retry_after: Option<Duration>) -> Stop {
    ctx.retry_after = retry_after;
    // An attempt before this one failed: that is what the client is told.
    let reason = match (&ctx.attempt, ctx.reason) {
        (Some(_), before) => before.unwrap_or(Reason::NoServer),
        (None, _) => reason,
    };
    if reason == Reason::QueueFull {
        tell_that_it_is_full(ctx);
    }
    reply::give_up(ctx, reason)
}

/// Tells whoever cares that a request found its queue full.
fn tell_that_it_is_full(ctx: &RequestContext) {
    let upstream = ctx.route.as_ref().and_then(|route| route.upstream());
    let Some(upstream) = upstream.filter(|upstream| upstream.state.tells_that_it_is_full(clock::unix_time())) else {
        return;
    };
    let (name, waiting) = (&upstream.name, upstream.waiting());
    let model = ctx.model.as_deref().map(|model| format!(" for `{model}`")).unwrap_or_default();
    let message = format!("the queue{model} of upstream `{name}` is full: {waiting} wait, and requests are refused");
    let snapshot = &ctx.snapshot;
    snapshot.lasting.telling.events.tell(Kind::QueueFull, name.as_str(), &message);
}

/// An instant as the queue wants it; only differences mean something.
fn seconds(instant: Instant) -> f64 {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    instant.saturating_duration_since(*EPOCH.get_or_init(|| instant)).as_secs_f64()
}
