//! An answer that is wanted whole, because what the client gets is made from it.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};

use super::{Broken, ServerFault, Traffic, earlier, internal, of_client, too_long};
use crate::clock;
use crate::fleet::body_budget::Held;
use crate::ollama::usage::UsageKind;
use crate::policy::failure::Reason;
use crate::proxy::context::RequestContext;
use crate::proxy::framing::Length;
use crate::proxy::message::AnswerHead;
use crate::proxy::{content, response};
use crate::telemetry::cache_metrics::Bypass;

/// What becomes of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Its client gets it as it comes.
    Passed,
    /// It is taken whole.
    Taken,
    /// It answers a part of a request, and in a way that nothing can be made from.
    Unfit,
}

/// What becomes of an answer with this head: one is taken whole if that is wanted, and it is good, JSON, and not compressed.
pub(super) fn use_of(ctx: &RequestContext, head: &AnswerHead) -> Use {
    let Some(wanted) = &ctx.whole else { return Use::Passed };
    let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let is_good = head.status == StatusCode::OK
        && field(header::CONTENT_TYPE).and_then(UsageKind::of_content_type) == Some(UsageKind::Json)
        && field(header::CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"));
    match is_good {
        true => Use::Taken,
        // An error is one of the whole request too.
        false if wanted.is_part && head.status.as_u16() < 400 => Use::Unfit,
        false => Use::Passed,
    }
}

/// What has come of an answer.
struct Taken {
    bytes: BytesMut,
    held: Held,
    most: usize,
}

impl Taken {
    /// Takes a piece, if it still fits.
    fn push(&mut self, piece: &Bytes) -> bool {
        let fits = self.bytes.len() + piece.len() <= self.most && self.held.grow(piece.len());
        if fits {
            self.bytes.extend_from_slice(piece);
        }
        fits
    }
}

impl Traffic<'_, '_> {
    /// Takes an answer whole and leaves it in the context. One that does not fit is passed on, unless it is one to a part.
    pub(super) async fn take_whole(mut self, head: AnswerHead, length: Length) -> Result<(), Broken> {
        self.server_read = clock::now();
        response::note_first_byte(self.exchange, self.server_read);
        let Some(wanted) = &self.exchange.ctx.whole else { return Err(Reason::Internal.into()) };
        let (most, is_part) = (wanted.most, wanted.is_part);
        let held = Held::new(self.exchange.service.store.body_budget.clone());
        let mut taken = Taken { bytes: BytesMut::new(), held, most };
        let too_much = std::future::poll_fn(|cx| self.poll_whole(&mut taken, cx)).await?;
        let Some(piece) = too_much else {
            response::watch_usage(self.exchange, &head);
            let body = taken.bytes.freeze();
            self.exchange.ctx.usage.iter_mut().for_each(|usage| usage.push(&body));
            self.exchange.ctx.again.settle();
            if let Some(wanted) = &mut self.exchange.ctx.whole {
                wanted.answer = Some((head, body, taken.held));
            }
            return Ok(());
        };
        if is_part {
            self.leave_part(Bypass::TooLong);
            return Ok(());
        }
        self.exchange.ctx.whole = None;
        response::begin_head(self.exchange, head, length);
        let now = clock::now();
        for piece in [taken.bytes.freeze(), piece] {
            response::body_passes(&mut self.exchange.ctx, &piece, now);
            let piece = content::encode(&mut self.exchange.ctx, piece).map_err(internal)?;
            self.exchange.client.push(piece).map_err(too_long)?;
        }
        drop(taken.held);
        self.client_wrote.at = now;
        std::future::poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// The answer to a part is of no use, though its server did what it should. Nothing more of it is read.
    pub(super) fn leave_part(&mut self, why: Bypass) {
        self.exchange.ctx.again.settle();
        if let Some(wanted) = &mut self.exchange.ctx.whole {
            wanted.unfit = Some(why);
        }
    }

    /// Ready at the end of the answer, or with the piece of it that does not fit.
    fn poll_whole(&mut self, taken: &mut Taken, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let now = clock::now();
        let up = self.pump_up(cx, now)?;
        loop {
            match self.poll_body(cx) {
                Poll::Ready(Ok(Some(piece))) => {
                    self.server_read = now;
                    if !taken.push(&piece) {
                        return Poll::Ready(Ok(Some(piece)));
                    }
                }
                Poll::Ready(Ok(None)) if self.server.poll_trailers(cx).is_ready() => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(ServerFault::Protocol(_))) => return Poll::Ready(Err(Reason::UpstreamProtocol.into())),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Reason::UpstreamTruncated.into())),
                Poll::Ready(Ok(None)) | Poll::Pending => break,
            }
        }
        let _ = self.exchange.client.poll_flush(cx).map_err(of_client)?;
        self.watch_client(up, cx)?;
        let read = Some((self.server_read + self.limits.read, Reason::ReadTimeout));
        let limit = earlier(self.limit_up(up, now), read);
        self.poll_limits(limit, up, cx, now)
    }
}
