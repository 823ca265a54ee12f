//! Single requests that ended, the latest first.

use rusqlite::types::Value;
use rusqlite::{Row, params_from_iter};
use schemars::JsonSchema;
use serde::Serialize;

use super::{History, HistoryError, Recorded};
use crate::telemetry::access_log::moment;

/// Which requests are wanted: those of which all that is given is true.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// How many at most.
    pub limit: usize,
    /// Those with a lower number.
    pub before: Option<i64>,
    /// Those that ended then or later, in seconds since 1970.
    pub since: Option<f64>,
    /// Name of the server.
    pub server: Option<String>,
    /// Name of the upstream.
    pub upstream: Option<String>,
    /// Canonical name of the model.
    pub model: Option<String>,
    /// Name of the route.
    pub route: Option<String>,
    /// Id of the key.
    pub key: Option<String>,
    /// Word of the reason.
    pub reason: Option<String>,
    /// Status.
    pub status: Option<u16>,
    /// Only those that count as errors.
    pub errors: bool,
}

/// A request that ended. A name that it does not have is null: the model of one that needs none, the server of one that
/// reached none.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestRow {
    /// Its number; later ones have higher numbers. `before` takes it.
    pub seq: i64,
    /// Its id, also sent to the server and back to the client.
    pub id: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// Method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Status sent to the client; 499 when it left before.
    pub status: u16,
    /// Why it ended as it did.
    pub reason: String,
    /// Milliseconds from its head to the last byte of its answer.
    pub duration_ms: f64,
    /// Milliseconds spent waiting for a slot.
    pub queue_ms: f64,
    /// Milliseconds to the first byte of the answer; null where no server answered.
    pub ttfb_ms: Option<f64>,
    /// Route.
    pub route: Option<String>,
    /// Upstream.
    pub upstream: Option<String>,
    /// Server of the last attempt.
    pub server: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Id of the API key, never the key itself.
    pub key: Option<String>,
    /// Attempts made.
    pub attempts: u32,
    /// Tokens of the prompt, as the server counted them.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, as the server counted them.
    pub output_tokens: Option<u64>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// Address of the client.
    pub client_ip: String,
}

fn name(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl RequestRow {
    /// The same of a request that has only just ended.
    #[must_use]
    pub fn of(recorded: &Recorded) -> Self {
        let entry = &recorded.entry;
        Self {
            seq: recorded.seq,
            id: entry.request_id.clone(),
            at: moment(entry.ts),
            method: entry.method.clone(),
            path: entry.path.clone(),
            status: entry.status,
            reason: entry.reason.to_owned(),
            duration_ms: entry.duration_ms,
            queue_ms: entry.queue_ms,
            ttfb_ms: entry.ttfb_ms,
            route: name(entry.route.clone()),
            upstream: name(entry.upstream.clone()),
            server: name(entry.server.clone()),
            model: name(entry.model.clone()),
            key: name(entry.key.clone()),
            attempts: entry.attempts,
            prompt_tokens: entry.prompt_tokens,
            output_tokens: entry.output_tokens,
            bytes_in: entry.bytes_in,
            bytes_out: entry.bytes_out,
            client_ip: entry.client_ip.clone(),
        }
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number = |index: usize| row.get::<_, Option<i64>>(index).map(|all| all.map(i64::unsigned_abs));
        Ok(Self {
            seq: row.get(0)?,
            at: moment(row.get(1)?),
            id: row.get(2)?,
            method: row.get(3)?,
            path: row.get(4)?,
            status: row.get(5)?,
            reason: row.get(6)?,
            duration_ms: row.get(7)?,
            queue_ms: row.get(8)?,
            ttfb_ms: row.get(9)?,
            route: name(row.get(10)?),
            upstream: name(row.get(11)?),
            server: name(row.get(12)?),
            model: name(row.get(13)?),
            key: name(row.get(14)?),
            attempts: row.get(15)?,
            prompt_tokens: number(16)?,
            output_tokens: number(17)?,
            bytes_in: number(18)?.unwrap_or(0),
            bytes_out: number(19)?.unwrap_or(0),
            client_ip: row.get(20)?,
        })
    }
}

impl History {
    /// The latest requests of those that are wanted.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn requests(&self, wanted: &Wanted) -> Result<Vec<RequestRow>, HistoryError> {
        let (conditions, values) = conditions(wanted);
        let sql = format!(
            "SELECT seq, at, id, method, path, status, reason, duration_ms, queue_ms, ttfb_ms, route, upstream, server, \
             model, key, attempts, prompt_tokens, output_tokens, bytes_in, bytes_out, client_ip \
             FROM requests WHERE {conditions} ORDER BY seq DESC LIMIT {}",
            wanted.limit
        );
        self.read(|connection| {
            let mut all = connection.prepare(&sql)?;
            let rows = all.query_map(params_from_iter(values), RequestRow::read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

fn conditions(wanted: &Wanted) -> (String, Vec<Value>) {
    let mut conditions = vec!["TRUE".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    let mut must = |condition: &str, value: Value| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("?{}", values.len())));
    };
    if let Some(before) = wanted.before {
        must("seq < ?", before.into());
    }
    if let Some(since) = wanted.since {
        // The first finds the place, the second is exact where a clock was set back.
        must("seq >= ? * 1000000.0 AND at + duration_ms / 1000.0 >= ?", since.into());
    }
    let names = [
        ("server = ?", &wanted.server),
        ("upstream = ?", &wanted.upstream),
        ("model = ?", &wanted.model),
        ("route = ?", &wanted.route),
        ("key = ?", &wanted.key),
        ("reason = ?", &wanted.reason),
    ];
    for (condition, name) in names {
        if let Some(name) = name {
            must(condition, name.clone().into());
        }
    }
    if let Some(status) = wanted.status {
        must("status = ?", i64::from(status).into());
    }
    if wanted.errors {
        // As `batch::is_error` says it.
        must("(status >= 400 OR status = 0 OR reason <> ?)", "ok".to_owned().into());
    }
    (conditions.join(" AND "), values)
}
