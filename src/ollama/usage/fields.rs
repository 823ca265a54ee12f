//! The fields of one line or event, found without parsing more of it than must be.

use std::time::Duration;

use memchr::memmem;
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
struct Native {
    #[serde(default)]
    done: Option<bool>,
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
pub(super) fn read_native(line: &[u8], cut: bool, usage: &mut Usage) {
    if begins_with_error(line) {
        if usage.error.is_none() {
            usage.error = error_message(line).or_else(|| Some(String::new()));
        }
        return;
    }
    let native = native(line, cut);
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

/// Whether a line of an NDJSON answer says that another one follows.
pub(super) fn goes_on(line: &[u8], cut: bool) -> bool {
    native(line, cut).done == Some(false)
}

fn native(line: &[u8], cut: bool) -> Native {
    if cut { find_native(line) } else { serde_json::from_slice(line).unwrap_or_default() }
}

/// The same from a line whose middle is missing, by searching for the keys.
fn find_native(line: &[u8]) -> Native {
    Native {
        done: value_of(line, "\"done\"").and_then(|value| value.as_bool()),
        done_reason: value_of(line, "\"done_reason\"").and_then(|value| value.as_str().map(str::to_owned)),
        prompt_eval_count: number_of(line, "\"prompt_eval_count\""),
        eval_count: number_of(line, "\"eval_count\""),
        total_duration: number_of(line, "\"total_duration\""),
        load_duration: number_of(line, "\"load_duration\""),
        prompt_eval_duration: number_of(line, "\"prompt_eval_duration\""),
        eval_duration: number_of(line, "\"eval_duration\""),
    }
}

fn number_of(line: &[u8], quoted_key: &str) -> Option<u64> {
    value_of(line, quoted_key)?.as_u64()
}

/// The value of the last such key, at any depth.
///
/// A search is enough: inside a JSON string every quote has a backslash before it, so a quoted key never matches
/// a piece of a longer text.
fn value_of(line: &[u8], quoted_key: &str) -> Option<Value> {
    let (_, after) = last_key(line, quoted_key)?;
    let mut values = serde_json::Deserializer::from_slice(after).into_iter::<Value>();
    values.next()?.ok()
}

/// Where the last such key stands, and what follows its colon.
fn last_key<'line>(line: &'line [u8], quoted_key: &str) -> Option<(usize, &'line [u8])> {
    let mut end = line.len();
    loop {
        let found = memmem::rfind(&line[..end], quoted_key.as_bytes())?;
        let after = line[found + quoted_key.len()..].trim_ascii_start();
        let escaped = found > 0 && line[found - 1] == b'\\';
        match after.strip_prefix(b":") {
            Some(value) if !escaped => return Some((found, value.trim_ascii_start())),
            _ => end = found,
        }
    }
}

/// `usage` of OpenAI (`prompt_tokens`, `completion_tokens`), of its Responses API and of Anthropic (`input_tokens`,
/// `output_tokens`).
#[derive(Deserialize)]
struct Tokens {
    #[serde(default, alias = "input_tokens")]
    prompt_tokens: Option<u64>,
    #[serde(default, alias = "output_tokens")]
    completion_tokens: Option<u64>,
}

/// Reads the last `usage` object of an event or a body; what it does not say stays as it was.
pub(super) fn read_usage_object(data: &[u8], usage: &mut Usage) {
    let mut data = data;
    while let Some((start, after)) = last_key(data, "\"usage\"") {
        let mut values = serde_json::Deserializer::from_slice(after).into_iter::<Tokens>();
        if after.starts_with(b"{")
            && let Some(Ok(tokens)) = values.next()
            && (tokens.prompt_tokens.is_some() || tokens.completion_tokens.is_some())
        {
            usage.prompt_eval_count = tokens.prompt_tokens.or(usage.prompt_eval_count);
            usage.eval_count = tokens.completion_tokens.or(usage.eval_count);
            return;
        }
        data = &data[..start];
    }
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
    memmem::find(&data[..data.len().min(NAMES_BYTES)], OF_NO_MODEL).is_some()
}

/// Whether an event is the last of its stream.
pub(super) fn is_last_event(data: &[u8]) -> bool {
    first_key_is(data, b"\"type\"").is_some_and(|kind| {
        [b"\"message_stop\"".as_slice(), b"\"response.completed\"", b"\"response.incomplete\""]
            .iter()
            .any(|word| kind.starts_with(word))
    })
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
