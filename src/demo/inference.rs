//! Requests for text: what each API's body asks, and what Ollama answers without generating.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::dialect::{Dialect, Messages, Native, NativeShape, OpenAi, OpenAiShape, Responses};
use super::fields::{BadBody, Fields};
use super::generation::Job;
use super::keep_alive::{self, KeepAlive};
use super::model::DemoModel;
use super::reply::{self, Reply};
use super::router::Exchange;

/// More tokens than this are not generated, whatever is asked.
const TOKEN_LIMIT: usize = 10_000_000;

/// Answers `/api/generate`, `/api/chat`, `/v1/chat/completions`, `/v1/completions`, `/v1/messages`
/// and `/v1/responses`.
pub(super) async fn answer(exchange: Exchange<'_>) -> Reply {
    match prepare(exchange) {
        Plan::Reply(reply) => reply,
        Plan::Load(job, native) => match job.host.scheduler().ready(&job.model, job.keep_alive).await {
            Ok(_user) => native.only("load"),
            Err(_busy) => reply::error(&job.path, 503, reply::BUSY),
        },
        Plan::Generate(job) => job.run().await,
    }
}

enum Plan {
    Reply(Reply),
    Load(Box<Job>, Native),
    Generate(Box<Job>),
}

fn prepare(exchange: Exchange<'_>) -> Plan {
    let Exchange { host, control, record, path, fields, length, fault, .. } = exchange;
    let name = match fields.text("model") {
        Ok(name) => name.to_owned(),
        Err(BadBody::Wrong(message)) => return Plan::Reply(reply::body_error(&path, &message)),
        Err(BadBody::Missing) => String::new(),
    };
    let native = path.starts_with("/api/");
    let messages = fields.length("messages");
    match path.as_str() {
        "/v1/chat/completions" if messages == 0 => {
            return Plan::Reply(reply::body_error(&path, "[] is too short - 'messages'"));
        }
        "/v1/messages" if name.is_empty() => {
            return Plan::Reply(reply::body_error(&path, "model is required"));
        }
        "/v1/messages" if fields.count(None, "max_tokens").unwrap_or(0) == 0 => {
            return Plan::Reply(reply::body_error(&path, "max_tokens is required and must be positive"));
        }
        "/v1/messages" if messages == 0 => {
            return Plan::Reply(reply::body_error(&path, "messages is required"));
        }
        _ => {}
    }
    let generates = matches!(path.as_str(), "/api/generate" | "/v1/completions");
    if name.is_empty() && !generates {
        return Plan::Reply(reply::error(&path, 400, "model is required"));
    }
    let Some(model) = host.model(&name) else {
        return Plan::Reply(reply::error(&path, 404, &format!("model '{name}' not found")));
    };
    let keep_alive = match fields.get("keep_alive").filter(|_| native).map(keep_alive::parse) {
        None => KeepAlive::For(host.config.keep_alive),
        Some(Ok(keep_alive)) => keep_alive,
        Some(Err(message)) => return Plan::Reply(reply::body_error(&path, &message)),
    };
    let shape = if generates { NativeShape::Generate } else { NativeShape::Chat };
    let empty = if generates { fields.text_or_empty("prompt").is_empty() } else { messages == 0 };
    let only = native && empty;
    if only && keep_alive.is_zero() && fields.get("keep_alive").is_some() {
        host.scheduler().unload(&model);
        return Plan::Reply(Native { shape, model: name }.only("unload"));
    }
    if !can_complete(&model) {
        let verb = if generates { "generate" } else { "chat" };
        return Plan::Reply(reply::error(&path, 400, &format!("\"{name}\" does not support {verb}")));
    }
    let limit = match path.as_str() {
        "/api/generate" | "/api/chat" => fields.count(Some("options"), "num_predict"),
        "/v1/responses" => fields.count(None, "max_output_tokens"),
        "/v1/messages" => fields.count(None, "max_tokens").filter(|limit| *limit < host.config.tokens),
        _ => fields.count(None, "max_tokens").or_else(|| fields.count(None, "max_completion_tokens")),
    };
    let prompt_tokens = match host.config.card {
        // Long texts are not kept; a card's time depends on all of them.
        Some(_) => usize::try_from(length / 4).unwrap_or(usize::MAX).max(1),
        None => fields.prompt_tokens(&["prompt", "system", "messages", "input", "instructions"]),
    };
    let number = host.ledger.count();
    let include_usage = fields
        .get("stream_options")
        .and_then(|options| options.get("include_usage"))
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let dialect: Arc<dyn Dialect> = match path.as_str() {
        "/v1/chat/completions" => {
            let id = format!("chatcmpl-{number}");
            Arc::new(OpenAi { shape: OpenAiShape::Chat, id, model: name.clone(), include_usage })
        }
        "/v1/completions" => {
            let id = format!("cmpl-{number}");
            Arc::new(OpenAi { shape: OpenAiShape::Completion, id, model: name.clone(), include_usage })
        }
        "/v1/messages" => {
            let id = format!("msg_{number:024}");
            Arc::new(Messages { id, model: name.clone(), prompt_estimate: prompt_tokens })
        }
        "/v1/responses" => {
            let (id, item) = (format!("resp_{number}"), format!("msg_{number}"));
            Arc::new(Responses { id, item, model: name.clone() })
        }
        _ => Arc::new(Native { shape, model: name.clone() }),
    };
    let job = Box::new(Job {
        host: Arc::clone(host),
        control: Arc::clone(control),
        mark: record.mark(),
        path,
        model,
        dialect,
        stream: fields.flag("stream").unwrap_or(native),
        limit: limit.filter(|limit| *limit > 0).map(|limit| limit.min(TOKEN_LIMIT)),
        prompt_tokens,
        conversation: conversation(&fields),
        ticket: host.config.plan.as_ref().filter(|_| !only).and_then(|plan| plan.begin(&fields)),
        keep_alive,
        fault,
    });
    if only { Plan::Load(job, Native { shape, model: name }) } else { Plan::Generate(job) }
}

/// A conversation is known by its first message behind the instructions, which all may share.
fn conversation(fields: &Fields) -> u64 {
    let messages = fields.get("messages").and_then(Value::as_array);
    let opening = messages.and_then(|messages| {
        messages.iter().find(|message| message.get("role").and_then(Value::as_str) != Some("system"))
    });
    let mut hasher = DefaultHasher::new();
    opening.or_else(|| fields.get("prompt")).map(Value::to_string).hash(&mut hasher);
    hasher.finish()
}

fn can_complete(model: &DemoModel) -> bool {
    model.capabilities.iter().any(|capability| capability == "completion")
}
