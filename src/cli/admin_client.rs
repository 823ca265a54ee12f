//! Talks to the admin listener of the running Arriero.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::{TcpStream, UnixStream};

use super::words::plain;
use super::{AdminArguments, FAILED, UNREACHABLE};
use crate::config::types::{Admin, AdminScope};
use crate::config::{AdminAddress, Diagnostics};
use crate::fleet::reload::Source;

/// How long the running Arriero may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What all paths of operators begin with.
const API: &str = "/api/orchestrator/";
/// What stands for itself in a part of a path (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What a path that is not there, and one that does not take the method, say.
const OLDER: [&str; 2] = ["there is no such path here", "this path does not take this method"];

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

    /// What is known, at a path below the operators' prefix.
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, &format!("{API}{path}"))
    }

    /// An order, at a path below the operators' prefix.
    pub fn order(method: Method, path: &str, body: &serde_json::Value) -> Self {
        Self { body: body.to_string().into(), ..Self::new(method, &format!("{API}{path}")) }
    }

    /// With these pairs as its query; those without a value are left out.
    pub fn asking(mut self, pairs: &[(&str, Option<String>)]) -> Self {
        let given = pairs.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        for (number, (key, value)) in given.enumerate() {
            let before = if number == 0 { '?' } else { '&' };
            self.path.push_str(&format!("{before}{key}={}", segment(value)));
        }
        self
    }

    /// With more time.
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// A name as one part of a path, or a value in a query.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// What it answered.
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// Whether it says yes.
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there is no answer, or none that helps.
pub enum Problem {
    /// The configuration that names the admin listener is not valid.
    Config(Diagnostics),
    /// Nobody answers there.
    Unreachable { address: String, error: String },
    /// It says no.
    Refused { status: u16, detail: String },
    /// It says something else than this program expects.
    Unreadable(String),
    /// Something here failed.
    Here(String),
}

impl Problem {
    /// The refusal that an answer is.
    pub fn refused(answer: &Answer) -> Self {
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let words = said["detail"].as_str().or_else(|| said["error"].as_str());
        let detail = words.map_or_else(|| String::from_utf8_lossy(&answer.body).trim().to_owned(), str::to_owned);
        Self::Refused { status: answer.status, detail }
    }

    /// Tells the user and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("{}", self.text());
        ExitCode::from(if matches!(self, Self::Unreachable { .. }) { UNREACHABLE } else { FAILED })
    }

    /// What the user is told.
    pub fn text(&self) -> String {
        match self {
            Self::Config(diagnostics) => diagnostics.render(false),
            Self::Unreachable { address, error } => {
                format!("error: the admin listener `{address}` cannot be reached: {error}\nhint: is Arriero running?")
            }
            Self::Refused { detail, .. } if OLDER.contains(&detail.as_str()) => {
                "error: the running Arriero is older than this command\n\
                 hint: `arriero upgrade` lets the program that is installed now take over"
                    .to_owned()
            }
            Self::Refused { status, detail } => {
                // What is wrong with a file begins with `error` itself, and has several lines.
                let begin = if detail.starts_with("error") { "" } else { "error: " };
                let hint = match status {
                    401 => "\nhint: `--config` names the configuration whose `admin.token_file` has the token",
                    _ => "",
                };
                format!("{begin}{}{hint}", lines(detail.trim_end()))
            }
            Self::Unreadable(error) => format!(
                "error: the running Arriero answers what this command cannot read: {error}\n\
                 hint: compare `arriero --version` with the version that `arriero health --json` names"
            ),
            Self::Here(error) => format!("error: {error}"),
        }
    }
}

/// Text of somebody else that may have several lines.
fn lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// Where the admin listener is, and what opens it.
pub struct Listener {
    address: String,
    token: Option<String>,
}

impl Listener {
    /// The one that the command line or the configuration names.
    ///
    /// # Errors
    /// When that configuration is not valid.
    pub fn find(arguments: &AdminArguments) -> Result<Self, Problem> {
        let admin = admin(arguments)?;
        // The one that most may be done with, of those that this user may read.
        let by_scope = [AdminScope::Admin, AdminScope::Operate, AdminScope::Read];
        let named = by_scope.iter().flat_map(|scope| admin.tokens.iter().filter(move |token| token.scope == *scope));
        let mut files = admin.token_file.iter().chain(named.map(|token| &token.token_file));
        let token = files.find_map(|file| std::fs::read_to_string(file).ok());
        Ok(Self { address: admin.address, token: token.map(|token| token.trim_end().to_owned()) })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub fn ask(&self, question: Question) -> Result<Answer, Problem> {
        runtime()?.block_on(self.answer(question))
    }

    /// The same for whoever has a runtime already.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn answer(&self, question: Question) -> Result<Answer, Problem> {
        let timeout = question.timeout;
        let exchange = async { self.open(question).await?.whole().await };
        tokio::time::timeout(timeout, exchange)
            .await
            .map_err(|_| self.unreachable(format!("no answer within {timeout:?}")))?
            .map_err(|error| self.unreachable(error))
    }

    /// Sends one request and reads the head of the answer; its body comes by and by.
    ///
    /// # Errors
    /// What the connection failed with, or that the head did not come in time.
    pub async fn open(&self, question: Question) -> Result<Opened, String> {
        let Question { method, path, body, timeout } = question;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let exchange = async {
            match self.address.strip_prefix("unix:") {
                Some(path) => send(UnixStream::connect(path).await.map_err(|error| error.to_string())?, request).await,
                None => {
                    send(TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?, request).await
                }
            }
        };
        tokio::time::timeout(timeout, exchange).await.map_err(|_| format!("no answer within {timeout:?}"))?
    }

    /// Nobody answers there.
    pub fn unreachable(&self, error: String) -> Problem {
        Problem::Unreachable { address: self.address.clone(), error }
    }
}

/// A runtime for one conversation.
///
/// # Errors
/// When the system has nothing left for it.
pub fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Problem::Here(format!("cannot start: {error}")))
}

/// An answer whose body is still to be read.
pub struct Opened {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Incoming,
    _driver: Driver,
}

impl Opened {
    /// Reads the rest.
    ///
    /// # Errors
    /// What the connection failed with.
    pub async fn whole(self) -> Result<Answer, String> {
        let body = self.body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Answer { status: self.status, body })
    }
}

/// Moves the bytes of a connection; ends with it.
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends one request to the admin listener that the arguments name.
pub fn ask(arguments: &AdminArguments, question: Question) -> Result<Answer, Problem> {
    Listener::find(arguments)?.ask(question)
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

/// The address of an admin listener as somebody types it, or copies it from a browser.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn address(text: &str) -> Result<String, String> {
    let after =
        |scheme: &str| text.split_at_checked(scheme.len()).filter(|(begin, _)| begin.eq_ignore_ascii_case(scheme));
    let plain = after("http://").map_or(text, |(_, rest)| rest.trim_end_matches('/'));
    if after("https://").is_some() {
        return Err("the admin listener has no TLS: write `HOST:PORT`, or `unix:/path`".to_owned());
    }
    AdminAddress::parse(plain).map(|_| plain.to_owned())
}

/// An address that stands for all interfaces is reached through loopback.
fn reachable(address: String) -> String {
    match address.strip_prefix("0.0.0.0:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address.replace("[::]:", "[::1]:"),
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Opened, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    TokioIo<S>: Read + Write,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // How it ends shows in the answer.
    let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok(Opened { status: response.status().as_u16(), body: response.into_body(), _driver: driver })
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_are_taken_as_they_are_typed_or_copied() {
        for (text, meant) in [
            ("127.0.0.1:5100", "127.0.0.1:5100"),
            ("http://127.0.0.1:5100", "127.0.0.1:5100"),
            ("HTTP://front-door:5100/", "front-door:5100"),
            ("http://[::1]:5100", "[::1]:5100"),
            ("unix:/run/arriero.sock", "unix:/run/arriero.sock"),
        ] {
            assert_eq!(address(text), Ok(meant.to_owned()));
        }
        for (text, why) in [
            ("https://front-door:5100", "no TLS"),
            ("front-door", "the port is missing"),
            ("http://front-door:5100/api", "port"),
            ("unix:run", "starts with `/`"),
        ] {
            assert!(address(text).is_err_and(|error| error.contains(why)), "{text}");
        }
    }
}
