//! Ends a wait for a server when nobody else would.
//!
//! While a request waits for its answer, Pingora normally reads from the client at the same time: that
//! read ends when the client leaves or when the request's [`Deadline`] passes. But when the last
//! pieces of a body fill its pipe to the server, Pingora stops reading until the server says
//! something (`proxy_h1.rs`, the branch for `tx.reserve()`), which a server that loads a model does
//! minutes later. So the task of the connection looks, four times a second while no answer has begun,
//! and shuts the connection to the server down; Pingora takes that for what it is and the request
//! ends the usual way, with its reason.

use std::future::Future;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::client_stream::Connection;
use super::deadline::LazyTimer;
use crate::clock;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(250);
/// No connection to a server is watched.
const NONE: RawFd = -1;

/// What the hooks tell the watchdog, and what it tells them.
#[derive(Debug)]
pub struct Watch {
    /// The connection to the server that has not begun to answer.
    server: AtomicI32,
    /// The client has to send before anything else can happen; its own limit holds.
    client_is_due: AtomicBool,
    client_left: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            server: AtomicI32::new(NONE),
            client_is_due: AtomicBool::new(false),
            client_left: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// A request begins.
    pub fn begin(&self) {
        self.disarm();
        self.client_left.store(false, Ordering::Relaxed);
    }

    /// A connection to a server stands; it belongs to this request alone.
    pub fn arm(&self, server: RawFd) {
        self.server.store(server, Ordering::Relaxed);
    }

    /// The server answers, or the attempt is over: the connection may be somebody else's soon.
    pub fn disarm(&self) {
        self.server.store(NONE, Ordering::Relaxed);
    }

    /// Tells whether a read waits for the client to go on with its body.
    pub fn set_client_is_due(&self, due: bool) {
        self.client_is_due.store(due, Ordering::Relaxed);
    }

    /// Whether the client was found gone.
    pub fn client_left(&self) -> bool {
        self.client_left.load(Ordering::Relaxed)
    }

    fn server(&self) -> Option<RawFd> {
        Some(self.server.load(Ordering::Relaxed)).filter(|server| *server != NONE)
    }
}

/// Runs a request to its end, looking after it while it waits for a server.
pub async fn look_after<T>(
    mut request: Pin<Box<dyn Future<Output = T> + Send + '_>>,
    connection: &Connection,
    timer: &mut LazyTimer,
) -> T {
    let mut next: Option<Instant> = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = request.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        let Some(server) = connection.watch.server() else {
            next = None;
            return Poll::Pending;
        };
        while timer.poll(cx, *next.get_or_insert_with(|| clock::now() + PERIOD)).is_ready() {
            next = Some(clock::now() + PERIOD);
            if must_end(connection) {
                connection.watch.disarm();
                // One that is closed already needs no more; the request finds out by itself.
                let _ = shutdown(server, Shutdown::Both);
                break;
            }
        }
        Poll::Pending
    })
    .await
}

fn must_end(connection: &Connection) -> bool {
    let watch = &connection.watch;
    if has_left(&connection.tcp) {
        watch.client_left.store(true, Ordering::Relaxed);
        return true;
    }
    let deadline = &connection.deadline;
    let theirs = watch.client_is_due.load(Ordering::Relaxed) && !deadline.is_total();
    let late = !theirs && deadline.get().is_some_and(|at| at <= clock::now());
    if late {
        deadline.expire();
    }
    late
}

/// Whether the client has closed its side, also behind bytes that nobody has read yet.
fn has_left(tcp: &TcpStream) -> bool {
    matches!(tcp.ready(Interest::READABLE).now_or_never(), Some(Ok(ready)) if ready.is_read_closed())
}
