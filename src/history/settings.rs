//! How long what is kept.

use std::time::Duration;

use crate::config::types;

/// Requests that are kept at most where there is only memory.
const MOST_IN_MEMORY: u64 = 10_000;

/// How long what is kept; nothing of what is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Single requests.
    pub requests: Duration,
    /// How many of them at most.
    pub max_requests: u64,
    /// Sums by the hour.
    pub aggregates: Duration,
    /// Usage by the hour.
    pub usage: Duration,
}

impl Settings {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &types::Config) -> Self {
        let history = &config.history;
        let most = u64::from(history.max_requests);
        Self {
            requests: history.requests.0,
            max_requests: if config.server.data_dir.is_some() { most } else { most.min(MOST_IN_MEMORY) },
            aggregates: history.aggregates.0,
            usage: history.usage.0,
        }
    }

    /// Whether any request leaves a trace.
    #[must_use]
    pub fn keeps_anything(&self) -> bool {
        ![self.requests, self.aggregates, self.usage].iter().all(Duration::is_zero)
    }
}

impl Default for Settings {
    fn default() -> Self {
        let day = Duration::from_hours(24);
        Self { requests: day, max_requests: 100_000, aggregates: 30 * day, usage: 400 * day }
    }
}
