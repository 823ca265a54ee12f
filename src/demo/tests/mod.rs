//! Over real sockets: a bare HTTP/1 client, so that each byte an answer has can be checked.

mod cards;
mod dialects;
mod failures;
mod loading;
mod wire;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{DemoModel, Host, HostConfig};

/// A bound for waits that end by condition; reached only when a test fails.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// A host with llava (vision) and one embedding model, instant.
pub(super) async fn host(tokens: usize) -> Host {
    let config = HostConfig::new("test").tokens(tokens).small_model("llava:13b").model(DemoModel::nomic_embed_text());
    Host::start(config).await.unwrap()
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// The body's chunks, if it was chunked.
    pub(super) chunks: Vec<String>,
    /// Whether the body ended in due form.
    pub(super) whole: bool,
    /// Whether the connection was reset.
    pub(super) reset: bool,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer's bytes, of a connection that the server closed.
    pub(super) fn parse(bytes: &[u8], reset: bool, headless: bool) -> Self {
        let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut answer = Self { status, head, body: Vec::new(), chunks: Vec::new(), whole: false, reset };
        let mut rest = &bytes[at..];
        if answer.head.contains("Transfer-Encoding: chunked") {
            while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
                if size == 0 {
                    answer.whole = rest == b"0\r\n\r\n";
                    break;
                }
                let data = &rest[line + 2..(line + 2 + size).min(rest.len())];
                answer.body.extend_from_slice(data);
                answer.chunks.push(String::from_utf8_lossy(data).into_owned());
                rest = rest.get(line + size + 4..).unwrap_or_default();
            }
        } else {
            answer.body = rest.to_vec();
            let length = answer.head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            answer.whole = headless || length == Some(rest.len().to_string().as_str());
        }
        answer
    }
}

/// Opens a connection and sends a request, which asks for the connection to be closed.
pub(super) async fn send(host: &Host, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(host.address()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        host.address(),
        body.len(),
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads an answer to its end.
pub(super) async fn receive(mut stream: TcpStream, headless: bool) -> Answer {
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await.unwrap();
    Answer::parse(&bytes, end.is_err(), headless)
}

pub(super) async fn post(host: &Host, path: &str, body: &str) -> Answer {
    receive(send(host, "POST", path, "", body).await, false).await
}

pub(super) async fn get(host: &Host, path: &str) -> Answer {
    receive(send(host, "GET", path, "", "").await, false).await
}
