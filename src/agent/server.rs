//! Connections to the agent, within limits: whoever reaches the port cannot make it use more than a little.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::answer::Answers;

/// Connections at a time; more are closed as they come.
const CONNECTIONS: usize = 32;
/// Bytes of a request's head.
const HEAD: usize = 8 << 10;
/// Fields of a request's head.
const FIELDS: usize = 32;
/// How long a head may take, and a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection may live; what is being answered then has [`LAST`] more.
const LIFE: Duration = Duration::from_secs(600);
/// How long the last answer of a connection may take.
const LAST: Duration = Duration::from_secs(5);
/// How long not to accept when the system lets nobody in.
const BREATH: Duration = Duration::from_millis(200);

/// Serves until `end`.
pub async fn serve(listener: TcpListener, answers: Arc<Answers>, end: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let (answers, stopping) = (Arc::clone(&answers), stopping.clone());
                connections.spawn(async move {
                    connection(stream, answers, stopping).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    drop(stop);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, answers: Arc<Answers>, mut stopping: watch::Receiver<()>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answers.answer(request.method(), request.uri().path(), request.headers());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD).max_headers(FIELDS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // How it ended is the client's matter.
        _ = connection.as_mut() => return,
        _ = stopping.changed() => {}
        () = tokio::time::sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(tokio::time::timeout(LAST, connection).await);
}
