//! Asking sources how the cards of a host are: exporters and Arriero's own agent, over HTTP.
//!
//! The URL is the operator's own, so any address may be meant. What is answered is read as it comes ([`exporter`]) or within
//! a limit ([`agent`]); a redirect is not followed, a compressed answer is refused, because none was asked for.

mod agent;
mod exporter;
mod fetch;
mod local;
mod watch;

use std::fmt;
use std::time::Duration;

use crate::config::{ServerUrl, WebhookUrl};
use crate::policy::gpu::reading::Reading;
use crate::policy::gpu::source::Mapping;
pub use crate::policy::gpu::source::Why;

/// How long a source may take, from the look-up of its name to the last byte.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Who is asked about the cards of a host.
#[derive(Clone, PartialEq)]
pub enum Source {
    /// An exporter for Prometheus.
    Exporter {
        /// Where its metrics are.
        url: WebhookUrl,
        /// What its metrics mean, where it is none of those that are known.
        mapping: Option<Mapping>,
    },
    /// Arriero's own agent.
    Agent {
        /// Where it listens.
        url: ServerUrl,
        /// The token that it wants.
        token: Option<String>,
    },
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exporter { url, mapping } => {
                formatter.debug_struct("Exporter").field("url", &url.shown()).field("mapping", mapping).finish()
            }
            Self::Agent { url, token } => {
                let token = token.as_ref().map(|_| "…");
                formatter.debug_struct("Agent").field("url", url).field("token", &token).finish()
            }
        }
    }
}

/// Asks a source once, within [`DEADLINE`].
///
/// # Errors
/// Why there is no reading.
pub async fn read_once(source: &Source) -> Result<Reading, Why> {
    read_within(source, DEADLINE).await
}

/// Asks a source once, within a time.
///
/// # Errors
/// Why there is no reading.
pub async fn read_within(source: &Source, deadline: Duration) -> Result<Reading, Why> {
    match source {
        Source::Exporter { url, mapping } => exporter::read(url, mapping.clone(), deadline).await,
        Source::Agent { url, token } => agent::read(url, token.as_deref(), deadline).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let url = ServerUrl::parse("http://10.0.0.1:9401").expect("a URL");
        let shown = format!("{:?}", Source::Agent { url, token: Some("hush".to_owned()) });
        assert!(shown.contains("10.0.0.1") && !shown.contains("hush"), "{shown}");
        let url = WebhookUrl::parse("http://10.0.0.1:9400/metrics?key=hush").expect("a URL");
        let shown = format!("{:?}", Source::Exporter { url, mapping: None });
        assert!(shown.contains("10.0.0.1") && !shown.contains("hush"), "{shown}");
    }
}
