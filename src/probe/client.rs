//! One GET over a connection of its own: what a probe says must not depend on a pool.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::fleet::server::ServerState;
use crate::fleet::upstream_tls::UpstreamTls;

/// Largest answer that is read.
const MAX_ANSWER: usize = 8 << 20;

/// A server, and how it is spoken to.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// The server.
    pub server: &'a ServerState,
    /// TLS of its upstream.
    pub tls: Option<&'a UpstreamTls>,
    /// Whether it is spoken to in HTTP/2.
    pub http2: bool,
}

/// What a server answered.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// Gets a path from a server; `timeout` covers everything from connecting to the last byte.
///
/// # Errors
/// Anything that kept the answer away, as text for the log.
pub async fn get(way: Way<'_>, path: &str, timeout: Duration) -> Result<Answer, io::Error> {
    within(timeout, exchange(way, Method::GET, path, Bytes::new())).await
}

/// Posts JSON to a server, in the same way.
///
/// # Errors
/// The same.
pub async fn post(way: Way<'_>, path: &str, body: String, timeout: Duration) -> Result<Answer, io::Error> {
    within(timeout, exchange(way, Method::POST, path, body.into())).await
}

async fn within(timeout: Duration, answer: impl Future<Output = Result<Answer, io::Error>>) -> Result<Answer, io::Error> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}"))),
    }
}

async fn exchange(way: Way<'_>, method: Method, path: &str, body: Bytes) -> Result<Answer, io::Error> {
    let Way { server, tls, .. } = way;
    let address = server.address().ok_or_else(|| io::Error::other("the host name is not resolved"))?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    if !server.location.tls {
        return request(TokioIo::new(tcp), way, method, path, body).await;
    }
    // Between two configurations a server may for a moment belong to none.
    let tls = tls.ok_or_else(|| io::Error::other("the upstream is being changed"))?;
    let name = ServerName::try_from(tls.name(&server.location.host).to_owned()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(Arc::clone(&tls.trust().config)).connect(name, tcp).await?;
    request(TokioIo::new(tls), way, method, path, body).await
}

async fn request<I>(io: I, way: Way<'_>, method: Method, path: &str, body: Bytes) -> Result<Answer, io::Error>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let Way { server, http2, .. } = way;
    let authority = &server.location.authority;
    let mut request = Request::builder()
        .method(&method)
        .uri(path)
        .header(header::USER_AGENT, concat!("arriero/", env!("CARGO_PKG_VERSION")));
    if method == Method::POST {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = Full::new(body);
    // Ends the connection's own task when this function returns or is dropped.
    let mut connection = JoinSet::new();
    let response = if http2 {
        let scheme = if server.location.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{}{path}", authority.to_str().unwrap_or_default());
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
        connection.spawn(driver);
        let request = request.uri(uri).body(body).map_err(io::Error::other)?;
        sender.send_request(request).await
    } else {
        let (mut sender, driver) = http1::handshake(io).await.map_err(io::Error::other)?;
        connection.spawn(driver);
        let request = request.header(header::HOST, authority).body(body).map_err(io::Error::other)?;
        sender.send_request(request).await
    };
    let response = response.map_err(io::Error::other)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
    Ok(Answer { status, body: body.to_bytes() })
}
