//! The order to make room for a new process of the program.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::openapi::Done;
use super::problem::Problem;
use super::request::Wanted;
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
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "UpgradeOrder")]
pub struct Wish {
    /// The program; that of this process by default.
    binary: Option<PathBuf>,
    /// How long it may take until it serves; `60s` by default.
    timeout: Option<Duration>,
}

/// The new process.
#[derive(Serialize, JsonSchema)]
pub struct Upgraded {
    /// `upgraded`.
    result: &'static str,
    /// Its id.
    pid: u32,
}

/// Starts a new process; answers when that serves or has failed.
pub async fn upgrade(
    Extract(state): Extract<Arc<State>>,
    Wanted(wish): Wanted<Wish>,
) -> Result<Done<Upgraded>, Problem> {
    // Whoever may reach a port of loopback must not choose what this user runs.
    if wish.binary.is_some() && !state.store.load().admin.has_tokens() && matches!(state.own, AdminAddress::Tcp(_)) {
        let what = "another binary needs `admin.token_file`, or an `admin.address` that is a unix socket; without either, \
                    put the new binary in the place of the old one and leave `--binary` out";
        return Err(Problem::new(StatusCode::FORBIDDEN, what));
    }
    let (told, outcome) = oneshot::channel();
    let order = Order { binary: wish.binary, limit: wish.timeout.unwrap_or(LIMIT), answer: told };
    if state.upgrades.try_send(order).is_err() {
        return Err(Problem::conflict("another upgrade is under way, or this process is stopping"));
    }
    match outcome.await {
        Ok(Ok(pid)) => Ok(Done(Upgraded { result: "upgraded", pid })),
        Ok(Err(error)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error)),
        Err(_) => Err(Problem::conflict("this process is stopping")),
    }
}
