//! What an operator sees: metrics, the access log, messages.
//!
//! Nothing here decides anything. Metric handles are resolved when a configuration is compiled, so a
//! request only adds to atomics; log lines are formatted and written by threads of their own, and
//! are dropped and counted rather than waited for.

pub mod access_log;
pub mod cache_metrics;
mod cluster_metrics;
mod combined;
mod gap_histogram;
pub mod gpu_metrics;
mod history_metrics;
pub mod logging;
pub mod messages;
pub mod metrics;
pub mod names;
mod process_metrics;
mod quota_metrics;
pub mod recent;
#[cfg(test)]
mod reference;
pub mod resource_metrics;
pub mod response_cache_metrics;
pub mod service_manager;
mod trace_metrics;
pub mod traces;
