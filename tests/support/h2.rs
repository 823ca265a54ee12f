//! A client that speaks HTTP/2 without TLS, and request bodies that are fed piece by piece.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::wire::{Answer, Head, LIMIT};

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
