//! Who may use a route: API keys, addresses, and web pages of other origins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secs;
use crate::units::Duration;

/// API keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// File with the hashes of the API keys; `arriero key` writes it. A change of the file holds within 5 seconds.
    pub keys_file: Option<String>,
}

/// Whether a route asks for an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteAuth {
    /// Requests without a valid key are answered 401.
    Required,
    /// Requests without a key are served; a key that is given must be valid.
    Optional,
    /// Nobody looks for keys, and credentials go on to the servers.
    None,
}

/// Client addresses that may use a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// Networks that may, such as `10.0.0.0/8`, or single addresses; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Networks that may not, whatever `allow` says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

/// What web pages of other origins may do. These rules replace those of the servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins as browsers write them, such as `https://app.example.com`; `*` for every one.
    pub origins: Vec<String>,
    /// Methods that their pages may use.
    #[serde(default = "Cors::default_methods")]
    pub methods: Vec<String>,
    /// Request fields that their pages may set; empty for whichever they ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Response fields that their pages may read, beside the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// How long a browser may remember the answer to its question.
    #[serde(default = "Cors::default_max_age")]
    pub max_age: Duration,
    /// Also let pages send cookies and other credentials of the browser; not with `*`.
    #[serde(default)]
    pub credentials: bool,
}

impl Cors {
    fn default_methods() -> Vec<String> {
        ["GET", "HEAD", "POST"].map(str::to_owned).to_vec()
    }

    fn default_max_age() -> Duration {
        secs(600)
    }
}

/// Whether connections begin with a PROXY protocol header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// They do not.
    #[default]
    Off,
    /// Those from `trusted_proxies` must, in version 1 or 2; others are refused.
    Accept,
}
