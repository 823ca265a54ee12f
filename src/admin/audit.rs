//! Who changed what, the latest first.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::Asked;
use super::store::ask;
use super::time::Present;

/// Lines that are told unless more or fewer are wanted, and at most.
const LINES: usize = 100;
const MOST: usize = 10_000;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new().api_route("/audit", get_with(list, about("listAudit", "Who changed what, the latest first")))
}

/// How much is wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "AuditWish")]
pub struct Wish {
    /// Lines, 100 by default, 10,000 at most.
    limit: Option<usize>,
}

/// Something that somebody did, or was not allowed to do.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditLine")]
pub struct Line {
    /// Later ones have higher numbers.
    seq: i64,
    at: String,
    /// The name of the token, or `local`; empty for a token that is none of ours.
    who: String,
    scope: String,
    method: String,
    path: String,
    /// Status that they were answered.
    status: u16,
    /// What was changed, where that is known.
    detail: String,
}

/// What was done last.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AuditLines")]
pub struct Lines {
    count: usize,
    audit: Vec<Line>,
}

async fn list(Extract(state): Extract<Arc<State>>, Asked(wish): Asked<Wish>) -> Result<Done<Lines>, Problem> {
    let limit = wish.limit.unwrap_or(LINES).min(MOST);
    let rows = ask(&state, move |history| history.audits(limit)).await?;
    let present = Present::read();
    let line = |row: crate::history::Audited| Line {
        seq: row.seq,
        at: present.unix_text(row.audit.at),
        who: row.audit.who,
        scope: row.audit.scope,
        method: row.audit.method,
        path: row.audit.path,
        status: row.audit.status,
        detail: row.audit.detail,
    };
    let audit: Vec<Line> = rows.into_iter().map(line).collect();
    Ok(Done(Lines { count: audit.len(), audit }))
}
