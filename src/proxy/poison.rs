//! Requests that made a runner crash: recognised before they are sent, remembered when they did it.
//!
//! To recognise one, up to 64 KiB of the body must be there before a server is chosen; that is read early only while some
//! request is in quarantine. While none is, a request costs one atomic load, and the hash of its beginning where the
//! body is let go.

use std::hash::RandomState;
use std::sync::OnceLock;

use bytes::Bytes;
use http::header;

use super::context::{Exchange, Stop};
use super::{body_scan, reply};
use crate::clock;
use crate::fleet::snapshot::Upstream;
use crate::ollama::complaint::{self, Complaint};
use crate::ollama::usage::UsageScan;
use crate::policy::failure::Reason;
use crate::policy::quarantine::{Beginning, Fingerprint, PREFIX};

const MESSAGE: &str = "this request made a model runner crash and is not tried again for a while: \
                       one request may crash at most one runner";

/// The secret of this process: without it nobody can make a request that looks like another one.
fn key() -> &'static RandomState {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    KEY.get_or_init(RandomState::new)
}

/// The hash of a body's beginning, which comes in these pieces.
pub fn beginning<'b>(pieces: impl IntoIterator<Item = &'b Bytes>) -> u64 {
    let mut beginning = Beginning::new(key());
    pieces.into_iter().for_each(|piece| beginning.push(piece));
    beginning.finish()
}

/// Refuses a request that is in quarantine.
///
/// # Errors
/// When it is, or its body cannot be read.
pub async fn refuse(exchange: &mut Exchange<'_>, upstream: &Upstream) -> Result<(), Stop> {
    if !exchange.ctx.inference || upstream.quarantine.is_zero() {
        return Ok(());
    }
    exchange.body.keep_beginning();
    if upstream.state.poison.is_empty() {
        return Ok(());
    }
    let limit = exchange.ctx.route.as_ref().map_or(u64::MAX, |route| route.body_limit);
    body_scan::read_beginning(exchange, PREFIX as u64, limit).await?;
    match fingerprint(exchange) {
        Some(fingerprint) if upstream.state.poison.holds(fingerprint, clock::now()) => {
            Err(reply::problem(&exchange.ctx, Reason::Quarantined, MESSAGE).into())
        }
        _ => Ok(()),
    }
}

/// Looks whether the answer has just told of a crash, before the client can read that and ask again.
pub fn watch(exchange: &mut Exchange<'_>) {
    if exchange.ctx.usage.as_ref().is_some_and(UsageScan::error_seen) {
        let error = exchange.ctx.usage.as_ref().and_then(UsageScan::error).map(str::to_owned);
        note(exchange, &error.unwrap_or_default());
    }
}

/// Notes an error inside a stream, the first time that it is seen.
pub fn note(exchange: &mut Exchange<'_>, error: &str) {
    let Some(attempt) = exchange.ctx.attempt.as_mut().filter(|attempt| attempt.complaint.is_none()) else { return };
    let complaint = complaint::read(error.as_bytes(), None);
    attempt.complaint = Some(complaint);
    if complaint == Complaint::Crash {
        remember(exchange);
    }
}

/// The request has just made a runner crash.
pub fn remember(exchange: &Exchange<'_>) {
    let Some(upstream) = exchange.ctx.upstream.as_ref().filter(|upstream| !upstream.quarantine.is_zero()) else {
        return;
    };
    let Some(fingerprint) = fingerprint(exchange).filter(|_| exchange.ctx.inference) else { return };
    upstream.state.poison.add(fingerprint, upstream.quarantine, clock::now());
    tracing::warn!(
        upstream = upstream.name,
        model = exchange.ctx.model,
        request_id = exchange.ctx.request_id.as_ref().and_then(|id| id.to_str().ok()),
        server = exchange.ctx.attempt.as_ref().map(|attempt| attempt.server.name()),
        "a request made a runner crash, and is in quarantine"
    );
}

fn fingerprint(exchange: &Exchange<'_>) -> Option<Fingerprint> {
    let (ctx, body) = (&exchange.ctx, &exchange.body);
    let written = exchange.head.headers.get(header::CONTENT_LENGTH);
    let written = written.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // Without a length in the head it is known of short bodies only: long ones are not at their end when they are judged.
    let length = written.or_else(|| Some(body.length()).filter(|length| *length <= PREFIX as u64));
    Some(Fingerprint::new(key(), ctx.model.as_deref()?, exchange.path(), body.beginning(), length))
}
