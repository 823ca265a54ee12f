//! What a route does itself or changes in passing: answers, redirects, files, fields, compression.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, secs};
use crate::units::Duration;

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Respond {
    /// Status, 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Body, as it is written: variables are not replaced in it.
    pub body: String,
    /// Content-Type of the body.
    pub content_type: String,
    /// More fields; their values may have variables.
    pub headers: BTreeMap<String, String>,
}

impl Default for Respond {
    fn default() -> Self {
        Self {
            status: 200,
            body: String::new(),
            content_type: "text/plain; charset=utf-8".to_owned(),
            headers: BTreeMap::new(),
        }
    }
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to: a path or a URL; it may have variables, such as `https://{host}{uri}`.
    pub to: String,
    /// 301, 302, 303, 307 or 308. The last two keep method and body.
    #[serde(default = "permanent")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub status: u16,
}

const fn permanent() -> u16 {
    308
}

/// Static files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Folder with the files. What a link in it names outside of it is not served.
    pub root: String,
    /// File that answers for a folder.
    #[serde(default = "index")]
    pub index: String,
    /// File, by its path below `root`, that answers for a path that is not there, as web applications with routes
    /// of their own want it.
    pub fallback: Option<String>,
    /// Cache-Control of what is not `immutable`.
    pub cache_control: Option<String>,
    /// Paths that never change their content, such as `/assets/*` or `*.woff2`: kept for a year without asking again.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub immutable: OneOrMany<String>,
}

fn index() -> String {
    "index.html".to_owned()
}

/// Another path for the server than the client asked for; the query stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// Prefix, whole segments, that is taken off.
    pub strip_prefix: Option<String>,
    /// Prefix that is put in front, after `strip_prefix`.
    pub add_prefix: Option<String>,
}

/// Changes to header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderRules {
    /// Of the request, before the server gets it.
    pub request: HeaderChanges,
    /// Of the answer, also of errors and of answers that arise here.
    pub response: HeaderChanges,
}

/// Fields that are removed, then set, then added. Values may have variables, such as `{client_ip}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderChanges {
    /// Fields that replace all of their name; an empty value removes.
    pub set: BTreeMap<String, String>,
    /// Fields beside those of their name.
    pub add: BTreeMap<String, String>,
    /// Names of fields that are removed.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub remove: OneOrMany<String>,
}

/// `true`, `false`, or the codings to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Compress {
    /// None.
    #[default]
    #[serde(skip)]
    No,
    /// `true`: zstd, br and gzip; `false`: none.
    Switch(bool),
    /// These, the best for the client first.
    These(Vec<Coding>),
}

impl Compress {
    /// Whether the key was not given.
    #[must_use]
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }

    /// The codings, those that are liked best first.
    #[must_use]
    pub fn codings(&self) -> &[Coding] {
        match self {
            Self::No | Self::Switch(false) => &[],
            Self::Switch(true) => &[Coding::Zstd, Coding::Br, Coding::Gzip],
            Self::These(codings) => codings,
        }
    }
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// Gzip.
    Gzip,
}

/// What becomes of a request body that is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestEncoding {
    /// It is refused with 415.
    Deny,
    /// gzip and zstd are decoded, within `limits.request_body`.
    Decode,
}

/// A cookie that is issued to a client that has none, so that it keeps its server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StickyCookie {
    /// Its name.
    pub name: String,
    /// How long a client keeps it; 0 until its browser is closed.
    pub ttl: Duration,
    /// Whether clients send it over TLS only.
    pub secure: bool,
    /// Below which path clients send it.
    pub path: String,
}

impl Default for StickyCookie {
    fn default() -> Self {
        Self { name: "arriero".to_owned(), ttl: secs(3600), secure: false, path: "/".to_owned() }
    }
}
