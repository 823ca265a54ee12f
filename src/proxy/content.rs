//! What a route does to heads and bodies beside passing them on: answers of its own, rewritten paths and fields,
//! error pages, compression, static files.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::context::{Exchange, Reply, RequestContext, Stop};
use super::files::{self, FileAnswer, FileBody, FileRequest};
use super::framing::Length;
use super::message::AnswerHead;
use super::{compress, decode_body, reply, response};
use crate::config::types::RequestEncoding;
use crate::fleet::content::{Answer, Files, Target};
use crate::fleet::snapshot::Route;
use crate::policy::failure::Reason;
use crate::routing::{Facts, Scheme};

/// What variables in values stand for.
pub fn facts<'e>(exchange: &'e Exchange<'_>, status: Option<u16>) -> Facts<'e> {
    let (head, ctx) = (&exchange.head, &exchange.ctx);
    let route = ctx.route.as_deref();
    Facts {
        host: ctx.host_name(),
        path: head.uri.path(),
        query: head.uri.query(),
        method: head.method.as_str(),
        scheme: Scheme::of(ctx.client_tls).as_str(),
        client_ip: Some(ctx.client),
        request_id: ctx.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
        route: route.map(|route| route.name.as_str()).unwrap_or_default(),
        upstream: ctx.upstream.as_deref().map(|upstream| upstream.name.as_str()).unwrap_or_default(),
        server: ctx.attempt.as_ref().map(|attempt| attempt.server.name()).unwrap_or_default(),
        model: ctx.model.as_deref().unwrap_or_default(),
        status,
        headers: &head.headers,
    }
}

/// Settles how a request will be sent: the rewritten path, and a body that is decoded on its way.
///
/// # Errors
/// When the route refuses it.
pub fn prepare(exchange: &mut Exchange<'_>, route: &Route) -> Result<(), Stop> {
    if let Some(rewrite) = &route.content.rewrite {
        let uri = &exchange.head.uri;
        let Some(target) = rewrite.target(uri.path(), uri.query()) else {
            let message = "the rewritten path is not a valid request target";
            return Err(reply::problem(&exchange.ctx, Reason::BadRequest, message).into());
        };
        exchange.ctx.target = Some(target);
    }
    decode(exchange, route)
}

/// A compressed body passes, is refused, or is decoded, as the route says.
fn decode(exchange: &mut Exchange<'_>, route: &Route) -> Result<(), Stop> {
    let Some(wanted) = route.content.request_encoding else { return Ok(()) };
    let coding = decode_body::coding(&exchange.head.headers);
    let refused = |ctx: &RequestContext| -> Stop {
        reply::problem(ctx, Reason::UnsupportedEncoding, "the request body is compressed in a way that is not taken")
            .into()
    };
    let Some(coding) = coding.map_err(|_| refused(&exchange.ctx))? else { return Ok(()) };
    if wanted == RequestEncoding::Deny {
        return Err(refused(&exchange.ctx));
    }
    let decoder = decode_body::Decoder::new(coding, route.body_limit).map_err(|error| {
        tracing::error!(%error, "a request body cannot be decoded");
        refused(&exchange.ctx)
    })?;
    exchange.body.decode(decoder);
    exchange.head.headers.remove(header::CONTENT_ENCODING);
    exchange.head.headers.remove(header::CONTENT_LENGTH);
    Ok(())
}

/// Applies the route's rules to the fields that the server gets.
pub fn change_request(exchange: &mut Exchange<'_>, route: &Route) {
    if !route.content.request.is_empty() {
        let changes = route.content.request.changes(&facts(exchange, None));
        changes.apply(&mut exchange.head.headers);
    }
}

/// Applies the route's rules to the fields of an answer.
pub fn change_answer(exchange: &Exchange<'_>, head: &mut AnswerHead) {
    if let Some(route) = &exchange.ctx.route
        && !route.content.response.is_empty()
    {
        let changes = route.content.response.changes(&facts(exchange, Some(head.status.as_u16())));
        changes.apply(&mut head.headers);
    }
}

/// The page that stands for an error, if the route has one.
pub fn page(ctx: &RequestContext, status: u16, of_server: bool) -> Option<(HeaderValue, Bytes)> {
    let page = ctx.route.as_ref()?.content.error_pages.page(status, of_server)?;
    Some((page.content_type.clone(), page.body.clone()))
}

/// Decides whether an answer is compressed on its way; the length of what leaves.
pub fn compress(exchange: &mut Exchange<'_>, head: &mut AnswerHead, length: Length) -> Length {
    let Some(route) = exchange.ctx.route.as_ref().filter(|route| !route.content.compress.is_empty()) else {
        return length;
    };
    let known = match length {
        Length::None => return length,
        Length::Known(bytes) => Some(bytes),
        Length::Unknown => None,
    };
    if let Some(quotas) = &mut exchange.ctx.quotas {
        quotas.restore(&mut exchange.head.headers);
    }
    let (codings, request) = (&route.content.compress, &exchange.head);
    let verdict =
        compress::decide(codings, &request.method, &request.headers, head.status.as_u16(), &head.headers, known);
    let encoder = verdict.coding.and_then(|coding| compress::Encoder::new(coding).ok());
    let verdict = compress::Verdict { coding: verdict.coding.filter(|_| encoder.is_some()), ..verdict };
    compress::announce(&mut head.headers, verdict);
    exchange.ctx.encoder = encoder;
    if exchange.ctx.encoder.is_some() { Length::Unknown } else { length }
}

/// Answers a request whose route has no upstream.
///
/// # Errors
/// When the client has not got a whole answer.
pub async fn answer(exchange: &mut Exchange<'_>, route: &Arc<Route>) -> Result<(), Stop> {
    let own = match &route.target {
        // Whoever has an upstream does not come here.
        Target::Upstream(_) => None,
        Target::Respond(respond) => Some(respond.answer(&facts(exchange, None))),
        Target::Redirect(redirect) => redirect.answer(&facts(exchange, None)),
        Target::Files(files) => return serve(exchange, files).await,
    };
    match own {
        Some(answer) => Err(own_answer(answer).into()),
        None => {
            let message = "the request makes no valid address to be redirected to";
            Err(reply::problem(&exchange.ctx, Reason::BadRequest, message).into())
        }
    }
}

fn own_answer(answer: Answer) -> Reply {
    let fields = answer.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Reply { status: answer.status, reason: Reason::Ok, content_type: None, body: answer.body, fields }
}

/// Sends a file.
async fn serve(exchange: &mut Exchange<'_>, files: &Files) -> Result<(), Stop> {
    let (files, method) = (files.clone(), exchange.head.method.clone());
    let (uri, target) = (exchange.head.uri.clone(), exchange.ctx.target.clone());
    let headers = exchange.head.headers.clone();
    let found = tokio::task::spawn_blocking(move || {
        let path = target.as_ref().map_or(uri.path(), |target| target.path());
        let query = uri.query();
        files::answer(&files, &FileRequest { method: &method, path, shown_path: uri.path(), query, headers: &headers })
    });
    let Ok(FileAnswer { reason, status, headers, body }) = found.await else {
        return Err(reply::problem(&exchange.ctx, Reason::Internal, "the file cannot be read").into());
    };
    if reason != Reason::Ok {
        let mut answer = reply::problem(&exchange.ctx, reason, "not found");
        answer.fields = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        return Err(answer.into());
    }
    let mut head = AnswerHead::new(StatusCode::from_u16(status).unwrap_or(StatusCode::OK));
    head.headers = headers;
    if !head.headers.contains_key(header::CONTENT_LENGTH) && head.status != StatusCode::NOT_MODIFIED {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let length = body.as_ref().map_or(Length::None, |body| Length::Known(body.left()));
    let length = compress(exchange, &mut head, length);
    response::complete(exchange, &mut head);
    // Whoever still sends what nobody will read cannot be asked again on this connection.
    let last = exchange.ctx.connection.is_ending() || !exchange.client.body_is_done();
    exchange.client.head(head, length, last);
    send(exchange, body).await.map_err(Stop::Broken)
}

/// Sends a file piece by piece, each when the client has taken the one before.
async fn send(exchange: &mut Exchange<'_>, mut body: Option<FileBody>) -> Result<(), Reason> {
    while let Some(mut file) = body.take() {
        let read = tokio::task::spawn_blocking(move || file.read().map(|piece| (piece, file))).await;
        // A file that became shorter than its head said: the client must see that the answer is not whole.
        let (piece, file) = read.map_err(|_| Reason::Internal)?.map_err(|_| Reason::Internal)?;
        if let Some(piece) = piece {
            exchange.ctx.body_out += piece.len() as u64;
            let piece = encode(&mut exchange.ctx, piece).map_err(|_| Reason::Internal)?;
            exchange.client.push(piece).map_err(|_| Reason::Internal)?;
            if file.left() == 0 {
                // Before the last byte goes out: whoever has it may ask again at once.
                exchange.ctx.admitted.leave();
            }
            reply::flush(exchange).await?;
            body = Some(file);
        }
    }
    let rest = end(&mut exchange.ctx).map_err(|_| Reason::Internal)?;
    let ended = exchange.client.push(rest).and_then(|()| exchange.client.finish(None));
    ended.map_err(|_| Reason::Internal)?;
    exchange.ctx.admitted.leave();
    reply::flush(exchange).await
}

/// A piece of an answer as it leaves.
///
/// # Errors
/// When the compressor fails.
pub fn encode(ctx: &mut RequestContext, piece: Bytes) -> std::io::Result<Bytes> {
    match &mut ctx.encoder {
        Some(encoder) => encoder.push(&piece),
        None => Ok(piece),
    }
}

/// What a compressor holds back so far, so that the client gets it now.
///
/// # Errors
/// When the compressor fails.
pub fn flush(ctx: &mut RequestContext) -> std::io::Result<Bytes> {
    ctx.encoder.as_mut().map_or(Ok(Bytes::new()), compress::Encoder::flush)
}

/// The end of what a compressor makes.
///
/// # Errors
/// When the compressor fails.
pub fn end(ctx: &mut RequestContext) -> std::io::Result<Bytes> {
    ctx.encoder.take().map_or(Ok(Bytes::new()), compress::Encoder::finish)
}
