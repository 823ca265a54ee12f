//! Requests that ended: which, how, and who used how much.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::find;
use super::openapi::about;
use super::problem::Problem;
use super::request::{Asked, limit, one_of};
use super::store::{ask, now};
use super::time::moment_of;
use crate::history::requests::{RequestRow, Wanted};
use crate::history::usage::{By, Per, UsageRow};
use crate::ollama::name::canonical;
use crate::policy::failure::Reason;
use crate::telemetry::access_log::moment;

type Shared = Extract<Arc<State>>;

/// Requests of an answer, unless another number is wanted, and the most that can be.
const REQUESTS: (usize, usize) = (100, 1000);

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/requests", get_with(list, about("listRequests", "Requests that ended, the latest first")))
        .api_route("/usage", get_with(usage, about("getUsage", "Requests and tokens by key and model")))
}

/// Which requests are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Wish {
    /// Most requests, 100 by default, 1,000 at most.
    limit: Option<usize>,
    /// Only those before this `seq`: the next page.
    before: Option<i64>,
    /// Only those that ended since: RFC 3339, seconds since 1970, or a time back such as `15m`.
    since: Option<String>,
    /// Only those whose last attempt was at this server.
    server: Option<String>,
    /// Only those to this upstream.
    upstream: Option<String>,
    /// Only those for this model.
    model: Option<String>,
    /// Only those of this route.
    route: Option<String>,
    /// Only those with the API key of this id.
    key: Option<String>,
    /// Only those with this reason.
    reason: Option<String>,
    /// Only those with this status.
    status: Option<u16>,
}

/// Requests that ended.
#[derive(Serialize, JsonSchema)]
struct Requests {
    /// Always true.
    success: bool,
    /// How many these are.
    count: usize,
    /// The requests, the latest first.
    requests: Vec<RequestRow>,
}

async fn list(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Requests>, Problem> {
    if state.history.settings().requests.is_zero() {
        return Err(Problem::conflict("no requests are kept: `history.requests` is `0s`"));
    }
    if let Some(reason) = &wish.reason {
        one_of("reason", reason, &Reason::ALL.map(|reason| (reason.as_str(), ())))?;
    }
    let (upstream, server) = server_of(&state, wish.server.as_deref());
    if let (Some(one), Some(other)) = (&upstream, &wish.upstream)
        && one != other
    {
        return Err(Problem::bad_request(format!("`server` is one of `{one}`, `upstream` is `{other}`")));
    }
    let wanted = Wanted {
        limit: limit(wish.limit, REQUESTS)?,
        before: wish.before,
        since: wish.since.map(|since| moment_of("since", &since, now())).transpose()?,
        server,
        upstream: upstream.or(wish.upstream),
        model: wish.model.map(|model| canonical(&model).into_owned()),
        route: wish.route,
        key: wish.key,
        reason: wish.reason,
        status: wish.status,
        errors: false,
    };
    let requests = ask(&state, move |history| history.requests(&wanted)).await?;
    Ok(Json(Requests { success: true, count: requests.len(), requests }))
}

/// The upstream and the name of a server that operators call so. One that is configured no more is found by its name.
pub fn server_of(state: &State, id: Option<&str>) -> (Option<String>, Option<String>) {
    let Some(id) = id else { return (None, None) };
    let snapshot = state.store.load();
    let place = find::all(&snapshot).into_iter().find(|place| place.id == id);
    match (place, id.split_once('/')) {
        (Some(place), _) => (Some(place.upstream.name.clone()), Some(place.state().name().to_owned())),
        (None, Some((upstream, name))) if !upstream.is_empty() => (Some(upstream.to_owned()), Some(name.to_owned())),
        (None, _) => (None, Some(id.to_owned())),
    }
}

/// Which usage is wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct UsageWish {
    /// `key`, `model` or `key,model`, the default.
    by: Option<String>,
    /// `hour`, `day`, `month` (in UTC) or `total`, the default.
    per: Option<String>,
    /// Hours that begin from here on: RFC 3339, seconds since 1970, or a time back.
    from: Option<String>,
    /// Hours that begin before this; now by default.
    to: Option<String>,
}

/// Who used how much.
#[derive(Serialize, JsonSchema)]
struct Usage {
    /// Always true.
    success: bool,
    /// The hours that begin from here on are counted, RFC 3339; null for all that are kept.
    from: Option<String>,
    /// Those that begin before this, RFC 3339.
    to: String,
    /// The usage, the oldest first.
    usage: Vec<UsageRow>,
}

const BY: [(&str, By); 3] = [
    ("key,model", By { key: true, model: true }),
    ("key", By { key: true, model: false }),
    ("model", By { key: false, model: true }),
];

async fn usage(Extract(state): Shared, Asked(wish): Asked<UsageWish>) -> Result<Json<Usage>, Problem> {
    if state.history.settings().usage.is_zero() {
        return Err(Problem::conflict("no usage is kept: `history.usage` is `0s`"));
    }
    let by = one_of("by", wish.by.as_deref().unwrap_or("key,model"), &BY)?;
    let per = one_of("per", wish.per.as_deref().unwrap_or("total"), &Per::WORDS)?;
    let present = now();
    let from = wish.from.map(|from| moment_of("from", &from, present)).transpose()?;
    let to = wish.to.map(|to| moment_of("to", &to, present)).transpose()?.unwrap_or(present);
    if from.is_some_and(|from| from > to) {
        return Err(Problem::bad_request("`from` is after `to`"));
    }
    let usage = ask(&state, move |history| history.usage(by, per, from.unwrap_or(0.0), to)).await?;
    Ok(Json(Usage { success: true, from: from.map(moment), to: moment(to), usage }))
}
