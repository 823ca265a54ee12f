//! One request over a connection of its own, to servers and to Docker.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Version, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Largest answer that is read.
const MAX_ANSWER: usize = 8 << 20;

/// What was answered.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Its fields.
    pub fields: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Gets a path over a connection that is open.
///
/// # Errors
/// What kept the answer away, in words.
pub async fn get<S>(stream: S, version: Version, base: &str, path: &str, limit: Duration) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match tokio::time::timeout(limit, send(stream, version, base, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {}", crate::units::Duration(limit))),
    }
}

async fn send<S>(stream: S, version: Version, base: &str, path: &str) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::error::Error| error.to_string();
    let authority = base.split_once("://").map_or(base, |(_, rest)| rest);
    let uri = if version == Version::HTTP_2 { format!("{base}{path}") } else { path.to_owned() };
    let mut request = Request::get(uri).header(header::USER_AGENT, concat!("arriero/", env!("CARGO_PKG_VERSION")));
    if version != Version::HTTP_2 {
        request = request.header(header::HOST, authority);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    // Ends the connection's own task when this function returns or is dropped.
    let mut connection = JoinSet::new();
    let io = TokioIo::new(stream);
    let response = if version == Version::HTTP_2 {
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.map_err(|error| failed(&error))?;
        connection.spawn(driver);
        sender.send_request(request).await
    } else {
        let (mut sender, driver) = http1::handshake(io).await.map_err(|error| failed(&error))?;
        connection.spawn(driver);
        sender.send_request(request).await
    };
    let (head, body) = response.map_err(|error| failed(&error))?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), fields: head.headers, body })
}
