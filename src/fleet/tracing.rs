//! Which requests are told as traces, and to whom: what the block `telemetry.tracing` was compiled to.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::upstream_tls::UpstreamTls;
use crate::config::WebhookUrl;
use crate::config::types::OtlpProtocol;
use crate::policy::trace::Sampler;

/// How requests are told as traces.
#[derive(Debug)]
pub struct Tracing {
    /// Which are told.
    pub sampler: Sampler,
    /// To whom.
    pub collector: Collector,
}

/// An OpenTelemetry collector.
#[derive(Debug)]
pub struct Collector {
    /// Where it is.
    pub url: WebhookUrl,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Fields that are sent along.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// File with a token.
    pub token_file: Option<String>,
    /// TLS, where its URL says so.
    pub tls: Option<UpstreamTls>,
    /// How long spans gather before they are sent.
    pub interval: Duration,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Attributes of this process, `service.name` among them.
    pub attributes: Vec<(String, String)>,
}
