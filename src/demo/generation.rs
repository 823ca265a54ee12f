//! One generation, from the slot to the last token, and the faults on the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::{Chunks, ReplyBody};
use super::dialect::{Dialect, Usage};
use super::faults::Fault;
use super::gpu::{Load, Work};
use super::keep_alive::KeepAlive;
use super::ledger::{Mark, Outcome};
use super::lifecycle::Shared;
use super::model::DemoModel;
use super::plan::Ticket;
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
    /// Tells which prompts begin alike.
    pub(super) conversation: u64,
    /// What a bench has planned for it.
    pub(super) ticket: Option<Ticket>,
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
    Words(String, usize),
    Done,
    Cut(Cut),
}

/// A generation in progress; it holds the slot.
struct Running {
    job: Job,
    // Field order: the work ends before the slot is free.
    work: Option<Work>,
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
    pub(super) async fn run(mut self) -> Reply {
        let began = clock::now();
        let Ok(lease) = self.host.scheduler().acquire(&self.model, self.keep_alive).await else {
            // Refused, not abandoned.
            self.ticket.iter_mut().for_each(Ticket::completed);
            return reply::error(&self.path, 503, reply::BUSY);
        };
        self.mark.slot();
        self.ticket.iter().for_each(Ticket::slot);
        let count = self.limit.unwrap_or(self.host.config.tokens);
        let (answer, conversation) = (count, self.conversation);
        let load = self.ticket.as_ref().map(Ticket::load);
        let load = load.unwrap_or(Load { prompt: self.prompt_tokens, answer, conversation });
        let work = lease.work(self.model.size, load);
        let (cut, slow) = match &self.fault {
            Some(Fault::ResetAfterTokens(after)) => (Some((*after, Cut::End(Ending::Reset))), Duration::ZERO),
            Some(Fault::CloseAfterTokens(after)) => (Some((*after, Cut::End(Ending::Close))), Duration::ZERO),
            Some(Fault::StreamErrorAfterTokens(after)) => (Some((*after, Cut::Error)), Duration::ZERO),
            Some(Fault::StallAfterTokens(after)) => (Some((*after, Cut::Stall)), Duration::ZERO),
            Some(Fault::SlowTokens(slow)) => (None, *slow),
            _ => (None, Duration::ZERO),
        };
        if let Some(work) = &work {
            work.first_token().await;
        } else if !self.host.config.prompt_delay.is_zero() {
            tokio::time::sleep(self.host.config.prompt_delay).await;
        }
        // Ollama sends its head with the first token.
        self.host.token_gate.pass().await;
        let running = Running {
            load: if work.is_some() { lease.loaded } else { lease.waited },
            count: load.answer,
            job: self,
            work,
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
                Step::Words(words, count) => {
                    text.push_str(&words);
                    send(&chunks, dialect.token(&words)).await;
                    self.job.mark.tokens(count);
                }
                Step::Done => {
                    self.job.ticket.iter_mut().for_each(Ticket::completed);
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
                Step::Words(words, count) => {
                    text.push_str(&words);
                    self.job.mark.tokens(count);
                }
                Step::Done => {
                    self.job.ticket.iter_mut().for_each(Ticket::completed);
                    return self.job.dialect.whole(&text, &self.usage());
                }
                Step::Cut(Cut::Error) => return reply::error(&self.job.path, 500, reply::RUNNER_GONE),
                Step::Cut(Cut::End(ending)) => {
                    self.job.control.end_now(ending);
                    std::future::pending::<()>().await;
                }
                Step::Cut(Cut::Stall) => std::future::pending::<()>().await,
            }
        }
    }

    /// The next token, in its own time; on a card, all that there are by then.
    async fn step(&mut self) -> Step {
        if let Some((after, cut)) = self.cut
            && self.sent >= after.min(self.count)
        {
            return Step::Cut(cut);
        }
        let first = self.sent == 0;
        let wait =
            self.slow + if first || self.work.is_some() { Duration::ZERO } else { self.job.host.config.token_interval };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        } else if !first {
            tokio::task::yield_now().await;
        }
        let there = match &self.work {
            Some(work) => work.tokens_after(self.sent).await,
            None => self.sent + 1,
        };
        self.job.host.token_gate.pass().await;
        if self.sent >= self.count {
            return Step::Done;
        }
        let there = self.cut.map_or(there, |(after, _)| there.min(after)).max(self.sent + 1);
        let words = (self.sent..there).map(word).collect();
        let count = there - self.sent;
        self.sent = there;
        Step::Words(words, count)
    }

    fn usage(&self) -> Usage {
        let now = clock::now();
        let (prompt_tokens, prompt_time, eval_time) = if let Some(work) = &self.work {
            let (prompt_time, eval_time) = work.durations();
            (work.prompt_tokens(), prompt_time, eval_time)
        } else {
            let prompt_time = self.prompted.saturating_duration_since(self.began).saturating_sub(self.load);
            (self.job.prompt_tokens, prompt_time, now.saturating_duration_since(self.prompted))
        };
        Usage {
            total: now.saturating_duration_since(self.began),
            load: self.load,
            prompt_tokens,
            prompt_time,
            tokens: self.sent,
            eval_time,
            reason: if self.job.limit.is_some() { "length" } else { "stop" },
        }
    }
}

async fn send(chunks: &Chunks, chunk: bytes::Bytes) {
    // The receiver lives in the same body as this producer; it cannot be gone.
    let _ = chunks.send(chunk).await;
}
