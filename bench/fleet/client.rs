//! The clients: each request is sent at the moment it is due, whatever became of those before it.
//!
//! Time counts from that moment, not from the sending: a generator that falls behind would otherwise hide the
//! wait of its users (coordinated omission). How far behind it fell is measured, too. A connection of its own for
//! each request, closed by the server's side; the answer is read for its first line and its proper end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arriero::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request as it is sent.
pub struct Call<'a> {
    /// Method and path.
    pub target: &'a str,
    /// Further header lines, each with its CRLF.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
}

/// How it went. Times are wall seconds from the moment it was due.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// When it was really sent.
    pub sent: f64,
    /// The first byte of the body of a 200.
    pub first: Option<f64>,
    /// The end.
    pub end: f64,
    /// The status, once there was one.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// Whether a refusal said when to come again.
    pub retry_after: bool,
}

impl Answer {
    /// Whether it was answered in full.
    pub fn good(&self) -> bool {
        self.error.is_none()
    }
}

/// Waits until a request is due, sends it, and reads all of its answer.
pub async fn ask(address: SocketAddr, call: Call<'_>, due: Instant, timeout: Duration) -> Answer {
    tokio::time::sleep_until(due.into()).await;
    let since = || clock::now().saturating_duration_since(due).as_secs_f64();
    let mut answer = Answer { sent: since(), ..Answer::default() };
    match tokio::time::timeout(timeout, exchange(address, call, &mut answer, &since)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => answer.error = Some(error),
        Err(_) => answer.error = Some("timeout".to_owned()),
    }
    answer.end = since();
    answer
}

/// The bytes of a request.
pub fn bytes(address: SocketAddr, call: &Call<'_>) -> Vec<u8> {
    let length = call.body.len();
    let mut bytes = format!(
        "{} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n{}\r\n",
        call.target, call.headers
    )
    .into_bytes();
    bytes.extend_from_slice(&call.body);
    bytes
}

async fn exchange(
    address: SocketAddr,
    call: Call<'_>,
    answer: &mut Answer,
    since: &impl Fn() -> f64,
) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {}", error.kind()))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    // A server that has answered already may refuse the rest of the body; what it said is read all the same.
    let sent = stream.write_all(&bytes(address, &call)).await;
    let mut received = Vec::with_capacity(4096);
    let mut body = None;
    loop {
        match stream.read_buf(&mut received).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(format!("read: {}", error.kind())),
        }
        if body.is_none() {
            body = received.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
            answer.status = body.and_then(|_| status_of(&received));
        }
        if answer.status == Some(200) && answer.first.is_none() && body.is_some_and(|at| received.len() > at) {
            answer.first = Some(since());
        }
    }
    let head = String::from_utf8_lossy(&received[..body.unwrap_or(0)]).to_ascii_lowercase();
    answer.retry_after = head.contains("\r\nretry-after:");
    match answer.status {
        Some(200) if is_whole(&received) => Ok(()),
        Some(200) => Err("truncated".to_owned()),
        Some(status) => Err(format!("http {status}")),
        None => Err(sent.err().map_or("no answer".to_owned(), |error| format!("write: {}", error.kind()))),
    }
}

fn status_of(received: &[u8]) -> Option<u16> {
    std::str::from_utf8(received.get(9..12)?).ok()?.parse().ok()
}

/// Whether an answer of Ollama came to its end.
fn is_whole(received: &[u8]) -> bool {
    let tail = &received[received.len().saturating_sub(2048)..];
    tail.windows(11).any(|window| window == b"\"done\":true")
}

/// Fetches a page, such as metrics; None if that fails.
pub async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let fetch = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(5), fetch).await.ok()?
}

/// The sum of all series of a metric whose line has these words.
pub fn metric(page: &str, name: &str, words: &[&str]) -> Option<f64> {
    let lines = page.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && words.iter().all(|word| line.contains(word))
    });
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}
