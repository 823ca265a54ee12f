//! One generation, from the slot to the last token, and the faults on the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::{Chunks, ReplyBody};
use super::dialect::{Dialect, Usage};
use super::faults::Fault;
use super::keep_alive::KeepAlive;
use super::ledger::{Mark, Outcome};
use super::lifecycle::Shared;
use super::model::DemoModel;
use super::reply::{self, Reply};
use super::runner::Lease;
use super::wire::{Control, Ending};
use crate::clock;

/// The text of every answer, over and over.
const WORDS: [&str; 16] = [
    " the", " arriero", " leads", " his", " llamas", " over", " the", " high", " pass", " before", " dawn", " and",
    " none", " of", " them", " strays",
];

/// Token number `index` of every answer.
fn word(index: usize) -> &'static str {
    WORDS.get(index % WORDS.len()).unwrap_or(&" llama")
}

/// What a request for text asks.
pub(super) struct Job {
    pub(super) host: Arc<Shared>,
    pub(super) control: Arc<Control>,
    pub(super) mark: Mark,
    pub(super) path: String,
    pub(super) model: DemoModel,
    pub(super) dialect: Arc<dyn Dialect>,
    pub(super) stream: bool,
    /// The limit the request set, if any.
    pub(super) limit: Option<usize>,
    pub(super) prompt_tokens: usize,
    pub(super) keep_alive: KeepAlive,
    pub(super) fault: Option<Fault>,
}

/// How a generation is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    End(Ending),
    Error,
    Stall,
}

enum Step {
    Word(&'static str),
    Done,
    Cut(Cut),
}

/// A generation in progress; it holds the slot.
struct Running {
    job: Job,
    _lease: Lease,
    began: Instant,
    prompted: Instant,
    load: Duration,
    count: usize,
    sent: usize,
    cut: Option<(usize, Cut)>,
    slow: Duration,
}

impl Job {
    /// Waits for a slot and answers.
    pub(super) async fn run(self) -> Reply {
        let began = clock::now();
        let Ok(lease) = self.host.scheduler().acquire(&self.model, self.keep_alive).await else {
            return reply::error(&self.path, 503, reply::BUSY);
        };
        self.mark.slot();
        let (cut, slow) = match &self.fault {
            Some(Fault::ResetAfterTokens(after)) => (Some((*after, Cut::End(Ending::Reset))), Duration::ZERO),
            Some(Fault::CloseAfterTokens(after)) => (Some((*after, Cut::End(Ending::Close))), Duration::ZERO),
            Some(Fault::StreamErrorAfterTokens(after)) => (Some((*after, Cut::Error)), Duration::ZERO),
            Some(Fault::StallAfterTokens(after)) => (Some((*after, Cut::Stall)), Duration::ZERO),
            Some(Fault::SlowTokens(slow)) => (None, *slow),
            _ => (None, Duration::ZERO),
        };
        if !self.host.config.prompt_delay.is_zero() {
            tokio::time::sleep(self.host.config.prompt_delay).await;
        }
        // Ollama sends its head with the first token.
        self.host.token_gate.pass().await;
        let running = Running {
            load: lease.waited,
            count: self.limit.unwrap_or(self.host.config.tokens),
            job: self,
            _lease: lease,
            began,
            prompted: clock::now(),
            sent: 0,
            cut,
            slow,
        };
        if running.job.stream { running.stream() } else { running.whole().await }
    }
}

impl Running {
    fn stream(mut self) -> Reply {
        let content_type = self.job.dialect.stream_type();
        let body = ReplyBody::stream(|chunks| async move { self.produce(chunks).await });
        reply::with_type(200, content_type, body)
    }

    async fn produce(&mut self, chunks: Chunks) -> Outcome {
        let dialect = Arc::clone(&self.job.dialect);
        for chunk in dialect.opening() {
            send(&chunks, chunk).await;
        }
        let mut text = String::new();
        loop {
            match self.step().await {
                Step::Word(word) => {
                    text.push_str(word);
                    send(&chunks, dialect.token(word)).await;
                    self.job.mark.token();
                }
                Step::Done => {
                    for chunk in dialect.closing(&text, &self.usage()) {
                        send(&chunks, chunk).await;
                    }
                    return Outcome::Completed;
                }
                Step::Cut(Cut::Error) => {
                    for chunk in dialect.broken(reply::RUNNER_GONE) {
                        send(&chunks, chunk).await;
                    }
                    return Outcome::Fault;
                }
                Step::Cut(Cut::End(ending)) => {
                    // There is room again once hyper has taken the last token.
                    let _ = chunks.reserve().await;
                    self.job.control.end_when_flushed(ending);
                    std::future::pending::<()>().await;
                }
                Step::Cut(Cut::Stall) => std::future::pending::<()>().await,
            }
        }
    }

    async fn whole(mut self) -> Reply {
        let mut text = String::new();
        loop {
            match self.step().await {
                Step::Word(word) => {
                    text.push_str(word);
                    self.job.mark.token();
                }
                Step::Done => return self.job.dialect.whole(&text, &self.usage()),
                Step::Cut(Cut::Error) => return reply::error(&self.job.path, 500, reply::RUNNER_GONE),
                Step::Cut(Cut::End(ending)) => {
                    self.job.control.end_now(ending);
                    std::future::pending::<()>().await;
                }
                Step::Cut(Cut::Stall) => std::future::pending::<()>().await,
            }
        }
    }

    /// The next token, in its own time.
    async fn step(&mut self) -> Step {
        if let Some((after, cut)) = self.cut
            && self.sent >= after.min(self.count)
        {
            return Step::Cut(cut);
        }
        let first = self.sent == 0;
        let wait = self.slow + if first { Duration::ZERO } else { self.job.host.config.token_interval };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        } else if !first {
            tokio::task::yield_now().await;
        }
        self.job.host.token_gate.pass().await;
        if self.sent >= self.count {
            return Step::Done;
        }
        self.sent += 1;
        Step::Word(word(self.sent - 1))
    }

    fn usage(&self) -> Usage {
        let now = clock::now();
        Usage {
            total: now.saturating_duration_since(self.began),
            load: self.load,
            prompt_tokens: self.job.prompt_tokens,
            prompt_time: self.prompted.saturating_duration_since(self.began).saturating_sub(self.load),
            tokens: self.sent,
            eval_time: now.saturating_duration_since(self.prompted),
            reason: if self.job.limit.is_some() { "length" } else { "stop" },
        }
    }
}

async fn send(chunks: &Chunks, chunk: bytes::Bytes) {
    // The receiver lives in the same body as this producer; it cannot be gone.
    let _ = chunks.send(chunk).await;
}
