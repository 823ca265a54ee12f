//! Restarting a container through the socket of the Docker Engine.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::probe::webhook::{request, send};

/// Restarts a container; the Engine answers when it runs again.
///
/// # Errors
/// Why that did not go well.
pub async fn restart(socket: &str, container: &str, limit: Duration) -> Result<String, String> {
    match tokio::time::timeout(limit, exchange(Path::new(socket), container)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("the Docker Engine did not answer within {limit:?}")),
    }
}

async fn exchange(socket: &Path, container: &str) -> Result<String, String> {
    let stream = UnixStream::connect(socket).await;
    let stream =
        stream.map_err(|error| format!("the Docker Engine cannot be reached at {}: {error}", socket.display()))?;
    let mut request = request(&format!("/containers/{container}/restart"), Bytes::new()).map_err(|fault| fault.text)?;
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("docker"));
    let reply = send(TokioIo::new(stream), request).await.map_err(|fault| fault.text)?;
    match reply.status {
        200..=299 => Ok(format!("container `{container}` restarted")),
        404 => Err(format!("there is no container `{container}`: {}", reply.text)),
        status => Err(format!("the Docker Engine answered with status {status}: {}", reply.text)),
    }
}
