//! Jobs about models: which there are, how far they are, and calling them off.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use axum::extract::State as Extract;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::job_views::{self, JobAnswer, JobView};
use super::problem::Problem;
use super::request::{Asked, Named, Wanted};
use super::time::Present;
use crate::fleet::jobs::words::{Job, JobId};
use crate::ollama::name::canonical;
use crate::units::Duration;

type Shared = Extract<Arc<State>>;

/// The shortest time between two events about a job.
const PACE: StdDuration = StdDuration::from_millis(200);
/// Silence after which whoever follows a job is told that all is well.
const SIGN_OF_LIFE: StdDuration = StdDuration::from_secs(15);

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/jobs", get(list))
        .route("/jobs/{id}", get(one).delete(cancel))
        .route("/jobs/{id}/events", get(events))
        .route("/models/{model}/cancel", post(cancel_model))
}

/// Which jobs are wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    /// Most jobs.
    limit: usize,
    /// Only those of a state.
    state: Option<String>,
    /// Only those of a kind.
    kind: Option<String>,
    /// Only those about a model.
    model: Option<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { limit: 100, state: None, kind: None, model: None }
    }
}

impl Filter {
    fn wants(&self, job: &Job) -> bool {
        self.state.as_deref().is_none_or(|state| state == job.state())
            && self.kind.as_deref().is_none_or(|kind| kind == job.work.as_str())
            && self.model.as_deref().is_none_or(|model| canonical(model) == job.model)
    }
}

/// Jobs, the latest first.
#[derive(Serialize, JsonSchema)]
struct Jobs {
    /// Always true.
    success: bool,
    /// How many are listed.
    count: usize,
    /// The jobs.
    jobs: Vec<JobView>,
}

async fn list(Extract(state): Shared, Asked(filter): Asked<Filter>) -> Json<Jobs> {
    let present = Present::read();
    let all = state.store.load().lasting.jobs.list();
    let wanted = all.iter().filter(|job| filter.wants(job)).take(filter.limit);
    let jobs: Vec<_> = wanted.map(|job| job_views::view(job, present)).collect();
    Json(Jobs { success: true, count: jobs.len(), jobs })
}

/// How long the answer may wait until the job is over.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Patience {
    /// At most so long.
    pub wait: Option<Duration>,
}

async fn one(
    Extract(state): Shared,
    Named(id): Named<JobId>,
    Asked(patience): Asked<Patience>,
) -> Result<Json<JobAnswer>, Problem> {
    let limit = patience.wait.map_or(StdDuration::ZERO, |wait| wait.0);
    let job = settled(&state, id, limit).await.ok_or_else(|| unknown(id))?;
    Ok(Json(job_views::answer(&job, Present::read())))
}

/// The job once it is over, or as it is after some time, or when another process answers here.
pub async fn settled(state: &State, id: JobId, limit: StdDuration) -> Option<Job> {
    let jobs = Arc::clone(&state.store.load().lasting.jobs);
    let (mut changes, mut closing) = (jobs.changes(), state.closing.clone());
    let over =
        async { while jobs.get(id).is_some_and(|job| job.ended.is_none()) && changes.changed().await.is_ok() {} };
    tokio::select! {
        () = over => {}
        () = tokio::time::sleep(limit) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
    jobs.get(id)
}

fn unknown(id: JobId) -> Problem {
    Problem::not_found(format!("there is no job {id}; GET /api/orchestrator/jobs lists those there are"))
}

/// The answer to a job that was called off.
#[derive(Serialize, JsonSchema)]
struct Cancelled {
    /// Always true.
    success: bool,
    /// In words.
    message: String,
    /// The job as it is now.
    job: JobView,
}

async fn cancel(Extract(state): Shared, Named(id): Named<JobId>) -> Result<Json<Cancelled>, Problem> {
    let jobs = Arc::clone(&state.store.load().lasting.jobs);
    let before = jobs.get(id).ok_or_else(|| unknown(id))?;
    let now = Present::read().now;
    jobs.cancel(id, now);
    let job = jobs.get(id).unwrap_or(before.clone());
    let message = match before.ended {
        Some(_) => format!("Job {id} was over already"),
        None => format!("Job {id} is cancelled"),
    };
    Ok(Json(Cancelled { success: true, message, job: job_views::view(&job, Present::read()) }))
}

/// Which job about a model is to be called off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Which {
    /// This one; all that are not over by default.
    job_id: Option<JobId>,
}

/// The answer to calling off what is done about a model.
#[derive(Serialize, JsonSchema)]
struct CancelledModel {
    /// Always true.
    success: bool,
    /// The model by its canonical name.
    model: String,
    /// How many jobs were called off.
    cancelled: usize,
    /// In words.
    message: String,
}

async fn cancel_model(
    Extract(state): Shared,
    Named(model): Named<String>,
    Wanted(which): Wanted<Which>,
) -> Json<CancelledModel> {
    let model = canonical(&model).into_owned();
    let jobs = Arc::clone(&state.store.load().lasting.jobs);
    let now = Present::read().now;
    let meant =
        |job: &&Job| job.ended.is_none() && job.model == model && which.job_id.is_none_or(|wanted| wanted == job.id);
    let cancelled = jobs.list().iter().filter(meant).filter(|job| jobs.cancel(job.id, now)).count();
    let message = match cancelled {
        0 => format!("No job about {model} runs or waits"),
        count => format!("Cancelled {count} job(s) about {model}"),
    };
    Json(CancelledModel { success: true, model, cancelled, message })
}

/// Follows a job: an event `job` with the job as it is at first, at each change and at its end, with which the stream ends.
async fn events(
    Extract(state): Shared,
    Named(id): Named<JobId>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let jobs = Arc::clone(&state.store.load().lasting.jobs);
    jobs.get(id).ok_or_else(|| unknown(id))?;
    let (changes, closing) = (jobs.changes(), state.closing.clone());
    let follower = Follower { changes, closing, told: None, over: false };
    let stream = futures_util::stream::unfold(follower, move |mut follower| {
        let jobs = Arc::clone(&jobs);
        async move {
            loop {
                if follower.over {
                    return None;
                }
                let job = jobs.get(id)?;
                if follower.told != Some(job.revision) {
                    if follower.told.replace(job.revision).is_some() && job.ended.is_none() {
                        tokio::time::sleep(PACE).await;
                    }
                    // What came meanwhile is told with it.
                    let job = jobs.get(id)?;
                    follower.told = Some(job.revision);
                    follower.over = job.ended.is_some();
                    let event = Event::default().event("job").json_data(job_views::view(&job, Present::read()));
                    return Some((Ok(event.unwrap_or_default()), follower));
                }
                tokio::select! {
                    changed = follower.changes.changed() => changed.ok()?,
                    // Another process answers from here on; it knows nothing of this job.
                    _ = follower.closing.wait_for(|closing| *closing) => return None,
                }
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)))
}

/// Whoever follows a job.
struct Follower {
    changes: tokio::sync::watch::Receiver<u64>,
    closing: tokio::sync::watch::Receiver<bool>,
    /// The revision that was told last.
    told: Option<u64>,
    over: bool,
}
