//! `/api/generate` and `/api/chat`: one JSON object to a line.

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use super::{Dialect, Usage};
use crate::demo::reply::{self, Reply};
use crate::demo::times::{created_at, nanoseconds};

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::demo) enum NativeShape {
    Generate,
    Chat,
}

/// The native dialect, for one request.
pub(in crate::demo) struct Native {
    pub(in crate::demo) shape: NativeShape,
    /// The model as sent.
    pub(in crate::demo) model: String,
}

/// Fields in the order of Ollama's structs; what is empty is left out where Go leaves it out.
#[derive(Serialize)]
struct Part<'a> {
    model: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    context: Vec<usize>,
    #[serde(flatten)]
    metrics: Option<Metrics>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Metrics {
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Native {
    /// The one answer to a request that only loads or unloads.
    pub(in crate::demo) fn only(&self, done_reason: &'static str) -> Reply {
        let mut part = self.part("");
        part.done = true;
        part.done_reason = Some(done_reason);
        reply::json(200, &part)
    }

    fn part<'a>(&'a self, text: &'a str) -> Part<'a> {
        let chat = self.shape == NativeShape::Chat;
        Part {
            model: &self.model,
            created_at: created_at(),
            response: (!chat).then_some(text),
            message: chat.then_some(Message { role: "assistant", content: text }),
            done: false,
            done_reason: None,
            context: Vec::new(),
            metrics: None,
        }
    }

    fn last<'a>(&'a self, text: &'a str, usage: &Usage) -> Part<'a> {
        let mut part = self.part(text);
        part.done = true;
        part.done_reason = Some(usage.reason);
        if self.shape == NativeShape::Generate {
            part.context = (1..=usage.prompt_tokens + usage.tokens).collect();
        }
        part.metrics = Some(Metrics {
            total_duration: nanoseconds(usage.total),
            load_duration: nanoseconds(usage.load),
            prompt_eval_count: usage.prompt_tokens as u64,
            prompt_eval_duration: nanoseconds(usage.prompt_time),
            eval_count: usage.tokens as u64,
            eval_duration: nanoseconds(usage.eval_time),
        });
        part
    }
}

impl Dialect for Native {
    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn token(&self, text: &str) -> Bytes {
        reply::line(&self.part(text))
    }

    fn closing(&self, _text: &str, usage: &Usage) -> Vec<Bytes> {
        vec![reply::line(&self.last("", usage))]
    }

    fn broken(&self, message: &str) -> Vec<Bytes> {
        vec![reply::line(&json!({ "error": message }))]
    }

    fn whole(&self, text: &str, usage: &Usage) -> Reply {
        reply::json(200, &self.last(text, usage))
    }
}
