//! Notifications: what people are told without asking, and how often.
//!
//! # Problem
//!
//! A server that goes down at night should wake somebody, once. One that falls ill and gets well every ten seconds
//! should not fill a phone, and yet whoever was told last that it is well must learn when it is not.
//!
//! # Shape
//!
//! An event has a [`Kind`] and a subject (a server, an upstream, a certificate). Most kinds are one of a pair: a
//! problem, and the end of it. [`deduplication`] decides for one receiver whether an event is told, now or later;
//! [`signature`] is how a receiver knows who tells it.

pub mod deduplication;
pub mod signature;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Event")]
pub enum Kind {
    /// The checks of a server say that it is down.
    ServerDown,
    /// They say that it is up again.
    ServerUp,
    /// A circuit opened, of a server or of a model on it.
    CircuitOpen,
    /// It closed again.
    CircuitClosed,
    /// A request was refused because as many wait as may.
    QueueFull,
    /// A changed configuration was refused.
    ConfigRefused,
    /// The file on disk is in force again.
    ConfigApplied,
    /// A certificate ends soon and has not been renewed.
    CertificateExpiring,
    /// The recovery action of a server did not help as often as it may be tried.
    RecoveryGaveUp,
    /// A server is well again after its recovery action was run.
    RecoverySucceeded,
    /// The GPU of a server is degraded, takes nothing new, or has failed.
    GpuUnhealthy,
    /// It is healthy again.
    GpuRecovered,
    /// So much of a token quota is used that its `warn_at` is reached.
    QuotaWarning,
    /// All of a token quota is used.
    QuotaExceeded,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::ServerDown,
        Self::ServerUp,
        Self::CircuitOpen,
        Self::CircuitClosed,
        Self::QueueFull,
        Self::ConfigRefused,
        Self::ConfigApplied,
        Self::CertificateExpiring,
        Self::RecoveryGaveUp,
        Self::RecoverySucceeded,
        Self::GpuUnhealthy,
        Self::GpuRecovered,
        Self::QuotaWarning,
        Self::QuotaExceeded,
    ];

    /// The word for configuration, payload, log and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServerDown => "server_down",
            Self::ServerUp => "server_up",
            Self::CircuitOpen => "circuit_open",
            Self::CircuitClosed => "circuit_closed",
            Self::QueueFull => "queue_full",
            Self::ConfigRefused => "config_refused",
            Self::ConfigApplied => "config_applied",
            Self::CertificateExpiring => "certificate_expiring",
            Self::RecoveryGaveUp => "recovery_gave_up",
            Self::RecoverySucceeded => "recovery_succeeded",
            Self::GpuUnhealthy => "gpu_unhealthy",
            Self::GpuRecovered => "gpu_recovered",
            Self::QuotaWarning => "quota_warning",
            Self::QuotaExceeded => "quota_exceeded",
        }
    }

    /// The problem that it is the end of; `None` for a problem.
    #[must_use]
    pub const fn resolves(self) -> Option<Self> {
        match self {
            Self::ServerUp => Some(Self::ServerDown),
            Self::CircuitClosed => Some(Self::CircuitOpen),
            Self::ConfigApplied => Some(Self::ConfigRefused),
            Self::RecoverySucceeded => Some(Self::RecoveryGaveUp),
            Self::GpuRecovered => Some(Self::GpuUnhealthy),
            Self::ServerDown
            | Self::CircuitOpen
            | Self::QueueFull
            | Self::ConfigRefused
            | Self::CertificateExpiring
            | Self::RecoveryGaveUp
            | Self::GpuUnhealthy
            | Self::QuotaWarning
            | Self::QuotaExceeded => None,
        }
    }

    /// Whether it may be told although no problem was: a recovery that worked at once is news, a server that is up is not.
    #[must_use]
    pub const fn stands_alone(self) -> bool {
        self.resolves().is_none() || matches!(self, Self::RecoverySucceeded)
    }

    /// What to do about it, in one sentence; empty for good news.
    #[must_use]
    pub const fn fix(self) -> &'static str {
        match self {
            Self::ServerUp
            | Self::CircuitClosed
            | Self::ConfigApplied
            | Self::RecoverySucceeded
            | Self::GpuRecovered => "",
            Self::ServerDown => {
                "See whether the host and its Ollama run; `GET /api/orchestrator/recovery-failures` tells what the tests found."
            }
            Self::CircuitOpen => {
                "Read the server's own log for what failed; `GET /api/orchestrator/circuit-breakers` tells when it is tried again."
            }
            Self::QueueFull => {
                "Add servers, raise `max_in_flight` or `queue.max_pending`, or limit those who ask most (`concurrency`)."
            }
            Self::ConfigRefused => {
                "Run `arriero check` on the file and mend what it names; the one before stays in force."
            }
            Self::CertificateExpiring => "Renew it and put it in the place of the old one; it is taken up by itself.",
            Self::RecoveryGaveUp => {
                "Look at the host itself; `GET /api/orchestrator/recovery-actions` tells what the attempts said."
            }
            Self::GpuUnhealthy => {
                "`arriero gpu` tells what speaks against it; `docs/gpu.md` tells for each signal what mends it."
            }
            Self::QuotaWarning => {
                "Tell whoever uses it, or raise its `limit`; `arriero quota` tells how much each key has used."
            }
            Self::QuotaExceeded => {
                "Raise its `limit`, give the key an amount of its own, or begin its window anew with `arriero quota reset`."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_configuration() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn a_problem_says_what_to_do_and_an_end_names_its_problem() {
        for kind in Kind::ALL {
            assert_eq!(kind.fix().is_empty(), kind.resolves().is_some(), "{}", kind.as_str());
            assert!(kind.resolves().is_none_or(|problem| problem.resolves().is_none()));
        }
    }
}
