//! Where those who want to know what Redis has, or want another connection, meet the tasks that talk to it.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// A decision that is not the same here and in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What kind of decision.
    pub kind: &'static str,
    /// What it is about.
    pub subject: String,
    /// The version here; 0 for none, or for one that is not told yet.
    pub here: u64,
    /// The version in Redis; 0 for none.
    pub there: u64,
}

/// What is known here beside what Redis has.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// How long Redis took to tell.
    pub took: Duration,
    /// Why it did not.
    pub fault: Option<String>,
    /// Version of the decisions in Redis.
    pub version: u64,
    /// Decisions in Redis, lifted ones among them.
    pub decisions: usize,
    /// What differed.
    pub differences: Vec<Difference>,
    /// The instances that Redis has.
    pub members: Vec<String>,
    /// Who leads, as Redis has it.
    pub leader: Option<String>,
}

/// What is known here of the cluster's decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known {
    /// The highest version that was seen.
    pub version: u64,
    /// Decisions, lifted ones among them.
    pub decisions: usize,
    /// Those that hold.
    pub in_force: usize,
    /// Those that were made here and are not told yet.
    pub untold: usize,
    /// How often all of them were compared.
    pub comparisons: u64,
    /// When that was last, seconds since 1970.
    pub compared: Option<f64>,
}

/// Who wants something of the tasks that talk to Redis.
#[derive(Default)]
pub struct Asking {
    comparisons: Mutex<VecDeque<oneshot::Sender<Comparison>>>,
    wanted: Notify,
    reconnect: Notify,
    known: Mutex<Known>,
}

impl Asking {
    /// Asks for a comparison, which also repairs what differs; it comes when it is done, if there is a cluster.
    pub fn compare(&self) -> oneshot::Receiver<Comparison> {
        let (answer, outcome) = oneshot::channel();
        self.comparisons.lock().push_back(answer);
        self.wanted.notify_one();
        outcome
    }

    /// Returns once somebody wants a comparison.
    pub async fn is_wanted(&self) {
        self.wanted.notified().await;
    }

    /// Those who still wait for one.
    pub fn waiting(&self) -> Vec<oneshot::Sender<Comparison>> {
        let mut all = self.comparisons.lock();
        all.drain(..).filter(|one| !one.is_closed()).collect()
    }

    /// Asks for another connection.
    pub fn reconnect(&self) {
        self.reconnect.notify_one();
    }

    /// Returns once somebody wants another connection.
    pub async fn reconnect_wanted(&self) {
        self.reconnect.notified().await;
    }

    /// What is known of the decisions.
    pub fn known(&self) -> Known {
        *self.known.lock()
    }

    /// Notes what is known of the decisions.
    pub fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock());
    }
}
