//! Why servers were chosen: the last choices of the schedulers, as they put them into words.

use rusqlite::params;
use serde_json::Value;

use super::{Fact, History, HistoryError};

/// A choice of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// When, seconds since 1970.
    pub at: f64,
    /// Upstream.
    pub upstream: String,
    /// Model.
    pub model: String,
    /// Server that was chosen; empty when none could be.
    pub server: String,
    /// Who was looked at, and what each would have cost.
    pub candidates: Value,
}

/// Which choices are wanted: those of which all that is given is true.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Which {
    /// How many at most.
    pub limit: usize,
    /// Those of this moment and later, in seconds since 1970.
    pub since: f64,
    /// Name of the upstream.
    pub upstream: Option<String>,
    /// Name of the server.
    pub server: Option<String>,
    /// Canonical name of the model.
    pub model: Option<String>,
}

impl History {
    /// Takes choices; never waits.
    pub fn decided(&self, decided: Vec<Decided>) {
        self.tell(Fact::Decided(decided));
    }

    /// The latest choices of those that are wanted.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn decisions(&self, which: &Which) -> Result<Vec<Decided>, HistoryError> {
        self.read(|connection| {
            let sql = "SELECT at, upstream, model, server, candidates FROM decisions WHERE at >= ?1 \
                       AND (?2 IS NULL OR upstream = ?2) AND (?3 IS NULL OR server = ?3) \
                       AND (?4 IS NULL OR model = ?4) ORDER BY seq DESC LIMIT ?5";
            let limit = i64::try_from(which.limit).unwrap_or(i64::MAX);
            let mut all = connection.prepare(sql)?;
            let mut rows = all.query(params![which.since, which.upstream, which.server, which.model, limit])?;
            let mut decided = Vec::new();
            while let Some(row) = rows.next()? {
                decided.push(Decided {
                    at: row.get(0)?,
                    upstream: row.get(1)?,
                    model: row.get(2)?,
                    server: row.get(3)?,
                    candidates: serde_json::from_str(&row.get::<_, String>(4)?)?,
                });
            }
            Ok(decided)
        })
    }
}
