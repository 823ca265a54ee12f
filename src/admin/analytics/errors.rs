//! What failed in a time: why, where and for which model.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::words::{Time, share};
use super::{Shared, Wish, sums};
use crate::admin::problem::Problem;
use crate::admin::request::{Asked, limit};
use crate::admin::store::ask;
use crate::history::requests::{RequestRow, Wanted};
use crate::history::sums::Line;

/// Recent errors of an answer, unless another number is wanted, and the most that can be.
const RECENT: (usize, usize) = (20, 1000);

/// What failed in a time.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Errors {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    time: Time,
    /// Requests that ended.
    requests: u64,
    /// Those of them that ended with a status from 400 on or broke.
    total_errors: u64,
    /// Errors as a share of all, from 0 to 1; null without requests.
    error_rate: Option<f64>,
    /// Errors by the reason. `ok` is an error that a server answered with and that was passed on, such as 404.
    by_type: BTreeMap<String, u64>,
    /// Errors by the status that the client got.
    by_status: BTreeMap<u16, u64>,
    /// Errors by the server of the last attempt, as `UPSTREAM/NAME`.
    by_server: BTreeMap<String, u64>,
    /// Errors by the model.
    by_model: BTreeMap<String, u64>,
    /// The latest of them, the latest first, where they are wanted and kept; null otherwise.
    recent_errors: Option<Vec<RequestRow>>,
}

pub(super) async fn errors(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Errors>, Problem> {
    let most = limit(wish.limit, RECENT)?;
    let asked = sums(&state, &wish, "24h").await?;
    let recent_errors = if wish.include_recent == Some(true) {
        let among = asked.among.clone();
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
        let since = Some(asked.window.from as f64);
        let (server, upstream, model) = (among.server, among.upstream, among.model);
        let wanted = Wanted { limit: most, since, server, upstream, model, errors: true, ..Wanted::default() };
        Some(ask(&state, move |history| history.requests(&wanted)).await?)
    } else {
        None
    };
    let total = asked.total();
    let by_status = asked.group(|line| Some(line.status)).into_iter();
    Ok(Json(Errors {
        success: true,
        requests: total.requests,
        total_errors: total.errors,
        error_rate: share(total.errors, total.requests),
        by_type: counts(&asked, |line| Some(line.reason.clone())),
        by_status: by_status.filter(|(_, all)| all.errors > 0).map(|(status, all)| (status, all.errors)).collect(),
        by_server: counts(&asked, |line| {
            (!line.server.is_empty()).then(|| format!("{}/{}", line.upstream, line.server))
        }),
        by_model: counts(&asked, |line| (!line.model.is_empty()).then(|| line.model.clone())),
        recent_errors,
        time: asked.time,
    }))
}

/// How many errors have what in common.
fn counts(asked: &super::Asked, of: impl Fn(&Line) -> Option<String>) -> BTreeMap<String, u64> {
    let groups = asked.group(of).into_iter();
    groups.filter(|(_, totals)| totals.errors > 0).map(|(name, totals)| (name, totals.errors)).collect()
}
