//! What a route keeps of the answers of its servers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, secs};
use crate::units::{ByteSize, Duration};

/// Keeps embeddings in memory, so that only inputs that are new are sent to a server; `{}` takes the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingsCache {
    /// Memory that this route's embeddings may take, 1MiB to 1TiB; one of 768 numbers takes 3.2 KiB.
    pub max_size: ByteSize,
    /// How long one is kept.
    pub ttl: Duration,
    /// Who gets what one client has asked for: `key` is requests with the same API key, `shared` all of the route.
    pub scope: CacheScope,
    /// Longest request body that is looked at; longer ones go to a server whole.
    pub max_body: ByteSize,
}

impl Default for EmbeddingsCache {
    fn default() -> Self {
        Self {
            max_size: ByteSize(256 << 20),
            ttl: secs(86_400),
            scope: CacheScope::default(),
            max_body: ByteSize(16 << 20),
        }
    }
}

/// Who shares what is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheScope {
    /// Requests with the same API key; those without one among themselves.
    #[default]
    Key,
    /// All requests of the route.
    Shared,
}

/// Keeps answers in memory, as far as their servers allow it (RFC 9111); `{}` takes the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Memory that this route's answers may take, 1MiB to 1TiB.
    pub max_size: ByteSize,
    /// Longest body that is kept; not more than `max_size`. One that takes more than 95 % of that is not kept either.
    pub max_object: ByteSize,
    /// How long an answer is fresh that says nothing of it, with a status such as 200, 301 or 404. With 0s it is not kept.
    pub default_ttl: Duration,
    /// How long an answer that does not say is given while it is asked for anew, after it stopped to be fresh.
    pub stale_while_revalidate: Duration,
    /// How long an answer that does not say is given in the place of an error, after it stopped to be fresh.
    pub stale_if_error: Duration,
    /// Who shares answers: `key` is requests with the same API key and `Authorization`, `shared` all of the route.
    pub scope: CacheScope,
    /// With `scope: shared`, whether answers to requests with an API key or `Authorization` are shared like any other. Without
    /// it only those that their server gives to all: `public`, `s-maxage` or `must-revalidate` (RFC 9111, 3.5).
    pub authorized: bool,
    /// What cookies of requests mean: `refuse` shares only what is `public` or has `s-maxage` with those that have any,
    /// `ignore` is nothing, and names are cookies whose values keep answers apart while others mean nothing.
    pub cookies: OneOrMany<String>,
    /// What else tells answers apart.
    pub key: CacheKey,
    /// Field in which servers tag their answers, for a purge by tag.
    pub tag_header: String,
    /// Whether the instances of a `cluster` keep it together: what one has fetched is there for all. Not what is longer than
    /// 1 MiB, and not what is answered to requests with credentials, unless `authorized` or `cookies` say that it is for all.
    pub cluster: bool,
    /// Whether what clients write into `Cache-Control` counts, such as `no-cache` when a page is loaded anew.
    pub respect_client: bool,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            max_size: ByteSize(256 << 20),
            max_object: ByteSize(8 << 20),
            default_ttl: secs(0),
            stale_while_revalidate: secs(0),
            stale_if_error: secs(0),
            scope: CacheScope::default(),
            authorized: false,
            cookies: OneOrMany::One("refuse".to_owned()),
            key: CacheKey::default(),
            tag_header: "cache-tag".to_owned(),
            cluster: true,
            respect_client: true,
        }
    }
}

/// What tells answers apart beside scheme, host and path, and the fields by which they vary.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheKey {
    /// Parameters of the query: `all`, `none`, or the names of those that count.
    pub query: OneOrMany<String>,
    /// Header fields of the request that servers look at without saying so in `Vary`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub headers: OneOrMany<String>,
}

impl Default for CacheKey {
    fn default() -> Self {
        Self { query: OneOrMany::One("all".to_owned()), headers: OneOrMany::default() }
    }
}
