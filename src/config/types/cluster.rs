//! The block `cluster`: several instances that act as one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use super::tls::UpstreamTls;
use crate::units::Duration;

/// Several instances that act as one, by way of Redis or Valkey. No request waits for it, but for a moment where it may have a
/// kept answer, and without it each instance goes on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Where it is: `redis://HOST[:PORT][/DATABASE]`, over TLS with `rediss://`. A list for sentinels, for the nodes of a Redis
    /// Cluster, and for several of which the first that answers is taken.
    pub redis: OneOrMany<String>,
    /// What answers there: `single` (one Redis or Valkey), `sentinel`, or `cluster` (Redis Cluster).
    #[serde(default)]
    pub mode: RedisMode,
    /// Name under which the sentinels watch the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// User of Redis's access lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password; it is read for each connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// TLS where the URLs begin with `rediss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// Name of the cluster. Instances that share a Redis and this name are one cluster.
    #[serde(default = "name")]
    pub name: String,
    /// Name of this instance, unique in the cluster: letters, digits, `.`, `_` and `-`. The host's by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// How long an answer of Redis may take before it counts as gone. A request that looks there for a kept answer waits a tenth
    /// of that.
    #[serde(default = "timeout")]
    pub timeout: Duration,
}

/// What answers at the addresses of `cluster.redis`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// One Redis or Valkey.
    #[default]
    Single,
    /// Sentinels, which say where the primary is.
    Sentinel,
    /// Nodes of a Redis Cluster.
    Cluster,
}

fn name() -> String {
    "arriero".to_owned()
}

const fn timeout() -> Duration {
    Duration(std::time::Duration::from_millis(250))
}
