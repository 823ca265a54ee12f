//! Posting JSON to a URL that the configuration names, signed where there is a secret.
//!
//! The URL is the operator's own, so any address may be meant, one inside the network too. What answers is not followed
//! elsewhere: a redirect is an answer like any other. One connection for each message, HTTP/1.1, over TLS checked by the
//! authorities of the system.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::client::Fault;
use crate::clock;
use crate::config::WebhookUrl;
use crate::config::types::UpstreamTls as Settings;
use crate::fleet::upstream_tls::UpstreamTls;
use crate::policy::notification::signature::{SIGNATURE, TIMESTAMP, sign};
use crate::policy::recovery::Class;

/// The field that has the id of a message, the same for all attempts.
const DELIVERY: &str = "x-arriero-delivery";
/// Bytes of an answer that are read.
const MOST: usize = 64 << 10;
/// Characters of an answer that are shown.
const SHOWN: usize = 200;

/// A message, and to whom it goes.
#[derive(Clone, Copy, Debug)]
pub struct Message<'m> {
    /// Where to.
    pub url: &'m WebhookUrl,
    /// File with the secret that it is signed with.
    pub secret_file: Option<&'m str>,
    /// Its id.
    pub id: &'m str,
    /// JSON.
    pub body: &'m Bytes,
    /// How long everything may take, from the look-up of the name to the last byte of the answer.
    pub timeout: Duration,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// How long the other side wants to be left alone.
    pub retry_after: Option<Duration>,
    /// The beginning of the body, for people.
    pub text: String,
}

impl Reply {
    /// Whether the message was taken.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// Sends a message once.
///
/// # Errors
/// Anything that kept an answer away.
pub async fn post(message: Message<'_>) -> Result<Reply, Fault> {
    match tokio::time::timeout(message.timeout, exchange(message)).await {
        Ok(reply) => reply,
        Err(_) => Err(Fault::new(Class::Timeout, format!("no answer within {:?}", message.timeout))),
    }
}

async fn exchange(message: Message<'_>) -> Result<Reply, Fault> {
    let url = message.url;
    let mut request = request(&url.target, message.body.clone())?;
    let host = url.address.to_string();
    let fields = request.headers_mut();
    fields.insert(header::HOST, value(&host)?);
    fields.insert(DELIVERY, value(message.id)?);
    if let Some(file) = message.secret_file {
        // Read for each message, so that a secret that was changed is in force; never sent without a signature.
        let secret = tokio::fs::read(file).await;
        let secret =
            secret.map_err(|error| Fault::new(Class::Connect, format!("the secret cannot be read: {error}")))?;
        let timestamp = clock::unix_time().as_secs();
        fields.insert(TIMESTAMP, HeaderValue::from(timestamp));
        fields.insert(SIGNATURE, value(&sign(secret.trim_ascii(), timestamp, message.body))?);
    }
    let tcp = connect(url).await?;
    if !url.tls {
        return send(TokioIo::new(tcp), request).await;
    }
    send(TokioIo::new(secure(url, tcp).await?), request).await
}

/// TLS over a connection, checked by the authorities of the system.
///
/// # Errors
/// When the other side is not trusted.
pub async fn secure(url: &WebhookUrl, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Fault> {
    let no_tls = |what: &dyn ToString| Fault::new(Class::Tls, what.to_string());
    let name = ServerName::try_from(url.address.host.clone()).map_err(|error| no_tls(&error))?;
    let connector = TlsConnector::from(trust().map_err(|error| no_tls(&error))?);
    connector.connect(name, tcp).await.map_err(|error| no_tls(&error))
}

/// A connection to the first address that takes one.
///
/// # Errors
/// When none does.
pub async fn connect(url: &WebhookUrl) -> Result<TcpStream, Fault> {
    let no_connection = |what: &dyn ToString| Fault::new(Class::Connect, what.to_string());
    let stream = TcpStream::connect((url.address.host.as_str(), url.address.port)).await;
    let stream = stream.map_err(|error| no_connection(&error))?;
    stream.set_nodelay(true).map_err(|error| no_connection(&error))?;
    Ok(stream)
}

/// A POST of JSON.
///
/// # Errors
/// When the target is none.
pub fn request(target: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Fault> {
    Request::post(target)
        .header(header::USER_AGENT, concat!("arriero/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|error| Fault::new(Class::Protocol, error))
}

/// Sends a request over a connection and reads the answer.
///
/// # Errors
/// When there is none.
pub async fn send<I>(io: I, request: Request<Full<Bytes>>) -> Result<Reply, Fault>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let Answer { status, retry_after, body } = ask(io, request).await?;
    let text = String::from_utf8_lossy(&body).trim().chars().take(SHOWN).collect();
    Ok(Reply { status, retry_after, text })
}

/// What was answered, with the beginning of its body.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// How long the other side wants to be left alone.
    pub retry_after: Option<Duration>,
    /// The body; empty when it broke off or was too long.
    pub body: Bytes,
}

/// Sends a request over a connection and reads the answer.
///
/// # Errors
/// When there is none.
pub async fn ask<I>(io: I, request: Request<Full<Bytes>>) -> Result<Answer, Fault>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let broken = |error: &dyn ToString| Fault::new(Class::Protocol, error.to_string());
    // Ends the connection's own task when this function returns or is dropped.
    let mut connection = JoinSet::new();
    let (mut sender, driver) = http1::handshake(io).await.map_err(|error| broken(&error))?;
    connection.spawn(driver);
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
    // The status says it all; a body that breaks off or is too long changes nothing about it.
    let body = Limited::new(response.into_body(), MOST).collect().await.map(http_body_util::Collected::to_bytes);
    Ok(Answer { status, retry_after, body: body.unwrap_or_default() })
}

/// A connection, encrypted or not.
pub type Stream = Box<dyn Connection>;

/// What a connection can do.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A connection to where a URL leads, over TLS by these rules where it says so.
///
/// # Errors
/// When there is none, or the other side is not trusted.
pub async fn open(url: &WebhookUrl, tls: Option<&UpstreamTls>) -> Result<Stream, Fault> {
    let tcp = connect(url).await?;
    if !url.tls {
        return Ok(Box::new(tcp));
    }
    let no_tls = |what: &dyn ToString| Fault::new(Class::Tls, what.to_string());
    let tls = tls.ok_or_else(|| no_tls(&"nobody said whom to trust"))?;
    let name = ServerName::try_from(tls.name(&url.address.host).to_owned()).map_err(|error| no_tls(&error))?;
    let connector = TlsConnector::from(Arc::clone(&tls.trust().config));
    Ok(Box::new(connector.connect(name, tcp).await.map_err(|error| no_tls(&error))?))
}

fn value(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(text).map_err(|error| Fault::new(Class::Protocol, error))
}

/// The authorities of the system, and nothing that is shown to the other side.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let made = || UpstreamTls::load(Settings::default(), false).map(|tls| Arc::clone(&tls.trust().config));
    TRUST.get_or_init(made).clone()
}

/// How long to wait by `Retry-After`, which is a number of seconds or a date.
fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let at = date.duration_since(UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(clock::unix_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |text: &str| retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value(text).unwrap())]));
        assert_eq!(
            (read("7"), read(" 0 "), read("soon"), read("-1")),
            (Some(Duration::from_secs(7)), Some(Duration::ZERO), None, None)
        );
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO), "it is over");
        let later = httpdate::fmt_http_date(UNIX_EPOCH + clock::unix_time() + Duration::from_mins(2));
        assert!(read(&later).is_some_and(|wait| wait > Duration::from_secs(110) && wait <= Duration::from_mins(2)));
    }
}
