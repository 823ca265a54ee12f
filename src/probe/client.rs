//! One GET over a connection of its own: what a probe says must not depend on a pool.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::fleet::server::ServerState;

/// Largest answer that is read.
const MAX_ANSWER: usize = 8 << 20;

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
pub async fn get(server: &ServerState, http2: bool, path: &str, timeout: Duration) -> Result<Answer, io::Error> {
    match tokio::time::timeout(timeout, exchange(server, http2, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {timeout:?}"))),
    }
}

async fn exchange(server: &ServerState, http2: bool, path: &str) -> Result<Answer, io::Error> {
    let address = server.address().ok_or_else(|| io::Error::other("the host name is not resolved"))?;
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    if !server.location.tls {
        return request(TokioIo::new(tcp), server, http2, path).await;
    }
    let name = ServerName::try_from(server.location.host.clone()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(tls_config()).connect(name, tcp).await?;
    request(TokioIo::new(tls), server, http2, path).await
}

async fn request<I>(io: I, server: &ServerState, http2: bool, path: &str) -> Result<Answer, io::Error>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let authority = &server.location.authority;
    let request = Request::get(path).header(header::USER_AGENT, concat!("arriero/", env!("CARGO_PKG_VERSION")));
    // Ends the connection's own task when this function returns or is dropped.
    let mut connection = JoinSet::new();
    let response = if http2 {
        let scheme = if server.location.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{}{path}", authority.to_str().unwrap_or_default());
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
        connection.spawn(driver);
        let request = request.uri(uri).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        sender.send_request(request).await
    } else {
        let (mut sender, driver) = http1::handshake(io).await.map_err(io::Error::other)?;
        connection.spawn(driver);
        let request = request.header(header::HOST, authority).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        sender.send_request(request).await
    };
    let response = response.map_err(io::Error::other)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
    Ok(Answer { status, body: body.to_bytes() })
}

/// TLS with the certificate authorities that the system trusts.
fn tls_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }))
}
