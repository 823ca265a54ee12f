//! The server's answer on its way to the client: watched, its body never changed.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::context::{Exchange, RequestContext};
use super::framing::Length;
use super::message::AnswerHead;
use super::request::REQUEST_ID;
use super::{content, headers};
use crate::clock;
use crate::fleet::dispatch::Place;
use crate::fleet::running::Phase;
use crate::ollama::usage::{UsageKind, UsageScan};
use crate::policy::cors::REPLACED;

/// Says what a cache had to do with an answer (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub use super::headers::strip_hop_by_hop;

/// Says why the server was chosen.
const DECISION: HeaderName = HeaderName::from_static("x-arriero-decision");

/// Remembers what the server answered.
pub fn note_status(ctx: &mut RequestContext, status: u16) {
    if let Some(attempt) = ctx.attempt.as_mut() {
        attempt.status = Some(status);
    }
}

/// The head of the answer goes to the client.
pub fn begin(exchange: &mut Exchange<'_>, head: AnswerHead, length: Length, now: Instant) {
    note_first_byte(exchange, now);
    begin_head(exchange, head, length);
}

/// The token counts in the body of an answer will be read.
pub fn watch_usage(exchange: &mut Exchange<'_>, head: &AnswerHead) {
    let ctx = &mut exchange.ctx;
    if let Some(route) = &ctx.route
        && ctx.model.is_some()
        && route.upstream().is_some_and(|upstream| upstream.has_models())
    {
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        // The body of an error is the server's answer, not an error inside one.
        let encoded = head.status.as_u16() >= 400 || head.headers.contains_key(header::CONTENT_ENCODING);
        let scan = |kind| UsageScan::new(kind).counting(ctx.quotas.is_some());
        ctx.usage = content_type.filter(|_| !encoded).and_then(UsageKind::of_content_type).map(scan);
    }
}

/// The same as [`begin`], where the first byte has been noted.
pub fn begin_head(exchange: &mut Exchange<'_>, mut head: AnswerHead, length: Length) {
    watch_usage(exchange, &head);
    let status = head.status;
    if exchange.ctx.comments.give_way() {
        // The client has a head.
        return;
    }
    headers::strip_hop_by_hop(&mut head.headers);
    let length = content::compress(exchange, &mut head, length);
    complete(exchange, &mut head);
    let no_body =
        exchange.head.method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match length {
        // RFC 9110 8.6: without a body, but not without a length, where one could have been.
        Length::None if !no_body => {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Length::None if status == StatusCode::NO_CONTENT => {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        _ => {}
    }
    exchange.client.head(head, length, exchange.ctx.connection.is_ending());
}

/// The head with which a connection leaves HTTP.
pub fn upgraded(exchange: &mut Exchange<'_>, mut head: AnswerHead) -> AnswerHead {
    note_first_byte(exchange, clock::now());
    let protocol = head.headers.get(header::UPGRADE).cloned();
    headers::strip_hop_by_hop(&mut head.headers);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        head.headers.insert(header::UPGRADE, protocol);
    }
    complete(exchange, &mut head);
    head
}

/// The answer has begun.
pub fn note_first_byte(exchange: &mut Exchange<'_>, now: Instant) {
    let (totals, ctx) = (&exchange.service.metrics.totals, &mut exchange.ctx);
    if let Some(attempt) = ctx.attempt.as_mut() {
        let first_byte = now - attempt.started;
        attempt.first_byte = Some(first_byte);
        attempt.place().into_iter().for_each(Place::first_byte);
        attempt.reached(Phase::Answering);
        attempt.server.answered(first_byte, now);
        attempt.server.metrics.first_byte.observe(first_byte.as_secs_f64());
        totals.first_byte.observe(now - ctx.started);
    }
}

/// What stands on every answer, the server's and our own.
pub fn complete(exchange: &mut Exchange<'_>, head: &mut AnswerHead) {
    let ctx = &mut exchange.ctx;
    ctx.status = Some(head.status.as_u16());
    if let Some(id) = &ctx.request_id {
        head.headers.insert(REQUEST_ID, id.clone());
    }
    for (name, value) in ctx.admitted.fields() {
        head.headers.insert(name, value);
    }
    if let Some(quotas) = &ctx.quotas {
        quotas.tell(&mut head.headers);
    }
    if let Some(fields) = &ctx.cors {
        for name in REPLACED {
            head.headers.remove(name);
        }
        for (name, value) in fields {
            head.headers.append(name, value.clone());
        }
    }
    if let Some(decision) = ctx.decision.take() {
        head.headers.insert(DECISION, decision);
    }
    if let Some(told) = ctx.cache.status.take() {
        head.headers.append(CACHE_STATUS, told);
    }
    if let Some(cookie) = ctx.set_cookie.take() {
        head.headers.append(header::SET_COOKIE, cookie);
    }
    content::change_answer(exchange, head);
}

/// A piece of the answer's body goes to the client.
pub fn body_passes(ctx: &mut RequestContext, piece: &Bytes, now: Instant) {
    ctx.body_out += piece.len() as u64;
    if let Some(keeping) = &mut ctx.keeping {
        keeping.take(piece);
    }
    let Some(usage) = ctx.usage.as_mut() else { return };
    usage.push(piece);
    if usage.takes_token() && ctx.inference {
        note_token(ctx, now);
    }
}

/// A piece of a stream brought a token, or several.
fn note_token(ctx: &mut RequestContext, now: Instant) {
    let Some(last) = ctx.last_token.replace(now) else {
        let after = now.saturating_duration_since(ctx.started);
        ctx.first_token = Some(after);
        ctx.route.iter().for_each(|route| route.metrics.first_token(after));
        return;
    };
    // What came in the same moment is one piece that was cut somewhere on its way.
    if let Some(attempt) = &ctx.attempt
        && now > last
    {
        attempt.server.metrics.token_gap(now - last);
    }
}
