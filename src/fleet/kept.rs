//! What routes keep, as the configuration wants it; the stores outlive it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::embeddings_cache::EmbeddingsCache;
use super::response_cache::ResponseCache;
use super::shared_answers::Share;
use crate::policy::http_cache::key::Query;
use crate::policy::http_cache::storing::Rules;

/// What a route keeps of embeddings.
pub struct Embeddings {
    /// Where.
    pub store: Arc<EmbeddingsCache>,
    /// Bytes that it may take; in force once the snapshot is.
    pub max_size: u64,
    /// How long.
    pub ttl: Duration,
    /// Whether requests with different API keys share it.
    pub shared: bool,
    /// Longest request body that is looked at.
    pub max_body: u64,
}

/// What a route keeps of answers.
pub struct Cache {
    /// Where.
    pub store: Arc<ResponseCache>,
    /// Bytes that it may take; in force once the snapshot is.
    pub max_size: u64,
    /// Bytes of one body that is kept.
    pub max_object: u64,
    /// How long.
    pub rules: Rules,
    /// Whether requests with different credentials share it.
    pub shared: bool,
    /// Whether they share it whatever a server says.
    pub authorized: bool,
    /// What cookies mean.
    pub cookies: Cookies,
    /// Parameters of a query that tell answers apart.
    pub query: Query,
    /// Fields of a request that do.
    pub headers: Vec<HeaderName>,
    /// The field with the tags of an answer.
    pub tag_header: HeaderName,
    /// Whether clients may say how fresh an answer must be.
    pub respect_client: bool,
    /// What it shares with other instances, where there are any.
    pub share: Option<Arc<Share>>,
    /// All that decides what an answer is and who gets it, as text: where it is another, nothing is taken over.
    pub kind: String,
}

/// What cookies of requests mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cookies {
    /// Only what is for everybody is shared with requests that have any.
    Refused,
    /// Nothing.
    Ignored,
    /// The values of these keep answers apart; others mean nothing.
    Named(Vec<String>),
}
