//! A story as the spans of OpenTelemetry.
//!
//! The request is a SERVER span, each wait for a place an INTERNAL one, each attempt a CLIENT one; the last attempt carries
//! what the model used. Names follow the semantic conventions for HTTP (1.41) and for generative AI (of which
//! `gen_ai.input.messages` and its like, the content, are left out); what they have no name for begins with `arriero.`.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::{Attempt, Inference, Step, Story, What};
use crate::policy::failure::Reason;
use crate::policy::trace::SpanId;

/// Flags of a span whose parent is known to be in another process, and of one whose parent is known not to be
/// (`SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`, `…_IS_REMOTE_MASK` of opentelemetry-proto), with the bit that it is sampled.
const REMOTE: u32 = 0x301;
const LOCAL: u32 = 0x101;

/// All spans of some stories, as a collector takes them. `attributes` are those of this process.
#[must_use]
pub fn request(stories: &[Box<Story>], attributes: &[(String, String)]) -> ExportTraceServiceRequest {
    let resource = attributes.iter().map(|(name, value)| text(name, value));
    let scope = InstrumentationScope {
        name: "arriero".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: resource.collect(), ..Default::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: stories.iter().flat_map(|story| of_story(story)).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

/// The spans of one request, itself first.
fn of_story(story: &Story) -> Vec<Span> {
    let last = story.steps.iter().rposition(|step| matches!(step.what, What::Attempt(_)));
    let mut spans = vec![whole(story)];
    let mut attempts = 0;
    for (number, step) in story.steps.iter().enumerate() {
        spans.push(match &step.what {
            What::Wait => Span { name: "queue".into(), kind: SpanKind::Internal.into(), ..part(story, step) },
            What::Attempt(attempt) => {
                attempts += 1;
                let inference = story.inference.as_ref();
                at_server(story, step, attempt, attempts - 1, inference.map(|asked| (asked, last == Some(number))))
            }
        });
    }
    spans
}

/// The request as its client saw it.
fn whole(story: &Story) -> Span {
    let entry = &story.entry;
    let mut attributes = vec![
        text("http.request.method", &entry.method),
        text("url.path", &entry.path),
        text("url.scheme", story.scheme),
        text("client.address", &entry.client_ip),
        text("network.protocol.name", "http"),
        text("network.protocol.version", entry.protocol.strip_prefix("HTTP/").unwrap_or(entry.protocol)),
        whole_number("http.request.body.size", entry.bytes_in),
        whole_number("http.response.body.size", entry.bytes_out),
        text("arriero.request_id", &entry.request_id),
        text("arriero.reason", entry.reason),
    ];
    if entry.status > 0 {
        attributes.push(whole_number("http.response.status_code", entry.status.into()));
    }
    for (name, value) in [
        ("server.address", entry.host.as_str()),
        ("user_agent.original", &entry.user_agent),
        ("arriero.route", &entry.route),
        ("arriero.upstream", &entry.upstream),
        ("arriero.key", &entry.key),
        ("arriero.model", &entry.model),
    ] {
        if !value.is_empty() {
            attributes.push(text(name, value));
        }
    }
    // A client that left, or asked for what it may not have, is no failure of ours.
    let failed = entry.reason != Reason::Ok.as_str() && (entry.status >= 500 || entry.status == 0);
    if entry.reason != Reason::Ok.as_str() {
        attributes.push(text("error.type", entry.reason));
    }
    let name = if entry.route.is_empty() { entry.method.clone() } else { format!("{} {}", entry.method, entry.route) };
    let begin = nanoseconds(entry.ts);
    Span {
        trace_id: story.context.trace.to_be_bytes().to_vec(),
        span_id: story.context.span.to_be_bytes().to_vec(),
        parent_span_id: story.parent.map(|span| span.to_be_bytes().to_vec()).unwrap_or_default(),
        trace_state: story.state.clone(),
        flags: if story.parent.is_some() { REMOTE } else { LOCAL },
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: begin,
        end_time_unix_nano: begin + nanoseconds(entry.duration_ms / 1000.0),
        attributes,
        status: status(failed, entry.reason),
        ..Span::default()
    }
}

/// One try at a server; `asked` says what was asked of a model, and whether this attempt is the one that it was told at.
fn at_server(story: &Story, step: &Step, attempt: &Attempt, before: u64, asked: Option<(&Inference, bool)>) -> Span {
    let entry = &story.entry;
    let mut attributes = vec![
        text("http.request.method", &entry.method),
        text("server.address", &attempt.host),
        whole_number("server.port", attempt.port.into()),
        text("arriero.server", &attempt.server),
        text("arriero.upstream", &entry.upstream),
        text("arriero.reason", attempt.reason),
    ];
    attributes.extend(attempt.status.map(|status| whole_number("http.response.status_code", status.into())));
    attributes.extend(attempt.first_byte.map(|time| seconds("arriero.time_to_first_byte", time)));
    if before > 0 {
        attributes.push(whole_number("http.request.resend_count", before));
    }
    let failed = attempt.reason != Reason::Ok.as_str() || attempt.status.is_some_and(|status| status >= 400);
    if failed {
        let status = attempt.status.filter(|status| *status >= 400).map(|status| status.to_string());
        attributes.push(text("error.type", status.as_deref().unwrap_or(attempt.reason)));
    }
    let mut name = entry.method.clone();
    if let Some((inference, told)) = asked {
        name = format!("{} {}", inference.operation, entry.model);
        attributes.push(text("gen_ai.operation.name", inference.operation));
        attributes.push(text("gen_ai.provider.name", inference.provider));
        attributes.push(text("gen_ai.request.model", &entry.model));
        if told {
            use_of_model(&mut attributes, story, step, inference);
        }
    }
    Span {
        name,
        kind: SpanKind::Client.into(),
        attributes,
        status: status(failed, attempt.reason),
        ..part(story, step)
    }
}

fn use_of_model(attributes: &mut Vec<KeyValue>, story: &Story, step: &Step, inference: &Inference) {
    let entry = &story.entry;
    let counts =
        [("gen_ai.usage.input_tokens", entry.prompt_tokens), ("gen_ai.usage.output_tokens", entry.output_tokens)];
    attributes.extend(counts.into_iter().filter_map(|(name, count)| Some(whole_number(name, count?))));
    let first_chunk = inference.first_token.map(|time| time.saturating_sub(step.begin));
    let times = [
        ("gen_ai.response.time_to_first_chunk", first_chunk),
        ("arriero.load_duration", inference.load),
        ("arriero.prompt_duration", inference.prompt),
        ("arriero.output_duration", inference.output),
    ];
    attributes.extend(times.into_iter().filter_map(|(name, time)| Some(seconds(name, time?))));
}

/// What all parts of a request have in common: they are its children.
fn part(story: &Story, step: &Step) -> Span {
    let begin = nanoseconds(story.entry.ts);
    let at = |time: Duration| begin + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
    let id = |span: SpanId| span.to_be_bytes().to_vec();
    Span {
        trace_id: story.context.trace.to_be_bytes().to_vec(),
        span_id: id(step.span),
        parent_span_id: id(story.context.span),
        trace_state: story.state.clone(),
        flags: LOCAL,
        start_time_unix_nano: at(step.begin),
        end_time_unix_nano: at(step.end.unwrap_or(step.begin)),
        ..Span::default()
    }
}

/// Unset unless it failed: that something is right is for others to say (OpenTelemetry, Set Status).
fn status(failed: bool, reason: &str) -> Option<Status> {
    failed.then(|| Status { code: StatusCode::Error.into(), message: reason.to_owned() })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds of this century")]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, Value::StringValue(value.to_owned()))
}

fn whole_number(name: &str, value: u64) -> KeyValue {
    attribute(name, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn seconds(name: &str, value: Duration) -> KeyValue {
    attribute(name, Value::DoubleValue(value.as_secs_f64()))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}
