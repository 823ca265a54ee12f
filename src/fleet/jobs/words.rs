//! What a job is made of.

use std::time::{Duration, Instant};

use crate::fleet::server::Identity;
use crate::policy::queue::Class;

/// The number of a job, for as long as the process runs.
pub type JobId = u64;

/// What is done to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// It is brought into memory.
    Warmup {
        /// Who goes first, when requests wait for loads too.
        class: Class,
    },
    /// It is taken out of memory.
    Unload {
        /// Also where it is pinned or used.
        force: bool,
    },
    /// The server fetches it from its registry.
    Pull,
    /// It gets another name beside its own.
    Copy {
        /// The new name, as it was written.
        destination: String,
        /// Also where a model of that name is pinned or used.
        force: bool,
    },
    /// It is taken off the disk.
    Delete {
        /// Also where it is pinned or used.
        force: bool,
    },
}

impl Work {
    /// The word for the admin API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Warmup { .. } => "warmup",
            Self::Unload { .. } => "unload",
            Self::Pull => "pull",
            Self::Copy { .. } => "copy",
            Self::Delete { .. } => "delete",
        }
    }
}

/// How far a server is with a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not its turn yet.
    Waiting,
    /// It is at it.
    Running,
    /// It is done, and the models of the server are known anew.
    Done,
    /// It did not work: why.
    Failed(String),
    /// An operator did not want it any more.
    Cancelled,
    /// It was left out from the beginning: why.
    Skipped(String),
}

impl State {
    /// The word for the admin API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped(_) => "skipped",
        }
    }

    /// Whether it changes no more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// A server that a job is for.
#[derive(Clone, Debug)]
pub struct Target {
    /// How operators call it.
    pub id: String,
    /// Which it is. A job must not keep a server that the configuration has no more.
    pub identity: Identity,
    /// How long it is expected to take, where that is known.
    pub estimate: Option<Duration>,
    /// Why it is left out, if it is.
    pub left_out: Option<String>,
}

/// What an operator wants.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is done.
    pub work: Work,
    /// The model by its canonical name.
    pub model: String,
    /// Its name as it was written: registries tell letter case apart.
    pub written: String,
    /// Where.
    pub targets: Vec<Target>,
    /// Most servers at a time.
    pub parallel: usize,
    /// Who, in their own words.
    pub who: String,
}

/// What a server told of its progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// In the server's words.
    pub status: String,
    /// Bytes that are there.
    pub completed: u64,
    /// Bytes that are known to be needed.
    pub total: u64,
}

/// A job on one server.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which server.
    pub target: Target,
    /// How far it is.
    pub state: State,
    /// What it told.
    pub progress: Progress,
    /// How long the model took to load, where one of our own loads brought it.
    pub load: Option<Duration>,
    /// When its turn came.
    pub began: Option<Instant>,
    /// When it was over.
    pub ended: Option<Instant>,
    /// The same work for the same server in a job before this one: its outcome is this one's too.
    pub(super) follows: Option<TaskId>,
}

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What was ordered, but for the servers.
    pub work: Work,
    /// The model by its canonical name.
    pub model: String,
    /// Its name as it was written.
    pub written: String,
    /// Who ordered it.
    pub who: String,
    /// Most servers at a time.
    pub parallel: usize,
    /// Its servers, in the order of the file.
    pub rows: Vec<Row>,
    /// When it was ordered.
    pub began: Instant,
    /// When its last server was over.
    pub ended: Option<Instant>,
    /// Counts its changes.
    pub revision: u64,
}

impl Job {
    /// Its state as a whole: `waiting`, `running`, `done`, `failed` when a server failed, `cancelled` when one was
    /// cancelled and none failed, `skipped` when all were left out.
    #[must_use]
    pub fn state(&self) -> &'static str {
        let any = |wanted: &str| self.rows.iter().any(|row| row.state.as_str() == wanted);
        if self.ended.is_none() {
            return if self.rows.iter().all(|row| row.began.is_none()) { "waiting" } else { "running" };
        }
        ["failed", "cancelled", "done"].into_iter().find(|word| any(word)).unwrap_or("skipped")
    }
}

/// One server of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// The row of the server.
    pub row: usize,
}

/// What is to be carried out now.
#[derive(Clone, Debug)]
pub struct Task {
    /// Whose it is.
    pub id: TaskId,
    /// What is done.
    pub work: Work,
    /// The model by its canonical name.
    pub model: String,
    /// Its name as it was written.
    pub written: String,
    /// Where.
    pub server: Identity,
    /// Who ordered it.
    pub who: String,
}
