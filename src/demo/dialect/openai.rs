//! `/v1/chat/completions` and `/v1/completions`: server-sent chunks that end in `[DONE]`.

use bytes::Bytes;
use serde::Serialize;

use super::{Dialect, Usage, data, together};
use crate::clock;
use crate::demo::reply::{self, Reply};

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::demo) enum OpenAiShape {
    Chat,
    Completion,
}

/// The OpenAI dialect, for one request.
pub(in crate::demo) struct OpenAi {
    pub(in crate::demo) shape: OpenAiShape,
    pub(in crate::demo) id: String,
    /// The model as sent.
    pub(in crate::demo) model: String,
    /// `stream_options.include_usage`.
    pub(in crate::demo) include_usage: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Counts>,
}

#[derive(Serialize)]
struct Choice<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl From<&Usage> for Counts {
    fn from(usage: &Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.tokens,
            total_tokens: usage.prompt_tokens + usage.tokens,
        }
    }
}

impl OpenAi {
    fn chunk<'a>(&'a self, object: &'static str, choices: Vec<Choice<'a>>) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object,
            created: clock::unix_time().as_secs(),
            model: &self.model,
            system_fingerprint: "fp_ollama",
            choices,
            usage: None,
        }
    }

    fn part<'a>(&'a self, text: &'a str, finish_reason: Option<&'static str>) -> Chunk<'a> {
        let chat = self.shape == OpenAiShape::Chat;
        let choice = Choice {
            text: (!chat).then_some(text),
            index: 0,
            delta: chat.then_some(Message { role: "assistant", content: text }),
            message: None,
            finish_reason,
        };
        let object = if chat { "chat.completion.chunk" } else { "text_completion" };
        let mut chunk = self.chunk(object, vec![choice]);
        chunk.usage = (!chat && self.include_usage).then(Counts::default);
        chunk
    }
}

impl Dialect for OpenAi {
    fn token(&self, text: &str) -> Bytes {
        data(&self.part(text, None))
    }

    fn closing(&self, _text: &str, usage: &Usage) -> Vec<Bytes> {
        let mut chunks = vec![data(&self.part("", Some(usage.reason)))];
        if self.include_usage {
            let mut last = self.part("", None);
            last.choices.clear();
            last.usage = Some(usage.into());
            chunks.push(data(&last));
        }
        chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
        together(&chunks)
    }

    /// Ollama's middleware reads the error line as an empty answer: the error itself is lost, and
    /// `[DONE]` never comes.
    fn broken(&self, _message: &str) -> Vec<Bytes> {
        vec![data(&self.part("", None))]
    }

    fn whole(&self, text: &str, usage: &Usage) -> Reply {
        let chat = self.shape == OpenAiShape::Chat;
        let choice = Choice {
            text: (!chat).then_some(text),
            index: 0,
            delta: None,
            message: chat.then_some(Message { role: "assistant", content: text }),
            finish_reason: Some(usage.reason),
        };
        let object = if chat { "chat.completion" } else { "text_completion" };
        let mut whole = self.chunk(object, vec![choice]);
        whole.usage = Some(usage.into());
        reply::json_line(200, &whole)
    }
}
