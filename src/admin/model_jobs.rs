//! Orders about models: into memory, out of it, onto disks, off them. Each becomes a job ([`crate::fleet::jobs`]).

use std::sync::Arc;
use std::time::Duration as StdDuration;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Serialize;

use super::State;
use super::find::{self, Place};
use super::job_views;
use super::jobs::{Patience, settled};
use super::model_orders as orders;
use super::model_stats::on_server;
use super::problem::Problem;
use super::request::{Asked, Named, Wanted};
use super::time::Present;
use crate::config::types::Kind;
use crate::fleet::jobs::guard;
use crate::fleet::jobs::words::{Job, Order, Target, Work};
use crate::ollama::name::{canonical, parse_canonical};
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
    who: Option<String>,
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
        // It stands in log lines and lists.
        let who = self.who.as_deref().unwrap_or("admin").chars().take(200).collect();
        let order = Order { work: self.work, model, written, targets, parallel: self.parallel, who };
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

/// How long an answer waits.
fn patience(one: Option<Duration>, other: Option<Duration>, usual: StdDuration) -> StdDuration {
    one.or(other).map_or(usual, |wait| wait.0)
}

async fn warmup(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<orders::Warmup>,
) -> Answer {
    let model = named(&written)?;
    let all = body.servers.is_none();
    let places = places(&state, body.servers, |place| holds(place, &model))?;
    if places.is_empty() {
        return Err(nobody_has(&model));
    }
    let work = Work::Warmup { class: body.priority.into() };
    let draft = Draft { work, written: &written, places: &places, all, parallel: usize::MAX, who: body.who };
    let job = draft.order(&state, patience(query.wait, body.wait, AT_ONCE)).await?;
    Ok(reply(&job, &job_views::warmup(&job, Present::read())))
}

async fn unload(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<orders::Unload>,
) -> Answer {
    let model = named(&written)?;
    let mut servers = body.servers;
    if let Some(one) = body.server_id {
        servers.get_or_insert_default().push(one);
    }
    let loaded = |place: &Place| {
        place.state().inventory().loaded.iter().any(|row| row.name.as_str() == model)
            || place.upstream.dispatcher.has_in_memory(place.state(), &model)
    };
    let places = places(&state, servers, loaded)?;
    if places.is_empty() {
        return Err(Problem::not_found(format!("the model `{model}` is in memory nowhere")));
    }
    let work = Work::Unload { force: body.force };
    // Also where no work is taken: there is no better place to free memory.
    let draft = Draft { work, written: &written, places: &places, all: false, parallel: usize::MAX, who: body.who };
    let job = draft.order(&state, patience(query.wait, body.wait, SOON)).await?;
    Ok(reply(&job, &job_views::unload(&job, Present::read())))
}

async fn pull(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<orders::Pull>,
) -> Answer {
    order_pull(&state, &written, query.wait, body).await
}

async fn pull_to(
    Extract(state): Shared,
    Named(server): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<orders::PullTo>,
) -> Answer {
    let orders::PullTo { model, allow_remote, wait, who } = body;
    let body = orders::Pull { servers: Some(vec![server]), parallel: None, allow_remote, wait, who };
    order_pull(&state, &model, query.wait, body).await
}

async fn order_pull(state: &State, written: &str, wait: Option<Duration>, body: orders::Pull) -> Answer {
    named(written)?;
    may_store(written, body.allow_remote)?;
    let all = body.servers.is_none();
    let places = places(state, body.servers, |_| true)?;
    if places.is_empty() {
        return Err(Problem::conflict("there is no server of an upstream with `kind: ollama`"));
    }
    let parallel = body.parallel.unwrap_or(PULLS);
    let draft = Draft { work: Work::Pull, written, places: &places, all, parallel, who: body.who };
    let job = draft.order(state, patience(wait, body.wait, AT_ONCE)).await?;
    Ok(reply(&job, &job_views::answer(&job, Present::read())))
}

async fn copy(
    Extract(state): Shared,
    Named(source): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<orders::Copy>,
) -> Answer {
    order_copy(&state, &source, query.wait, body).await
}

async fn copy_on(
    Extract(state): Shared,
    Named(server): Named<String>,
    Asked(query): Asked<Patience>,
    Wanted(body): Wanted<orders::CopyOn>,
) -> Answer {
    let orders::CopyOn { source, destination, force, allow_remote, wait, who } = body;
    let body = orders::Copy { destination, servers: Some(vec![server]), force, allow_remote, wait, who };
    order_copy(&state, &source, query.wait, body).await
}

async fn order_copy(state: &State, source: &str, wait: Option<Duration>, body: orders::Copy) -> Answer {
    let model = named(source)?;
    let target = named(&body.destination)?;
    may_store(&body.destination, body.allow_remote)?;
    let all = body.servers.is_none();
    let places = places(state, body.servers, |place| holds(place, &model))?;
    if !places.iter().any(|place| holds(place, &model)) {
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
    let work = Work::Copy { destination: body.destination.trim().to_owned(), force: body.force };
    let draft = Draft { work, written: source, places: &places, all, parallel: usize::MAX, who: body.who };
    let job = draft.order(state, patience(wait, body.wait, SOON)).await?;
    Ok(reply(&job, &job_views::answer(&job, Present::read())))
}

/// Whether a model of a server may be lost.
fn may_lose(place: &Place, model: &str, force: bool) -> Result<(), Problem> {
    let why = guard::in_use(&place.upstream, place.state(), model).filter(|_| !force);
    let problem = |why| Problem::conflict(format!("`{model}` on {}: {why}; `force` does it all the same", place.id));
    why.map_or(Ok(()), |why| Err(problem(why)))
}

async fn remove(
    Extract(state): Shared,
    Named(written): Named<String>,
    Asked(query): Asked<orders::DeleteQuery>,
    Wanted(mut body): Wanted<orders::Delete>,
) -> Answer {
    let model = named(&written)?;
    body.force |= query.force;
    body.wait = query.wait.or(body.wait);
    let confirmed = query.confirm.as_deref().or(body.confirm.as_deref()).is_some_and(|name| canonical(name) == model);
    if body.servers.is_none() && !confirmed {
        return Err(Problem::bad_request(format!(
            "this deletes `{model}` from every server: repeat its name in `confirm`, or name `servers`"
        )));
    }
    order_remove(&state, &written, body).await
}

async fn remove_from(
    Extract(state): Shared,
    Named((server, written)): Named<(String, String)>,
    Asked(query): Asked<orders::DeleteQuery>,
    Wanted(body): Wanted<orders::DeleteFrom>,
) -> Answer {
    let body = orders::Delete {
        servers: Some(vec![server]),
        confirm: None,
        force: query.force || body.force,
        wait: query.wait.or(body.wait),
        who: body.who,
    };
    order_remove(&state, &written, body).await
}

async fn order_remove(state: &State, written: &str, body: orders::Delete) -> Answer {
    let model = named(written)?;
    let all = body.servers.is_none();
    let places = places(state, body.servers, |place| holds(place, &model))?;
    if !places.iter().any(|place| holds(place, &model)) {
        return Err(nobody_has(&model));
    }
    // All or nothing: what is refused on one server is deleted on none.
    places.iter().try_for_each(|place| may_lose(place, &model, body.force))?;
    let work = Work::Delete { force: body.force };
    let draft = Draft { work, written, places: &places, all, parallel: usize::MAX, who: body.who };
    let job = draft.order(state, patience(body.wait, None, SOON)).await?;
    Ok(reply(&job, &job_views::answer(&job, Present::read())))
}
