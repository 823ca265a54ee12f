//! How it stops: nobody is cut off who can finish in time, and nobody waits for whom there is no need to wait.
//!
//! 1. At once `/health/ready` says 503, and every answer says that its connection ends with it. Listeners go on
//!    accepting for `server.drain_delay`: a load balancer learns late that it should ask others.
//! 2. Listeners close. Idle connections end after a moment; requests go on.
//! 3. When the last connection has ended, the process ends; at most `server.drain` after the listeners closed, when
//!    whoever is left is told and cut off.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{LAST_WORK, Running};
use crate::probe;

/// What the answers of the admin listener may still take.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// What the last spans may take.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// What the last rows of the history may take.
const LAST_ROWS: Duration = Duration::from_secs(5);

/// Whether everybody could finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All requests finished.
    All,
    /// The time was over before they did; this many were cut off.
    CutOff(usize),
}

impl Running {
    /// Stops accepting, lets requests in flight finish for as long as the configuration says, ends.
    pub fn stop(self) -> Drained {
        let delay = self.store.load().drain_delay;
        self.stop_within(delay, std::future::pending())
    }

    /// Stops, after listeners have accepted for `delay` more; all that takes time ends when `now` is ready.
    pub(super) fn stop_within(self, delay: Duration, now: impl Future<Output = ()>) -> Drained {
        // No socket is opened any more.
        self.reloader.close();
        self.stopping.send_replace(true);
        self.sockets.leave();
        let drained = self.control.block_on(self.drain(delay, now));
        // Who asked the admin listener for something is to hear of it; who keeps a connection is not waited for.
        self.admin_closing.send_replace(true);
        drop(self.control.block_on(async { tokio::time::timeout(LAST_ANSWERS, self.admin_served).await }));
        // The data side may have ended by itself.
        let _ = self.finished.send(());
        if self.data.join().is_err() {
            tracing::error!("the data thread panicked");
        }
        if let Err(error) = probe::keep_now(&self.store.load(), &self.history) {
            tracing::warn!(%error, "what was learned cannot be written");
        }
        self.history.close(LAST_ROWS);
        self.last_line.wait(LAST_WORK);
        let (leave, left) = self.membership;
        leave.send_replace(true);
        drop(self.control.block_on(async { tokio::time::timeout(LAST_WORK * 2, left).await }));
        drop(self.control.block_on(async { tokio::time::timeout(LAST_SPANS, self.last_story).await }));
        self.control.shutdown_timeout(LAST_WORK);
        drained
    }

    async fn drain(&self, delay: Duration, now: impl Future<Output = ()>) -> Drained {
        let limit = self.store.load().drain;
        let mut now = std::pin::pin!(now);
        let may_wait = tokio::select! {
            () = &mut now => false,
            () = tokio::time::sleep(delay) => true,
        };
        self.sockets.close();
        self.tasks.close();
        if may_wait {
            tokio::select! {
                biased;
                () = self.tasks.wait() => return Drained::All,
                () = &mut now => {}
                () = tokio::time::sleep(limit) => {}
            }
        }
        let left = self.in_flight.load(Ordering::Relaxed);
        self.cut.send_replace(true);
        // Those who do not take their last words are not waited for.
        drop(tokio::time::timeout(LAST_WORK, self.tasks.wait()).await);
        if left == 0 { Drained::All } else { Drained::CutOff(left) }
    }
}
