//! The one form of errors: a problem document (RFC 9457).
//!
//! `title` says what kind of problem it is and never changes for a kind; `detail` says what happened this time and
//! how to mend it. There are no types beyond HTTP's own, so `type` is left out (`about:blank`). A configuration that is
//! refused comes with `errors`, each with its place, as `arriero check --format json` prints them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Diagnostic;
use crate::fleet::reload::{Refused, SaveError};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why something was not done.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    errors: Vec<Diagnostic>,
}

/// A problem as it is sent.
#[derive(Serialize, JsonSchema)]
pub struct Document {
    /// What kind of problem it is.
    title: &'static str,
    /// The status code.
    status: u16,
    /// What happened, and how to mend it.
    detail: String,
    /// What is wrong with the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<serde_json::Value>")]
    errors: Vec<Diagnostic>,
}

impl Problem {
    /// A problem of the kind that a status names.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new() }
    }

    /// The request is not what it should be.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// What it names is not there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// It cannot be done as things are.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// A file that is refused, told as `arriero check` tells it.
    pub fn of_reload(refused: Refused) -> Self {
        let detail = refused.to_string();
        Self { detail, ..Self::from(refused) }
    }

    /// Something failed here.
    pub fn internal(detail: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Invalid(_) | Refused::Compile(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refused::NeedsRestart(_) | Refused::Bind(_) | Refused::NotPossible(_) => StatusCode::CONFLICT,
            Refused::Stale(_) => StatusCode::PRECONDITION_FAILED,
            Refused::NeedsToken(_) => StatusCode::FORBIDDEN,
            Refused::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        match refused {
            Refused::Invalid(diagnostics) => {
                let first = diagnostics.0.first().map(|first| format!(": {} ({})", first.message, first.path));
                let detail = format!(
                    "the configuration would not be valid, so nothing was changed{}",
                    first.unwrap_or_default()
                );
                Self { status, detail, errors: diagnostics.0 }
            }
            refused => Self::new(status, refused.to_string()),
        }
    }
}

impl From<SaveError> for Problem {
    fn from(error: SaveError) -> Self {
        let status = match &error {
            SaveError::System { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            SaveError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            SaveError::NoFile | SaveError::NotInForce(_) | SaveError::Text(_) => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let document = Document { title, status: self.status.as_u16(), detail: self.detail, errors: self.errors };
        (self.status, [(header::CONTENT_TYPE, CONTENT_TYPE)], Json(document)).into_response()
    }
}

/// What is answered where nothing is.
pub async fn no_such_path() -> Problem {
    Problem::not_found("there is no such path here")
}

/// What is answered to a method that a path does not take.
pub async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
}
