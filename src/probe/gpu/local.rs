//! The driver of this machine: one watcher for all servers that have cards here, for as long as there is one.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Why;
use crate::clock;
use crate::nvml::{Settings, Watcher};
use crate::policy::gpu::reading::Reading;

/// Time between two looks of the watcher.
const INTERVAL: Duration = Duration::from_secs(2);

static WATCHER: Mutex<Weak<Watcher>> = Mutex::new(Weak::new());

/// A share in the watcher.
pub(super) struct Local(Result<Arc<Watcher>, String>);

impl Local {
    /// Begins to watch, unless somebody does already.
    pub(super) fn start() -> Self {
        let mut shared = WATCHER.lock();
        if let Some(watcher) = shared.upgrade() {
            return Self(Ok(watcher));
        }
        let started = Watcher::start(Settings { interval: INTERVAL, library: None }).map(Arc::new);
        if let Ok(watcher) = &started {
            *shared = Arc::downgrade(watcher);
        }
        Self(started.map_err(|error| format!("no thread for the driver: {error}")))
    }

    /// What the driver last said.
    pub(super) fn read(&self) -> Result<Arc<Reading>, Why> {
        let watcher = self.0.as_ref().map_err(Why::silent)?;
        let look = watcher.look(clock::now());
        look.reading.map_err(|unread| {
            let detail =
                look.detail.map_or_else(|| "the driver does not answer".to_owned(), |detail| detail.to_string());
            Why { unread, detail }
        })
    }
}
