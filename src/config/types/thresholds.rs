//! When somebody should hear that the process comes close to its limits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Percent;

/// Shares above which a warning stands in the log, in `/health` and in `arriero diagnose`; `100%` is never.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Of the memory: that of the container where it has a limit, else that of the machine.
    pub memory: Percent,
    /// Of the disks of `data_dir` and `temp_dir`.
    pub disk: Percent,
    /// Of the processor time that this process may use.
    pub cpu: Percent,
    /// Of the file descriptors that this process may have.
    pub files: Percent,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { memory: Percent::new(90), disk: Percent::new(90), cpu: Percent::new(95), files: Percent::new(90) }
    }
}
