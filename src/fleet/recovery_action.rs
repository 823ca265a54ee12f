//! What may make a server well again, and what came of it: where the task that does it, the checks and the admin
//! listener meet.
//!
//! The server's state has it, so it outlives reloads: a server that was given up is not tried again because a comment in
//! the file changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::snapshot::Snapshot;
use super::upstream_state::UpstreamState;
use crate::config::WebhookUrl;
use crate::policy::recovery_action::{ActionPolicy, RecoveryAction, suspects_network};

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run a program: its path, then its arguments.
    Exec(Vec<String>),
    /// Post to a URL, signed with the secret in a file.
    Webhook(WebhookUrl, Option<String>),
    /// Restart a container through a socket of the Docker Engine.
    DockerRestart {
        /// Its name.
        container: String,
        /// Path of the socket.
        socket: String,
    },
}

impl Action {
    /// The word for logs, metrics and the admin API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Webhook(..) => "webhook",
            Self::DockerRestart { .. } => "docker_restart",
        }
    }
}

/// What is done for a server, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionPlan {
    /// What.
    pub action: Action,
    /// When.
    pub policy: ActionPolicy,
    /// How long it may take.
    pub timeout: Duration,
}

/// Why an action that is due is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// An operator took the server out.
    TakenOut,
    /// Another server of the upstream has its turn.
    Another,
    /// The network is suspected.
    Network,
    /// Another instance of the cluster leads, and does it.
    Elsewhere,
    /// The process stops.
    Stopping,
}

impl Held {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TakenOut => "the server is draining or in maintenance",
            Self::Another => "another server of the upstream is being recovered",
            Self::Network => "all servers fell silent at the same moment, so the network is suspected",
            Self::Elsewhere => "another instance of the cluster leads, and runs it",
            Self::Stopping => "the process is stopping",
        }
    }
}

/// An attempt that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub at: Instant,
    /// How long the action took.
    pub took: Duration,
    /// Whether the action itself went well.
    pub good: bool,
    /// What it said, cut.
    pub detail: String,
}

/// What is known of a server's recovery action.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What goes on.
    pub action: RecoveryAction,
    /// Why it is not run although it is due.
    pub held: Option<Held>,
    /// The last attempt.
    pub last: Option<Attempt>,
}

/// The recovery action of one server.
#[derive(Debug, Default)]
pub struct Acting {
    known: Mutex<Known>,
    stirred: Notify,
}

impl Acting {
    /// Looks at what is known, or changes it; keep it short.
    pub fn with<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock())
    }

    /// Something about the server changed.
    pub fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Returns once something about the server has changed since the last time.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }
}

/// The turn of one server of an upstream; over when dropped.
pub struct Turn(Arc<UpstreamState>);

impl Turn {
    /// The turn, unless another server has it.
    #[must_use]
    pub fn take(upstream: &Arc<UpstreamState>) -> Option<Self> {
        let taken = upstream.recovering.swap(true, Ordering::AcqRel);
        (!taken).then(|| Self(Arc::clone(upstream)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.recovering.store(false, Ordering::Release);
    }
}

/// Whether a server of an upstream has its turn.
pub type Recovering = AtomicBool;

/// Until when the network is suspected rather than the servers, if it is. Those that an operator took out say nothing.
#[must_use]
pub fn network_is_suspected(snapshot: &Snapshot, now: Instant) -> Option<Instant> {
    let checked = snapshot.upstreams.iter().filter(|upstream| upstream.check.is_some());
    let working = checked.flat_map(|upstream| &upstream.servers).filter(|one| one.state.standing(now).takes_work());
    let failing: Vec<_> =
        working.map(|member| member.state.acting.with(|known| known.action.failing_since())).collect();
    suspects_network(&failing, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_of_an_upstream_has_its_turn_at_a_time() {
        let (fleet, web) = (Arc::new(UpstreamState::default()), Arc::new(UpstreamState::default()));
        let first = Turn::take(&fleet).expect("nobody else");
        assert!(Turn::take(&fleet).is_none());
        assert!(Turn::take(&web).is_some(), "another upstream");
        drop(first);
        assert!(Turn::take(&fleet).is_some());
    }
}
