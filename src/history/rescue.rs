//! What operators keep, what was learned and what was used of quotas is taken out of a file that was set aside, as far as it can be read.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params_from_iter};

/// The tables with their numbers of columns.
const TABLES: [(&str, usize); 3] = [("kept", 5), ("learned", 3), ("quotas", 7)];

/// Takes over what can be read. How many rows that were.
pub(super) fn rescue(aside: &Path, into: &Connection) -> rusqlite::Result<usize> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(aside, flags)?;
    let mut taken = 0;
    for (table, columns) in TABLES {
        // One that an older file has not has nothing to take.
        if !from.table_exists(None, table)? {
            continue;
        }
        let mut all = from.prepare(&format!("SELECT * FROM {table}"))?;
        let places = vec!["?"; columns].join(", ");
        let mut insert = into.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES ({places})"))?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let values =
                (0..columns).map(|index| row.get::<_, rusqlite::types::Value>(index)).collect::<Result<Vec<_>, _>>()?;
            taken += insert.execute(params_from_iter(values))?;
        }
    }
    Ok(taken)
}
