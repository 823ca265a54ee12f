//! Clients that see every byte: HTTP/1 over a bare socket; HTTP/2 stands in [`super::h2`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::Proxy;
#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use super::h2::{H2, Upload, pieces, read};

/// The longest that one step of a client may take; large bodies in debug builds are slow.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Starts a proxy from within a test's runtime, which goes on serving the simulated hosts meanwhile.
pub async fn proxy(yaml: impl Into<String>) -> Proxy {
    let yaml = yaml.into();
    tokio::task::spawn_blocking(move || Proxy::start(&yaml)).await.expect("the proxy starts")
}

/// Waits until a number has not changed for a second; for limits that have no other sign of being reached.
pub async fn settled(what: &str, number: impl Fn() -> u64) -> u64 {
    let wait = async {
        let (mut last, mut same) = (number(), 0);
        while same < 50 || last == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = number();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("never settled: {what}, now {}", number()))
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    /// As it came.
    pub text: String,
    /// In order; names in small letters.
    pub fields: Vec<(String, String)>,
}

impl Head {
    pub fn parse(text: &str) -> Self {
        let status = text.split(' ').nth(1).and_then(|word| word.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {text:?}"));
        let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { status, text: text.to_owned(), fields }
    }

    /// The first field of a name, which is given in small letters.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// An answer, in whatever version of HTTP it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    /// Whether the body ended in due form.
    pub whole: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn reason(&self) -> Option<&str> {
        self.head.field("x-arriero-reason")
    }
}

/// A piece of a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    Data(Vec<u8>),
    /// The terminator.
    End,
    /// The connection ended without it.
    Cut,
}

/// The reading half of an HTTP/1 connection.
#[derive(Debug)]
pub struct Reader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Reader {
    /// Reads more; false at the end of the connection, however it came.
    async fn more(&mut self) -> bool {
        let read = timeout(LIMIT, self.half.read_buf(&mut self.buffer)).await;
        read.unwrap_or_else(|_| panic!("nothing more came after {:?}", String::from_utf8_lossy(&self.buffer)))
            .is_ok_and(|count| count > 0)
    }

    async fn until(&mut self, wanted: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.buffer.windows(wanted.len()).position(|window| window == wanted);
            if let Some(at) = found {
                return Some(self.buffer.drain(..at + wanted.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// The next head, or None when the connection ends before it.
    pub async fn try_head(&mut self) -> Option<Head> {
        let bytes = self.until(b"\r\n\r\n").await?;
        Some(Head::parse(std::str::from_utf8(&bytes).expect("a head is text")))
    }

    pub async fn head(&mut self) -> Head {
        let head = self.try_head().await;
        head.unwrap_or_else(|| panic!("closed before a head; got {:?}", String::from_utf8_lossy(&self.buffer)))
    }

    pub async fn chunk(&mut self) -> Chunk {
        let Some(line) = self.until(b"\r\n").await else { return Chunk::Cut };
        let line = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
        if size == 0 {
            let end = self.exactly(2).await;
            assert!(end.as_deref().is_none_or(|end| end == b"\r\n"), "after the last chunk: {end:?}");
            return if end.is_some() { Chunk::End } else { Chunk::Cut };
        }
        let Some(mut data) = self.exactly(size + 2).await else { return Chunk::Cut };
        assert_eq!(data.split_off(size), b"\r\n", "the end of a chunk");
        Chunk::Data(data)
    }

    /// The body that belongs to a head, and whether it ended in due form.
    pub async fn body(&mut self, head: &Head) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        assert!(head.all("content-length").len() + head.all("transfer-encoding").len() <= 1, "{}", head.text);
        if head.field("transfer-encoding") == Some("chunked") {
            loop {
                match self.chunk().await {
                    Chunk::Data(data) => body.extend_from_slice(&data),
                    Chunk::End => return (body, true),
                    Chunk::Cut => return (body, false),
                }
            }
        }
        let length = head.field("content-length").map(|text| text.parse::<usize>().expect("a length"));
        if matches!(head.status, 204 | 304) || length == Some(0) {
            return (body, true);
        }
        if let Some(length) = length {
            let body = self.exactly(length).await;
            return body.map_or_else(|| (std::mem::take(&mut self.buffer), false), |body| (body, true));
        }
        while self.more().await {}
        (std::mem::take(&mut self.buffer), true)
    }

    /// The next answer but for those of 1xx.
    pub async fn answer(&mut self) -> Answer {
        let mut head = self.head().await;
        while head.status < 200 {
            head = self.head().await;
        }
        let (body, whole) = self.body(&head).await;
        Answer { head, body, whole }
    }

    /// The next byte.
    pub async fn byte(&mut self) -> u8 {
        self.exactly(1).await.expect("one byte more")[0]
    }

    /// Waits for the end of the connection; what came before it.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }
}

/// An HTTP/1 connection. Dropping it closes it.
#[derive(Debug)]
pub struct H1 {
    pub reader: Reader,
    pub writer: OwnedWriteHalf,
}

impl H1 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("connected"))
    }

    /// With kernel buffers as small as can be, so that backpressure shows early.
    pub async fn narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("set");
        socket.set_send_buffer_size(4096).expect("set");
        Self::over(socket.connect(address).await.expect("connected"))
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("set");
        let (half, writer) = stream.into_split();
        Self { reader: Reader { half, buffer: Vec::new() }, writer }
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        timeout(LIMIT, self.writer.write_all(bytes.as_ref())).await.expect("the other side reads")
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("sent");
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.reader.answer().await
    }

    /// Closes with RST.
    pub fn reset(self) {
        let stream = self.reader.half.reunite(self.writer).expect("halves of one whole");
        stream.set_zero_linger().expect("set");
    }
}

/// A whole HTTP/1 request with a Content-Length.
pub fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: arriero.test\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// A whole HTTP/1 request without a body.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: arriero.test\r\n\r\n").into_bytes()
}

/// Sends one request on a connection of its own and reads its answer.
pub async fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    H1::connect(address).await.ask(request).await
}
