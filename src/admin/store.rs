//! How the history is asked: away from the runtime's thread, and what goes wrong is a problem.

use std::sync::Arc;

use axum::http::StatusCode;

use super::State;
use super::problem::Problem;
use crate::clock;
use crate::history::{History, HistoryError};

/// Asks the history.
///
/// # Errors
/// When it cannot answer, or not in time.
pub async fn ask<T: Send + 'static>(
    state: &State,
    question: impl FnOnce(&History) -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, Problem> {
    let history = Arc::clone(&state.history);
    match tokio::task::spawn_blocking(move || question(&history)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
        Err(failed) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, failed.to_string())),
    }
}

/// Now, in seconds since 1970.
pub fn now() -> f64 {
    clock::unix_time().as_secs_f64()
}
