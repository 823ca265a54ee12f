//! The block `recovery` of a server: what may make it well again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secs;
use crate::units::Duration;

/// What is done when a server does not answer its checks any more: exactly one of `exec`, `webhook` and `docker_restart`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecoveryAction {
    /// Run a program: its path, then its arguments. No shell takes part, and of the environment it gets only `PATH`,
    /// `HOME`, `USER`, `LANG` and what it should know (`ARRIERO_SERVER` and others). It must exit with status 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Post JSON to this URL, which must be answered with a status from 200 to 299.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Restart this container through the Docker Engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_restart: Option<String>,
    /// With `webhook`: file with the secret that the request is signed with (`X-Arriero-Signature`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<String>,
    /// With `docker_restart`: the socket of the Docker Engine, `/var/run/docker.sock` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_socket: Option<String>,
    /// Failed checks in a row before the first attempt.
    #[schemars(range(min = 1))]
    pub after: u32,
    /// Attempts before it is given up.
    #[schemars(range(min = 1))]
    pub max_attempts: u32,
    /// From a failed attempt to the next one; doubles with each.
    pub backoff: Duration,
    /// The longest such time.
    pub max_backoff: Duration,
    /// How long the action may take; then it is ended, and has failed.
    pub timeout: Duration,
    /// How long after the action the server may take to pass a check; else the attempt has failed.
    pub verify: Duration,
    /// How long after giving up it begins anew.
    pub retry_after: Duration,
}

impl Default for RecoveryAction {
    fn default() -> Self {
        Self {
            exec: None,
            webhook: None,
            docker_restart: None,
            secret_file: None,
            docker_socket: None,
            after: 3,
            max_attempts: 3,
            backoff: secs(10),
            max_backoff: secs(300),
            timeout: secs(60),
            verify: secs(60),
            retry_after: secs(1800),
        }
    }
}
