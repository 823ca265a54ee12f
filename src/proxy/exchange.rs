//! One attempt's traffic: the request to the server, the answer to the client, both at the same time.
//!
//! One task polls both directions. A direction that cannot write does not read, so whoever is slow holds the
//! other one back and memory stays bounded. Before it waits, everything that can be written has been written, so
//! nothing is held back either. Each time it waits, it knows for whom, and that decides which time limit runs:
//!
//! | waits for | limit | reason |
//! |---|---|---|
//! | the client's body | the listener's `timeouts.request_body` | `body_timeout` |
//! | the server to take the body | the route's `timeouts.write` | `write_timeout` |
//! | the first byte of the answer | `timeouts.first_byte`, from the last byte of the request | `first_byte_timeout` |
//! | more of the answer | `timeouts.read` | `read_timeout` |
//! | the client to take the answer | the listener's `timeouts.write` | `client_stalled` |
//! | either side of an upgraded connection | `timeouts.upgrade` | `read_timeout` |
//! | anything | `timeouts.request` | `request_timeout` |
//!
//! The client is watched all the while. Where its body is read, that read sees it leave; where the body is
//! complete, the socket is asked; where nobody reads because the server takes nothing, a look four times a second
//! tells.

mod error_text;
mod upgrade;
mod whole;

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use error_text::Early;
use whole::Use;

use super::client::ClientFault;
use super::context::{Exchange, Reply, Stop};
use super::framing::{Length, WrongLength};
use super::message::AnswerHead;
use super::request_body::BodyFault;
use super::response_cache::{Fate, keeping};
use super::server::{Server, ServerFault};
use super::{again, body_scan, content, ending, poison, response, waiting_stream};
use crate::clock;
use crate::fleet::snapshot::Timeouts;
use crate::policy::failure::Reason;
use crate::policy::retry::Failure;
use crate::telemetry::cache_metrics::Bypass;

/// Bytes that may wait for a slow reader.
const QUEUE: usize = 64 << 10;
/// Bytes that a slow reader must take within its limit, unless fewer wait. One that takes a byte now and then holds a
/// server as well as one that takes none.
const STEP: u64 = 1 << 10;
/// Time between two looks at a client that nobody reads from.
const LOOK: Duration = Duration::from_millis(250);

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// In the words of the log.
    pub reason: Reason,
    /// In the words of the retry rule.
    pub failure: Failure,
}

impl From<Reason> for Broken {
    fn from(reason: Reason) -> Self {
        let failure = if reason == Reason::FirstByteTimeout { Failure::FirstByteTimeout } else { Failure::Other };
        Self { reason, failure }
    }
}

/// What the way up waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Up {
    Client,
    Server,
    /// The request has been sent.
    Nothing,
}

/// What the way down waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Down {
    Client,
    Server,
    /// The answer has been sent.
    Nothing,
}

/// The traffic of one attempt.
pub struct Traffic<'t, 'c> {
    exchange: &'t mut Exchange<'c>,
    server: &'t mut Server,
    limits: Timeouts,
    body_limit: u64,
    end: Option<Instant>,
    /// The client's body is at its end.
    body_ended: bool,
    /// All of the request has been written, or never will be.
    sent: bool,
    write_failed: bool,
    /// The server's body is at its end.
    answer_ended: bool,
    broken: Option<Broken>,
    /// What was read of an error before it is passed on.
    early: Option<Box<Early>>,
    /// The connection belongs to another protocol.
    tunnel: bool,
    client_read: Instant,
    /// Since when the client's upload is measured: time in which nobody read from it does not count.
    upload_from: Instant,
    not_reading_since: Option<Instant>,
    client_wrote: Progress,
    server_read: Instant,
    server_wrote: Progress,
    /// Bytes that the server had got before this request.
    wrote_before: u64,
}

/// When a writer last had nothing to write, or got rid of enough.
#[derive(Clone, Copy)]
struct Progress {
    bytes: u64,
    at: Instant,
}

impl Progress {
    fn note(&mut self, bytes: u64, queued: usize, now: Instant) {
        if queued == 0 || bytes.saturating_sub(self.bytes) >= STEP {
            *self = Self { bytes, at: now };
        }
    }
}

impl<'t, 'c> Traffic<'t, 'c> {
    /// Between a client and a server that has been sent the head.
    pub fn new(exchange: &'t mut Exchange<'c>, server: &'t mut Server, limits: Timeouts, body_limit: u64) -> Self {
        let now = clock::now();
        let client_wrote = Progress { bytes: exchange.client.written(), at: now };
        let wrote_before = server.written();
        let server_wrote = Progress { bytes: wrote_before, at: now };
        let end = exchange.ctx.end();
        Self {
            exchange,
            server,
            limits,
            body_limit,
            end,
            body_ended: false,
            sent: false,
            write_failed: false,
            answer_ended: false,
            broken: None,
            early: None,
            tunnel: false,
            client_read: now,
            upload_from: now,
            not_reading_since: None,
            client_wrote,
            server_read: now,
            server_wrote,
            wrote_before,
        }
    }

    /// Sends the request and passes the answer on.
    ///
    /// # Errors
    /// Why it broke off. What the client has got of an answer by then stands in the context.
    pub async fn run(mut self) -> Result<(), Broken> {
        let mut head = loop {
            let mut head = std::future::poll_fn(|cx| self.poll_head(cx)).await?;
            if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
                return self.upgrade(head).await;
            }
            if !head.status.is_informational() {
                break head;
            }
            response::strip_hop_by_hop(&mut head.headers);
            self.exchange.client.interim(&head);
        };
        let status = head.status.as_u16();
        response::note_status(&mut self.exchange.ctx, status);
        let length = self.server.length();
        if status >= 400 {
            self.look_at_error(status).await?;
            again::retry_after(&self.exchange.ctx, status, &mut head.headers);
        }
        if !self.exchange.ctx.comments.lets_follow(&head) {
            return Err(self.answer_in_stream(status).await);
        }
        if self.exchange.ctx.keeping.is_some() {
            let tells_end = self.server.tells_end();
            if keeping::begin(self.exchange, &head, length, tells_end) == Fate::Withheld {
                response::note_first_byte(self.exchange, clock::now());
                self.exchange.ctx.again.settle();
                return Ok(());
            }
        }
        if let Some((content_type, body)) = content::page(&self.exchange.ctx, status, true) {
            let (reason, fields) = (Reason::UpstreamError, Vec::new());
            self.exchange.ctx.instead = Some(Reply { status, reason, content_type: Some(content_type), body, fields });
            return Err(reason.into());
        }
        self.exchange.body.release(self.sent);
        match whole::use_of(&self.exchange.ctx, &head) {
            Use::Taken => return self.take_whole(head, length).await,
            Use::Unfit => {
                response::note_first_byte(self.exchange, clock::now());
                self.leave_part(Bypass::Unfit);
                return Ok(());
            }
            Use::Passed => self.exchange.ctx.whole = None,
        }
        let now = clock::now();
        response::begin(self.exchange, head, length, now);
        (self.server_read, self.client_wrote.at) = (now, now);
        std::future::poll_fn(|cx| self.poll_answer(cx)).await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Broken>> {
        let now = clock::now();
        // An interim answer may wait to be passed on.
        if self.exchange.client.queued() > 0 {
            let _ = self.exchange.client.poll_flush(cx).map_err(of_client)?;
        }
        let up = self.pump_up(cx, now)?;
        match self.server.poll_head(cx) {
            Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
            Poll::Ready(Err(fault)) => return Poll::Ready(Err(self.before_answer(fault))),
            Poll::Pending => {}
        }
        self.watch_client(up, cx)?;
        let mut limit = self.limit_up(up, now);
        if up == Up::Nothing {
            limit = Some((self.server_wrote.at + self.limits.first_byte, Reason::FirstByteTimeout));
        }
        self.poll_limits(limit, up, cx, now)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let now = clock::now();
        let up = self.pump_up(cx, now)?;
        let down = self.pump_down(cx, now)?;
        if down == Down::Nothing || self.tunnel && up == Up::Nothing {
            return Poll::Ready(self.broken.map_or(Ok(()), Err));
        }
        if !self.tunnel {
            self.watch_client(up, cx)?;
        }
        let mut limit = self.limit_up(up, now);
        let slowest = match down {
            Down::Client => (self.client_wrote.at + self.exchange.listener.write_timeout, Reason::ClientStalled),
            Down::Server | Down::Nothing => (self.server_read + self.limits.read, Reason::ReadTimeout),
        };
        limit = earlier(limit, Some(slowest));
        if self.tunnel {
            // Either side may be silent for as long as the other is not.
            let last = self.client_read.max(self.server_read);
            limit = Some((last + self.limits.upgrade, Reason::ReadTimeout));
        }
        self.poll_limits(limit, up, cx, now)
    }

    /// Moves the request as far as it goes.
    fn pump_up(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Up, Broken> {
        if !self.sent {
            self.server_wrote.note(self.server.written(), self.server.queued(), now);
        }
        while !self.sent {
            let mut client_is_due = false;
            while !self.body_ended && self.server.queued() < QUEUE {
                let exchange = &mut *self.exchange;
                match exchange.body.poll_next(&mut exchange.client, cx) {
                    Poll::Ready(Ok(Some(piece))) => {
                        self.client_read = now;
                        exchange.ctx.body_in += piece.len() as u64;
                        if exchange.ctx.body_in > self.body_limit && !self.tunnel {
                            return Err(Reason::BodyTooLarge.into());
                        }
                        self.server.push(piece);
                    }
                    Poll::Ready(Ok(None)) => {
                        self.body_ended = true;
                        exchange.body.end().map_err(|fault| refuse(exchange, fault))?;
                        self.server.finish();
                    }
                    Poll::Ready(Err(BodyFault::Client(fault))) => return Err(of_client(fault)),
                    Poll::Ready(Err(fault)) => return Err(refuse(exchange, fault)),
                    Poll::Pending => {
                        client_is_due = true;
                        break;
                    }
                }
            }
            let flushed = self.server.poll_flush(cx);
            self.server_wrote.note(self.server.written(), self.server.queued(), now);
            match flushed {
                Poll::Ready(Ok(())) if self.body_ended => {
                    self.sent = true;
                    self.server_wrote.at = now;
                }
                Poll::Ready(Ok(())) if client_is_due => return Ok(Up::Client),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    // It may have answered all the same before it closed.
                    self.write_failed = true;
                    self.sent = true;
                }
                Poll::Pending => return Ok(Up::Server),
            }
        }
        Ok(Up::Nothing)
    }

    /// Moves the answer as far as it goes.
    fn pump_down(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Down, Broken> {
        self.client_wrote.note(self.exchange.client.written(), self.exchange.client.queued(), now);
        loop {
            let mut server_is_due = false;
            while !self.answer_ended && (self.exchange.client.queued() < QUEUE || keeping::is_eager(&self.exchange.ctx))
            {
                match self.poll_body(cx) {
                    Poll::Ready(Ok(Some(piece))) => {
                        self.server_read = now;
                        response::body_passes(&mut self.exchange.ctx, &piece, now);
                        poison::watch(self.exchange);
                        let piece = content::encode(&mut self.exchange.ctx, piece).map_err(internal)?;
                        self.exchange.client.push(piece).map_err(too_long)?;
                    }
                    Poll::Ready(Ok(None)) => {
                        let Poll::Ready(trailers) = self.server.poll_trailers(cx) else {
                            server_is_due = true;
                            break;
                        };
                        self.answer_ended = true;
                        self.exchange.ctx.again.settle();
                        keeping::end(&mut self.exchange.ctx);
                        if !self.tunnel {
                            let rest = content::end(&mut self.exchange.ctx).map_err(internal)?;
                            self.exchange.client.push(rest).map_err(too_long)?;
                            if let Some(words) = ending::lost_error(self.exchange) {
                                self.exchange.ctx.body_out += words.len() as u64;
                                self.exchange.client.push(words).map_err(too_long)?;
                            }
                        }
                        self.exchange.client.finish(trailers).map_err(too_long)?;
                    }
                    Poll::Ready(Err(fault)) => {
                        // What came before it goes to the client still.
                        self.answer_ended = true;
                        self.broken = (!self.tunnel).then(|| match fault {
                            ServerFault::Protocol(_) => Reason::UpstreamProtocol.into(),
                            ServerFault::Closed | ServerFault::Write | ServerFault::Refused => {
                                Reason::UpstreamTruncated.into()
                            }
                        });
                    }
                    Poll::Pending => {
                        server_is_due = true;
                        let waiting = content::flush(&mut self.exchange.ctx).map_err(internal)?;
                        self.exchange.client.push(waiting).map_err(too_long)?;
                        break;
                    }
                }
            }
            if self.answer_ended {
                // Before the last byte goes out: whoever has it may ask again at once.
                self.exchange.ctx.admitted.leave();
            }
            let flushed = self.exchange.client.poll_flush(cx);
            self.client_wrote.note(self.exchange.client.written(), self.exchange.client.queued(), now);
            match flushed {
                Poll::Ready(Ok(())) if self.answer_ended => return Ok(Down::Nothing),
                Poll::Ready(Ok(())) if server_is_due => return Ok(Down::Server),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(fault)) => return Err(of_client(fault)),
                Poll::Pending => return Ok(Down::Client),
            }
        }
    }

    /// Notices that the client has left.
    fn watch_client(&mut self, up: Up, cx: &mut Context<'_>) -> Result<(), Broken> {
        match self.exchange.client.poll_left(cx, up == Up::Server) {
            Poll::Ready(()) => Err(Reason::ClientClosed.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn limit_up(&mut self, up: Up, now: Instant) -> Option<(Instant, Reason)> {
        if up != Up::Client {
            self.not_reading_since.get_or_insert(now);
        } else if let Some(since) = self.not_reading_since.take() {
            self.upload_from += now - since;
        }
        match up {
            Up::Client => {
                let listener = &self.exchange.listener;
                let pause = self.client_read + listener.body_timeout;
                let slow = listener.body_rate.deadline(self.upload_from, self.exchange.ctx.body_in);
                Some((slow.map_or(pause, |slow| slow.min(pause)), Reason::BodyTimeout))
            }
            Up::Server => Some((self.server_wrote.at + self.limits.write, Reason::WriteTimeout)),
            Up::Nothing => None,
        }
    }

    fn poll_limits<T>(
        &mut self,
        limit: Option<(Instant, Reason)>,
        up: Up,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Result<T, Broken>> {
        let limit = earlier(limit, self.end.map(|end| (end, Reason::RequestTimeout)));
        let look = (up == Up::Server && !self.exchange.client.body_is_done()).then(|| now + LOOK);
        let comment = waiting_stream::tick(self.exchange, now);
        if comment.is_some() {
            let _ = self.exchange.client.poll_flush(cx).map_err(of_client)?;
        }
        let Some(at) = [limit.map(|(at, _)| at), look, comment].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if self.exchange.timer.poll(cx, at).is_pending() {
            return Poll::Pending;
        }
        match limit {
            Some((late, reason)) if late <= at => Poll::Ready(Err(reason.into())),
            _ => {
                // Time for a look or a comment: this task runs again at once.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    /// What it means that a server broke off before it answered.
    fn before_answer(&self, fault: ServerFault) -> Broken {
        if let ServerFault::Protocol(what) = fault {
            tracing::debug!(what, "an answer is not valid HTTP");
            return Reason::UpstreamProtocol.into();
        }
        if fault == ServerFault::Refused {
            return Broken { reason: Reason::UpstreamReset, failure: Failure::Refused };
        }
        // A connection from the pool that had ended before: when not one byte could be written, it had. Once something
        // was, the server may have begun to work: then a request is sent again only if doing it twice is as good as
        // once (RFC 9110 9.2.2).
        let nothing_went = self.write_failed && self.server.written() == self.wrote_before;
        let stale = self.server.is_reused() && (nothing_went || self.exchange.ctx.idempotent);
        let failure = if stale { Failure::StaleConnection } else { Failure::Reset };
        Broken { reason: Reason::UpstreamReset, failure }
    }
}

fn earlier(a: Option<(Instant, Reason)>, b: Option<(Instant, Reason)>) -> Option<(Instant, Reason)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}

fn of_client(fault: ClientFault) -> Broken {
    match fault {
        ClientFault::Gone => Reason::ClientClosed.into(),
        ClientFault::Malformed => Reason::BadRequest.into(),
    }
}

/// The body goes no further: the server has not got its end and will not act on it.
fn refuse(exchange: &mut Exchange<'_>, fault: BodyFault) -> Broken {
    match body_scan::faulty(&exchange.ctx, fault) {
        Stop::Broken(reason) => reason.into(),
        Stop::Answer(answer) => {
            let reason = answer.reason;
            exchange.ctx.instead = Some(answer);
            reason.into()
        }
    }
}

fn internal(error: std::io::Error) -> Broken {
    tracing::error!(%error, "an answer cannot be compressed");
    Reason::Internal.into()
}

fn too_long(_: WrongLength) -> Broken {
    Reason::UpstreamProtocol.into()
}

/// What is known about the length of the request's body.
pub fn request_length(exchange: &Exchange<'_>) -> Length {
    let length = exchange.head.headers.get(http::header::CONTENT_LENGTH);
    match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(0) => Length::None,
        Some(length) => Length::Known(length),
        None if exchange.client.body_is_done() && exchange.body.length() == 0 => Length::None,
        None => Length::Unknown,
    }
}
