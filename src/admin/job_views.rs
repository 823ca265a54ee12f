//! Jobs about models as the admin listener shows them.

use schemars::JsonSchema;
use serde::Serialize;

use super::time::{Present, milliseconds};
use crate::fleet::jobs::words::{Job, Row, State, Work};

/// A job, with how far each of its servers is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    /// Its number, for as long as the process runs.
    pub id: u64,
    /// `warmup`, `unload`, `pull`, `copy` or `delete`.
    pub kind: &'static str,
    /// The model by its canonical name.
    pub model: String,
    /// The model as it was written.
    pub written: String,
    /// The new name of a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// `waiting`, `running`, `done`, `failed` (a server failed), `cancelled`, or `skipped` (all were left out).
    pub state: &'static str,
    /// Who ordered it, in their own words.
    pub who: String,
    /// Most servers at a time.
    pub parallel: usize,
    /// When it was ordered.
    pub created_at: String,
    /// When its last server was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Bytes that are there, over all servers; of a pull.
    pub completed: u64,
    /// Bytes that are known to be needed, over all servers; of a pull. It grows while servers name what they need.
    pub total: u64,
    /// Its servers, in the order of the file.
    pub servers: Vec<RowView>,
}

/// A job on one server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowView {
    /// The server.
    pub server_id: String,
    /// `waiting`, `running`, `done`, `failed`, `cancelled` or `skipped`.
    pub state: &'static str,
    /// What the server told last, in its own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Bytes that are there; of a pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<u64>,
    /// Bytes that are known to be needed; of a pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Milliseconds that a load is expected to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_time: Option<f64>,
    /// Milliseconds that the load took, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_time: Option<f64>,
    /// Why it failed or was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When its turn came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

/// The answer to an order.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobAnswer {
    /// No server failed, so far.
    pub success: bool,
    /// The job.
    pub job: JobView,
}

/// The answer to a warmup: the job, and what the orchestrators before this one answered.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmupAnswer {
    /// No server failed, so far.
    pub success: bool,
    /// The model by its canonical name.
    pub model: String,
    /// Its servers.
    pub jobs: Vec<WarmupRow>,
    /// How many are how far.
    pub summary: WarmupSummary,
    /// The job.
    pub job: JobView,
}

/// A warmup on one server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmupRow {
    /// The server.
    pub server_id: String,
    /// `pending`, `loading`, `loaded`, `failed`, `cancelled` or `skipped`.
    pub status: &'static str,
    /// Milliseconds that the load is expected to take: what was learned here, else what such a size usually takes.
    pub estimated_time: Option<f64>,
    /// Milliseconds that the load took.
    pub load_time: Option<f64>,
}

/// How many servers of a warmup are how far.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmupSummary {
    /// Servers of the job, those left out too.
    pub total_servers: usize,
    /// Have it in memory.
    pub loaded_on: usize,
    /// Load it, or wait for their turn.
    pub loading_on: usize,
    /// Failed.
    pub failed_on: usize,
    /// Were left out.
    pub skipped_on: usize,
}

/// The answer to an unload: the job, and what the orchestrators before this one answered.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnloadAnswer {
    /// No server failed, so far.
    pub success: bool,
    /// The model by its canonical name.
    pub model: String,
    /// Its servers.
    pub results: Vec<UnloadRow>,
    /// How many are how far.
    pub summary: UnloadSummary,
    /// The job.
    pub job: JobView,
}

/// An unload on one server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnloadRow {
    /// The server.
    pub server_id: String,
    /// The model is not in memory there any more.
    pub success: bool,
}

/// How many servers of an unload are how far.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnloadSummary {
    /// Servers of the job.
    pub total_servers: usize,
    /// Have it in memory no more.
    pub successfully_unloaded: usize,
    /// Failed.
    pub failed: usize,
}

/// Whether no server of a job has failed.
pub fn went_well(job: &Job) -> bool {
    !job.rows.iter().any(|row| matches!(row.state, State::Failed(_)))
}

/// A job for an answer.
pub fn view(job: &Job, present: Present) -> JobView {
    JobView {
        id: job.id,
        kind: job.work.as_str(),
        model: job.model.clone(),
        written: job.written.clone(),
        destination: match &job.work {
            Work::Copy { destination, .. } => Some(destination.clone()),
            _ => None,
        },
        state: job.state(),
        who: job.who.clone(),
        parallel: job.parallel.min(job.rows.len()),
        created_at: present.text(job.began),
        ended_at: job.ended.map(|at| present.text(at)),
        completed: job.rows.iter().fold(0, |sum, row| sum.saturating_add(row.progress.completed)),
        total: job.rows.iter().fold(0, |sum, row| sum.saturating_add(row.progress.total)),
        servers: job.rows.iter().map(|row| row_view(row, &job.work, present)).collect(),
    }
}

fn row_view(row: &Row, work: &Work, present: Present) -> RowView {
    let pulls = matches!(work, Work::Pull);
    RowView {
        server_id: row.target.id.clone(),
        state: row.state.as_str(),
        status: row.progress.status.clone(),
        completed: pulls.then_some(row.progress.completed),
        total: pulls.then_some(row.progress.total),
        estimated_time: row.target.estimate.map(milliseconds),
        load_time: row.load.map(milliseconds),
        error: match &row.state {
            State::Failed(why) | State::Skipped(why) => Some(why.clone()),
            _ => None,
        },
        started_at: row.began.map(|at| present.text(at)),
        ended_at: row.ended.map(|at| present.text(at)),
    }
}

/// The answer to any order.
pub fn answer(job: &Job, present: Present) -> JobAnswer {
    JobAnswer { success: went_well(job), job: view(job, present) }
}

/// The answer to a warmup.
pub fn warmup(job: &Job, present: Present) -> WarmupAnswer {
    let row = |row: &Row| WarmupRow {
        server_id: row.target.id.clone(),
        status: match row.state {
            State::Waiting => "pending",
            State::Running => "loading",
            State::Done => "loaded",
            State::Failed(_) => "failed",
            State::Cancelled => "cancelled",
            State::Skipped(_) => "skipped",
        },
        estimated_time: row.target.estimate.map(milliseconds),
        load_time: row.load.map(milliseconds),
    };
    let jobs: Vec<_> = job.rows.iter().map(row).collect();
    let count = |words: &[&str]| jobs.iter().filter(|row| words.contains(&row.status)).count();
    let summary = WarmupSummary {
        total_servers: jobs.len(),
        loaded_on: count(&["loaded"]),
        loading_on: count(&["pending", "loading"]),
        failed_on: count(&["failed"]),
        skipped_on: count(&["skipped"]),
    };
    WarmupAnswer { success: went_well(job), model: job.model.clone(), jobs, summary, job: view(job, present) }
}

/// The answer to an unload.
pub fn unload(job: &Job, present: Present) -> UnloadAnswer {
    let done = |row: &Row| row.state == State::Done;
    let row = |row: &Row| UnloadRow { server_id: row.target.id.clone(), success: done(row) };
    let summary = UnloadSummary {
        total_servers: job.rows.len(),
        successfully_unloaded: job.rows.iter().filter(|row| done(row)).count(),
        failed: job.rows.iter().filter(|row| matches!(row.state, State::Failed(_))).count(),
    };
    let results = job.rows.iter().map(row).collect();
    UnloadAnswer { success: went_well(job), model: job.model.clone(), results, summary, job: view(job, present) }
}
