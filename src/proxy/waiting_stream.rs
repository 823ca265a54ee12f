//! A stream that has not begun: its client is told from time to time that it waits.
//!
//! # Problem
//! A request may wait for its place, then for a model that takes minutes to load. Clients, and proxies between them and
//! us, take a connection that is silent for so long for a dead one. A comment among server-sent events is a sign of
//! life that every reader of them skips. But it is a part of a body, so a head has to go out before it, with a status,
//! and nobody knows yet how the request will end.
//!
//! # States
//!
//! | state | the client has | may still follow |
//! |---|---|---|
//! | nothing is said | nothing, or an answer | anything that belongs there |
//! | a comment is due | nothing | any answer |
//! | open | the head of a 200, and comments | a server's stream without its head, or one event with an error |
//!
//! # Rules
//! - Only for calls whose streams are server-sent events, and only where the body says `"stream": true` in what has been
//!   read of it. Nothing else can be a stream of events for certain.
//! - What we have said is not a server's answer: while it is open, another attempt may be made.
//! - An error is told in the stream, in the client's dialect, and the stream then ends in due form: all of it is ours.
//! - A client that has not taken the last comment gets no other one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use serde_json::Value;

use super::context::{Exchange, Reply};
use super::framing::Length;
use super::message::AnswerHead;
use super::{reply, response};
use crate::clock;
use crate::fleet::snapshot::Upstream;
use crate::ollama::dialect::{self, Dialect};
use crate::ollama::endpoint::{Endpoint, classify};
use crate::ollama::scan::ModelScan;
use crate::ollama::usage::UsageKind;
use crate::policy::failure::Reason;

/// What is said.
const COMMENT: &[u8] = b": waiting\n\n";
/// Longest text of a server that is no JSON and is told the client, in bytes.
const LONGEST: usize = 1 << 10;

/// What a client is told while it waits.
#[derive(Debug, Default)]
pub struct Comments {
    /// When the next one is due, and how long after it another one.
    next: Option<(Instant, Duration)>,
    /// The head and the first one have been sent, and nothing else.
    open: bool,
    /// The status that would have been answered if none had been before.
    pub unsaid: Option<u16>,
}

impl Comments {
    /// Whether the client has them, and nothing else.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// What follows is an answer, and no comment. Whether the client has a head already.
    pub fn give_way(&mut self) -> bool {
        self.next = None;
        std::mem::take(&mut self.open)
    }

    /// Whether the body of a server's answer may be the next that the client gets.
    pub fn lets_follow(&self, head: &AnswerHead) -> bool {
        let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let is_events = || field(header::CONTENT_TYPE).and_then(UsageKind::of_content_type) == Some(UsageKind::Sse);
        let is_plain = || field(header::CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"));
        !self.open || head.status == StatusCode::OK && is_events() && is_plain()
    }
}

/// A request begins to wait: settles whether its client may be told so.
pub fn begin(exchange: &mut Exchange<'_>, upstream: &Upstream) {
    let Some(every) = upstream.queue_keepalive else { return };
    let head = &exchange.head;
    let events = matches!(classify(&head.method, exchange.path()), Endpoint::Inference(call) if call.streams_events());
    // HTTP/1.0 has no chunks: there a client cannot tell an end from a break.
    let can_tell = events && head.version >= Version::HTTP_11 && !exchange.ctx.wants_upgrade;
    if can_tell && is_stream(exchange) != Some(false) {
        // What a server compresses could not follow a head that does not say so.
        exchange.head.headers.remove(header::ACCEPT_ENCODING);
        exchange.ctx.comments.next = Some((clock::now() + every, every));
    }
}

/// Whether the body asks for a stream; `None` while that is not known.
fn is_stream(exchange: &Exchange<'_>) -> Option<bool> {
    let scan = exchange.body.scan();
    scan.and_then(ModelScan::stream).or(scan.is_none_or(ModelScan::is_closed).then_some(false))
}

/// Appends a comment when one is due; the caller flushes. When it has to be asked again; `None` when never.
pub fn tick(exchange: &mut Exchange<'_>, now: Instant) -> Option<Instant> {
    let (due, every) = exchange.ctx.comments.next?;
    if now < due {
        return Some(due);
    }
    match is_stream(exchange) {
        Some(true) if exchange.client.queued() == 0 => say(exchange),
        Some(false) => {
            exchange.ctx.comments.next = None;
            return None;
        }
        _ => {}
    }
    exchange.ctx.comments.next = Some((now + every, every));
    Some(now + every)
}

fn say(exchange: &mut Exchange<'_>) {
    if !exchange.ctx.comments.open {
        let mut head = AnswerHead::new(StatusCode::OK);
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response::complete(exchange, &mut head);
        exchange.client.head(head, Length::Unknown, exchange.ctx.connection.is_ending());
        exchange.ctx.comments.open = true;
    }
    exchange.ctx.body_out += COMMENT.len() as u64;
    // A body of unknown length takes any number of bytes.
    let _ = exchange.client.push(Bytes::from_static(COMMENT));
}

/// Ends a stream of comments with an error.
///
/// # Errors
/// When the client does not take it.
pub async fn refuse(exchange: &mut Exchange<'_>, reply: &Reply) -> Result<(), Reason> {
    let event = event(exchange.ctx.dialect, reply.status, &reply.body);
    let ctx = &mut exchange.ctx;
    ctx.comments.give_way();
    ctx.comments.unsaid = Some(reply.status);
    ctx.body_out += event.len() as u64;
    // A body of unknown length takes any number of bytes.
    let _ = exchange.client.push(event.into()).and_then(|()| exchange.client.finish(None));
    // Whoever has the last byte may ask again at once.
    exchange.ctx.admitted.leave();
    reply::flush(exchange).await
}

/// The event that says what the body of an error, ours or a server's, would have said.
fn event(dialect: Dialect, status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let say = |message: &str| dialect::stream_error(dialect, status, message);
    match serde_json::from_str::<Value>(&text) {
        // On one line, whatever it was written on.
        Ok(json) if json["error"].is_object() => dialect::error_event(dialect, &json.to_string()),
        Ok(json) => match json["error"].as_str().or(json["message"].as_str()) {
            Some(message) => say(message),
            None => say(&format!("the server answered {status}")),
        },
        Err(_) => match text.trim() {
            page if page.is_empty() || page.len() > LONGEST || page.starts_with(['<', '{']) => {
                say(&format!("the server answered {status}"))
            }
            plain => say(plain),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_becomes_one_event_of_the_dialect() {
        let openai = |body: &str| event(Dialect::Openai, 503, body.as_bytes());
        let own = dialect::error_body(Dialect::Openai, 503, "busy") + "\n";
        let wanted =
            r#"data: {"error":{"message":"busy","type":"api_error","param":null,"code":null}}"#.to_owned() + "\n\n";
        assert_eq!(openai(&own), wanted);
        for same in [r#"{"error":"busy"}"#, r#"{"object":"error","message":"busy"}"#, "busy\n"] {
            assert_eq!(openai(same), wanted, "{same}");
        }
        let lines = "{\n \"error\": {\n  \"message\": \"x\",\n  \"code\": 7\n }\n}\n";
        assert_eq!(openai(lines), "data: {\"error\":{\"message\":\"x\",\"code\":7}}\n\n");
        for nothing in ["", "<html>busy</html>", "{\"error\":{\"mess", "[1]", &"x".repeat(2000)] {
            assert!(openai(nothing).contains("\"message\":\"the server answered 503\""), "{nothing}");
        }
        let named = event(Dialect::Anthropic, 503, b"busy");
        assert_eq!(
            named,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n"
        );
    }
}
