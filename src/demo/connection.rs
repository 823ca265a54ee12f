//! One accepted connection: HTTP/1.1, or HTTP/2 where the host serves it, until it ends.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::body::ReplyBody;
use super::lifecycle::Shared;
use super::router;
use super::wire::{Control, Wire};

/// Serves a connection until the client, a fault or a drain ends it.
pub(super) async fn serve(
    host: Arc<Shared>,
    stream: TcpStream,
    control: Arc<Control>,
    mut drain: watch::Receiver<bool>,
) {
    // Without it tokens would wait for acknowledgements; an error here shows at the next read.
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(stream, Arc::clone(&control));
    let http2 = host.config.http2
        && tokio::select! {
            found = wire.speaks_http2() => found.unwrap_or(false),
            () = control.ended() => return,
            // Nothing has been asked yet, so there is nothing to finish.
            _ = drain.wait_for(|drain| *drain) => return,
        };
    let handler = {
        let control = Arc::clone(&control);
        service_fn(move |request: Request<Incoming>| {
            let (host, control) = (Arc::clone(&host), Arc::clone(&control));
            async move { Ok::<Response<ReplyBody>, Infallible>(router::answer(host, control, request).await) }
        })
    };
    if http2 {
        let builder = http2::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(wire), handler);
        let graceful = |connection: std::pin::Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
        drive(connection, graceful, &control, drain).await;
    } else {
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true).max_headers(1000).auto_date_header(false);
        let connection = builder.serve_connection(TokioIo::new(wire), handler);
        let graceful = |connection: std::pin::Pin<&mut http1::Connection<_, _>>| connection.graceful_shutdown();
        drive(connection, graceful, &control, drain).await;
    }
}

async fn drive<C: Future>(
    connection: C,
    graceful: impl Fn(std::pin::Pin<&mut C>),
    control: &Control,
    mut drain: watch::Receiver<bool>,
) {
    let mut connection = std::pin::pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = control.ended() => return,
            changed = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                if changed.is_ok() {
                    graceful(connection.as_mut());
                }
            }
            // How it ended is for the ledger to say.
            _ = connection.as_mut() => return,
        }
    }
}
