//! The order to make room for a new process of the program.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{AdminAddress, State};
use crate::units::Duration;

/// How long a new process may take until it serves, if nothing else is said.
pub const LIMIT: Duration = Duration(StdDuration::from_secs(60));

/// An order to start a new process, and to end once it serves.
#[derive(Debug)]
pub struct Order {
    /// The program; that of this process by default.
    pub binary: Option<PathBuf>,
    /// How long it may take until it serves.
    pub limit: Duration,
    /// Is told the id of the new process, or why there is none.
    pub answer: oneshot::Sender<Result<u32, String>>,
}

/// The body of the request; every key may be absent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    binary: Option<PathBuf>,
    timeout: Option<Duration>,
}

/// Starts a new process; answers when that serves or has failed.
pub async fn upgrade(Extract(state): Extract<Arc<State>>, body: Bytes) -> Response {
    let wanted: Wanted = match serde_json::from_slice(if body.is_empty() { b"{}" } else { &body }) {
        Ok(wanted) => wanted,
        Err(error) => return answer(StatusCode::BAD_REQUEST, Err(error.to_string())),
    };
    // Whoever may reach a port of loopback must not choose what this user runs.
    if wanted.binary.is_some() && !state.store.load().admin.has_tokens() && matches!(state.own, AdminAddress::Tcp(_)) {
        let what = "another binary needs `admin.token_file`, or an `admin.address` that is a unix socket; without either, \
                    put the new binary in the place of the old one and leave `--binary` out";
        return answer(StatusCode::FORBIDDEN, Err(what.to_owned()));
    }
    let (told, outcome) = oneshot::channel();
    let order = Order { binary: wanted.binary, limit: wanted.timeout.unwrap_or(LIMIT), answer: told };
    if state.upgrades.try_send(order).is_err() {
        return answer(
            StatusCode::CONFLICT,
            Err("another upgrade is under way, or this process is stopping".to_owned()),
        );
    }
    match outcome.await {
        Ok(Ok(process)) => answer(StatusCode::OK, Ok(process)),
        Ok(Err(error)) => answer(StatusCode::UNPROCESSABLE_ENTITY, Err(error)),
        Err(_) => answer(StatusCode::CONFLICT, Err("this process is stopping".to_owned())),
    }
}

fn answer(status: StatusCode, result: Result<u32, String>) -> Response {
    let word = if result.is_ok() { "upgraded" } else { "failed" };
    let body = serde_json::json!({ "result": word, "pid": result.as_ref().ok(), "error": result.as_ref().err() });
    (status, Json(body)).into_response()
}
