//! The block `telemetry.tracing`: the spans of requests, told to a collector.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secs;
use super::tls::UpstreamTls;
use crate::units::{Duration, Percent};

/// Traces of requests, told to an OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// The collector: `http://127.0.0.1:4317`, or with `https://`. Of a URL without a path, `protocol: http` asks for `/v1/traces`.
    pub url: String,
    /// How the collector is spoken to: `grpc`, whose port is 4317 by custom, or `http` (protobuf), whose port is 4318.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// Share of the traces beginning here that is told. A request that belongs to a trace of its client is told when that is.
    #[serde(default = "all")]
    pub sample: Percent,
    /// What to do with the `traceparent` of a client: `follow` makes the request a part of that trace, `ignore` begins a new
    /// one. Where anybody may be a client, `ignore` keeps others from deciding what is told.
    #[serde(default)]
    pub parent: TraceParent,
    /// What this proxy is called there: the attribute `service.name`.
    #[serde(default = "service_name")]
    pub service_name: String,
    /// More attributes of this process, such as `deployment.environment.name: production`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Fields that are sent along, such as `x-tenant: "7"`. Use `token_file` for a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// File with a token that is sent as `Authorization: Bearer TOKEN`; it is read each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// TLS towards a collector with `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// How long spans gather before they are sent; 512 requests are sent at once in any case.
    #[serde(default = "interval")]
    pub interval: Duration,
    /// How long the collector may take to answer.
    #[serde(default = "timeout")]
    pub timeout: Duration,
}

/// How an OpenTelemetry collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    #[default]
    Grpc,
    /// OTLP over HTTP, in protobuf.
    Http,
}

/// What is done with the trace context that a client sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceParent {
    /// The request becomes a part of that trace.
    #[default]
    Follow,
    /// It begins a trace of its own.
    Ignore,
}

const fn all() -> Percent {
    Percent::new(100)
}

fn service_name() -> String {
    "arriero".to_owned()
}

const fn interval() -> Duration {
    secs(2)
}

const fn timeout() -> Duration {
    secs(10)
}
