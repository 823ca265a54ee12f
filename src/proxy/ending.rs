//! The end of a stream that broke after its first byte.
//!
//! # Problem
//! The status was 200 and the client has half of an answer. A connection that just ends is noticed by few clients, and
//! says nothing about why.
//!
//! # Rule
//! A stream of lines (NDJSON) gets one more line with an error, a stream of events one more event, both as the client's
//! library expects them. Then the answer breaks off still: over HTTP/1 without the last chunk, over HTTP/2 with
//! RST_STREAM. So whoever looks at the transport sees it, too. An answer with a Content-Length gets nothing: its
//! length tells. Nothing ever says that the answer is done.
//!
//! Ollama's streams of OpenAI's API end well when a runner dies, and say nothing; a stream of lines may end well after one that
//! says that another follows. Those get the event or the line as well, and end as the server ended them.

use std::time::Duration;

use bytes::Bytes;

use super::client::Client;
use super::context::Exchange;
use super::reply;
use crate::clock;
use crate::ollama::dialect::{self, Dialect};
use crate::ollama::usage::UsageKind;
use crate::policy::failure::Reason;

/// What is known of an error that the server did not tell.
const LOST: &str = "the server ended the stream because of an error that it does not tell";
/// What is known of an end that is none.
const EARLY: &str = "the server ended the stream before its answer was done";
/// How long the client may take for the last words.
const LIMIT: Duration = Duration::from_secs(1);
/// A reset of an HTTP/2 stream overtakes what waits on it: so long it is held back.
const GRACE: Duration = Duration::from_millis(20);

/// Says in the stream why it ends, where that can be said.
pub async fn say(exchange: &mut Exchange<'_>, reason: Reason) {
    if matches!(reason, Reason::ClientClosed | Reason::ClientStalled) || exchange.ctx.status.is_none() {
        return;
    }
    let Some(words) = words(exchange, reason).filter(|_| exchange.client.is_open_ended()) else { return };
    exchange.ctx.body_out += words.len() as u64;
    if exchange.client.push(words).is_err() {
        return;
    }
    let Exchange { client, timer, .. } = exchange;
    // A client that does not take them is cut off all the same.
    let _ = timer.limit(Some(clock::now() + LIMIT), |cx| client.poll_flush(cx)).await;
    if let Client::Http2(_) = client {
        tokio::time::sleep(GRACE).await;
    }
}

/// What is to be said in a stream that the server ended well, and that is not whole: it did not tell an error, or the last
/// line says that another one follows.
pub fn lost_error(exchange: &Exchange<'_>) -> Option<Bytes> {
    let ctx = &exchange.ctx;
    let scan = ctx.usage.as_ref().filter(|_| ctx.encoder.is_none() && exchange.client.is_open_ended())?;
    let sentence = if scan.error_is_lost() {
        LOST
    } else if scan.ends_early() {
        EARLY
    } else {
        return None;
    };
    Some(last_words(scan.kind(), scan.is_inside_line(), ctx.dialect, 500, sentence)?.into())
}

/// The line or the event; `None` where none fits.
fn words(exchange: &Exchange<'_>, reason: Reason) -> Option<Bytes> {
    let ctx = &exchange.ctx;
    let scan = ctx.usage.as_ref().filter(|_| ctx.encoder.is_none())?;
    let seen = scan.clone().finish();
    // Whoever has the end, or an error, needs no other one.
    if seen.finished || seen.error.is_some() {
        return None;
    }
    let sentence = reply::sentence(reason, ctx);
    Some(last_words(scan.kind(), scan.is_inside_line(), ctx.dialect, reason.status().unwrap_or(502), &sentence)?.into())
}

fn last_words(kind: UsageKind, inside_line: bool, dialect: Dialect, status: u16, sentence: &str) -> Option<String> {
    match (kind, dialect) {
        (UsageKind::Json, _) => None,
        (UsageKind::Ndjson, _) => {
            let end = if inside_line { "\n" } else { "" };
            Some(format!("{end}{}\n", dialect::error_body(dialect, status, sentence)))
        }
        // Empty lines end an event that was cut, and are nothing where none was.
        (UsageKind::Sse, Dialect::Native) => {
            Some(format!("\n\ndata: {}\n\n", dialect::error_body(dialect, status, sentence)))
        }
        (UsageKind::Sse, _) => Some(format!("\n\n{}", dialect::stream_error(dialect, status, sentence))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_a_line_and_events_get_an_event() {
        let say = |kind, inside, dialect| last_words(kind, inside, dialect, 502, "it broke off");
        let line = say(UsageKind::Ndjson, false, Dialect::Native);
        assert_eq!(line.as_deref(), Some("{\"error\":\"it broke off\"}\n"));
        let cut = say(UsageKind::Ndjson, true, Dialect::Native);
        assert_eq!(cut.as_deref(), Some("\n{\"error\":\"it broke off\"}\n"), "a line of its own");
        let event = say(UsageKind::Sse, true, Dialect::Openai).expect("an event");
        assert!(event.starts_with("\n\ndata: {\"error\":{\"message\":\"it broke off\"") && event.ends_with("}}\n\n"));
        let named = say(UsageKind::Sse, false, Dialect::Anthropic).expect("an event");
        assert!(named.starts_with("\n\nevent: error\ndata: {\"type\":\"error\""), "{named}");
        assert_eq!(say(UsageKind::Json, false, Dialect::Native), None);
    }
}
