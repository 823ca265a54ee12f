//! Who used how much of what: requests, tokens and bytes by key and model, for whole hours, days or months (UTC).

use rusqlite::params;
use schemars::JsonSchema;
use serde::Serialize;

use super::{History, HistoryError};

/// Rows of one answer at most.
const MOST: usize = 100_000;

/// What usage is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// Apart for each key.
    pub key: bool,
    /// Apart for each model.
    pub model: bool,
}

/// How long the times are that usage is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each hour.
    Hour,
    /// Each day.
    Day,
    /// Each month.
    Month,
    /// All of the time.
    Total,
}

impl Per {
    /// All of them with their words.
    pub const WORDS: [(&'static str, Self); 4] =
        [("hour", Self::Hour), ("day", Self::Day), ("month", Self::Month), ("total", Self::Total)];

    /// As SQL says the beginning of the time that an hour belongs to.
    const fn sql(self) -> &'static str {
        match self {
            Self::Hour => "strftime('%Y-%m-%dT%H:00:00Z', hour, 'unixepoch')",
            Self::Day => "strftime('%Y-%m-%dT00:00:00Z', hour, 'unixepoch')",
            Self::Month => "strftime('%Y-%m-01T00:00:00Z', hour, 'unixepoch')",
            Self::Total => "NULL",
        }
    }
}

/// The usage of a key, of a model, or of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// Id of the key; null for requests without one, and where usage is not told by key.
    pub key: Option<String>,
    /// Model; null for requests without one, and where usage is not told by model. `(others)` stands for models beyond
    /// 256 in an hour.
    pub model: Option<String>,
    /// Beginning of the hour, day or month, RFC 3339; null for all of the time.
    pub period: Option<String>,
    /// Requests.
    pub requests: u64,
    /// Those of them that ended with a status from 400 on or broke.
    pub errors: u64,
    /// Tokens of prompts, as the servers counted them.
    pub prompt_tokens: u64,
    /// Tokens of answers, as the servers counted them.
    pub output_tokens: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
}

impl History {
    /// The usage of the hours that begin from `from` on and before `to`, seconds since 1970.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn usage(&self, by: By, per: Per, from: f64, to: f64) -> Result<Vec<UsageRow>, HistoryError> {
        let key = if by.key { "nullif(key, '')" } else { "NULL" };
        let model = if by.model { "nullif(model, '')" } else { "NULL" };
        let period = per.sql();
        // `sum` fails beyond the greatest whole number; `total` does not, and the cast stops there.
        let sum = |column| format!("CAST(total({column}) AS INTEGER)");
        let (prompt, output) = (sum("prompt_tokens"), sum("output_tokens"));
        let (bytes_in, bytes_out) = (sum("bytes_in"), sum("bytes_out"));
        let sql = format!(
            "SELECT {key} AS k, {model} AS m, {period} AS p, sum(requests), sum(errors), {prompt}, {output}, \
             {bytes_in}, {bytes_out} FROM usage WHERE hour >= ?1 AND hour < ?2 \
             GROUP BY k, m, p ORDER BY p, k, m LIMIT {MOST}"
        );
        self.read(|connection| {
            let mut all = connection.prepare(&sql)?;
            let rows = all.query_map(params![from, to], |row| {
                let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
                Ok(UsageRow {
                    key: row.get(0)?,
                    model: row.get(1)?,
                    period: row.get(2)?,
                    requests: number(3)?,
                    errors: number(4)?,
                    prompt_tokens: number(5)?,
                    output_tokens: number(6)?,
                    bytes_in: number(7)?,
                    bytes_out: number(8)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
