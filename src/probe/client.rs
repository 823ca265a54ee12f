//! One request over a connection of its own: what a probe says must not depend on a pool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::fleet::server::ServerState;
use crate::fleet::upstream_tls::UpstreamTls;
use crate::policy::recovery::Class;

/// Largest answer that is read.
const MAX_ANSWER: usize = 8 << 20;
/// Longest line of an answer that comes in lines.
const MAX_LINE: usize = 64 << 10;

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

/// Why a server did not answer.
#[derive(Debug)]
pub struct Fault {
    /// In one word.
    pub class: Class,
    /// For the log.
    pub text: String,
}

impl Fault {
    /// A fault of a class.
    pub fn new(class: Class, what: impl ToString) -> Self {
        Self { class, text: what.to_string() }
    }

    fn broken(what: impl ToString) -> Self {
        Self::new(Class::Protocol, what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Gets a path from a server; `timeout` covers everything from connecting to the last byte.
///
/// # Errors
/// Anything that kept the answer away.
pub async fn get(way: Way<'_>, path: &str, timeout: Duration) -> Result<Answer, Fault> {
    within(timeout, exchange(way, Method::GET, path, Bytes::new())).await
}

/// Posts JSON to a path of a server, in the same way.
///
/// # Errors
/// Anything that kept the answer away.
pub async fn post(way: Way<'_>, path: &str, body: Bytes, timeout: Duration) -> Result<Answer, Fault> {
    within(timeout, exchange(way, Method::POST, path, body)).await
}

async fn within<T>(timeout: Duration, exchange: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(Fault::new(Class::Timeout, format!("no answer within {timeout:?}"))),
    }
}

/// Sends JSON in a DELETE, in the same way: Ollama reads the body of one.
///
/// # Errors
/// Anything that kept the answer away.
pub async fn delete(way: Way<'_>, path: &str, body: Bytes, timeout: Duration) -> Result<Answer, Fault> {
    within(timeout, exchange(way, Method::DELETE, path, body)).await
}

/// Posts JSON to a path whose answer comes in lines. Dropping it ends the request.
///
/// # Errors
/// Anything that kept the head of the answer away for `timeout`.
pub async fn lines(way: Way<'_>, path: &str, body: Bytes, timeout: Duration) -> Result<Lines, Fault> {
    let Exchange { response, connection } = within(timeout, open(way, Method::POST, path, body)).await?;
    let status = response.status().as_u16();
    Ok(Lines { status, body: response.into_body(), buffer: BytesMut::new(), over: false, _connection: connection })
}

/// An answer that comes in lines.
pub struct Lines {
    /// Status code.
    pub status: u16,
    body: Incoming,
    buffer: BytesMut,
    over: bool,
    _connection: Connection,
}

impl Lines {
    /// The next line that is not empty, the last one with or without its end; `None` after it.
    ///
    /// # Errors
    /// When nothing comes for `gap`, a line is too long, or the answer breaks off.
    pub async fn next(&mut self, gap: Duration) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze();
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
            } else if self.over {
                let line = self.buffer.split().freeze();
                return Ok((!line.trim_ascii().is_empty()).then_some(line));
            } else if self.buffer.len() > MAX_LINE {
                return Err(Fault::broken("a line of the answer is too long"));
            } else {
                self.read(gap).await?;
            }
        }
    }

    async fn read(&mut self, gap: Duration) -> Result<(), Fault> {
        match tokio::time::timeout(gap, self.body.frame()).await {
            Err(_) => return Err(Fault::new(Class::Stalled, format!("silent for {gap:?}"))),
            Ok(None) => self.over = true,
            Ok(Some(Err(error))) => return Err(Fault::broken(format!("the answer broke off: {error}"))),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
            }
        }
        Ok(())
    }
}

/// The task of a connection; it ends with this.
type Connection = JoinSet<Result<(), hyper::Error>>;

/// An answer whose head has come.
struct Exchange {
    response: Response<Incoming>,
    connection: Connection,
}

async fn exchange(way: Way<'_>, method: Method, path: &str, body: Bytes) -> Result<Answer, Fault> {
    let Exchange { response, connection } = open(way, method, path, body).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(Fault::broken)?;
    drop(connection);
    Ok(Answer { status, body: body.to_bytes() })
}

async fn open(way: Way<'_>, method: Method, path: &str, body: Bytes) -> Result<Exchange, Fault> {
    let server = way.server;
    let no_connection = |what: &dyn ToString| Fault::new(Class::Connect, what.to_string());
    let address = server.address().ok_or_else(|| no_connection(&"the host name is not resolved"))?;
    let tcp = TcpStream::connect(address).await.map_err(|error| no_connection(&error))?;
    tcp.set_nodelay(true).map_err(|error| no_connection(&error))?;
    let mut request = Request::builder()
        .method(&method)
        .uri(path)
        .header(header::USER_AGENT, concat!("arriero/", env!("CARGO_PKG_VERSION")));
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(Full::new(body)).map_err(Fault::broken)?;
    if !server.location.tls {
        return send(TokioIo::new(tcp), server, way.http2, request).await;
    }
    // Between two configurations a server may for a moment belong to none.
    let no_tls = |what: &dyn ToString| Fault::new(Class::Tls, what.to_string());
    let tls = way.tls.ok_or_else(|| no_tls(&"the upstream is being changed"))?;
    let name = ServerName::try_from(tls.name(&server.location.host).to_owned()).map_err(|error| no_tls(&error))?;
    let connector = TlsConnector::from(Arc::clone(&tls.trust().config));
    let tls = connector.connect(name, tcp).await.map_err(|error| no_tls(&error))?;
    send(TokioIo::new(tls), server, way.http2, request).await
}

async fn send<I>(io: I, server: &ServerState, http2: bool, mut request: Request<Full<Bytes>>) -> Result<Exchange, Fault>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let authority = &server.location.authority;
    let mut connection = JoinSet::new();
    let response = if http2 {
        let scheme = if server.location.tls { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", authority.to_str().unwrap_or_default(), request.uri());
        *request.uri_mut() = uri.parse().map_err(Fault::broken)?;
        let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await.map_err(Fault::broken)?;
        connection.spawn(driver);
        sender.send_request(request).await
    } else {
        request.headers_mut().insert(header::HOST, authority.clone());
        let (mut sender, driver) = http1::handshake(io).await.map_err(Fault::broken)?;
        connection.spawn(driver);
        sender.send_request(request).await
    };
    Ok(Exchange { response: response.map_err(Fault::broken)?, connection })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// An answer in chunks of which these pieces have come, and the server's side of the connection.
    async fn answer(pieces: &[&[u8]]) -> (Lines, DuplexStream) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (mut sender, driver) = http1::handshake(TokioIo::new(ours)).await.unwrap();
        let mut connection = JoinSet::new();
        connection.spawn(driver);
        let request = Request::get("/").body(Full::new(Bytes::new())).unwrap();
        let (response, ()) = tokio::join!(sender.send_request(request), async {
            drop(theirs.read(&mut [0; 1024]).await);
            theirs.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            for piece in pieces {
                theirs.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
                theirs.write_all(piece).await.unwrap();
                theirs.write_all(b"\r\n").await.unwrap();
            }
        });
        let body = response.unwrap().into_body();
        (Lines { status: 200, body, buffer: BytesMut::new(), over: false, _connection: connection }, theirs)
    }

    #[tokio::test]
    async fn lines_are_lines_however_they_are_cut() {
        let (mut lines, mut server) = answer(&[b"{\"a\"", b":1}\n\n{\"b\":2}\n{\"c\"", b":3}"]).await;
        server.write_all(b"0\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        while let Some(line) = lines.next(LONG).await.unwrap() {
            seen.push(String::from_utf8(line.trim_ascii().to_vec()).unwrap());
        }
        assert_eq!(seen, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
    }

    #[tokio::test]
    async fn silence_is_told_from_an_end_and_a_break() {
        let (mut lines, server) = answer(&[b"one\n"]).await;
        assert!(lines.next(LONG).await.unwrap().is_some());
        let silent = lines.next(Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(silent.class, Class::Stalled);
        drop(server);
        let broken = lines.next(LONG).await.unwrap_err();
        assert!(broken.class == Class::Protocol && broken.text.contains("broke off"), "{broken}");
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_kept() {
        let (mut lines, _server) = answer(&[&vec![b'x'; MAX_LINE + 1]]).await;
        assert!(lines.next(LONG).await.unwrap_err().text.contains("too long"));
    }
}
