//! Talks to the admin listener of the running Arriero.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::AdminArguments;
use crate::config::Diagnostics;
use crate::config::types::Admin;
use crate::fleet::reload::Source;

/// How long the running Arriero may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What it is asked.
pub struct Question {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Body.
    pub body: Bytes,
    /// How long it may take.
    pub timeout: Duration,
}

impl Question {
    /// One without a body.
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), body: Bytes::new(), timeout: TIMEOUT }
    }
}

/// What it answered.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// Why there is no answer.
pub enum Problem {
    /// The configuration that names the admin listener is not valid.
    Config(Diagnostics),
    /// Nobody answers there.
    Unreachable { address: String, error: String },
}

impl Problem {
    /// Tells the user and gives the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Config(diagnostics) => {
                eprintln!("{}", diagnostics.render(false));
                ExitCode::from(1)
            }
            Self::Unreachable { address, error } => {
                eprintln!(
                    "error: the admin listener `{address}` cannot be reached: {error}\nhint: is Arriero running?"
                );
                ExitCode::from(4)
            }
        }
    }
}

/// Sends one request.
pub fn ask(arguments: &AdminArguments, question: Question) -> Result<Answer, Problem> {
    let admin = admin(arguments)?;
    let token = admin.token_file.as_deref().and_then(|file| std::fs::read_to_string(file).ok());
    let unreachable = |error: String| Problem::Unreachable { address: admin.address.clone(), error };
    let Question { method, path, body, timeout } = question;
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim_end()));
    }
    let request = request.body(Full::new(body)).map_err(|error| unreachable(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| unreachable(error.to_string()))?;
    let exchange = async {
        match admin.address.strip_prefix("unix:") {
            Some(path) => send(UnixStream::connect(path).await.map_err(|error| error.to_string())?, request).await,
            None => send(TcpStream::connect(&admin.address).await.map_err(|error| error.to_string())?, request).await,
        }
    };
    runtime
        .block_on(async { tokio::time::timeout(timeout, exchange).await })
        .map_err(|_| unreachable(format!("no answer within {timeout:?}")))?
        .map_err(unreachable)
}

/// The admin block of the configuration, or of the command line.
fn admin(arguments: &AdminArguments) -> Result<Admin, Problem> {
    let loaded = match Source::File(arguments.config.clone()).load() {
        Ok(loaded) => loaded.config.admin,
        Err(_) if arguments.admin.is_some() || !arguments.config.exists() => Admin::default(),
        Err(diagnostics) => return Err(Problem::Config(diagnostics)),
    };
    let address = arguments.admin.clone().unwrap_or(loaded.address);
    Ok(Admin { address: reachable(address), ..loaded })
}

/// An address that stands for all interfaces is reached through loopback.
fn reachable(address: String) -> String {
    match address.strip_prefix("0.0.0.0:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address.replace("[::]:", "[::1]:"),
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    TokioIo<S>: Read + Write,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    driver.abort();
    Ok(Answer { status, body })
}
