//! What is known of our own process: how much it uses of what the system gives it, and how its requests ended lately.
//!
//! `probe::process` looks and writes it here; whoever tells of the process reads it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::policy::failure::Reason;
use crate::policy::recent::{Growth, Recent};
use crate::policy::resources::{Share, Usage};

/// How far back "lately" reaches.
pub const WINDOW: Duration = Duration::from_mins(5);
/// Time between two notes of how requests ended.
const STEP: Duration = Duration::from_secs(5);
/// How many ways there are for a request to end.
const REASONS: usize = Reason::ALL.len();

/// What was seen of the process at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Memory in use and its limit: of the control group where `limited`, else of the machine.
    pub memory: Option<Share>,
    /// A control group limits the memory.
    pub limited: bool,
    /// Bytes of memory that this process has for itself.
    pub resident: Option<u64>,
    /// Processor time of this process since the look before, as a share of that of all its processors.
    pub cpu: Option<f64>,
    /// Processors that it may use.
    pub cpus: usize,
    /// File descriptors and their limit.
    pub files: Option<Share>,
    /// The folders that it writes to.
    pub disks: Vec<Disk>,
    /// How much of the last minute somebody had to wait.
    pub pressure: Pressure,
}

/// A folder that is written to, and the disk that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What it is for: `data_dir` or `temp_dir`.
    pub what: &'static str,
    /// The folder.
    pub path: PathBuf,
    /// Bytes of the disk. What only root may use counts as not there.
    pub share: Share,
}

/// Hundredths of the last minute in which tasks had to wait (Linux' pressure stall information).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some waited for a processor.
    pub cpu: Option<f64>,
    /// All waited for memory.
    pub memory: Option<f64>,
    /// All waited for disks.
    pub io: Option<f64>,
}

impl Sample {
    /// What is held against the thresholds.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            memory: self.memory,
            disks: self.disks.iter().map(|disk| disk.share).collect(),
            cpu: self.cpu,
            files: self.files,
        }
    }
}

/// What is known of our own process.
pub struct ProcessState {
    sample: ArcSwap<Sample>,
    recent: Mutex<Recent<REASONS>>,
}

impl ProcessState {
    /// Of a process that began at this time.
    pub fn new(began: Instant) -> Self {
        Self { sample: ArcSwap::default(), recent: Mutex::new(Recent::new(WINDOW, STEP, began)) }
    }

    /// What was seen last.
    #[must_use]
    pub fn sample(&self) -> Arc<Sample> {
        self.sample.load_full()
    }

    /// Notes what was seen, and how many requests ended for each reason so far.
    pub fn note(&self, sample: Sample, ended: [u64; REASONS], now: Instant) {
        self.sample.store(Arc::new(sample));
        self.recent.lock().note(ended, now);
    }

    /// How many requests ended lately for each reason, given how many did so far.
    pub fn lately(&self, ended: [u64; REASONS], now: Instant) -> Growth<REASONS> {
        self.recent.lock().growth(ended, now)
    }
}
