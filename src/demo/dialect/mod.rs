//! How each API writes what a model generates: native lines, OpenAI chunks, Anthropic and
//! Responses events. One generation drives any of them.

mod anthropic;
mod native;
mod openai;
mod responses;

use std::time::Duration;

use bytes::Bytes;

use super::reply::{self, Reply};

pub(super) use anthropic::Messages;
pub(super) use native::{Native, NativeShape};
pub(super) use openai::{OpenAi, OpenAiShape};
pub(super) use responses::Responses;

/// What a finished generation reports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) total: Duration,
    pub(super) load: Duration,
    pub(super) prompt_tokens: usize,
    pub(super) prompt_time: Duration,
    pub(super) tokens: usize,
    pub(super) eval_time: Duration,
    /// `stop` or `length`.
    pub(super) reason: &'static str,
}

/// One API's way of writing.
pub(super) trait Dialect: Send + Sync {
    /// The content type of a stream.
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// Chunks before the first token.
    fn opening(&self) -> Vec<Bytes> {
        Vec::new()
    }

    /// The chunk of one token.
    fn token(&self, text: &str) -> Bytes;

    /// Chunks after the last token; the whole text is given for APIs that repeat it.
    fn closing(&self, text: &str, usage: &Usage) -> Vec<Bytes>;

    /// Chunks after which a stream ends whose runner has died.
    fn broken(&self, message: &str) -> Vec<Bytes>;

    /// The answer that does not stream.
    fn whole(&self, text: &str, usage: &Usage) -> Reply;
}

/// One server-sent event without a name.
fn data(value: &impl serde::Serialize) -> Bytes {
    let mut bytes = b"data: ".to_vec();
    bytes.extend_from_slice(&reply::go_json(value));
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// One server-sent event with a name.
fn event(name: &str, value: &impl serde::Serialize) -> Bytes {
    let mut bytes = format!("event: {name}\ndata: ").into_bytes();
    bytes.extend_from_slice(&reply::go_json(value));
    bytes.extend_from_slice(b"\n\n");
    bytes.into()
}

/// Several chunks that Go flushes as one.
fn together(chunks: &[Bytes]) -> Vec<Bytes> {
    vec![chunks.concat().into()]
}
