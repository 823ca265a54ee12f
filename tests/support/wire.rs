//! Clients that see every byte: HTTP/1 over a bare socket, HTTP/2 with prior knowledge by hyper.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Proxy;

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

    fn over(stream: TcpStream) -> Self {
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

/// A request body that is fed piece by piece; it ends when its feeder is dropped.
#[derive(Debug)]
pub struct Upload {
    pieces: mpsc::Receiver<Bytes>,
    length: Option<u64>,
}

impl Upload {
    /// A body without a size hint, or with an exact one.
    pub fn new(length: Option<u64>) -> (mpsc::Sender<Bytes>, Self) {
        let (feeder, pieces) = mpsc::channel(1);
        (feeder, Self { pieces, length })
    }

    pub fn empty() -> Self {
        Self::new(Some(0)).1
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Runs the tasks of one connection, and can end them all: hyper alone would let open streams finish.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().push(tokio::spawn(task).abort_handle());
    }
}

/// An HTTP/2 connection without TLS. Dropping it closes it.
#[derive(Debug)]
pub struct H2 {
    pub sender: SendRequest<Upload>,
    tasks: Tasks,
}

impl H2 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, 1 << 20).await
    }

    /// With so many bytes of window for each stream and for the connection.
    pub async fn with_window(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        let tasks = Tasks::default();
        let mut builder = http2::Builder::new(tasks.clone());
        builder.initial_stream_window_size(window).initial_connection_window_size(window);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
        // How it ended shows in the answers.
        tasks.execute(async move { drop(connection.await) });
        Self { sender, tasks }
    }

    /// A request as this client sends it.
    pub fn request(method: &str, path: &str, body: Upload) -> Request<Upload> {
        let uri = format!("http://arriero.test{path}");
        Request::builder().method(method).uri(uri).body(body).expect("a request")
    }

    pub async fn send(&mut self, request: Request<Upload>) -> Response<Incoming> {
        timeout(LIMIT, self.sender.send_request(request)).await.expect("an answer in time").expect("an answer")
    }

    /// Sends a body in pieces of many sizes; the answer once it is whole.
    pub async fn ask(&mut self, mut request: Request<Upload>, body: Bytes) -> Answer {
        let length = request.body().length;
        let (feeder, upload) = Upload::new(length);
        *request.body_mut() = upload;
        let feed = async move {
            for piece in pieces(&body) {
                // The server may answer without reading everything.
                if feeder.send(piece).await.is_err() {
                    break;
                }
            }
        };
        let (response, ()) = tokio::join!(self.send(request), feed);
        read(response).await
    }
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.tasks.0.lock().iter().for_each(AbortHandle::abort);
    }
}

/// Reads an HTTP/2 answer to its end.
pub async fn read(response: Response<Incoming>) -> Answer {
    let (parts, mut incoming) = response.into_parts();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let head = Head { status: parts.status.as_u16(), text: format!("{parts:?}"), fields };
    let mut body = Vec::new();
    loop {
        match timeout(LIMIT, incoming.frame()).await.expect("more in time") {
            Some(Ok(frame)) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => return Answer { head, body, whole: false },
            None => return Answer { head, body, whole: true },
        }
    }
}

/// A body cut into pieces of many sizes.
pub fn pieces(body: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = body.clone();
    let mut sizes = [1, 4096, 65_535, 262_144, 17].into_iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next()?.min(rest.len());
        (size > 0).then(|| rest.split_to(size))
    })
}
