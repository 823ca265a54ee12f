//! Learns which models a server has.

use std::time::Duration;

use super::client::{self, Way};
use crate::config::types::Kind;
use crate::fleet::inventory::Inventory;
use crate::ollama::wire;

/// How long each list may take. A `/api/ps` that is late means that a model is loading.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has other models than before, or another version.
    Changed,
    /// It has the same ones.
    Same,
    /// It did not tell.
    Failed,
}

impl Outcome {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Same => "same",
            Self::Failed => "failed",
        }
    }
}

/// Asks a server for its models and notes them.
pub async fn look(way: Way<'_>, kind: Kind) -> Outcome {
    let before = way.server.inventory();
    let found = match kind {
        Kind::Ollama => ollama(way, &before).await,
        Kind::Openai => openai(way).await,
        Kind::Http => None,
    };
    let Some(found) = found else { return Outcome::Failed };
    if same(&before, &found) {
        return Outcome::Same;
    }
    way.server.learned(found);
    Outcome::Changed
}

async fn ollama(way: Way<'_>, before: &Inventory) -> Option<Inventory> {
    let (tags, ps, openai, version) = tokio::join!(
        list(way, "/api/tags", |body| wire::parse_tags(body).ok()),
        list(way, "/api/ps", |body| wire::parse_ps(body).ok()),
        list(way, "/v1/models", |body| wire::parse_openai_models(body).ok()),
        list(way, "/api/version", wire::parse_version),
    );
    Some(Inventory {
        available: Some(tags?),
        // Slow while a model loads: what was loaded before most likely still is.
        loaded: ps.unwrap_or_else(|| before.loaded.clone()),
        openai: openai.unwrap_or_else(|| before.openai.clone()),
        version: version.or_else(|| before.version.clone()),
    })
}

async fn openai(way: Way<'_>) -> Option<Inventory> {
    let openai = list(way, "/v1/models", |body| wire::parse_openai_models(body).ok()).await?;
    Some(Inventory { openai, ..Inventory::default() })
}

async fn list<T>(way: Way<'_>, path: &str, parse: fn(&[u8]) -> Option<T>) -> Option<T> {
    let answer = client::get(way, path, TIMEOUT).await.ok()?;
    if answer.status == 200 { parse(&answer.body) } else { None }
}

/// Whether two looks saw the same, to the byte.
fn same(one: &Inventory, other: &Inventory) -> bool {
    let equal = |one: &mut dyn Iterator<Item = &str>, other: &mut dyn Iterator<Item = &str>| one.eq(other);
    let tags = |inventory: &Inventory| inventory.available.as_ref().map(Vec::len);
    one.version == other.version
        && tags(one) == tags(other)
        && equal(
            &mut one.available.iter().flatten().map(|row| row.raw.get()),
            &mut other.available.iter().flatten().map(|row| row.raw.get()),
        )
        && equal(&mut one.loaded.iter().map(|row| row.raw.get()), &mut other.loaded.iter().map(|row| row.raw.get()))
        && equal(&mut one.openai.iter().map(|row| row.raw.get()), &mut other.openai.iter().map(|row| row.raw.get()))
}
