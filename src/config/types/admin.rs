//! The block `admin`: where operators look and act, and who may.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::models::Permission;

/// Health, metrics and control. A change of the address needs a restart.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// `HOST:PORT`, or `unix:/path/to/socket`. Port 0 takes a free one.
    pub address: String,
    /// File with a token that everything may be done with; this or one of `tokens` is required when the address is not
    /// loopback.
    pub token_file: Option<String>,
    /// Tokens that less may be done with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<AdminToken>,
    /// What may be done without a token where there are tokens: `read` (the default on loopback and unix sockets) or
    /// `health` (the default elsewhere: health and metrics only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_token: Option<WithoutToken>,
    /// Networks in which servers may be that are added at run time. By default all but loopback, link-local addresses (where
    /// clouds keep their metadata), multicast and unspecified ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub server_networks: Vec<String>,
    /// Whether calls for developers are served (`/api/multihost/debug/...`).
    #[serde(skip_serializing_if = "Permission::is_default")]
    pub debug: Permission,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:5100".to_owned(),
            token_file: None,
            tokens: Vec::new(),
            without_token: None,
            server_networks: Vec::new(),
            debug: Permission::Deny,
        }
    }
}

/// A token and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminToken {
    /// Who is meant; stands in the audit log.
    pub name: String,
    /// File with the token.
    pub token_file: String,
    /// `read`, `operate` (drain, bans, circuits, queues, models in memory) or `admin` (everything).
    pub scope: AdminScope,
}

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminScope {
    /// Look.
    Read,
    /// Act on what runs.
    Operate,
    /// Change the configuration, and what is on disks.
    Admin,
}

/// What may be done without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WithoutToken {
    /// Look.
    Read,
    /// Health and metrics.
    Health,
}
