//! Answers of our own: lists that the whole fleet gives together, and errors in the client's dialect.

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use pingora_error::{Error, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::{FailToProxy, Session};

use super::classify;
use super::context::{Reply, RequestContext};
use crate::ollama::dialect::{Dialect, error_body};
use crate::policy::failure::Reason;

/// Says on an answer of ours why it is ours.
const REASON: &str = "X-Arriero-Reason";

/// An error with a sentence for the client.
pub fn problem(ctx: &RequestContext, reason: Reason, message: &str) -> Reply {
    let status = reason.status().unwrap_or(502);
    with_body(ctx, reason, status, error_body(ctx.dialect, status, message))
}

/// An error whose body is written already.
pub fn with_body(ctx: &RequestContext, reason: Reason, status: u16, body: String) -> Reply {
    let content_type = ctx.dialect.error_content_type();
    let mut body = body;
    if ctx.dialect != Dialect::Native {
        // Ollama's `/v1` writers go through Go's json.Encoder, which ends a value with a line feed.
        body.push('\n');
    }
    let mut fields = Vec::new();
    if status == 503 {
        fields.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
    }
    Reply { status, reason, content_type, body: body.into(), fields }
}

/// A good answer in JSON, with the Content-Type that Ollama gives it (its `/v1` writers leave out the charset).
pub fn json(ctx: &RequestContext, body: Bytes) -> Reply {
    let content_type = ctx.dialect.error_content_type();
    Reply { status: 200, reason: Reason::Ok, content_type, body, fields: Vec::new() }
}

/// What Ollama's router answers to a path that it does not know.
pub fn not_found(_ctx: &RequestContext) -> Reply {
    let body = Bytes::from_static(b"404 page not found");
    Reply { status: 404, reason: Reason::EndpointDenied, content_type: "text/plain", body, fields: Vec::new() }
}

/// What Ollama's router answers to a known path with another method.
pub fn wrong_method(_ctx: &RequestContext, allow: &'static str) -> Reply {
    Reply {
        status: 405,
        reason: Reason::MethodNotAllowed,
        content_type: "text/plain",
        body: Bytes::from_static(b"405 method not allowed"),
        fields: vec![(header::ALLOW, HeaderValue::from_static(allow))],
    }
}

/// Sends an answer of ours.
pub async fn send(session: &mut Session, ctx: &mut RequestContext, reply: Reply) -> Result<()> {
    let mut response = ResponseHeader::build(reply.status, Some(8))?;
    response.insert_header(header::CONTENT_TYPE, reply.content_type)?;
    response.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
    for (name, value) in reply.fields {
        response.insert_header(name, value)?;
    }
    if reply.reason != Reason::Ok {
        response.insert_header(REASON, reply.reason.as_str())?;
    }
    if let Some(id) = &ctx.request_id {
        response.insert_header("X-Request-Id", id.clone())?;
    }
    let head_only = session.req_header().method == Method::HEAD;
    let downstream = session.as_downstream_mut();
    downstream.write_response_header(Box::new(response)).await.map_err(|error| error.into_down())?;
    let body = if head_only { Bytes::new() } else { reply.body };
    ctx.body_out = body.len() as u64;
    downstream.write_response_body(body, true).await.map_err(|error| error.into_down())
}

/// Answers for a request that failed, where the client can still be answered.
pub async fn for_error(session: &mut Session, error: &Error, ctx: &mut RequestContext) -> FailToProxy {
    let reason = classify::reason(error, ctx);
    ctx.reason = Some(reason);
    let started = session.response_written().is_some_and(|header| !header.status.is_informational());
    let status = match reason {
        Reason::ClientClosed | Reason::ClientStalled => {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        reason => reason.status().unwrap_or(502),
    };
    if started {
        return FailToProxy { error_code: status, can_reuse_downstream: false };
    }
    let mut can_reuse = session.as_downstream_mut().is_body_done();
    let reply = ctx.reply.take().unwrap_or_else(|| problem(ctx, reason, &sentence(reason, ctx)));
    can_reuse &= send(session, ctx, reply).await.is_ok();
    FailToProxy { error_code: status, can_reuse_downstream: can_reuse }
}

/// What the client is told.
fn sentence(reason: Reason, ctx: &RequestContext) -> String {
    let model = ctx.written.as_deref().or(ctx.model.as_deref()).unwrap_or_default();
    match reason {
        Reason::ModelNotFound => format!("model '{model}' not found"),
        Reason::NoServer if !model.is_empty() => {
            format!("no server with model '{model}' is available, please try again")
        }
        Reason::NoServer => "no server is available, please try again".to_owned(),
        Reason::ServerBusy => "server busy, please try again".to_owned(),
        Reason::NotLoaded => format!("model '{model}' is not loaded on any server"),
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::TlsFailed => {
            "the server could not be reached".to_owned()
        }
        Reason::UpstreamReset => "the server closed the connection before it answered".to_owned(),
        Reason::FirstByteTimeout => "the server did not answer in time".to_owned(),
        Reason::RequestTimeout => "the request took too long".to_owned(),
        Reason::BodyTooLarge => "request body too large".to_owned(),
        Reason::UpstreamProtocol => "the server's answer was not valid HTTP".to_owned(),
        Reason::BadRequest => "malformed request".to_owned(),
        other => other.describe().trim_end_matches('.').to_owned(),
    }
}
