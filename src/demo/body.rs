//! The body of an answer: whole, or produced token by token.
//!
//! A stream's producer is a future inside the body, so hyper dropping the body (the client went
//! away) drops the generation and the slot it holds. After each chunk the body is pending once,
//! which makes hyper flush: one token, one chunk, one write, as Ollama does it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::ledger::{Outcome, Record};

/// What Go keeps back before it must decide on a framing: longer answers are chunked.
const GO_BUFFER: usize = 2048;

/// Where a producer puts its chunks.
pub(super) type Chunks = mpsc::Sender<Bytes>;

type Producer = Pin<Box<dyn Future<Output = Outcome> + Send>>;

enum Source {
    Whole { bytes: Option<Bytes>, chunked: bool },
    Stream { producer: Option<Producer>, chunks: mpsc::Receiver<Bytes>, outcome: Outcome, pause: bool },
}

/// The body of an answer. It owns the end of the ledger entry.
pub(super) struct ReplyBody {
    source: Source,
    record: Option<Record>,
}

impl ReplyBody {
    /// An answer that is known in full.
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let chunked = bytes.len() > GO_BUFFER;
        let bytes = (!bytes.is_empty()).then_some(bytes);
        Self { source: Source::Whole { bytes, chunked }, record: None }
    }

    /// An answer that comes in chunks; the producer's outcome is the request's.
    pub(super) fn stream<F>(produce: impl FnOnce(Chunks) -> F) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (sender, chunks) = mpsc::channel(1);
        let producer: Producer = Box::pin(produce(sender));
        let source = Source::Stream { producer: Some(producer), chunks, outcome: Outcome::Completed, pause: false };
        Self { source, record: None }
    }

    /// Gives the body the record to finish when it has been sent; `headless` for answers to HEAD.
    pub(super) fn with_record(mut self, mut record: Record, headless: bool) -> Self {
        if headless || matches!(self.source, Source::Whole { bytes: None, .. }) {
            record.finish(Outcome::Completed);
        }
        self.record = Some(record);
        self
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(record) = &mut self.record {
            record.finish(outcome);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.source {
            Source::Whole { bytes, .. } => {
                let frame = bytes.take().map(|bytes| Ok(Frame::data(bytes)));
                self.finish(Outcome::Completed);
                Poll::Ready(frame)
            }
            Source::Stream { producer, chunks, outcome, pause } => {
                if std::mem::take(pause) {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if let Some(running) = producer
                    && let Poll::Ready(end) = running.as_mut().poll(context)
                {
                    *outcome = end;
                    *producer = None;
                }
                match chunks.poll_recv(context) {
                    Poll::Ready(Some(chunk)) => {
                        *pause = true;
                        Poll::Ready(Some(Ok(Frame::data(chunk))))
                    }
                    Poll::Ready(None) => {
                        let outcome = *outcome;
                        self.finish(outcome);
                        Poll::Ready(None)
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Whole { bytes: None, .. })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole { bytes, chunked: false } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            _ => SizeHint::default(),
        }
    }
}
