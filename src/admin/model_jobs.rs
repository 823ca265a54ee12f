//! Orders about models: into memory, out of it, onto disks, off them. Each becomes a job ([`crate::fleet::jobs`]).

use std::sync::Arc;
use std::time::Duration as StdDuration;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::find::{self, Place};
use super::job_views;
use super::jobs::{Patience, settled};
use super::model_stats::on_server;
use super::problem::Problem;
use super::request::{Asked, Named, Wanted};
use super::time::Present;
use crate::config::types::Kind;
use crate::fleet::jobs::guard;
use crate::fleet::jobs::words::{Job, Order, Target, Work};
use crate::ollama::name::{canonical, parse_canonical};
use crate::policy::queue::Class;
use crate::units::Duration;

type Shared = Extract<Arc<State>>;
type Answer = Result<Response, Problem>;

/// Servers that pull at a time unless an order says otherwise: they share the registry, the line to it, often a disk.
const PULLS: usize = 2;
/// How long an answer waits for what may be done already.
const AT_ONCE: StdDuration = StdDuration::from_millis(100);
/// How long an answer waits for what never takes long.
const SOON: StdDuration = StdDuration::from_secs(10);

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/models/{model}/warmup", post(warmup))
        .route("/models/{model}/unload", post(unload))
        .route("/models/{model}/pull", post(pull))
        .route("/models/{model}/copy", post(copy))
        .route("/models/{model}", delete(remove))
        .route("/servers/{server}/models", get(on_server))
        .route("/servers/{server}/models/pull", post(pull_to))
        .route("/servers/{server}/models/copy", post(copy_on))
        .route("/servers/{server}/models/{model}", delete(remove_from))
}

/// Who goes first when requests wait for loads too.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Priority {
    /// When nobody else waits.
    Low,
    /// Since the moment of the order.
    #[default]
    Normal,
    /// Before everybody.
    High,
}

impl From<Priority> for Class {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => Self::Low,
            Priority::Normal => Self::Normal,
            Priority::High => Self::High,
        }
    }
}

/// What an order about a model may say; each kind of order takes a part of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Body {
    /// The model, where the path does not name it.
    model: Option<String>,
    /// The model that gets another name, where the path does not name it.
    source: Option<String>,
    /// The new name of a copy.
    destination: Option<String>,
    /// Only on these servers.
    servers: Option<Vec<String>>,
    /// Only on this one.
    server_id: Option<String>,
    /// Who goes first, of a warmup.
    priority: Priority,
    /// Most servers at a time.
    parallel: Option<usize>,
    /// Also where the model is pinned or used.
    force: bool,
    /// The name of the model once more, to delete it everywhere.
    confirm: Option<String>,
    /// Models that run elsewhere and registries that are not Ollama's own are meant.
    #[serde(alias = "allow_remote")]
    allow_remote: bool,
    /// How long the answer may wait for the end.
    wait: Option<Duration>,
    /// Who orders it; stands in the log and in the list of jobs.
    who: Option<String>,
}

/// What a DELETE may say in its query instead.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Query {
    /// See [`Body`].
    confirm: Option<String>,
    /// See [`Body`].
    force: bool,
    /// See [`Body`].
    wait: Option<Duration>,
}

impl Body {
    fn servers(&self) -> Option<Vec<String>> {
        let one = self.server_id.iter().cloned();
        let all = self.servers.iter().flatten().cloned().chain(one).collect::<Vec<_>>();
        (self.servers.is_some() || !all.is_empty()).then_some(all)
    }

    fn who(&self) -> String {
        self.who.as_deref().unwrap_or("admin").chars().take(200).collect()
    }
}

/// The canonical name of a model that somebody wrote.
fn named(written: &str) -> Result<String, Problem> {
    let name = parse_canonical(written).map(std::borrow::Cow::into_owned);
    name.ok_or_else(|| Problem::bad_request(format!("`{written}` is no name of a model")))
}

fn may_store(written: &str, remote: bool) -> Result<(), Problem> {
    let refused = guard::refuses_name(written, remote);
    refused.map_or(Ok(()), |why| Err(Problem::new(StatusCode::FORBIDDEN, format!("`{written}`: {why}"))))
}

/// The servers that are named, or all of Ollama's that `fit`.
fn places(state: &State, wanted: Option<Vec<String>>, fit: impl Fn(&Place) -> bool) -> Result<Vec<Place>, Problem> {
    let snapshot = state.store.load();
    let Some(names) = wanted else {
        let ollama = |place: &Place| place.upstream.kind == Kind::Ollama && fit(place);
        return Ok(find::all(&snapshot).into_iter().filter(ollama).collect());
    };
    let mut places: Vec<Place> = Vec::with_capacity(names.len());
    for name in names {
        let place = find::one(&snapshot, &name)?;
        if place.upstream.kind != Kind::Ollama {
            return Err(Problem::bad_request(format!("`{name}` is no server of an upstream with `kind: ollama`")));
        }
        if !places.iter().any(|known| Arc::ptr_eq(known.state(), place.state())) {
            places.push(place);
        }
    }
    if places.is_empty() {
        return Err(Problem::bad_request("`servers` names none"));
    }
    Ok(places)
}

fn holds(place: &Place, model: &str) -> bool {
    place.state().inventory().has(model)
}

fn nobody_has(model: &str) -> Problem {
    Problem::not_found(format!("no server has the model `{model}`"))
}

/// Why a server that nobody named is left out.
fn left_out(place: &Place, present: Present) -> Option<String> {
    let standing = place.state().standing(present.now);
    if !standing.takes_work() {
        return Some(standing.as_str().to_owned());
    }
    (!place.state().is_up()).then(|| "down".to_owned())
}

/// A job for these servers. Where none was named, those that take no work are left out.
struct Draft<'d> {
    work: Work,
    written: &'d str,
    places: &'d [Place],
    all: bool,
    parallel: usize,
    who: String,
}

impl Draft<'_> {
    /// Orders it and waits for its end, for some time.
    async fn order(self, state: &State, wait: StdDuration) -> Result<Job, Problem> {
        let present = Present::read();
        let model = named(self.written)?;
        let warms = matches!(self.work, Work::Warmup { .. });
        let target = |place: &Place| {
            let excluded = || place.state().exclusion(Some(&model), present.now).map(|why| why.as_str().to_owned());
            Target {
                id: place.id.clone(),
                identity: place.state().identity.clone(),
                estimate: warms.then(|| place.upstream.dispatcher.expected_load(place.state(), &model)).flatten(),
                left_out: match self.all {
                    true if warms => excluded(),
                    true => left_out(place, present),
                    false => None,
                },
            }
        };
        let targets = self.places.iter().map(target).collect();
        let written = self.written.trim().to_owned();
        let order = Order { work: self.work, model, written, targets, parallel: self.parallel, who: self.who };
        let id = state.store.load().lasting.jobs.add(order, present.now).map_err(|_| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many jobs are not over yet; cancel some, or wait")
        })?;
        let job = settled(state, id, wait).await;
        job.ok_or_else(|| Problem::conflict("the job was forgotten meanwhile"))
    }
}

/// 200 when it is over, 202 when it goes on.
fn reply(job: &Job, body: &impl Serialize) -> Response {
    let status = if job.ended.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(body)).into_response()
}

fn patience(query: Option<Duration>, body: &Body, usual: StdDuration) -> StdDuration {
    query.or(body.wait).map_or(usual, |wait| wait.0)
}

async fn warmup(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    let model = named(&written)?;
    let servers = body.servers();
    let all = servers.is_none();
    let places = places(&state, servers, |place| holds(place, &model))?;
    if places.is_empty() {
        return Err(nobody_has(&model));
    }
    let work = Work::Warmup { class: body.priority.into() };
    let parallel = body.parallel.unwrap_or(usize::MAX);
    let draft = Draft { work, written: &written, places: &places, all, parallel, who: body.who() };
    let job = draft.order(&state, patience(query.wait, &body, AT_ONCE)).await?;
    Ok(reply(&job, &job_views::warmup(&job, Present::read())))
}

async fn unload(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    let model = named(&written)?;
    let loaded = |place: &Place| place.state().inventory().loaded.iter().any(|row| row.name.as_str() == model);
    let places = places(&state, body.servers(), loaded)?;
    if places.is_empty() {
        return Err(Problem::not_found(format!("the model `{model}` is in memory nowhere")));
    }
    let work = Work::Unload { force: body.force };
    let parallel = body.parallel.unwrap_or(usize::MAX);
    // Also where no work is taken: there is no better place to free memory.
    let draft = Draft { work, written: &written, places: &places, all: false, parallel, who: body.who() };
    let job = draft.order(&state, patience(query.wait, &body, SOON)).await?;
    Ok(reply(&job, &job_views::unload(&job, Present::read())))
}

async fn pull(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    let servers = body.servers();
    order_pull(&state, &written, servers, query.wait, &body).await
}

async fn pull_to(
    Extract(state): Shared,
    Named(server): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    let written = body.model.as_deref().ok_or_else(|| Problem::bad_request("`model` is missing"))?;
    order_pull(&state, written, Some(vec![server]), query.wait, &body).await
}

async fn order_pull(
    state: &State,
    written: &str,
    servers: Option<Vec<String>>,
    wait: Option<Duration>,
    body: &Body,
) -> Answer {
    named(written)?;
    may_store(written, body.allow_remote)?;
    let all = servers.is_none();
    let places = places(state, servers, |_| true)?;
    if places.is_empty() {
        return Err(Problem::conflict("there is no server of an upstream with `kind: ollama`"));
    }
    let parallel = body.parallel.unwrap_or(PULLS);
    let draft = Draft { work: Work::Pull, written, places: &places, all, parallel, who: body.who() };
    let job = draft.order(state, patience(wait, body, AT_ONCE)).await?;
    Ok(reply(&job, &job_views::answer(&job, Present::read())))
}

async fn copy(
    Extract(state): Shared,
    Named(source): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    let servers = body.servers();
    order_copy(&state, &source, servers, query.wait, &body).await
}

async fn copy_on(
    Extract(state): Shared,
    Named(server): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    let source = body.source.as_deref().or(body.model.as_deref());
    let source = source.ok_or_else(|| Problem::bad_request("`source` is missing"))?;
    order_copy(&state, source, Some(vec![server]), query.wait, &body).await
}

async fn order_copy(
    state: &State,
    source: &str,
    servers: Option<Vec<String>>,
    wait: Option<Duration>,
    body: &Body,
) -> Answer {
    let model = named(source)?;
    let destination = body.destination.as_deref().ok_or_else(|| Problem::bad_request("`destination` is missing"))?;
    let target = named(destination)?;
    may_store(destination, body.allow_remote)?;
    let all = servers.is_none();
    let places = places(state, servers, |place| holds(place, &model))?;
    if places.is_empty() || (!all && !places.iter().any(|place| holds(place, &model))) {
        return Err(nobody_has(&model));
    }
    if target == model {
        return Err(Problem::bad_request("source and destination are the same model"));
    }
    for place in &places {
        if !body.allow_remote && guard::runs_elsewhere(place.state(), &model) {
            let why = "the model runs elsewhere, and its new name would not tell; `allowRemote` copies it all the same";
            return Err(Problem::new(StatusCode::FORBIDDEN, why));
        }
        if holds(place, &target) {
            may_lose(place, &target, body.force)?;
        }
    }
    let work = Work::Copy { destination: destination.trim().to_owned(), force: body.force };
    let parallel = body.parallel.unwrap_or(usize::MAX);
    let draft = Draft { work, written: source, places: &places, all, parallel, who: body.who() };
    let job = draft.order(state, patience(wait, body, SOON)).await?;
    Ok(reply(&job, &job_views::answer(&job, Present::read())))
}

/// Whether a model of a server may be lost.
fn may_lose(place: &Place, model: &str, force: bool) -> Result<(), Problem> {
    let why = guard::in_use(&place.upstream, place.state(), model).filter(|_| !force);
    why.map_or(Ok(()), |why| {
        Err(Problem::conflict(format!("`{model}` on {}: {why}; `force` does it all the same", place.id)))
    })
}

async fn remove(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<Query>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    let model = named(&written)?;
    let servers = body.servers();
    let confirmed = query.confirm.as_deref().or(body.confirm.as_deref()).is_some_and(|name| canonical(name) == model);
    if servers.is_none() && !confirmed {
        return Err(Problem::bad_request(format!(
            "this deletes `{model}` from every server: repeat its name in `confirm`, or name `servers`"
        )));
    }
    order_remove(&state, &written, servers, &query, &body).await
}

async fn remove_from(
    Extract(state): Shared,
    Named((server, written)): Named<(String, String)>,
    Asked(query): Asked<Query>,
    Wanted(body): Wanted<Body>,
) -> Answer {
    order_remove(&state, &written, Some(vec![server]), &query, &body).await
}

async fn order_remove(
    state: &State,
    written: &str,
    servers: Option<Vec<String>>,
    query: &Query,
    body: &Body,
) -> Answer {
    let model = named(written)?;
    let all = servers.is_none();
    let places = places(state, servers, |place| holds(place, &model))?;
    if !places.iter().any(|place| holds(place, &model)) {
        return Err(nobody_has(&model));
    }
    let force = query.force || body.force;
    // All or nothing: what is refused on one server is deleted on none.
    places.iter().try_for_each(|place| may_lose(place, &model, force))?;
    let parallel = body.parallel.unwrap_or(usize::MAX);
    let draft = Draft { work: Work::Delete { force }, written, places: &places, all, parallel, who: body.who() };
    let job = draft.order(state, patience(query.wait, body, SOON)).await?;
    Ok(reply(&job, &job_views::answer(&job, Present::read())))
}
