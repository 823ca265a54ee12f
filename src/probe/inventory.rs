//! Learns which models a server has.

use std::time::Duration;

use super::client::{self, Fault, Way};
use crate::clock;
use crate::config::types::Kind;
use crate::fleet::inventory::Inventory;
use crate::ollama::wire;
use crate::policy::recovery::Class;

/// How long each list may take. A `/api/ps` that is late means that a model is loading.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has other models than before, or another version.
    Changed,
    /// It has the same ones.
    Same,
}

impl Outcome {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Same => "same",
        }
    }
}

/// Asks a server for its models and notes them.
///
/// # Errors
/// Why it did not tell.
pub async fn look(way: Way<'_>, kind: Kind) -> Result<Outcome, Fault> {
    let before = way.server.inventory();
    let found = match kind {
        Kind::Ollama => ollama(way, &before).await?,
        Kind::Openai => openai(way).await?,
        Kind::Http => return Ok(Outcome::Same),
    };
    if same(&before, &found) {
        return Ok(Outcome::Same);
    }
    way.server.learned(found);
    Ok(Outcome::Changed)
}

async fn ollama(way: Way<'_>, before: &Inventory) -> Result<Inventory, Fault> {
    let (tags, ps, openai, version) = tokio::join!(
        list(way, "/api/tags", |body| wire::parse_tags(body).ok()),
        loaded(way),
        list(way, "/v1/models", |body| wire::parse_openai_models(body).ok()),
        list(way, "/api/version", wire::parse_version),
    );
    if let Ok(rows) = &ps {
        let change = way.server.gpu.residents(rows, clock::now());
        change.iter().for_each(|change| way.server.gpu_changed(change));
    }
    Ok(Inventory {
        available: Some(tags?),
        // Slow while a model loads: what was loaded before most likely still is.
        loaded: ps.unwrap_or_else(|_| before.loaded.clone()),
        openai: openai.unwrap_or_else(|_| before.openai.clone()),
        version: version.ok().or_else(|| before.version.clone()),
    })
}

async fn openai(way: Way<'_>) -> Result<Inventory, Fault> {
    let openai = list(way, "/v1/models", |body| wire::parse_openai_models(body).ok()).await?;
    Ok(Inventory { openai, ..Inventory::default() })
}

/// The models that an Ollama server has in memory at this moment.
///
/// # Errors
/// Why it did not tell.
pub async fn loaded(way: Way<'_>) -> Result<Vec<wire::Loaded>, Fault> {
    list(way, "/api/ps", |body| wire::parse_ps(body).ok()).await
}

async fn list<T>(way: Way<'_>, path: &str, parse: fn(&[u8]) -> Option<T>) -> Result<T, Fault> {
    let answer = client::get(way, path, TIMEOUT).await?;
    if answer.status != 200 {
        return Err(Fault::new(Class::Status, format!("{path}: status {}", answer.status)));
    }
    parse(&answer.body).ok_or_else(|| Fault::new(Class::Protocol, format!("{path}: not what it should be")))
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
