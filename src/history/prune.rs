//! What is too old or too much is deleted, a few rows at a time, so that nobody waits long for the lock.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::quotas::rows;
use super::settings::Settings;
use super::sums;

/// Rows that are deleted at a time.
const PIECE: i64 = 5000;
/// How long sums of ten seconds and of a minute are kept; the longer ones as long as the configuration says.
const SHORT_KEPT: Duration = Duration::from_mins(70);
const MIDDLE_KEPT: Duration = Duration::from_hours(25);
/// What was done that is kept at most.
const MAX_AUDITS: i64 = 10_000;
/// Choices of servers that are kept at most.
const MAX_DECISIONS: i64 = 10_000;

/// Deletes; `now` is in seconds since 1970.
pub(super) fn prune(connection: &Connection, settings: &Settings, now: f64) -> rusqlite::Result<()> {
    let before = |kept: Duration| now - kept.as_secs_f64();
    let old = "DELETE FROM requests WHERE seq IN (SELECT seq FROM requests WHERE seq < ?1 * 1000000.0 \
               AND at + duration_ms / 1000.0 < ?1 ORDER BY seq LIMIT ?2)";
    in_pieces(connection, old, before(settings.requests))?;
    let most = i64::try_from(settings.max_requests).unwrap_or(i64::MAX);
    keep_last(connection, "requests", most)?;
    keep_last(connection, "audit", MAX_AUDITS)?;
    let old = "DELETE FROM decisions WHERE seq IN (SELECT seq FROM decisions WHERE at < ?1 LIMIT ?2)";
    in_pieces(connection, old, before(settings.requests))?;
    keep_last(connection, "decisions", MAX_DECISIONS)?;
    let kept = [
        (sums::SHORT, SHORT_KEPT.min(settings.aggregates)),
        (sums::MIDDLE, MIDDLE_KEPT.min(settings.aggregates)),
        (sums::HOUR, settings.aggregates),
    ];
    for (width, kept) in kept {
        // A sum goes when all of its requests are too old.
        let sql = format!(
            "DELETE FROM sums WHERE width = {width} AND start + {width} < ?1 AND (upstream, server, model, reason, status, \
             start) IN (SELECT upstream, server, model, reason, status, start FROM sums WHERE width = {width} \
             AND start + {width} < ?1 LIMIT ?2)"
        );
        in_pieces(connection, &sql, before(kept))?;
    }
    let old = "DELETE FROM usage WHERE hour + 3600 < ?1 AND (hour, key, model) IN \
               (SELECT hour, key, model FROM usage WHERE hour + 3600 < ?1 LIMIT ?2)";
    in_pieces(connection, old, before(settings.usage))?;
    rows::prune(connection, now)
}

fn in_pieces(connection: &Connection, sql: &str, before: f64) -> rusqlite::Result<()> {
    while connection.prepare_cached(sql)?.execute(params![before, PIECE])? > 0 {}
    Ok(())
}

fn keep_last(connection: &Connection, table: &str, most: i64) -> rusqlite::Result<()> {
    let count: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
    let mut over = count - most;
    let sql = format!("DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} ORDER BY seq LIMIT ?1)");
    while over > 0 {
        let deleted = connection.prepare_cached(&sql)?.execute(params![over.min(PIECE)])?;
        if deleted == 0 {
            break;
        }
        over -= i64::try_from(deleted).unwrap_or(over);
    }
    Ok(())
}
