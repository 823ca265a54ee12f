//! The tables, and the way from an older file to them. `user_version` is the number of steps that a file has behind it.

use rusqlite::{Connection, TransactionBehavior};

/// One step from a version to the next. A step that was released never changes.
const STEPS: [&str; 2] = [
    "
CREATE TABLE requests (
  seq INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  id TEXT NOT NULL,
  method TEXT NOT NULL,
  path TEXT NOT NULL,
  status INTEGER NOT NULL,
  reason TEXT NOT NULL,
  duration_ms REAL NOT NULL,
  queue_ms REAL NOT NULL,
  ttfb_ms REAL,
  route TEXT NOT NULL,
  upstream TEXT NOT NULL,
  server TEXT NOT NULL,
  model TEXT NOT NULL,
  key TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  prompt_tokens INTEGER,
  output_tokens INTEGER,
  bytes_in INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL,
  client_ip TEXT NOT NULL
) STRICT;
CREATE TABLE sums (
  width INTEGER NOT NULL,
  start INTEGER NOT NULL,
  upstream TEXT NOT NULL,
  server TEXT NOT NULL,
  model TEXT NOT NULL,
  reason TEXT NOT NULL,
  status INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  duration_ms REAL NOT NULL,
  queue_ms REAL NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  bytes_in INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL,
  durations BLOB NOT NULL,
  ttfbs BLOB NOT NULL,
  PRIMARY KEY (width, start, upstream, server, model, reason, status)
) STRICT, WITHOUT ROWID;
CREATE TABLE usage (
  hour INTEGER NOT NULL,
  key TEXT NOT NULL,
  model TEXT NOT NULL,
  requests INTEGER NOT NULL,
  errors INTEGER NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  bytes_in INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL,
  PRIMARY KEY (hour, key, model)
) STRICT, WITHOUT ROWID;
CREATE TABLE decisions (
  seq INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  upstream TEXT NOT NULL,
  model TEXT NOT NULL,
  server TEXT NOT NULL,
  candidates TEXT NOT NULL
) STRICT;
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  who TEXT NOT NULL,
  scope TEXT NOT NULL,
  method TEXT NOT NULL,
  path TEXT NOT NULL,
  status INTEGER NOT NULL,
  detail TEXT NOT NULL
) STRICT;
CREATE TABLE kept (
  kind TEXT NOT NULL,
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  who TEXT NOT NULL,
  at REAL NOT NULL,
  PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE learned (
  upstream TEXT PRIMARY KEY NOT NULL,
  value TEXT NOT NULL,
  at REAL NOT NULL
) STRICT, WITHOUT ROWID;
",
    "
CREATE TABLE quotas (
  quota TEXT NOT NULL,
  every TEXT NOT NULL,
  subject TEXT NOT NULL,
  starts INTEGER NOT NULL,
  ends INTEGER NOT NULL,
  prompt INTEGER NOT NULL,
  output INTEGER NOT NULL,
  PRIMARY KEY (quota, every, subject, starts)
) STRICT, WITHOUT ROWID;
",
];

/// What a file is before it can be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// It has the tables now.
    Ready,
    /// A later Arriero wrote it.
    Later(i64),
}

/// Takes the steps that a file has not behind it. Two processes that do so at a time take turns.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<Version> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    match version(connection)? {
        later if later > known => return Ok(Version::Later(later)),
        same if same == known => return Ok(Version::Ready),
        _ => {}
    }
    let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = usize::try_from(version(&step)?).unwrap_or(0);
    for sql in STEPS.iter().skip(done) {
        step.execute_batch(sql)?;
    }
    step.pragma_update(None, "user_version", known)?;
    step.commit()?;
    Ok(Version::Ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_takes_all_steps_and_an_old_one_only_those_it_lacks() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(migrate(&mut connection).unwrap(), Version::Ready);
        connection.execute("INSERT INTO learned VALUES ('fleet', '{}', 1.0)", []).unwrap();
        assert_eq!(migrate(&mut connection).unwrap(), Version::Ready);
        let kept: i64 = connection.query_row("SELECT count(*) FROM learned", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 1);
    }

    #[test]
    fn a_file_of_a_later_program_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert_eq!(migrate(&mut connection).unwrap(), Version::Later(99));
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 0);
    }
}
