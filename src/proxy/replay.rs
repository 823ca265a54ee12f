//! A downstream session that gives back what was read from it, as often as an attempt needs it.
//!
//! Pingora can send a body that was read before the server was chosen only while it fits its own
//! 64 KiB; a larger one it would wait for for ever. Its session type has a variant for foreign
//! implementations, and this is one: the held bytes first, then the client's own session, everything
//! else passed on. It also keeps the time limits of requests that come over HTTP/2, where no stream
//! of ours sits underneath.
//!
//! The trait is hidden from Pingora's documentation, so the version is pinned and the byte matrix in
//! `tests/` runs against it. Nothing outside this module knows the trick.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as CustomSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::deadline::Deadline;
use super::held_body::{Cursor, HeldBody};
use crate::clock;

/// Where the client's own session waits while this one stands in its place.
#[derive(Clone, Default)]
pub struct Home(Arc<Mutex<Option<Box<ServerSession>>>>);

/// Time limits that this session keeps itself.
pub struct Limits {
    /// The request's own.
    pub deadline: Arc<Deadline>,
    /// Longest silence inside the body.
    pub body: Duration,
}

struct Replay {
    inner: Option<Box<ServerSession>>,
    home: Home,
    body: Option<HeldBody>,
    cursor: Cursor,
    /// Bytes that are not held have been sent on: there is no way back.
    truncated: bool,
    limits: Option<Limits>,
}

/// Puts a replaying session in the place of the client's own.
pub fn install(session: &mut Session, body: Option<HeldBody>, limits: Option<Limits>) -> Home {
    let home = Home::default();
    let placeholder = Box::new(ServerSession::new_custom(Box::new(())));
    let inner = std::mem::replace(&mut session.downstream_session, placeholder);
    let replay = Replay {
        inner: Some(inner),
        home: home.clone(),
        body: body.filter(|body| !body.is_empty()),
        cursor: Cursor::default(),
        truncated: false,
        limits,
    };
    *session.downstream_session = ServerSession::new_custom(Box::new(replay));
    home
}

/// Puts the client's own session back, so that its connection can be used again.
pub fn remove(session: &mut Session, home: &Home) {
    // Dropping the replaying session sends the inner one home.
    *session.downstream_session = ServerSession::new_custom(Box::new(()));
    if let Some(inner) = home.0.lock().take() {
        session.downstream_session = inner;
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        *self.home.0.lock() = self.inner.take();
    }
}

impl Replay {
    fn inner(&self) -> &ServerSession {
        self.inner.as_deref().unwrap_or_else(|| unreachable!("the inner session leaves only on drop"))
    }

    fn inner_mut(&mut self) -> &mut ServerSession {
        self.inner.as_deref_mut().unwrap_or_else(|| unreachable!("the inner session leaves only on drop"))
    }

    fn held_left(&self) -> bool {
        self.body.as_ref().is_some_and(|body| !body.is_end(self.cursor))
    }

    async fn read(&mut self, idle: bool) -> Result<Option<Bytes>> {
        if !idle && self.held_left() {
            let Some(body) = &self.body else { return Ok(None) };
            let read = body
                .read(self.cursor)
                .await
                .map_err(|error| Error::because(ErrorType::InternalError, "reading a held body", error))?;
            return Ok(read.map(|(bytes, cursor)| {
                self.cursor = cursor;
                bytes
            }));
        }
        let Self { inner, limits, .. } = self;
        let Some(inner) = inner.as_deref_mut() else { return Ok(None) };
        let in_body = !idle && !inner.is_body_done();
        let reading = inner.read_body_or_idle(idle);
        let read = match limits {
            None => reading.await?,
            Some(limits) => limited(limits, in_body, reading).await?,
        };
        self.truncated |= read.as_ref().is_some_and(|bytes| !bytes.is_empty());
        Ok(read)
    }
}

/// Waits for a read, but no longer than the limits allow; they may move while it waits.
async fn limited(
    limits: &Limits,
    in_body: bool,
    reading: impl Future<Output = Result<Option<Bytes>>>,
) -> Result<Option<Bytes>> {
    let body_end = in_body.then(|| clock::now() + limits.body);
    let mut reading = std::pin::pin!(reading);
    loop {
        let deadline = limits.deadline.get();
        let Some(until) = [deadline, body_end].into_iter().flatten().min() else { return reading.await };
        tokio::select! {
            biased;
            read = &mut reading => return read,
            () = tokio::time::sleep_until(until.into()) => {
                if limits.deadline.get().is_some_and(|at| at <= clock::now()) {
                    limits.deadline.expire();
                    return Error::e_explain(ErrorType::ReadTimedout, "time limit reached");
                }
                if body_end.is_some_and(|at| at <= clock::now()) {
                    return Error::e_explain(ErrorType::ReadTimedout, "silence inside the request body");
                }
            }
        }
    }
}

#[async_trait]
impl CustomSession for Replay {
    fn req_header(&self) -> &RequestHeader {
        self.inner().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner_mut().req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        if self.is_body_done() { Ok(None) } else { self.read(false).await }
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner_mut().drain_request_body().await
    }

    async fn write_response_header(&mut self, header: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header(header).await
    }

    async fn write_response_header_ref(&mut self, header: &ResponseHeader, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header_ref(header).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner_mut().write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.inner_mut().response_duplex_vec(tasks).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.inner_mut().shutdown().await;
    }

    fn is_body_done(&mut self) -> bool {
        !self.held_left() && self.inner_mut().is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner_mut().finish_body().await
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.is_none() && self.inner_mut().is_body_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let idle = no_body_expected || self.is_body_done();
        self.read(idle).await
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner().to_h1_raw()
    }

    /// Pingora calls this at the start of every attempt: the body begins again.
    fn enable_retry_buffering(&mut self) {
        self.cursor = Cursor::default();
        if self.body.is_none() {
            self.inner_mut().enable_retry_buffering();
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        match self.body {
            Some(_) => self.truncated,
            None => self.inner().retry_buffer_truncated(),
        }
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        match self.body {
            Some(_) => None,
            None => self.inner().get_retry_buffer(),
        }
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }

    fn is_upgrade_req(&self) -> bool {
        self.inner().is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.inner().was_upgraded()
    }
}
