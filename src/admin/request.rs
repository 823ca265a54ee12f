//! What a request to the admin listener says: its path, its query, its body. What cannot be read is a problem.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Longer than anybody means: about ten years.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);

/// The end of a time that an operator gave with `for`.
///
/// # Errors
/// When it is longer than anybody means.
pub fn end_of(time: Duration, now: Instant) -> Result<Instant, Problem> {
    let end = now.checked_add(time).filter(|_| time <= LONGEST);
    end.ok_or_else(|| Problem::bad_request("`for` is too long"))
}

/// A number of things that was asked for, or the usual one; `bounds` are the usual number and the most.
///
/// # Errors
/// When it is none or more than the most.
pub fn limit(asked: Option<usize>, bounds: (usize, usize)) -> Result<usize, Problem> {
    let (usual, most) = bounds;
    let limit = asked.unwrap_or(usual);
    let message = || Problem::bad_request(format!("`limit` is from 1 to {most}"));
    if (1..=most).contains(&limit) { Ok(limit) } else { Err(message()) }
}

/// What a word stands for.
///
/// # Errors
/// When it is none of those that are known; they are named.
pub fn one_of<T: Copy>(key: &str, word: &str, known: &[(&str, T)]) -> Result<T, Problem> {
    known.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        Problem::bad_request(format!("`{key}` is one of `{}`", words.join("`, `")))
    })
}

/// The names in a path.
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(names)| Self(names)).map_err(|bad| Problem::bad_request(bad.body_text()))
    }
}

/// The query; every key may be absent.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(asked)| Self(asked)).map_err(|bad| Problem::bad_request(bad.body_text()))
    }
}

/// The body, in JSON whatever its Content-Type says; none is as good as `{}`.
pub struct Wanted<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Wanted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state).await.map_err(|bad| Problem::bad_request(bad.body_text()))?;
        let text: &[u8] = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { &body };
        let wanted = serde_json::from_slice(text).map_err(|bad| Problem::bad_request(format!("the body: {bad}")))?;
        Ok(Self(wanted))
    }
}
