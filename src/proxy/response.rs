//! The server's answer on its way to the client: watched, never changed.

use bytes::Bytes;
use http::{HeaderName, Version, header};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::attempt;
use super::context::RequestContext;
use crate::clock;
use crate::ollama::usage::{UsageKind, UsageScan};

/// The head of an answer arrived.
pub fn begins(session: &mut Session, response: &mut ResponseHeader, ctx: &mut RequestContext) -> Result<()> {
    if response.status.is_informational() {
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            // From here on the connection belongs to another protocol, which keeps its own time.
            ctx.deadline.no_phase();
            attempt::disconnected(ctx);
            note_status(response, ctx);
        }
        return Ok(());
    }
    let status = response.status.as_u16();
    if status >= 400 && attempt::would_retry_status(session, ctx, status) {
        note_status(response, ctx);
        return Error::e_explain(ErrorType::HTTPStatus(status), "tried again")
            .map_err(|error: Box<Error>| error.into_up());
    }
    note_status(response, ctx);
    attempt::disconnected(ctx);
    let now = clock::now();
    if let Some(attempt) = ctx.attempt.as_mut() {
        let first_byte = now - attempt.started;
        attempt.first_byte = Some(first_byte);
        attempt.slot.server().metrics.first_byte.observe(first_byte.as_secs_f64());
    }
    if let Some(route) = &ctx.route {
        ctx.deadline.phase(now + route.timeouts.read);
        if ctx.model.is_some() && route.upstream().is_some_and(|upstream| upstream.has_models()) {
            let content_type = response.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            // The body of an error is the server's answer, not an error inside one.
            let encoded = status >= 400 || response.headers.contains_key(header::CONTENT_ENCODING);
            ctx.usage = content_type.filter(|_| !encoded).and_then(UsageKind::of_content_type).map(UsageScan::new);
        }
    }
    strip_hop_by_hop(response);
    if let Some(id) = &ctx.request_id {
        response.insert_header("X-Request-Id", id.clone())?;
    }
    Ok(())
}

/// What concerns the connection to the server stops here (RFC 9110 7.6.1).
fn strip_hop_by_hop(response: &mut ResponseHeader) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    if let Some(connection) = response.remove_header(&header::CONNECTION) {
        let tokens = connection.to_str().unwrap_or_default().split(',').map(str::trim);
        for name in tokens.filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok()) {
            // How the body ends is not a server's to take away.
            if !matches!(name, header::TRANSFER_ENCODING | header::CONTENT_LENGTH) {
                response.remove_header(&name);
            }
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE] {
        response.remove_header(&name);
    }
}

/// The head is about to be written: an HTTP/1.0 client knows no chunks, so its answer ends with the
/// connection (RFC 9112 6.1).
pub fn written(session: &mut Session, response: &mut ResponseHeader) {
    if session.req_header().version == Version::HTTP_10 && !response.status.is_informational() {
        response.set_version(Version::HTTP_10);
        if response.remove_header(&header::TRANSFER_ENCODING).is_some() {
            session.set_keepalive(None);
        }
    }
}

fn note_status(response: &ResponseHeader, ctx: &mut RequestContext) {
    if let Some(attempt) = ctx.attempt.as_mut() {
        attempt.status = Some(response.status.as_u16());
    }
}

/// A piece of the answer's body goes to the client.
pub fn body_passes(body: Option<&Bytes>, end_of_stream: bool, ctx: &mut RequestContext) {
    if let Some(bytes) = body {
        ctx.body_out += bytes.len() as u64;
        if let Some(usage) = ctx.usage.as_mut() {
            usage.push(bytes);
        }
    }
    if end_of_stream {
        ctx.deadline.no_phase();
    } else if let Some(route) = &ctx.route
        && ctx.attempt.as_ref().is_some_and(|attempt| attempt.status != Some(101))
    {
        ctx.deadline.phase(clock::now() + route.timeouts.read);
    }
}
