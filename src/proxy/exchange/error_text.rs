//! Looks at the text of a server's error before the answer is passed on: only it tells whether the server was busy, does
//! not have the model, or lost the process that ran it. What was read is passed on first, if the answer is.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Broken, Traffic};
use crate::clock;
use crate::ollama::complaint::{self, Complaint};
use crate::policy::failure::Reason;
use crate::policy::retry::Decision;
use crate::proxy::context::Reply;
use crate::proxy::server::ServerFault;
use crate::proxy::{again, poison, reply};

/// As much of an error as is read.
const MOST: usize = 8 << 10;
/// As long as is waited for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The beginning of an answer, read before it was passed on.
#[derive(Debug, Default)]
pub(super) struct Early {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    fault: Option<ServerFault>,
}

impl Traffic<'_, '_> {
    /// Looks at an answer with an error status. An error when the attempt is made again instead of passing it on.
    pub(super) async fn look_at_error(&mut self, status: u16) -> Result<(), Broken> {
        let ctx = &self.exchange.ctx;
        let has_models = ctx.upstream.as_ref().is_some_and(|upstream| upstream.has_models());
        let telling = matches!(status, 404 | 500 | 503) && has_models && ctx.model.is_some();
        if telling {
            let until = clock::now() + PATIENCE;
            std::future::poll_fn(|cx| self.poll_error(cx, until)).await?;
            let complaint = complaint::read(&self.early_text(), Some(status));
            if let Some(attempt) = self.exchange.ctx.attempt.as_mut() {
                attempt.complaint = Some(complaint);
            }
            again::heed(&self.exchange.ctx, complaint);
            if complaint == Complaint::Crash {
                poison::remember(self.exchange);
            }
        }
        let complaint = self.exchange.ctx.attempt.as_ref().and_then(|attempt| attempt.complaint);
        let (failure, reason) = again::of_answer(status, complaint);
        match again::decide(self.exchange, failure) {
            Decision::GiveUp(_) => Ok(()),
            Decision::Retry | Decision::RetryWarm | Decision::RetryFresh => {
                again::reserve(&mut self.exchange.ctx);
                Err(Broken { reason, failure })
            }
        }
    }

    /// Makes an error of an answer that cannot follow the comments that its client has got.
    pub(super) async fn answer_in_stream(&mut self, status: u16) -> Broken {
        if status < 400 {
            let message = "the server's answer is not a stream of events";
            self.exchange.ctx.instead = Some(reply::problem(&self.exchange.ctx, Reason::UpstreamProtocol, message));
            // For another client it would have been an answer.
            return Reason::Ok.into();
        }
        if self.early.is_none() {
            let until = clock::now() + PATIENCE;
            if let Err(broken) = std::future::poll_fn(|cx| self.poll_error(cx, until)).await {
                return broken;
            }
        }
        let reason = if status >= 500 { Reason::UpstreamError } else { Reason::Ok };
        let body = self.early_text().into();
        self.exchange.ctx.instead = Some(Reply { status, reason, content_type: None, body, fields: Vec::new() });
        reason.into()
    }

    /// The next piece of the answer's body, what was read early first.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ServerFault>> {
        if let Some(early) = &mut self.early {
            if let Some(piece) = early.pieces.pop_front() {
                return Poll::Ready(Ok(Some(piece)));
            }
            if let Some(fault) = early.fault.take() {
                return Poll::Ready(Err(fault));
            }
            self.early = None;
        }
        self.server.poll_body(cx)
    }

    fn early_text(&self) -> Vec<u8> {
        self.early.iter().flat_map(|early| &early.pieces).flat_map(|piece| piece.iter().copied()).collect()
    }

    fn poll_error(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<Result<(), Broken>> {
        let now = clock::now();
        let up = self.pump_up(cx, now)?;
        let early = self.early.get_or_insert_default();
        while early.bytes < MOST {
            match self.server.poll_body(cx) {
                Poll::Ready(Ok(Some(piece))) => {
                    early.bytes += piece.len();
                    early.pieces.push_back(piece);
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(fault)) => {
                    early.fault = Some(fault);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => {
                    self.watch_client(up, cx)?;
                    return match self.poll_limits(Some((until, Reason::ReadTimeout)), up, cx, now) {
                        // It is passed on as far as it came.
                        Poll::Ready(Err(late)) if late.reason == Reason::ReadTimeout => Poll::Ready(Ok(())),
                        other => other,
                    };
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
