//! What a request notes of itself for its trace, where the configuration asks for traces.
//!
//! One that is not told notes nothing, and passes its place in the trace on all the same: the servers behind may tell it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::context::{Exchange, RequestContext};
use super::identity::{unique, unique_wide};
use crate::clock;
use crate::config::types::Kind;
use crate::ollama::endpoint::{Endpoint, Inference as Call, classify};
use crate::ollama::usage::Usage;
use crate::policy::failure::Reason;
use crate::policy::trace::{SpanId, TraceContext};
use crate::routing::Scheme;
use crate::telemetry::access_log::Entry;
use crate::telemetry::traces::{Attempt, Inference, Step, Story, What};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Longest `tracestate` that is told, in bytes.
const LONGEST_STATE: usize = 512;

/// A request's place in a trace, and what it noted so far.
pub struct Trace {
    /// Its trace and its own span.
    context: TraceContext,
    /// The span of its client.
    parent: Option<SpanId>,
    /// The client's `tracestate`.
    state: String,
    /// Noted only where it is told.
    steps: Vec<Step>,
}

impl Trace {
    /// The identity of the trace, as it is written.
    pub fn id(&self) -> String {
        format!("{:032x}", self.context.trace)
    }

    /// Whether it is told.
    pub fn is_told(&self) -> bool {
        self.context.sampled
    }
}

/// Finds its place in a trace.
pub fn begin(ctx: &mut RequestContext, headers: &mut HeaderMap) {
    let Some(tracing) = &ctx.snapshot.tracing else { return };
    let mut parents = headers.get_all(TRACEPARENT).iter().map(HeaderValue::as_bytes);
    // Of two, neither can be believed.
    let parent = tracing.sampler.followed(parents.next().filter(|_| parents.next().is_none()));
    let (context, state) = match parent {
        Some(parent) => (TraceContext { span: unique(), ..parent }, state_of(headers)),
        None => {
            // W3C Trace Context 3.3: without a `traceparent` that is followed there is no `tracestate`.
            headers.remove(TRACESTATE);
            let trace = unique_wide();
            (TraceContext { trace, span: unique(), sampled: tracing.sampler.tells(trace) }, String::new())
        }
    };
    let parent = parent.map(|parent| parent.span);
    ctx.trace = Some(Box::new(Trace { context, parent, state, steps: Vec::new() }));
}

/// All fields as one (W3C Trace Context 3.3.1). One that is longer than everybody must pass on (3.3.1.5) is not told; the server
/// gets it all the same.
fn state_of(headers: &HeaderMap) -> String {
    let fields = || headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes);
    if fields().map(|field| field.len() + 1).sum::<usize>() > LONGEST_STATE {
        return String::new();
    }
    let fields: Vec<_> = fields().map(String::from_utf8_lossy).collect();
    fields.join(",")
}

/// The trace of a request that is told.
fn told(ctx: &mut RequestContext) -> Option<&mut Trace> {
    ctx.trace.as_deref_mut().filter(|trace| trace.is_told())
}

/// It waited for a place from `since` on.
pub fn waited(ctx: &mut RequestContext, since: Instant, time: Duration) {
    let begin = since - ctx.started;
    if let Some(trace) = told(ctx) {
        trace.steps.push(Step { span: unique(), begin, end: Some(begin + time), what: What::Wait });
    }
}

/// Its attempt at a server begins.
pub fn attempt_begins(ctx: &mut RequestContext) {
    if told(ctx).is_none() {
        return;
    }
    let Some(attempt) = &ctx.attempt else { return };
    let (begin, server) = (attempt.started - ctx.started, Arc::clone(&attempt.server));
    if let Some(trace) = told(ctx) {
        let attempt = Attempt {
            server: server.name().to_owned(),
            host: server.location.host.clone(),
            port: server.location.port,
            status: None,
            first_byte: None,
            reason: Reason::Ok.as_str(),
        };
        trace.steps.push(Step { span: unique(), begin, end: None, what: What::Attempt(attempt) });
    }
}

/// Its attempt at a server has ended.
pub fn attempt_ends(ctx: &mut RequestContext, reason: Reason) {
    if told(ctx).is_none() {
        return;
    }
    let Some(attempt) = &ctx.attempt else { return };
    let (status, first_byte, end) = (attempt.status, attempt.first_byte, clock::now() - ctx.started);
    let open = told(ctx).and_then(|trace| trace.steps.last_mut()).filter(|step| step.end.is_none());
    if let Some(Step { end: ended, what: What::Attempt(noted), .. }) = open {
        *ended = Some(end);
        (noted.status, noted.first_byte, noted.reason) = (status, first_byte, reason.as_str());
    }
}

/// Tells the server its place: the span of this attempt where there is one, else that of the request.
pub fn for_server(ctx: &RequestContext, headers: &mut HeaderMap) {
    let Some(trace) = &ctx.trace else { return };
    let span = trace.steps.last().map_or(trace.context.span, |step| step.span);
    if let Ok(field) = HeaderValue::from_bytes(&TraceContext { span, ..trace.context }.render()) {
        headers.insert(TRACEPARENT, field);
    }
}

/// Hands over what it noted.
pub fn tell(exchange: &mut Exchange<'_>, entry: &Arc<Entry>, usage: &Usage) {
    let ctx = &mut exchange.ctx;
    let Some(trace) = ctx.trace.take().filter(|trace| trace.is_told()) else { return };
    let kind = ctx.upstream.as_ref().map(|upstream| upstream.kind);
    exchange.service.traces.tell(Box::new(Story {
        entry: Arc::clone(entry),
        context: trace.context,
        parent: trace.parent,
        state: trace.state,
        scheme: Scheme::of(ctx.client_tls).as_str(),
        inference: kind.filter(|_| ctx.model.is_some()).and_then(|kind| {
            Some(Inference {
                operation: operation(&exchange.head.method, exchange.head.uri.path())?,
                provider: if kind == Kind::Ollama { "ollama" } else { "openai" },
                first_token: ctx.first_token,
                load: usage.load_duration,
                prompt: usage.prompt_eval_duration,
                output: usage.eval_duration,
            })
        }),
        steps: trace.steps,
    }));
}

/// The well-known values of `gen_ai.operation.name`; other calls have none.
fn operation(method: &Method, path: &str) -> Option<&'static str> {
    let Endpoint::Inference(call) = classify(method, path) else { return None };
    match call {
        Call::Chat | Call::OpenaiChat | Call::OpenaiResponses | Call::AnthropicMessages => Some("chat"),
        Call::Generate | Call::OpenaiCompletions => Some("text_completion"),
        Call::Embed | Call::Embeddings | Call::OpenaiEmbeddings => Some("embeddings"),
        Call::OpenaiImageGenerations | Call::OpenaiImageEdits | Call::OpenaiTranscriptions => Some("generate_content"),
    }
}
