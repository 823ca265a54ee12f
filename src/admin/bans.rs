//! Bans: servers and models that are kept apart, by an operator or by rule.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::find::{self, Place};
use super::problem::Problem;
use super::request::{Named, Wanted, end_of};
use super::time::Present;
use crate::fleet::snapshot::Upstream;
use crate::ollama::name::canonical;
use crate::policy::ban::Ban;
use crate::units::Duration;

type Shared = Extract<Arc<State>>;
type Answer = Result<Json<Value>, Problem>;

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/bans", get(list).post(ban).delete(lift_all))
        .route("/bans/server/{server}", delete(lift_server))
        .route("/bans/model/{model}", delete(lift_model))
        .route("/bans/{server}/{model}", delete(lift_pair))
}

/// What is kept apart, for how long, why and who.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    server: Option<String>,
    model: Option<String>,
    r#for: Option<Duration>,
    reason: Option<String>,
    who: Option<String>,
}

fn of_upstream(upstream: &Upstream, present: Present) -> Vec<Value> {
    let show = |ban: Ban| {
        json!({
            "upstream": upstream.name,
            "serverId": ban.server,
            "model": ban.model,
            "reason": ban.reason,
            "who": ban.who,
            "since": present.text(ban.since),
            "until": ban.until.map(|until| present.text(until)),
        })
    };
    upstream.state.bans.list(present.now).into_iter().map(show).collect()
}

async fn list(Extract(state): Shared) -> Json<Value> {
    let present = Present::read();
    let bans: Vec<Value> =
        state.store.load().upstreams.iter().flat_map(|upstream| of_upstream(upstream, present)).collect();
    Json(json!({ "success": true, "count": bans.len(), "bans": bans }))
}

async fn ban(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Answer {
    let present = Present::read();
    let until = words.r#for.map(|time| end_of(time.0, present.now)).transpose()?;
    let place = words.server.as_deref().map(|id| find::one(&state.store.load(), id)).transpose()?;
    let model = words.model.as_deref().map(|model| canonical(model).into_owned());
    if place.is_none() && model.is_none() {
        return Err(Problem::bad_request("name a `server`, a `model` or both"));
    }
    let upstreams = match &place {
        Some(place) => vec![Arc::clone(&place.upstream)],
        None => state.store.load().upstreams.iter().filter(|upstream| upstream.has_models()).cloned().collect(),
    };
    for upstream in upstreams {
        let ban = Ban {
            server: place.as_ref().map(|place| place.state().name().to_owned()),
            model: model.clone(),
            reason: words.reason.clone().unwrap_or_default(),
            who: words.who.clone().unwrap_or_else(|| "operator".to_owned()),
            since: present.now,
            until,
        };
        if !upstream.state.bans.ban(ban, present.now) {
            return Err(Problem::conflict(format!("the upstream `{}` has as many bans as it may", upstream.name)));
        }
    }
    state.keep().await;
    Ok(list(Extract(state)).await)
}

/// Lifts the bans that are meant; answers what they were.
fn lift(state: &State, meant: impl Fn(&Upstream, &Ban) -> bool) -> Vec<Value> {
    let now = Present::read().now;
    let mut lifted = Vec::new();
    for upstream in &state.store.pin().upstreams {
        for ban in upstream.state.bans.list(now).into_iter().filter(|ban| meant(upstream, ban)) {
            if upstream.state.bans.lift(ban.server.as_deref(), ban.model.as_deref(), now).is_some() {
                lifted.push(json!({ "upstream": upstream.name, "serverId": ban.server, "model": ban.model }));
            }
        }
    }
    lifted
}

async fn answer(state: &Arc<State>, lifted: Vec<Value>) -> Json<Value> {
    let kept = state.keep().await;
    let removed = lifted.len();
    Json(json!({ "success": true, "removed": removed, "bans": lifted, "kept": kept.kept, "warning": kept.warning }))
}

async fn lift_all(Extract(state): Shared) -> Json<Value> {
    answer(&state, lift(&state, |_, _| true)).await
}

fn is_of(place: &Place, upstream: &Upstream, ban: &Ban) -> bool {
    upstream.name == place.upstream.name && ban.server.as_deref() == Some(place.state().name())
}

async fn lift_server(Extract(state): Shared, Named(id): Named<String>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    Ok(answer(&state, lift(&state, |upstream, ban| is_of(&place, upstream, ban))).await)
}

async fn lift_model(Extract(state): Shared, Named(model): Named<String>) -> Json<Value> {
    let model = canonical(&model).into_owned();
    answer(&state, lift(&state, |_, ban| ban.model.as_deref() == Some(&model))).await
}

async fn lift_pair(Extract(state): Shared, Named((id, model)): Named<(String, String)>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    let model = canonical(&model).into_owned();
    let lifted = lift(&state, |upstream, ban| is_of(&place, upstream, ban) && ban.model.as_deref() == Some(&model));
    if lifted.is_empty() {
        return Err(Problem::not_found(format!("`{model}` is not banned from the server `{id}`")));
    }
    Ok(answer(&state, lifted).await)
}
