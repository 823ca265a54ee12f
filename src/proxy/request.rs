//! A request before any server is chosen: its id, its route, its model, what it may ask for.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, Version, header};

use super::body_scan::{self, BodyNeed};
use super::connection::reason_of;
use super::context::{Exchange, Reply, RequestContext, Stop};
use super::identity::unique;
use super::{admission, again, content, head, headers, reply, trace};
use crate::config::types::Kind;
use crate::fleet::inventory::List;
use crate::fleet::snapshot::{Route, Upstream};
use crate::ollama::dialect::{self, Dialect};
use crate::ollama::endpoint::{Endpoint, Management, ModelSource, classify};
use crate::ollama::name;
use crate::policy::cors::preflight_method;
use crate::policy::failure::Reason;
use crate::routing::{Head, HeadMatch, Scheme, path};

/// The field by which a request is known to client, server and log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// Finds out where a request goes.
///
/// # Errors
/// When it goes no further.
pub async fn prepare(exchange: &mut Exchange<'_>) -> Result<Arc<Route>, Stop> {
    begin(exchange);
    if exchange.head.version == Version::HTTP_2 {
        check_head(exchange)?;
    }
    admission::to_listener(exchange)?;
    let path = match path::safe(exchange.head.uri.path()) {
        Ok(Cow::Borrowed(_)) => None,
        Ok(Cow::Owned(path)) => Some(path),
        Err(refusal) => return Err(reply::problem(&exchange.ctx, Reason::BadRequest, &refusal.to_string()).into()),
    };
    let preflight = preflight_method(&exchange.head.method, &exchange.head.headers);
    let snapshot = Arc::clone(&exchange.ctx.snapshot);
    let found = match snapshot.table.lookup_head(&match_head(exchange, path.as_deref(), preflight.as_ref())) {
        // A preflight has no body, and what it is about is asked again in the request itself.
        HeadMatch::NeedsModel { fallback } if preflight.is_some() => fallback,
        HeadMatch::Route(number) => Some(number),
        HeadMatch::None => None,
        HeadMatch::NeedsModel { fallback } => {
            // Until the route is known, what the most generous one allows holds.
            let need = BodyNeed {
                source: model_source(exchange),
                whole: snapshot.any_holds && (snapshot.any_replays_post || exchange.ctx.idempotent),
                limit: snapshot.largest_body,
            };
            let model = body_scan::find_model(exchange, need).await?;
            set_model(&mut exchange.ctx, model);
            snapshot
                .table
                .lookup(&match_head(exchange, path.as_deref(), None), exchange.ctx.model.as_deref())
                .or(fallback)
        }
    };
    let Some(route) = found.and_then(|number| snapshot.routes.get(number)) else {
        return Err(reply::problem(&exchange.ctx, Reason::NoRoute, "no route matches this request").into());
    };
    take_route(&mut exchange.ctx, route);
    admission::to_route(exchange, route)?;
    limit_length(exchange, route)?;
    content::prepare(exchange, route)?;
    match route.upstream().filter(|upstream| upstream.has_models()) {
        Some(upstream) => {
            canonical_path(exchange)?;
            let strict = exchange.body.be_strict(
                &route.caps,
                exchange.ctx.key.clone(),
                route.cloud || upstream.kind != Kind::Ollama,
            );
            strict.map_err(|fault| body_scan::faulty(&exchange.ctx, fault))?;
            ask_for_model(exchange, route, upstream).await?;
        }
        None => exchange.body.be_lenient(),
    }
    admission::to_model(exchange, route).await?;
    if route.holds && (route.retry.replay_post || exchange.ctx.idempotent) {
        let need = BodyNeed { source: ModelSource::None, whole: true, limit: route.body_limit };
        body_scan::find_model(exchange, need).await?;
    }
    if route.upstream().is_some() {
        body_scan::first_chunk(exchange).await?;
    }
    let may_change = |upstream: &&Arc<Upstream>| upstream.kind == Kind::Ollama && !exchange.ctx.inference;
    if let Some(upstream) = route.upstream().filter(may_change) {
        begin_change(exchange, upstream);
    }
    headers::complete(&mut exchange.head, &exchange.ctx);
    content::change_request(exchange, route);
    Ok(Arc::clone(route))
}

/// The dialect and the id.
fn begin(exchange: &mut Exchange<'_>) {
    let ctx = &mut exchange.ctx;
    ctx.dialect = Dialect::of_path(exchange.head.uri.path());
    // An HTTP/2 request names its host in the authority of the URI.
    ctx.host = exchange.head.headers.get(header::HOST).cloned().or_else(|| headers::authority(&exchange.head.uri));
    again::begin(ctx, &exchange.head.method, &exchange.head.headers);
    let given =
        exchange.head.headers.get(&REQUEST_ID).filter(|id| {
            !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic)
        });
    ctx.request_id = Some(given.cloned().unwrap_or_else(new_request_id));
    trace::begin(ctx, &mut exchange.head.headers);
}

/// Sixteen letters that no other request of this process has, and hardly one of another process.
fn new_request_id() -> HeaderValue {
    let number = unique();
    let mut text = [0; 16];
    for (place, letter) in text.iter_mut().enumerate() {
        *letter = b"0123456789abcdef"[(number >> (60 - 4 * place) & 15) as usize];
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

fn match_head<'e>(exchange: &'e Exchange<'_>, path: Option<&'e str>, preflight: Option<&'e Method>) -> Head<'e> {
    let request = &exchange.head;
    Head {
        scheme: Scheme::of(exchange.ctx.client_tls),
        // A preflight belongs to the route of the request that it asks for.
        method: preflight.unwrap_or(&request.method),
        host: exchange.ctx.host_name(),
        path: path.unwrap_or(request.uri.path()),
        headers: &request.headers,
    }
}

/// Where a route with a condition on the model finds it, whatever the upstream is.
fn model_source(exchange: &Exchange<'_>) -> ModelSource {
    match classify(&exchange.head.method, exchange.head.uri.path()).want_model() {
        ModelSource::None => ModelSource::JsonNameFallback,
        known => known,
    }
}

fn set_model(ctx: &mut RequestContext, written: Option<String>) {
    ctx.model = written.as_deref().and_then(name::parse_canonical).map(Cow::into_owned);
    ctx.written = written;
}

fn take_route(ctx: &mut RequestContext, route: &Arc<Route>) {
    ctx.route = Some(Arc::clone(route));
    ctx.upstream = route.upstream().cloned();
    route.metrics.in_flight.inc();
    ctx.counted = true;
}

/// Over HTTP/2 nobody has looked at the head yet.
fn check_head(exchange: &Exchange<'_>) -> Result<(), Stop> {
    let (request, listener) = (&exchange.head, &exchange.listener);
    let authority = request.uri.authority().map(Authority::as_str);
    if let Err(violation) = head::check_parts(&request.method, authority, &request.headers) {
        return Err(reply::problem(&exchange.ctx, reason_of(&violation), violation.what).into());
    }
    let target = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > listener.target_bytes {
        return Err(reply::problem(&exchange.ctx, Reason::TargetTooLong, "request target too long").into());
    }
    // As many bytes as the same fields have in HTTP/1.
    let bytes: usize = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if request.headers.len() > listener.header_fields || target + bytes > listener.header_bytes {
        return Err(reply::problem(&exchange.ctx, Reason::HeaderTooLarge, "request head too large").into());
    }
    Ok(())
}

fn limit_length(exchange: &Exchange<'_>, route: &Route) -> Result<(), Stop> {
    let length = exchange.head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > route.body_limit) {
        return Err(too_large(&exchange.ctx).into());
    }
    Ok(())
}

/// The answer to a body that is too large.
pub fn too_large(ctx: &RequestContext) -> Reply {
    reply::problem(ctx, Reason::BodyTooLarge, "request body too large")
}

/// For an upstream that is chosen by model: answers what the fleet answers together, refuses what is
/// not passed on, and finds the model of the rest.
async fn ask_for_model(exchange: &mut Exchange<'_>, route: &Route, upstream: &Upstream) -> Result<(), Stop> {
    let path = exchange.path().to_owned();
    let endpoint = classify(&exchange.head.method, &path);
    let index = upstream.models.load_full();
    if let Endpoint::Management(verb) = &endpoint
        && !route.allows_endpoint(&endpoint)
    {
        let message = format!("{} is not passed on to the servers", verb.label());
        return Err(reply::problem(&exchange.ctx, Reason::EndpointDenied, &message).into());
    }
    admission::to_endpoint(exchange, route, &endpoint)?;
    let ctx = &mut exchange.ctx;
    ctx.takes_slot = matches!(endpoint, Endpoint::Inference(_));
    match &endpoint {
        Endpoint::Tags if upstream.kind == Kind::Ollama => {
            return Err(admission::list(ctx, &index, List::Tags).into());
        }
        Endpoint::Ps if upstream.kind == Kind::Ollama => return Err(admission::list(ctx, &index, List::Ps).into()),
        Endpoint::OpenaiModels => return Err(admission::list(ctx, &index, List::Openai).into()),
        Endpoint::Version if upstream.kind == Kind::Ollama => {
            if let Some(version) = &index.version {
                let body = serde_json::json!({ "version": version }).to_string();
                return Err(reply::json(ctx, body.into()).into());
            }
            return Ok(());
        }
        Endpoint::Management(_) if upstream.kind == Kind::Ollama => {
            return manage(exchange, &endpoint, upstream, route).await;
        }
        Endpoint::WrongMethod(allow) => return Err(reply::wrong_method(allow).into()),
        Endpoint::Unknown if upstream.kind == Kind::Ollama => return Err(reply::not_found().into()),
        Endpoint::Unknown if !exchange.head.method.is_safe() => return admission::to_unknown(ctx, route),
        Endpoint::Root
        | Endpoint::Status
        | Endpoint::Version
        | Endpoint::Tags
        | Endpoint::Ps
        | Endpoint::Management(_)
        | Endpoint::Unknown => return Ok(()),
        Endpoint::OpenaiModel(name) => {
            set_model(ctx, Some(name.to_string()));
            admission::key_for_model(ctx)?;
            // Such servers know the list alone.
            let row = ctx.model.as_deref().filter(|_| upstream.kind == Kind::Openai);
            if let Some(row) = row.and_then(|model| upstream.openai_row(model)) {
                return Err(reply::json(ctx, row).into());
            }
        }
        Endpoint::Inference(_) | Endpoint::Show => {
            ctx.inference = matches!(endpoint, Endpoint::Inference(_));
            ctx.again.only_reads |= endpoint == Endpoint::Show;
            if ctx.model.is_none() {
                refuse_unreadable(exchange, &endpoint)?;
                let need = BodyNeed {
                    source: endpoint.want_model(),
                    whole: route.holds && (route.retry.replay_post || exchange.ctx.idempotent),
                    limit: route.body_limit,
                };
                let model = body_scan::find_model(exchange, need).await?;
                set_model(&mut exchange.ctx, model);
            }
        }
    }
    let ctx = &exchange.ctx;
    let Some(model) = ctx.model.as_deref() else {
        return Err(reply::problem(ctx, Reason::ModelRequired, "model is required").into());
    };
    if !route.allows_model(model, index.holders(model).is_some()) {
        let message = "models that run elsewhere are not allowed here";
        return Err(reply::problem(ctx, Reason::Forbidden, message).into());
    }
    if index.holders(model).is_none() && index.unknown.is_empty() {
        let (status, body) = dialect::model_not_found(&endpoint, ctx.written.as_deref().unwrap_or(model));
        return Err(reply::with_body(ctx, Reason::ModelNotFound, status, body).into());
    }
    Ok(())
}

/// Servers with models get the path that their own router will see, and no other form of it.
fn canonical_path(exchange: &mut Exchange<'_>) -> Result<(), Stop> {
    let strict = match path::strict(exchange.path()) {
        Ok(Cow::Borrowed(_)) => return Ok(()),
        Ok(Cow::Owned(path)) => path,
        Err(refusal) => return Err(reply::problem(&exchange.ctx, Reason::BadRequest, &refusal.to_string()).into()),
    };
    let target = match exchange.head.uri.query() {
        Some(query) => format!("{strict}?{query}"),
        None => strict,
    };
    let malformed = |_| reply::problem(&exchange.ctx, Reason::BadRequest, "malformed path");
    exchange.ctx.target = Some(PathAndQuery::try_from(target).map_err(malformed)?);
    Ok(())
}

/// A call that changes a server, which route and key allow. It goes to a server that has the model; where nobody has it
/// (`pull`, `create`) or none is named (`blobs`), to the first that is up, so that a blob is where it will be used.
async fn manage(
    exchange: &mut Exchange<'_>,
    endpoint: &Endpoint<'_>,
    upstream: &Upstream,
    route: &Route,
) -> Result<(), Stop> {
    if endpoint.want_model() != ModelSource::None && exchange.ctx.model.is_none() {
        let need = BodyNeed { source: endpoint.want_model(), whole: false, limit: route.body_limit };
        let model = body_scan::find_model(exchange, need).await?;
        set_model(&mut exchange.ctx, model);
    }
    let index = upstream.models.load();
    let ctx = &mut exchange.ctx;
    again::never(ctx);
    ctx.first_server = ctx.model.as_deref().is_none_or(|model| index.holders(model).is_none());
    Ok(())
}

/// The request goes to a server: if it changes a model, what is kept of that one is of the past.
fn begin_change(exchange: &mut Exchange<'_>, upstream: &Upstream) {
    let digests = &upstream.state.digests;
    exchange.ctx.changing = match classify(&exchange.head.method, exchange.path()) {
        Endpoint::Management(Management::Pull | Management::Delete) => {
            Some(digests.change(exchange.ctx.model.as_deref()))
        }
        // They name another model behind the first one.
        Endpoint::Management(Management::Create | Management::Copy) => Some(digests.change(None)),
        _ => None,
    };
}

/// Refuses a request whose model cannot be told before it is sent.
fn refuse_unreadable(exchange: &Exchange<'_>, endpoint: &Endpoint<'_>) -> Result<(), Stop> {
    let (request, ctx) = (&exchange.head, &exchange.ctx);
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
