//! What must not be lost: what operators keep here, and what was learned of the fleet. And who did what.
//!
//! [`History::keep`], [`History::forget`] and [`History::learn`] are on disk when they return (`synchronous = FULL`), so
//! they wait for it: they are for `spawn_blocking`. The audit is written with the requests, in batches.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::params;
use serde_json::Value;

use super::{History, HistoryError};
use crate::clock;

/// Where what was learned stood before there was a store.
const LEARNED_FILE: &str = "learned.json";

/// Something that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its name among those of its kind.
    pub key: String,
    /// What it is.
    pub value: Value,
    /// Who said so.
    pub who: String,
    /// When, seconds since 1970.
    pub at: f64,
}

/// Something that somebody did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// When, seconds since 1970.
    pub at: f64,
    /// Who.
    pub who: String,
    /// What they were allowed to do.
    pub scope: String,
    /// Method of the request.
    pub method: String,
    /// Path of the request.
    pub path: String,
    /// Status that they were answered.
    pub status: u16,
    /// What it was, in words.
    pub detail: String,
}

/// The same with its number: later ones have higher numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    /// Its number.
    pub seq: i64,
    /// What was done.
    pub audit: Audit,
}

impl History {
    /// Keeps a value; it replaces the one of that kind and key.
    ///
    /// # Errors
    /// When it is not on disk; then the one before still is.
    pub fn keep(&self, kind: &str, key: &str, value: &Value, who: &str, at: f64) -> Result<(), HistoryError> {
        self.write(|connection| {
            let sql = "INSERT OR REPLACE INTO kept (kind, key, value, who, at) VALUES (?1, ?2, ?3, ?4, ?5)";
            connection.execute(sql, params![kind, key, value.to_string(), who, at])?;
            Ok(())
        })
    }

    /// Forgets a value. Whether there was one.
    ///
    /// # Errors
    /// When it could not be forgotten; then it is still there.
    pub fn forget(&self, kind: &str, key: &str) -> Result<bool, HistoryError> {
        self.write(|connection| {
            Ok(connection.execute("DELETE FROM kept WHERE kind = ?1 AND key = ?2", params![kind, key])? > 0)
        })
    }

    /// All values of a kind, by their keys.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn kept(&self, kind: &str) -> Result<Vec<Kept>, HistoryError> {
        self.read(|connection| {
            let mut all = connection.prepare("SELECT key, value, who, at FROM kept WHERE kind = ?1 ORDER BY key")?;
            let mut rows = all.query(params![kind])?;
            let mut kept = Vec::new();
            while let Some(row) = rows.next()? {
                let value = serde_json::from_str(&row.get::<_, String>(1)?)?;
                kept.push(Kept { key: row.get(0)?, value, who: row.get(2)?, at: row.get(3)? });
            }
            Ok(kept)
        })
    }

    /// What was done last, the latest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audits(&self, limit: usize) -> Result<Vec<Audited>, HistoryError> {
        self.read(|connection| {
            let sql = "SELECT seq, at, who, scope, method, path, status, detail FROM audit ORDER BY seq DESC LIMIT ?1";
            let mut all = connection.prepare(sql)?;
            let rows = all.query_map(params![i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                let audit = Audit {
                    at: row.get(1)?,
                    who: row.get(2)?,
                    scope: row.get(3)?,
                    method: row.get(4)?,
                    path: row.get(5)?,
                    status: row.get(6)?,
                    detail: row.get(7)?,
                };
                Ok(Audited { seq: row.get(0)?, audit })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// What was learned of each upstream.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn learned(&self) -> Result<BTreeMap<String, Value>, HistoryError> {
        self.read(|connection| {
            let mut all = connection.prepare("SELECT upstream, value FROM learned")?;
            let mut rows = all.query([])?;
            let mut learned = BTreeMap::new();
            while let Some(row) = rows.next()? {
                learned.insert(row.get(0)?, serde_json::from_str(&row.get::<_, String>(1)?)?);
            }
            Ok(learned)
        })
    }

    /// Keeps what was learned of an upstream.
    ///
    /// # Errors
    /// When it is not on disk; then what was kept before still is.
    pub fn learn(&self, upstream: &str, value: &Value) -> Result<(), HistoryError> {
        self.write(|connection| {
            // What is the same is not written again.
            let sql = "INSERT INTO learned (upstream, value, at) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE \
                       SET value = excluded.value, at = excluded.at WHERE value <> excluded.value";
            connection.execute(sql, params![upstream, value.to_string(), clock::unix_time().as_secs_f64()])?;
            Ok(())
        })
    }

    /// Takes over the file that what was learned stood in before there was a store, unless the store knows better.
    pub(super) fn take_learned_file(&self, folder: &Path) {
        let path = folder.join(LEARNED_FILE);
        let Ok(text) = std::fs::read_to_string(&path) else { return };
        if self.learned().is_ok_and(|known| !known.is_empty()) {
            return;
        }
        let taken = serde_json::from_str::<BTreeMap<String, Value>>(&text).map_err(HistoryError::from);
        let taken = taken.and_then(|all| all.iter().try_for_each(|(upstream, value)| self.learn(upstream, value)));
        match taken {
            Ok(()) => tracing::info!(path = %path.display(), "what was learned is kept in the history from here on"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "what was learned cannot be taken over"),
        }
    }
}
