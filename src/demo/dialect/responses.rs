//! `/v1/responses`: OpenAI's typed events, in outline.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Dialect, Usage, event, together};
use crate::clock;
use crate::demo::reply::{self, Reply};

/// The Responses dialect, for one request.
pub(in crate::demo) struct Responses {
    pub(in crate::demo) id: String,
    pub(in crate::demo) item: String,
    /// The model as sent.
    pub(in crate::demo) model: String,
}

impl Responses {
    fn response(&self, status: &str, output: &[Value], usage: Option<&Usage>) -> Value {
        json!({
            "id": self.id, "object": "response", "created_at": clock::unix_time().as_secs(),
            "status": status, "model": self.model, "output": output,
            "usage": usage.map(|usage| json!({
                "input_tokens": usage.prompt_tokens, "output_tokens": usage.tokens,
                "total_tokens": usage.prompt_tokens + usage.tokens,
            })),
        })
    }

    fn message(&self, status: &str, text: Option<&str>) -> Value {
        let content: Vec<Value> = text.map(part).into_iter().collect();
        json!({ "id": self.item, "type": "message", "status": status, "role": "assistant", "content": content })
    }

    fn about_item(&self, name: &str, key: &str, value: &Value) -> Bytes {
        event(name, &json!({ "type": name, "item_id": self.item, "output_index": 0, "content_index": 0, key: value }))
    }
}

fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn about_response(name: &str, response: &Value) -> Bytes {
    event(name, &json!({ "type": name, "response": response }))
}

fn about_output(name: &str, item: &Value) -> Bytes {
    event(name, &json!({ "type": name, "output_index": 0, "item": item }))
}

impl Dialect for Responses {
    fn opening(&self) -> Vec<Bytes> {
        let response = self.response("in_progress", &[], None);
        vec![
            about_response("response.created", &response),
            about_response("response.in_progress", &response),
            about_output("response.output_item.added", &self.message("in_progress", None)),
            self.about_item("response.content_part.added", "part", &part("")),
        ]
    }

    fn token(&self, text: &str) -> Bytes {
        self.about_item("response.output_text.delta", "delta", &text.into())
    }

    fn closing(&self, text: &str, usage: &Usage) -> Vec<Bytes> {
        let item = self.message("completed", Some(text));
        let response = self.response("completed", std::slice::from_ref(&item), Some(usage));
        together(&[
            self.about_item("response.output_text.done", "text", &text.into()),
            self.about_item("response.content_part.done", "part", &part(text)),
            about_output("response.output_item.done", &item),
            about_response("response.completed", &response),
        ])
    }

    /// As in the other `/v1` streams, the error is lost and the stream just ends.
    fn broken(&self, _message: &str) -> Vec<Bytes> {
        Vec::new()
    }

    fn whole(&self, text: &str, usage: &Usage) -> Reply {
        let item = self.message("completed", Some(text));
        reply::json_line(200, &self.response("completed", &[item], Some(usage)))
    }
}
