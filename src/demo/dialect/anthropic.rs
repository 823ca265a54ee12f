//! `/v1/messages`: Anthropic's events.

use bytes::Bytes;
use serde_json::json;

use super::{Dialect, Usage, event, together};
use crate::demo::reply::{self, Reply};

/// The Anthropic dialect, for one request.
pub(in crate::demo) struct Messages {
    pub(in crate::demo) id: String,
    /// The model as sent.
    pub(in crate::demo) model: String,
    /// What `message_start` claims before anything is known: an estimate, as in Ollama.
    pub(in crate::demo) prompt_estimate: usize,
}

fn stop_reason(usage: &Usage) -> &'static str {
    if usage.reason == "length" { "max_tokens" } else { "end_turn" }
}

impl Dialect for Messages {
    fn opening(&self) -> Vec<Bytes> {
        let message = json!({
            "id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null,
            "usage": { "input_tokens": self.prompt_estimate, "output_tokens": 0 },
        });
        let block = json!({ "type": "text", "text": "" });
        vec![
            event("message_start", &json!({ "type": "message_start", "message": message })),
            event("content_block_start", &json!({ "type": "content_block_start", "index": 0, "content_block": block })),
        ]
    }

    fn token(&self, text: &str) -> Bytes {
        let delta = json!({ "type": "text_delta", "text": text });
        event("content_block_delta", &json!({ "type": "content_block_delta", "index": 0, "delta": delta }))
    }

    fn closing(&self, _text: &str, usage: &Usage) -> Vec<Bytes> {
        let delta = json!({ "stop_reason": stop_reason(usage), "stop_sequence": null });
        let counts = json!({ "input_tokens": usage.prompt_tokens, "output_tokens": usage.tokens });
        together(&[
            event("content_block_stop", &json!({ "type": "content_block_stop", "index": 0 })),
            event("message_delta", &json!({ "type": "message_delta", "delta": delta, "usage": counts })),
            event("message_stop", &json!({ "type": "message_stop" })),
        ])
    }

    fn broken(&self, message: &str) -> Vec<Bytes> {
        vec![event("error", &reply::anthropic_error(500, message))]
    }

    fn whole(&self, text: &str, usage: &Usage) -> Reply {
        reply::json_line(
            200,
            &json!({
                "id": self.id, "type": "message", "role": "assistant", "model": self.model,
                "content": [{ "type": "text", "text": text }],
                "stop_reason": stop_reason(usage), "stop_sequence": null,
                "usage": { "input_tokens": usage.prompt_tokens, "output_tokens": usage.tokens },
            }),
        )
    }
}
