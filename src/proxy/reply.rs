//! Answers of our own: lists that the whole fleet gives together, and errors in the client's dialect.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::client::ClientFault;
use super::context::{Exchange, Reply, RequestContext, Stop};
use super::framing::Length;
use super::message::AnswerHead;
use super::{content, response, waiting_stream};
use crate::clock;
use crate::ollama::dialect::{Dialect, error_body};
use crate::policy::failure::Reason;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
/// Says on an answer of ours why it is ours.
const REASON: HeaderName = HeaderName::from_static("x-arriero-reason");

/// An error with a sentence for the client.
pub fn problem(ctx: &RequestContext, reason: Reason, message: &str) -> Reply {
    let status = reason.status().unwrap_or(502);
    with_body(ctx, reason, status, error_body(ctx.dialect, status, message))
}

/// An error whose body is written already.
pub fn with_body(ctx: &RequestContext, reason: Reason, status: u16, body: String) -> Reply {
    let content_type = Some(HeaderValue::from_static(ctx.dialect.error_content_type()));
    let mut body = body;
    if ctx.dialect != Dialect::Native {
        // Ollama's `/v1` writers go through Go's json.Encoder, which ends a value with a line feed.
        body.push('\n');
    }
    let mut fields = Vec::new();
    if status == 503 {
        // Whole seconds, rounded up (RFC 9110 10.2.3).
        let seconds = ctx
            .retry_after
            .map_or(1, |wait| wait.as_secs().max(1) + u64::from(wait.subsec_nanos() > 0 && wait.as_secs() > 0));
        fields.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
    }
    Reply { status, reason, content_type, body: body.into(), fields }
}

/// A good answer in JSON, with the Content-Type that Ollama gives it (its `/v1` writers leave out the charset).
pub fn json(ctx: &RequestContext, body: Bytes) -> Reply {
    let content_type = Some(HeaderValue::from_static(ctx.dialect.error_content_type()));
    Reply { status: 200, reason: Reason::Ok, content_type, body, fields: Vec::new() }
}

/// An answer without a body.
pub fn empty(status: u16, fields: Vec<(HeaderName, HeaderValue)>) -> Reply {
    Reply { status, reason: Reason::Ok, content_type: None, body: Bytes::new(), fields }
}

/// What Ollama's router answers to a path that it does not know.
pub fn not_found() -> Reply {
    let body = Bytes::from_static(b"404 page not found");
    Reply { status: 404, reason: Reason::EndpointDenied, content_type: Some(TEXT), body, fields: Vec::new() }
}

/// What Ollama's router answers to a known path with another method.
pub fn wrong_method(allow: &'static str) -> Reply {
    Reply {
        status: 405,
        reason: Reason::MethodNotAllowed,
        content_type: Some(TEXT),
        body: Bytes::from_static(b"405 method not allowed"),
        fields: vec![(header::ALLOW, HeaderValue::from_static(allow))],
    }
}

/// Sends an answer of ours.
///
/// # Errors
/// When the client does not take it.
pub async fn send(exchange: &mut Exchange<'_>, mut reply: Reply) -> Result<(), Reason> {
    if exchange.ctx.comments.is_open() {
        return waiting_stream::refuse(exchange, &reply).await;
    }
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = AnswerHead::new(status);
    if reply.reason != Reason::Ok
        && let Some((content_type, body)) = content::page(&exchange.ctx, reply.status, false)
    {
        (reply.content_type, reply.body) = (Some(content_type), body);
    }
    if status != StatusCode::NO_CONTENT {
        head.headers.extend(reply.content_type.map(|value| (header::CONTENT_TYPE, value)));
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    }
    head.headers.extend(reply.fields.into_iter().map(|(name, value)| (Some(name), value)));
    if reply.reason != Reason::Ok {
        head.headers.insert(REASON, HeaderValue::from_static(reply.reason.as_str()));
    }
    response::complete(exchange, &mut head);
    let client = &mut exchange.client;
    // Whoever still sends what nobody will read cannot be asked again on this connection.
    let last = exchange.ctx.connection.is_ending() || !client.body_is_done();
    let body = if exchange.head.method == Method::HEAD { Bytes::new() } else { reply.body };
    let length = if body.is_empty() { Length::None } else { Length::Known(body.len() as u64) };
    client.head(head, length, last);
    exchange.ctx.body_out = body.len() as u64;
    // Their lengths are equal.
    let _ = client.push(body).and_then(|()| client.finish(None));
    // Whoever has the last byte may ask again at once.
    exchange.ctx.admitted.leave();
    flush(exchange).await
}

/// Sends what was appended.
///
/// # Errors
/// When the client does not take it.
pub async fn flush(exchange: &mut Exchange<'_>) -> Result<(), Reason> {
    let limit = clock::now() + exchange.listener.write_timeout;
    let Exchange { client, timer, .. } = exchange;
    match timer.limit(Some(limit), |cx| client.poll_flush(cx)).await {
        Some(Ok(())) => Ok(()),
        Some(Err(ClientFault::Gone | ClientFault::Malformed)) => Err(Reason::ClientClosed),
        None => Err(Reason::ClientStalled),
    }
}

/// What becomes of a request that failed: an answer, where the client can still be answered.
pub fn give_up(ctx: &mut RequestContext, reason: Reason) -> Stop {
    if let Some(instead) = ctx.instead.take().filter(|_| !ctx.is_answered()) {
        return instead.into();
    }
    if ctx.is_answered() || matches!(reason, Reason::ClientClosed | Reason::ClientStalled) {
        return Stop::Broken(reason);
    }
    problem(ctx, reason, &sentence(reason, ctx)).into()
}

/// What the client is told.
pub fn sentence(reason: Reason, ctx: &RequestContext) -> String {
    let model = ctx.written.as_deref().or(ctx.model.as_deref()).unwrap_or_default();
    match reason {
        Reason::ModelNotFound => format!("model '{model}' not found"),
        Reason::NoServer if !model.is_empty() => {
            format!("no server with model '{model}' is available, please try again")
        }
        Reason::NoServer => "no server is available, please try again".to_owned(),
        Reason::ServerBusy => "server busy, please try again".to_owned(),
        Reason::QueueFull => "server busy, please try again.  maximum pending requests exceeded".to_owned(),
        Reason::QueueTimeout => "server busy, please try again: no slot was free in time".to_owned(),
        Reason::NotLoaded => format!("model '{model}' is not loaded on any server"),
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::TlsFailed => {
            "the server could not be reached".to_owned()
        }
        Reason::UpstreamReset => "the server closed the connection before it answered".to_owned(),
        Reason::FirstByteTimeout => "the server did not answer in time".to_owned(),
        Reason::RequestTimeout => "the request took too long".to_owned(),
        Reason::BodyTooLarge => "request body too large".to_owned(),
        Reason::UpstreamTruncated => "the server's answer broke off".to_owned(),
        Reason::ReadTimeout => "the server's answer paused for too long".to_owned(),
        Reason::UpstreamProtocol => "the server's answer was not valid HTTP".to_owned(),
        Reason::BadRequest => "malformed request".to_owned(),
        other => other.describe().trim_end_matches('.').to_owned(),
    }
}
