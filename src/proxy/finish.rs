//! The end of a request: guards drop, the server's circuit learns, metrics, the access log and the history are told.

use std::sync::Arc;
use std::time::Duration;

use http::{Version, header};

use super::context::{Exchange, RequestContext};
use super::{again, attempt, poison, quota, trace};
use crate::clock;
use crate::ollama::usage::{Usage, UsageScan};
use crate::policy::failure::Reason;
use crate::policy::gpu::judge::Answer;
use crate::telemetry::access_log::{Entry, field};

/// Settles the accounts of a request; `broken` says why it did not end well, if the context does not.
pub fn finish(exchange: &mut Exchange<'_>, broken: Option<Reason>) {
    let mut usage = exchange.ctx.usage.take().map(UsageScan::finish).unwrap_or_default();
    if let tokens @ 1.. = exchange.ctx.cache.tokens {
        usage.prompt_eval_count = Some(tokens + usage.prompt_eval_count.unwrap_or(0));
    }
    if let Some(error) = &usage.error {
        poison::note(exchange, error);
    }
    let (service, request, ctx) = (exchange.service, &exchange.head, &mut exchange.ctx);
    let reason = match broken.or(ctx.reason) {
        Some(reason) => reason,
        None if usage.error.is_some() => Reason::StreamError,
        None if usage.ends_early => Reason::UpstreamTruncated,
        None if ctx.attempt.as_ref().and_then(|attempt| attempt.status).is_some_and(|status| status >= 500) => {
            Reason::UpstreamError
        }
        None => Reason::Ok,
    };
    trace::attempt_ends(ctx, reason);
    attempt::judge(ctx, reason);
    if let Some(place) = ctx.attempt.as_mut().and_then(|attempt| attempt.held.as_mut()?.place.as_mut()) {
        place.settle(&usage, reason == Reason::Ok);
    }
    if reason == Reason::Ok {
        tell_speed(ctx, &usage);
        tell_gpu(ctx, &usage);
    }
    quota::charge(service, ctx, &usage);
    let duration = clock::now() - ctx.started;
    let status = match reason {
        Reason::ClientClosed => 499,
        _ => ctx.status.or(reason.status()).unwrap_or(0),
    };
    service.metrics.ended(reason);
    let tokens = (usage.prompt_eval_count.unwrap_or(0), usage.eval_count.unwrap_or(0));
    service.metrics.totals.ended(duration, is_failure(status, reason), tokens.0, tokens.1);
    if let Some(upstream) =
        ctx.upstream.as_ref().filter(|_| again::was_shed(ctx.comments.unsaid.unwrap_or(status), reason))
    {
        upstream.state.retries.shed(clock::now());
    }
    if let Some(route) = &ctx.route {
        let metrics = &route.metrics;
        if ctx.counted {
            metrics.in_flight.dec();
        }
        metrics.status(status);
        metrics.duration.observe(duration.as_secs_f64());
        metrics.request_bytes.inc_by(ctx.body_in);
        metrics.response_bytes.inc_by(ctx.body_out);
        metrics.queue_wait.observe(ctx.queued.as_secs_f64());
        metrics.prompt_tokens.inc_by(tokens.0);
        metrics.output_tokens.inc_by(tokens.1);
    }
    let (kept, logged) = (service.history.wants_requests(), ctx.snapshot.access_log.is_some());
    let told = ctx.trace.as_ref().is_some_and(|trace| trace.is_told());
    if kept || logged || told {
        // What the history does not keep is read for the others alone.
        let of_head = |name| request.headers.get(name).filter(|_| logged || told).map(|value| field(value.as_bytes()));
        let ended = clock::unix_time();
        let milliseconds = |duration: std::time::Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let route = ctx.route.as_ref();
        let attempt = ctx.attempt.as_ref();
        let entry = Entry {
            format: ctx.snapshot.access_log.unwrap_or_default(),
            ts: ended.saturating_sub(duration).as_secs_f64(),
            request_id: ctx.request_id.as_ref().map(|id| field(id.as_bytes())).unwrap_or_default(),
            client_ip: field(ctx.client_ip.as_bytes()),
            key: ctx.key.as_ref().map(|key| key.id.clone()).unwrap_or_default(),
            method: field(request.method.as_str().as_bytes()),
            host: ctx.host.as_ref().filter(|_| logged || told).map(|host| field(host.as_bytes())).unwrap_or_default(),
            path: field(request.uri.path().as_bytes()),
            protocol: match request.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            status,
            reason: reason.as_str(),
            duration_ms: milliseconds(duration),
            queue_ms: milliseconds(ctx.queued),
            ttfb_ms: attempt
                .and_then(|attempt| Some(milliseconds(attempt.first_byte? + (attempt.started - ctx.started)))),
            ttft_ms: ctx.first_token.map(milliseconds),
            bytes_in: ctx.body_in,
            bytes_out: ctx.body_out,
            route: route.map(|route| route.name.clone()).unwrap_or_default(),
            upstream: ctx.upstream.as_ref().map(|upstream| upstream.name.clone()).unwrap_or_default(),
            server: attempt.map(|attempt| attempt.server.name().to_owned()).unwrap_or_default(),
            model: ctx.model.as_ref().map(|model| field(model.as_bytes())).unwrap_or_default(),
            attempts: ctx.attempts,
            prompt_tokens: usage.prompt_eval_count,
            output_tokens: usage.eval_count,
            cache: ctx.cache.word,
            referer: of_head(header::REFERER).unwrap_or_default(),
            user_agent: of_head(header::USER_AGENT).unwrap_or_default(),
            trace_id: ctx.trace.as_ref().filter(|_| logged).map(|trace| trace.id()).unwrap_or_default(),
        };
        let entry = Arc::new(entry);
        if logged {
            service.access_log.write(Arc::clone(&entry));
        }
        trace::tell(exchange, &entry, &usage);
        if kept {
            service.history.request(entry);
        }
    }
    // Only now: what is kept from here on was computed behind the change.
    if exchange.ctx.changing.take().is_some() {
        exchange.ctx.attempt.iter().for_each(|attempt| attempt.server.want_inventory());
    }
    // The slot is free from here on.
    exchange.ctx.attempt = None;
}

/// Answers of so many tokens or fewer say little about speed.
const FEW: u64 = 8;

/// Counts how fast the server answered, by Ollama's own words.
fn tell_speed(ctx: &RequestContext, usage: &Usage) {
    let (Some(attempt), Some(tokens), Some(time)) = (&ctx.attempt, usage.eval_count, usage.eval_duration) else {
        return;
    };
    if tokens > FEW && !time.is_zero() {
        #[expect(clippy::cast_precision_loss, reason = "tokens of one answer")]
        attempt.server.metrics.decoded(tokens as f64 / time.as_secs_f64());
    }
}

/// An attempt went well and its server has nothing to do with the request any more, though its client has not got an answer.
pub fn attempt_is_over(exchange: &mut Exchange<'_>) {
    let ctx = &mut exchange.ctx;
    let usage = ctx.usage.take().map(UsageScan::finish).unwrap_or_default();
    ctx.cache.tokens += usage.prompt_eval_count.unwrap_or(0);
    attempt::judge(ctx, Reason::Ok);
    trace::attempt_ends(ctx, Reason::Ok);
    let Some(attempt) = ctx.attempt.as_mut() else { return };
    if let Some(place) = attempt.held.as_mut().and_then(|held| held.place.as_mut()) {
        place.settle(&usage, true);
    }
    attempt.held = None;
}

/// What is sent next is another question, and may be tried as often as the first one; how often that was.
pub fn forget_attempts(exchange: &mut Exchange<'_>) -> u32 {
    let ctx = &mut exchange.ctx;
    ctx.tried.clear();
    ctx.tried_servers.clear();
    ctx.stale_retried = false;
    // If this one gets no place, that is what its client is told.
    ctx.attempt = None;
    (ctx.again.since, ctx.again.sent_on, ctx.again.warm) = (None, false, false);
    std::mem::take(&mut ctx.attempts)
}

/// Loads that take no longer are none: the model was in memory.
const NO_LOAD: Duration = Duration::from_millis(500);

/// Tells the server's GPU how fast it answered, by Ollama's own words. Only what ran alone there from its beginning to its end
/// can be compared: a busy server is no ill one.
fn tell_gpu(ctx: &RequestContext, usage: &Usage) {
    let (Some(attempt), Some(model)) = (&ctx.attempt, &ctx.model) else { return };
    let (Some(tokens), Some(decode)) = (usage.eval_count, usage.eval_duration) else { return };
    if attempt.alone_at != Some(attempt.server.begun()) {
        return;
    }
    let warm = usage.load_duration.is_some_and(|load| load < NO_LOAD);
    let first_token = attempt.first_byte.filter(|_| warm);
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    attempt.server.gpu.answered(model.as_ref(), Answer { tokens, decode, first_token });
}

/// Whether a request did not get what it was due, and not because of its client.
fn is_failure(status: u16, reason: Reason) -> bool {
    !matches!(reason, Reason::Ok | Reason::ClientClosed | Reason::ClientStalled | Reason::NotKept)
        && !(400..500).contains(&status)
}
