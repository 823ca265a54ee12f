//! Bans: servers and models that are kept apart, by an operator or by rule.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{delete_with, get_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::find::{self, Place};
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::{Named, Wanted, end_of};
use super::time::Present;
use super::{Kept, State};
use crate::fleet::snapshot::Upstream;
use crate::ollama::name::canonical;
use crate::policy::ban::Ban;
use crate::units::Duration;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    let all = get_with(list, about("listBans", "The bans that hold"))
        .post_with(ban, about("ban", "Keep a server, a model or a pair of them apart"))
        .delete_with(lift_all, about("liftAllBans", "Lift all bans"));
    ApiRouter::new()
        .api_route("/bans", all)
        .api_route(
            "/bans/server/{server}",
            delete_with(lift_server, about("liftBansOfServer", "Lift those of a server")),
        )
        .api_route("/bans/model/{model}", delete_with(lift_model, about("liftBansOfModel", "Lift those of a model")))
        .api_route("/bans/{server}/{model}", delete_with(lift_pair, about("liftBan", "Lift one")))
}

/// What is kept apart, for how long, why and who.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "BanOrder")]
struct Words {
    /// The server; all by default, and then a model is needed.
    server: Option<String>,
    /// The model; all by default, and then a server is needed.
    model: Option<String>,
    /// How long; until it is lifted by default.
    r#for: Option<Duration>,
    /// Why; 200 characters are kept.
    reason: Option<String>,
    /// Who decided it.
    who: Option<String>,
}

/// A ban.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BanView {
    upstream: String,
    /// The server; none for all.
    server_id: Option<String>,
    /// The model; none for all.
    model: Option<String>,
    reason: String,
    who: String,
    since: String,
    /// When it ends; none when it is lifted.
    until: Option<String>,
}

/// The bans that hold.
#[derive(Serialize, JsonSchema)]
struct BanList {
    count: usize,
    bans: Vec<BanView>,
}

/// What was lifted.
#[derive(Serialize, JsonSchema)]
struct LiftedView {
    /// How many bans.
    removed: usize,
    bans: Vec<LiftedBan>,
    #[serde(flatten)]
    kept: Kept,
}

/// A ban that was lifted.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LiftedBan {
    upstream: String,
    server_id: Option<String>,
    model: Option<String>,
}

fn of_upstream(upstream: &Upstream, present: Present) -> Vec<BanView> {
    let show = |ban: Ban| BanView {
        upstream: upstream.name.clone(),
        server_id: ban.server,
        model: ban.model,
        reason: ban.reason,
        who: ban.who,
        since: present.text(ban.since),
        until: ban.until.map(|until| present.text(until)),
    };
    upstream.state.bans.list(present.now).into_iter().map(show).collect()
}

async fn list(Extract(state): Shared) -> Done<BanList> {
    let present = Present::read();
    let bans: Vec<BanView> =
        state.store.load().upstreams.iter().flat_map(|upstream| of_upstream(upstream, present)).collect();
    Done(BanList { count: bans.len(), bans })
}

async fn ban(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Result<Done<BanList>, Problem> {
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
fn lift(state: &State, meant: impl Fn(&Upstream, &Ban) -> bool) -> Vec<LiftedBan> {
    let now = Present::read().now;
    let mut lifted = Vec::new();
    for upstream in &state.store.pin().upstreams {
        for ban in upstream.state.bans.list(now).into_iter().filter(|ban| meant(upstream, ban)) {
            if upstream.state.bans.lift(ban.server.as_deref(), ban.model.as_deref(), now).is_some() {
                lifted.push(LiftedBan { upstream: upstream.name.clone(), server_id: ban.server, model: ban.model });
            }
        }
    }
    lifted
}

async fn answer(state: &Arc<State>, lifted: Vec<LiftedBan>) -> Done<LiftedView> {
    let kept = state.keep().await;
    Done(LiftedView { removed: lifted.len(), bans: lifted, kept })
}

async fn lift_all(Extract(state): Shared) -> Done<LiftedView> {
    answer(&state, lift(&state, |_, _| true)).await
}

fn is_of(place: &Place, upstream: &Upstream, ban: &Ban) -> bool {
    upstream.name == place.upstream.name && ban.server.as_deref() == Some(place.state().name())
}

async fn lift_server(Extract(state): Shared, Named(id): Named<String>) -> Result<Done<LiftedView>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    Ok(answer(&state, lift(&state, |upstream, ban| is_of(&place, upstream, ban))).await)
}

async fn lift_model(Extract(state): Shared, Named(model): Named<String>) -> Done<LiftedView> {
    let model = canonical(&model).into_owned();
    answer(&state, lift(&state, |_, ban| ban.model.as_deref() == Some(&model))).await
}

async fn lift_pair(
    Extract(state): Shared,
    Named((id, model)): Named<(String, String)>,
) -> Result<Done<LiftedView>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let model = canonical(&model).into_owned();
    let lifted = lift(&state, |upstream, ban| is_of(&place, upstream, ban) && ban.model.as_deref() == Some(&model));
    if lifted.is_empty() {
        return Err(Problem::not_found(format!("`{model}` is not banned from the server `{id}`")));
    }
    Ok(answer(&state, lifted).await)
}
