//! Whether a request may be served at all: who sent it, to which host, from which page, how often, with which key.
//!
//! The order is part of the rules. Addresses come first, because everything else names one. A limit that counts by
//! address is asked before a key is looked at, so that guessing keys is limited too; a preflight is answered before
//! any key, because browsers send none with it. What depends on the model comes last, when that is known.

use std::borrow::Cow;

use http::{HeaderValue, header};

use super::context::{Exchange, Reply, RequestContext, Stop};
use super::{headers, quota, reply};
use crate::clock;
use crate::fleet::inventory::{List, ModelIndex};
use crate::fleet::keys::Key;
use crate::fleet::limits::{Facts, Refused};
use crate::fleet::snapshot::Route;
use crate::ollama::endpoint::Endpoint;
use crate::policy::auth::{self, CHALLENGE, Refusal, Scope};
use crate::policy::client_address::{CLAIMS, resolve};
use crate::policy::cors::{self, Asked};
use crate::policy::failure::Reason;
use crate::routing::host::{HostName, parse};

/// What holds for every request of a listener.
///
/// # Errors
/// When the request goes no further.
pub fn to_listener(exchange: &mut Exchange<'_>) -> Result<(), Stop> {
    let (ctx, listener) = (&mut exchange.ctx, &exchange.listener);
    let connection = &ctx.connection;
    match resolve(connection.peer, connection.tls, &listener.trusted_proxies, &exchange.head.headers) {
        Ok(client) if client.proxies.is_empty() => {
            ctx.client_tls = client.tls;
            headers::remove_all(&mut exchange.head.headers, &CLAIMS);
        }
        Ok(client) => {
            ctx.client_tls = client.tls;
            ctx.client = client.ip;
            ctx.client_ip = text(&client.ip.to_string());
            ctx.forwarded_for = Some(text(&client.forwarded_for()));
        }
        Err(_) => {
            let message = "the field Forwarded of a trusted proxy is broken";
            return Err(reply::problem(ctx, Reason::BadRequest, message).into());
        }
    }
    // HTTP/1.0 has requests without a host; they pass where any host does.
    let own_port = if connection.tls { 443 } else { 80 };
    let host = match ctx.host.as_ref().map(|host| parse(host.to_str().unwrap_or_default(), own_port)).transpose() {
        Ok(host) => host.unwrap_or(HostName { name: Cow::Borrowed(""), port: None }),
        Err(refusal) => return Err(reply::problem(ctx, Reason::BadRequest, &refusal.to_string()).into()),
    };
    if !listener.hosts.allows(&host) {
        let message = "this host name is not served here";
        return Err(reply::problem(ctx, Reason::HostDenied, message).into());
    }
    ctx.host_name = host.keep();
    Ok(())
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// What holds for every request of a route.
///
/// # Errors
/// When the request goes no further.
pub fn to_route(exchange: &mut Exchange<'_>, route: &Route) -> Result<(), Stop> {
    if !route.access.permits(exchange.ctx.client) {
        let message = "this address may not use this route";
        return Err(reply::problem(&exchange.ctx, Reason::AddressDenied, message).into());
    }
    of_origin(exchange, route)?;
    let snapshot = std::sync::Arc::clone(&exchange.ctx.snapshot);
    let find = |key: &[u8]| snapshot.keys.as_ref()?.find(key, clock::unix_time().as_secs());
    let verdict = auth::decide(route.auth, &exchange.head.headers, exchange.head.uri.query(), find);
    if let auth::Verdict::Known(key, consumed) = &verdict {
        for name in consumed.names() {
            exchange.head.headers.remove(name);
        }
        exchange.ctx.key = Some(std::sync::Arc::clone(key));
    }
    let admitted = route.limits.before_body(&facts(exchange, None));
    exchange.ctx.admitted = admitted.map_err(|refused| refusal(&exchange.ctx, &refused))?;
    match verdict {
        auth::Verdict::Refused(why) => Err(unauthorized(&exchange.ctx, why).into()),
        auth::Verdict::Anonymous | auth::Verdict::Known(..) => Ok(()),
    }
}

fn has_models(route: &Route) -> bool {
    route.upstream().is_some_and(|upstream| upstream.has_models())
}

/// Web pages of other origins: preflights are answered here, and what CORS does not allow is refused.
fn of_origin(exchange: &mut Exchange<'_>, route: &Route) -> Result<(), Stop> {
    let fields = &exchange.head.headers;
    let asked = Asked {
        method: &exchange.head.method,
        host: exchange.ctx.host.as_ref().and_then(|host| host.to_str().ok()),
        fields,
    };
    let guarded = has_models(route);
    let verdict = cors::judge(route.cors.as_ref(), guarded, &asked);
    let judged = route.cors.is_some() || cors::is_own_page(&asked);
    if let Some(cors) = &route.cors {
        exchange.ctx.cors = Some(cors.fields(fields));
    }
    match verdict {
        cors::Verdict::Pass => {
            // Ollama refuses origins that it does not know, ours too, since it is asked by another name. These have been
            // judged already.
            if judged && guarded {
                exchange.head.headers.remove(header::ORIGIN);
            }
            Ok(())
        }
        cors::Verdict::Preflight(fields) => {
            exchange.ctx.cors = None;
            Err(reply::empty(204, fields).into())
        }
        cors::Verdict::Denied => {
            let message = "pages of this origin may not use this route; add it to `cors.origins` if they should";
            Err(reply::problem(&exchange.ctx, Reason::OriginDenied, message).into())
        }
    }
}

/// What limits and quotas look at.
pub fn facts<'e>(exchange: &'e Exchange<'_>, model: Option<&'e str>) -> Facts<'e> {
    Facts {
        client_ip: exchange.ctx.client,
        key_id: exchange.ctx.key.as_deref().map(|key| key.id.as_str()),
        model,
        host: exchange.ctx.host_name(),
        headers: &exchange.head.headers,
        now: clock::now(),
    }
}

fn unauthorized(ctx: &RequestContext, why: Refusal) -> Reply {
    let mut answer = reply::problem(ctx, why.reason(), why.message());
    if answer.status == 401 {
        answer.fields.push((header::WWW_AUTHENTICATE, CHALLENGE));
    }
    answer
}

fn refusal(ctx: &RequestContext, refused: &Refused) -> Reply {
    let message = match refused.reason {
        Reason::ConcurrencyLimited => "too many requests at a time, please try again",
        _ => "too many requests, please try again later",
    };
    let mut answer = reply::problem(ctx, refused.reason, message);
    answer.fields = refused.fields().collect();
    answer
}

/// Whether the request's key may ask for this. `management` is what changes models rather than runs them.
///
/// # Errors
/// When it may not.
pub fn to_endpoint(exchange: &Exchange<'_>, route: &Route, endpoint: &Endpoint<'_>) -> Result<(), Stop> {
    let management = matches!(endpoint, Endpoint::Management(_));
    let scope = if management { Scope::Management } else { Scope::Inference };
    let allowed = match exchange.ctx.key.as_deref() {
        Some(key) => !has_models(route) || key.has_scope(scope),
        None => !management,
    };
    if allowed {
        return Ok(());
    }
    let message = format!("this needs a key with the scope `{}`", scope.as_str());
    Err(reply::problem(&exchange.ctx, Reason::Forbidden, &message).into())
}

/// Whether the request's key is for its model, as far as that is known.
///
/// # Errors
/// When it is not.
pub fn key_for_model(ctx: &RequestContext) -> Result<(), Stop> {
    match (&ctx.model, &ctx.key) {
        (Some(model), Some(key)) if !key.allows_model(model) => {
            let message = format!("this key may not use the model '{model}'");
            Err(reply::problem(ctx, Reason::Forbidden, &message).into())
        }
        _ => Ok(()),
    }
}

/// A call that may use a model, and of which neither the model nor the tokens can be told: not where these are limited.
///
/// # Errors
/// When they are.
pub fn to_unknown(ctx: &RequestContext, route: &Route) -> Result<(), Stop> {
    // A route that goes by the model has read it.
    let is_limited = ctx.model.is_none() && ctx.key.as_deref().is_some_and(Key::is_limited);
    let why = match (is_limited, route.quotas.is_empty()) {
        (false, true) => return Ok(()),
        (true, _) => "this key is for some models only",
        (false, false) => "tokens are limited here",
    };
    let message = format!("{why}, and Arriero does not know this path: it cannot tell its model");
    Err(reply::problem(ctx, Reason::EndpointDenied, &message).into())
}

/// A list of the fleet's models: for a key for some models only, of these.
pub fn list(ctx: &RequestContext, index: &ModelIndex, list: List) -> Reply {
    let body = match ctx.key.as_deref().filter(|key| key.is_limited()) {
        Some(key) => index.list_of(list, |model| key.allows_model(model)),
        None => index.list(list).clone(),
    };
    reply::json(ctx, body)
}

/// What holds once the model is known, or that there is none.
///
/// # Errors
/// When the request goes no further.
pub async fn to_model(exchange: &mut Exchange<'_>, route: &Route) -> Result<(), Stop> {
    key_for_model(&exchange.ctx)?;
    quota::ask(exchange, route)?;
    let mut admitted = std::mem::take(&mut exchange.ctx.admitted);
    let passed = match exchange.ctx.model.as_deref() {
        Some(model) => route.limits.after_model(&facts(exchange, Some(model)), &mut admitted),
        None => Ok(()),
    };
    let not_before = admitted.not_before();
    exchange.ctx.admitted = admitted;
    passed.map_err(|refused| refusal(&exchange.ctx, &refused))?;
    match not_before {
        Some(at) => wait_until(exchange, at).await,
        None => Ok(()),
    }
}

/// A limit delays the request; whoever leaves meanwhile is gone.
async fn wait_until(exchange: &mut Exchange<'_>, at: std::time::Instant) -> Result<(), Stop> {
    let Exchange { client, timer, .. } = exchange;
    match timer.limit(Some(at), |cx| client.poll_left(cx, true)).await {
        Some(()) => Err(Stop::Broken(Reason::ClientClosed)),
        None => Ok(()),
    }
}
