//! A request before any server is chosen: its id, its route, its model, what it may ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Version, header};
use pingora_core::protocols::http::authority::validate_request_authority;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::body_scan::{self, BodyNeed};
use super::client_stream::Connection;
use super::context::{Reply, RequestContext};
use super::headers;
use super::replay;
use super::reply;
use super::service::Service;
use crate::clock;
use crate::config::types::Kind;
use crate::fleet::snapshot::{Route, Upstream};
use crate::ollama::dialect::{self, Dialect};
use crate::ollama::endpoint::{Endpoint, ModelSource, classify};
use crate::ollama::name;
use crate::policy::failure::Reason;
use crate::routing::{Head, HeadMatch};

/// The field by which a request is known to client, server and log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// Finds out where a request goes; true when it has been answered already.
pub async fn receive(service: &Service, session: &mut Session, ctx: &mut RequestContext) -> Result<bool> {
    match prepare(service, session, ctx).await {
        Ok(()) => Ok(false),
        Err(Stop::Answer(answer)) => {
            ctx.reason = Some(answer.reason);
            reply::send(session, ctx, answer).await?;
            Ok(true)
        }
        Err(Stop::Broken(error)) => Err(error),
    }
}

/// Why a request goes no further.
pub enum Stop {
    /// It is answered here.
    Answer(Reply),
    /// The client is gone or its connection is unusable.
    Broken(Box<Error>),
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        Self::Answer(reply)
    }
}

async fn prepare(service: &Service, session: &mut Session, ctx: &mut RequestContext) -> Result<(), Stop> {
    begin(session, ctx);
    let request = session.req_header();
    ctx.dialect = Dialect::of_path(request.uri.path());
    if request.version == Version::HTTP_2 {
        if validate_request_authority(request).is_err() {
            return Err(reply::problem(ctx, Reason::BadRequest, "ambiguous authority").into());
        }
        limit_head(request, ctx)?;
    }
    let snapshot = Arc::clone(&ctx.snapshot);
    let found = match snapshot.table.lookup_head(&head(session)) {
        HeadMatch::Route(number) => Some(number),
        HeadMatch::None => None,
        HeadMatch::NeedsModel { fallback } => {
            // Until the route is known, what the most generous one allows holds.
            let need = BodyNeed {
                source: model_source(session),
                whole: snapshot.any_holds && (snapshot.any_replays_post || ctx.idempotent),
                limit: snapshot.largest_body,
            };
            let model = body_scan::find_model(service, session, ctx, need).await?;
            set_model(ctx, model);
            snapshot.table.lookup(&head(session), ctx.model.as_deref()).or(fallback)
        }
    };
    let Some(route) = found.and_then(|number| snapshot.routes.get(number)) else {
        return Err(reply::problem(ctx, Reason::NoRoute, "no route matches this request").into());
    };
    take_route(ctx, route);
    limit_length(session, ctx, route)?;
    if let Some(upstream) = route.upstream().filter(|upstream| upstream.has_models()) {
        ask_for_model(service, session, ctx, route, upstream).await?;
    }
    if route.holds && (route.retry.replay_post || ctx.idempotent) {
        let need = BodyNeed { source: ModelSource::None, whole: true, limit: route.body_limit };
        body_scan::find_model(service, session, ctx, need).await?;
    }
    headers::complete(session, ctx).map_err(Stop::Broken)?;
    if session.req_header().version == Version::HTTP_2 && ctx.home.is_none() {
        let limits = body_scan::http2_limits(session, ctx);
        ctx.home = Some(replay::install(session, None, limits));
    }
    Ok(())
}

/// The facts of the connection, the time limits of the client's side, and the id.
fn begin(session: &mut Session, ctx: &mut RequestContext) {
    let connection = session
        .digest()
        .and_then(|digest| digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Arc<Connection>>())
        .cloned();
    if let Some(connection) = &connection {
        if session.req_header().version != Version::HTTP_2 {
            ctx.deadline = Arc::clone(&connection.deadline);
            connection.watch.begin();
        }
        if let Some(listener) = ctx.snapshot.listeners.get(connection.listener) {
            session.set_write_timeout(Some(listener.write_timeout));
            if listener.keepalive.is_zero() {
                session.set_keepalive(None);
            }
        }
    }
    ctx.deadline.begin(None);
    // Our own stream keeps the time limits of reads.
    session.set_read_timeout(None);
    ctx.connection = connection;
    ctx.idempotent = session.req_header().method.is_idempotent();
    let given = session
        .get_header(&REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic));
    ctx.request_id = Some(given.cloned().unwrap_or_else(new_request_id));
}

/// Sixteen letters that no other request of this process has, and hardly one of another process.
fn new_request_id() -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut number = NEXT.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        let mut bytes = [0; 8];
        // Without randomness ids begin at zero: unique in this process still.
        let _ = getrandom::fill(&mut bytes);
        number = u64::from_le_bytes(bytes) >> 1;
        NEXT.fetch_add(number, Ordering::Relaxed);
    }
    let scrambled = crate::policy::balance::scramble(number);
    let mut text = [0; 16];
    for (place, letter) in text.iter_mut().enumerate() {
        *letter = b"0123456789abcdef"[(scrambled >> (60 - 4 * place) & 15) as usize];
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

fn head(session: &Session) -> Head<'_> {
    let request = session.req_header();
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    Head {
        method: &request.method,
        host: host.or_else(|| request.uri.authority().map(http::uri::Authority::as_str)),
        path: request.uri.path(),
        headers: &request.headers,
    }
}

/// Where a route with a condition on the model finds it, whatever the upstream is.
fn model_source(session: &Session) -> ModelSource {
    let request = session.req_header();
    match classify(&request.method, request.uri.path()).want_model() {
        ModelSource::None => ModelSource::JsonNameFallback,
        known => known,
    }
}

fn set_model(ctx: &mut RequestContext, written: Option<String>) {
    ctx.model = written.as_deref().and_then(name::parse_canonical).map(std::borrow::Cow::into_owned);
    ctx.written = written;
}

fn take_route(ctx: &mut RequestContext, route: &Arc<Route>) {
    ctx.route = Some(Arc::clone(route));
    route.metrics.in_flight.inc();
    ctx.counted = true;
    ctx.deadline.begin(route.timeouts.request.map(|limit| ctx.started + limit));
}

/// Over HTTP/2 nobody has counted the head yet.
fn limit_head(request: &RequestHeader, ctx: &RequestContext) -> Result<(), Stop> {
    let listener = ctx.connection.as_ref().and_then(|connection| ctx.snapshot.listeners.get(connection.listener));
    let Some(listener) = listener else { return Ok(()) };
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > listener.target_bytes {
        return Err(reply::problem(ctx, Reason::TargetTooLong, "request target too long").into());
    }
    // As many bytes as the same fields have in HTTP/1.
    let bytes: usize = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if request.headers.len() > listener.header_fields || target + bytes > listener.header_bytes {
        return Err(reply::problem(ctx, Reason::HeaderTooLarge, "request head too large").into());
    }
    Ok(())
}

fn limit_length(session: &Session, ctx: &RequestContext, route: &Route) -> Result<(), Stop> {
    let length = session.get_header(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > route.body_limit) {
        return Err(too_large(ctx).into());
    }
    Ok(())
}

/// The answer to a body that is too large.
pub fn too_large(ctx: &RequestContext) -> Reply {
    reply::problem(ctx, Reason::BodyTooLarge, "request body too large")
}

/// For an upstream that is chosen by model: answers what the fleet answers together, refuses what is
/// not passed on, and finds the model of the rest.
async fn ask_for_model(
    service: &Service,
    session: &mut Session,
    ctx: &mut RequestContext,
    route: &Route,
    upstream: &Upstream,
) -> Result<(), Stop> {
    let request = session.req_header();
    let (method, path) = (request.method.clone(), request.uri.path().to_owned());
    let endpoint = classify(&method, &path);
    let index = upstream.models.load_full();
    match &endpoint {
        Endpoint::Tags if upstream.kind == Kind::Ollama => {
            return Err(reply::json(ctx, index.tags.clone()).into());
        }
        Endpoint::Ps if upstream.kind == Kind::Ollama => return Err(reply::json(ctx, index.ps.clone()).into()),
        Endpoint::OpenaiModels => return Err(reply::json(ctx, index.openai.clone()).into()),
        Endpoint::Version if upstream.kind == Kind::Ollama => {
            if let Some(version) = &index.version {
                let body = serde_json::json!({ "version": version }).to_string();
                return Err(reply::json(ctx, body.into()).into());
            }
            return Ok(());
        }
        Endpoint::Management(verb) if upstream.kind == Kind::Ollama => {
            let message = format!("{} is not passed on to the servers", verb.label());
            return Err(reply::problem(ctx, Reason::EndpointDenied, &message).into());
        }
        Endpoint::WrongMethod(allow) => return Err(reply::wrong_method(ctx, allow).into()),
        Endpoint::Unknown if upstream.kind == Kind::Ollama => return Err(reply::not_found(ctx).into()),
        Endpoint::Root
        | Endpoint::Status
        | Endpoint::Version
        | Endpoint::Tags
        | Endpoint::Ps
        | Endpoint::Management(_)
        | Endpoint::Unknown => return Ok(()),
        Endpoint::OpenaiModel(name) => {
            set_model(ctx, Some(name.to_string()));
            // Such servers know the list alone.
            let row = ctx.model.as_deref().filter(|_| upstream.kind == Kind::Openai);
            if let Some(row) = row.and_then(|model| upstream.openai_row(model)) {
                return Err(reply::json(ctx, row).into());
            }
        }
        Endpoint::Inference(_) | Endpoint::Show => {
            if ctx.model.is_none() {
                refuse_unreadable(session, ctx, &endpoint)?;
                let need = BodyNeed {
                    source: endpoint.want_model(),
                    whole: route.holds && (route.retry.replay_post || ctx.idempotent),
                    limit: route.body_limit,
                };
                let model = body_scan::find_model(service, session, ctx, need).await?;
                set_model(ctx, model);
            }
        }
    }
    let Some(model) = ctx.model.as_deref() else {
        return Err(reply::problem(ctx, Reason::ModelRequired, "model is required").into());
    };
    if index.holders(model).is_none() && index.unknown.is_empty() {
        let (status, body) = dialect::model_not_found(&endpoint, ctx.written.as_deref().unwrap_or(model));
        return Err(reply::with_body(ctx, Reason::ModelNotFound, status, body).into());
    }
    Ok(())
}

/// Refuses a request whose model cannot be told before it is sent.
fn refuse_unreadable(session: &Session, ctx: &RequestContext, endpoint: &Endpoint<'_>) -> Result<(), Stop> {
    let request = session.req_header();
    if request.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        let message = "the request body is compressed, so its model cannot be read";
        return Err(reply::problem(ctx, Reason::UnsupportedEncoding, message).into());
    }
    // For a form, Go's FormValue reads the query too, and prefers it.
    if endpoint.want_model() == ModelSource::Multipart && request.uri.query().is_some() {
        return Err(reply::problem(ctx, Reason::BadRequest, "this path takes no query").into());
    }
    Ok(())
}

/// A piece of the request body on its way to the server.
pub fn body_passes(body: &mut Option<Bytes>, end_of_stream: bool, ctx: &mut RequestContext) -> Result<()> {
    if let Some(bytes) = body {
        ctx.body_in += bytes.len() as u64;
    }
    if let Some(route) = ctx.route.as_ref() {
        if ctx.body_in > route.body_limit {
            ctx.reason = Some(Reason::BodyTooLarge);
            return Error::e_explain(ErrorType::HTTPStatus(413), "request body too large");
        }
        // The server's time for an answer begins when it has everything.
        let limit = if end_of_stream { route.timeouts.first_byte } else { route.timeouts.write };
        ctx.deadline.phase(clock::now() + limit);
        ctx.sent = end_of_stream;
    }
    // Pingora writes the end of a chunked body twice when HTTP/2 ends it with an empty frame.
    if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
    Ok(())
}
