//! The book of jobs: whose turn it is, how far each is. Pure: it is told the time and does nothing itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::words::{Job, JobId, Order, Progress, Row, State, Task, TaskId, Work};
use crate::ollama::name::canonical;

/// Jobs that are over and remembered.
pub const KEPT: usize = 200;
/// Jobs at a time that are not over.
pub const ACTIVE: usize = 50;
/// Servers at a time that something is done on.
pub const RUNNING: usize = 64;

/// As many jobs as there may be are not over yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// All jobs, the oldest first.
#[derive(Debug, Default)]
pub struct Book {
    jobs: VecDeque<Job>,
    last: JobId,
}

impl Book {
    /// Takes an order.
    ///
    /// # Errors
    /// When there are too many jobs already.
    pub fn add(&mut self, order: Order, now: Instant) -> Result<JobId, Full> {
        if self.active().count() >= ACTIVE {
            return Err(Full);
        }
        let Order { work, model, written, targets, parallel, who } = order;
        let rows = targets.into_iter().map(|target| {
            let follows = self.same_work(&work, &written, &target.identity);
            let state = target.left_out.clone().map_or(State::Waiting, State::Skipped);
            let ended = state.is_over().then_some(now);
            Row { target, state, progress: Progress::default(), load: None, began: None, ended, follows }
        });
        let rows = rows.collect();
        self.last += 1;
        let id = self.last;
        let parallel = parallel.max(1);
        self.jobs.push_back(Job {
            id,
            work,
            model,
            written,
            who,
            parallel,
            rows,
            began: now,
            ended: None,
            revision: 0,
        });
        self.touched(id, now);
        while self.jobs.len() - self.active().count() > KEPT
            && let Some(oldest) = self.jobs.iter().position(|job| job.ended.is_some())
        {
            self.jobs.remove(oldest);
        }
        Ok(id)
    }

    /// The next work that may begin; it runs from now on.
    pub fn begin(&mut self, now: Instant) -> Option<Task> {
        let running = self.active().flat_map(|job| &job.rows).filter(|row| row.state == State::Running).count();
        if running >= RUNNING {
            return None;
        }
        let id = self.active().find_map(|job| {
            let busy = job.rows.iter().filter(|row| row.state == State::Running).count();
            let free = |row: &Row| row.state == State::Waiting && row.follows.is_none() && !self.conflicts(job, row);
            let row = job.rows.iter().position(free).filter(|_| busy < job.parallel)?;
            Some(TaskId { job: job.id, row })
        })?;
        let job = self.job_mut(id.job)?;
        let row = job.rows.get_mut(id.row)?;
        row.state = State::Running;
        row.began = Some(now);
        let server = row.target.identity.clone();
        let (work, model, written) = (job.work.clone(), job.model.clone(), job.written.clone());
        let who = job.who.clone();
        self.touched(id.job, now);
        Some(Task { id, work, model, written, server, who })
    }

    /// A server told how far it is.
    pub fn progress(&mut self, task: TaskId, progress: &Progress, now: Instant) {
        for id in self.with_followers(task) {
            if let Some(row) = self.row_mut(id).filter(|row| !row.state.is_over()) {
                row.progress.clone_from(progress);
                self.touched(id.job, now);
            }
        }
    }

    /// Something that ran is over. What was cancelled meanwhile stays so.
    pub fn finish(&mut self, task: TaskId, outcome: Result<Option<Duration>, String>, now: Instant) {
        for id in self.with_followers(task) {
            let Some(row) = self.row_mut(id).filter(|row| !row.state.is_over()) else { continue };
            row.follows = None;
            row.began = row.began.or(Some(now));
            row.ended = Some(now);
            match &outcome {
                Ok(load) => (row.state, row.load) = (State::Done, *load),
                Err(why) => row.state = State::Failed(why.clone()),
            }
            self.touched(id.job, now);
        }
    }

    /// Cancels what is not over of a job; returns what ran and must be ended. `None` when there is no such job.
    pub fn cancel(&mut self, id: JobId, now: Instant) -> Option<Vec<TaskId>> {
        let job = self.job_mut(id)?;
        let mut ran = Vec::new();
        let mut cancelled = Vec::new();
        for (row, one) in job.rows.iter_mut().enumerate().filter(|(_, one)| !one.state.is_over()) {
            let task = TaskId { job: id, row };
            if one.state == State::Running {
                ran.push(task);
            }
            one.state = State::Cancelled;
            one.follows = None;
            one.ended = Some(now);
            cancelled.push(task);
        }
        // Who relied on it does the work itself.
        for task in cancelled {
            for follower in self.with_followers(task).into_iter().skip(1) {
                if let Some(row) = self.row_mut(follower) {
                    row.follows = None;
                }
            }
        }
        self.touched(id, now);
        Some(ran)
    }

    /// A job.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// All jobs, the oldest first.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.iter()
    }

    fn active(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(|job| job.ended.is_none())
    }

    fn job_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    fn row_mut(&mut self, task: TaskId) -> Option<&mut Row> {
        self.job_mut(task.job)?.rows.get_mut(task.row)
    }

    /// A task and those that take its outcome for theirs.
    fn with_followers(&self, task: TaskId) -> Vec<TaskId> {
        let followers = self.active().flat_map(|job| {
            let follow = job.rows.iter().enumerate().filter(|(_, row)| row.follows == Some(task));
            follow.map(|(row, _)| TaskId { job: job.id, row })
        });
        std::iter::once(task).chain(followers).collect()
    }

    /// The very same work on the same server that is not over.
    fn same_work(&self, work: &Work, written: &str, server: &crate::fleet::server::Identity) -> Option<TaskId> {
        self.active().filter(|job| job.work == *work && job.written == written).find_map(|job| {
            let same = |row: &Row| row.target.identity == *server && !row.state.is_over() && row.follows.is_none();
            job.rows.iter().position(same).map(|row| TaskId { job: job.id, row })
        })
    }

    /// Whether something runs on the server of a row that touches the same model; two upstreams may have one server. Of
    /// two warmups the scheduler makes one load.
    fn conflicts(&self, job: &Job, row: &Row) -> bool {
        let warms = |job: &Job| matches!(job.work, Work::Warmup { .. });
        let runs_here = |one: &Row| one.state == State::Running && one.target.identity.url == row.target.identity.url;
        self.active().any(|other| {
            other.rows.iter().any(runs_here)
                && !(warms(job) && warms(other))
                && names(other).iter().any(|name| names(job).contains(name))
        })
    }

    /// A job has changed, and may be over by that.
    fn touched(&mut self, id: JobId, now: Instant) {
        let Some(job) = self.job_mut(id) else { return };
        job.revision += 1;
        if job.ended.is_none() && job.rows.iter().all(|row| row.state.is_over()) {
            job.ended = Some(now);
        }
    }
}

/// The models that a job touches.
fn names(job: &Job) -> Vec<String> {
    let mut names = vec![job.model.clone()];
    if let Work::Copy { destination, .. } = &job.work {
        names.push(canonical(destination).into_owned());
    }
    names
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
