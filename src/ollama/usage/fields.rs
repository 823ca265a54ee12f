//! The fields of one line or event, found without parsing more of it than must be.

use std::sync::LazyLock;
use std::time::Duration;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;

use super::Usage;

/// How far into an event Ollama's names of the model and of itself stand, at most.
const NAMES_BYTES: usize = 256;
/// A chunk that Ollama made of nothing: every other one names its model.
const OF_NO_MODEL: &[u8] = b"\"model\":\"\",\"system_fingerprint\":\"fp_ollama\"";
/// The longest error message kept.
const MAX_MESSAGE_BYTES: usize = 512;

/// The final object of Ollama's own API (`api/types.go`, `Metrics`, `ChatResponse`).
#[derive(Default, Deserialize)]
pub(super) struct Native {
    #[serde(default)]
    pub(super) done: Option<bool>,
    #[serde(default)]
    done_reason: Option<String>,
    #[serde(default)]
    prompt_eval_count: Option<u64>,
    #[serde(default)]
    eval_count: Option<u64>,
    #[serde(default)]
    total_duration: Option<u64>,
    #[serde(default)]
    load_duration: Option<u64>,
    #[serde(default)]
    prompt_eval_duration: Option<u64>,
    #[serde(default)]
    eval_duration: Option<u64>,
}

/// Reads the last line of an NDJSON answer, or a whole JSON one.
pub(super) fn read_native(line: &[u8], native: Native, usage: &mut Usage) {
    if begins_with_error(line) {
        if usage.error.is_none() {
            usage.error = error_message(line).or_else(|| Some(String::new()));
        }
        return;
    }
    usage.ends_early = native.done == Some(false);
    usage.finished = native.done == Some(true);
    usage.done_reason = native.done_reason.filter(|reason| !reason.is_empty());
    usage.prompt_eval_count = native.prompt_eval_count;
    usage.eval_count = native.eval_count;
    usage.total_duration = native.total_duration.map(Duration::from_nanos);
    usage.load_duration = native.load_duration.map(Duration::from_nanos);
    usage.prompt_eval_duration = native.prompt_eval_duration.map(Duration::from_nanos);
    usage.eval_duration = native.eval_duration.map(Duration::from_nanos);
}

/// Whether an event speaks of usage at all.
pub(super) fn mentions_usage(data: &[u8]) -> bool {
    static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
    FINDER.find(data).is_some()
}

/// Whether an object's first key is `error` or its `type` says so (Anthropic, OpenAI's Responses).
pub(super) fn begins_with_error(data: &[u8]) -> bool {
    first_key_is(data, b"\"error\"").is_some()
        || first_key_is(data, b"\"type\"")
            .is_some_and(|kind| kind.starts_with(b"\"error\"") || kind.starts_with(b"\"response.failed\""))
}

/// Whether an event is what Ollama's layer for OpenAI's API makes of an error inside a stream (`middleware/openai.go`): it
/// takes every line for a piece of the answer, so that of an error nothing is left, not even the model.
pub(super) fn stands_for_error(data: &[u8]) -> bool {
    static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(OF_NO_MODEL));
    FINDER.find(&data[..data.len().min(NAMES_BYTES)]).is_some()
}

/// Whether an event is the last of its stream.
pub(super) fn is_last_event(data: &[u8]) -> bool {
    first_key_is(data, b"\"type\"").is_some_and(|kind| {
        [b"\"message_stop\"".as_slice(), b"\"response.completed\"", b"\"response.incomplete\""]
            .iter()
            .any(|word| kind.starts_with(word))
    })
}

/// The type of an event whose first key says it (Anthropic, OpenAI's Responses).
pub(super) fn event_type(data: &[u8]) -> Option<&[u8]> {
    let kind = first_key_is(data, b"\"type\"")?.strip_prefix(b"\"")?;
    kind.split(|byte| *byte == b'"').next()
}

/// What follows the colon of the first key, if it is this one.
fn first_key_is<'data>(data: &'data [u8], quoted_key: &[u8]) -> Option<&'data [u8]> {
    let inside = data.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    let after = inside.strip_prefix(quoted_key)?.trim_ascii_start();
    Some(after.strip_prefix(b":")?.trim_ascii_start())
}

/// The message of an error, whichever dialect it is in, cut to a length for a log.
pub(super) fn error_message(data: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(data).ok()?;
    let error = match value.get("error") {
        Some(error) => error,
        None => value.get("response")?.get("error")?,
    };
    let message = error.as_str().or_else(|| error.get("message")?.as_str())?;
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    Some(message[..end].to_owned())
}
