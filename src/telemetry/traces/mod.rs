//! Requests as traces: what one request tells, and the spans that this is in OpenTelemetry's words.
//!
//! # Problem
//! Whoever follows a request through several programs wants Arriero's part of it: how long it waited and where, which
//! servers were tried, what the model used. Telling that must cost a request nothing when nobody asks, and next to nothing
//! when somebody does.
//!
//! # Shape
//! While it runs, a request only notes times ([`Step`]). At its end it hands over a [`Story`], which a background task makes
//! spans of ([`spans`]) and sends to a collector (`probe::traces`).
//!
//! # Invariants
//! - Nobody waits: a story that finds too many others waiting is dropped and counted.
//! - No content: neither prompts nor answers, no query, no credentials.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::access_log::Entry;
use super::metrics::Metrics;
use crate::policy::trace::{SpanId, TraceContext};

pub mod spans;

/// Stories that may wait: some megabytes.
const BACKLOG: usize = 4096;

/// What one request tells.
#[derive(Debug)]
pub struct Story {
    /// Its facts, those of the access log.
    pub entry: Arc<Entry>,
    /// Its trace, and its own span.
    pub context: TraceContext,
    /// The span of the client that it came from.
    pub parent: Option<SpanId>,
    /// The `tracestate` that it came with.
    pub state: String,
    /// `http` or `https`, as the client spoke.
    pub scheme: &'static str,
    /// What it did, in order.
    pub steps: Vec<Step>,
    /// What it asked of a model, if it did.
    pub inference: Option<Inference>,
}

impl Story {
    /// How many spans it is.
    #[must_use]
    pub fn spans(&self) -> u64 {
        1 + self.steps.len() as u64
    }
}

/// A part of a request that took time.
#[derive(Debug)]
pub struct Step {
    /// Its span.
    pub span: SpanId,
    /// From the start of the request to its beginning.
    pub begin: Duration,
    /// From the start of the request to its end; `None` while it runs.
    pub end: Option<Duration>,
    /// What it was.
    pub what: What,
}

/// What a part of a request was.
#[derive(Debug)]
pub enum What {
    /// It waited for a place on a server.
    Wait,
    /// It was at a server.
    Attempt(Attempt),
}

/// A try at a server.
#[derive(Debug)]
pub struct Attempt {
    /// Name of the server.
    pub server: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Status that it answered.
    pub status: Option<u16>,
    /// From the beginning of the attempt to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Why it ended as it did.
    pub reason: &'static str,
}

/// What a request asked of a model, and what the server told of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inference {
    /// What was done, in the words of the semantic conventions: `chat`, `text_completion`, `embeddings`.
    pub operation: &'static str,
    /// Whose API it was: `ollama` or `openai`.
    pub provider: &'static str,
    /// From the start of the request to the first token of a stream.
    pub first_token: Option<Duration>,
    /// How long the model was loaded for it.
    pub load: Option<Duration>,
    /// How long the prompt was read.
    pub prompt: Option<Duration>,
    /// How long the answer was made.
    pub output: Option<Duration>,
}

/// Where requests hand over what they tell.
#[derive(Clone)]
pub struct Traces {
    stories: mpsc::Sender<Box<Story>>,
    metrics: Arc<Metrics>,
}

impl Traces {
    /// The two ends: one for requests, one for the task that sends.
    #[must_use]
    pub fn channel(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Box<Story>>) {
        let (stories, receiver) = mpsc::channel(BACKLOG);
        (Self { stories, metrics }, receiver)
    }

    /// Hands over one story; never waits.
    pub fn tell(&self, story: Box<Story>) {
        let spans = story.spans();
        if self.stories.try_send(story).is_err() {
            self.metrics.traces.dropped.inc_by(spans);
        }
    }
}
