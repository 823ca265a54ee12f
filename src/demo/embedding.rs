//! Embeddings, in the native, the legacy and the OpenAI form.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::gpu::Load;
use super::keep_alive::{self, KeepAlive};
use super::reply::{self, Reply};
use super::router::Exchange;
use super::times::nanoseconds;
use crate::clock;
use crate::ollama::embeddings::{push_double, push_single};

#[derive(Serialize)]
struct Embedded<'a> {
    model: &'a str,
    embeddings: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_count: Option<usize>,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Item>,
    model: &'a str,
    usage: Counts,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    embedding: Box<RawValue>,
    index: usize,
}

#[derive(Serialize)]
struct Counts {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct Legacy {
    embedding: Box<RawValue>,
}

/// Answers `/api/embed`, `/api/embeddings` and `/v1/embeddings`.
pub(super) async fn answer(exchange: Exchange<'_>) -> Reply {
    let Exchange { host, record, path, fields, length, .. } = exchange;
    let began = clock::now();
    let name = fields.text_or_empty("model");
    let legacy = path == "/api/embeddings";
    if legacy && name.is_empty() {
        return reply::error(&path, 400, "model is required");
    }
    let inputs = match fields.get(if legacy { "prompt" } else { "input" }) {
        None if path == "/v1/embeddings" => return reply::body_error(&path, "invalid input"),
        Some(Value::Array(items)) if items.is_empty() && path == "/v1/embeddings" => {
            return reply::body_error(&path, "invalid input");
        }
        None => Vec::new(),
        Some(Value::String(text)) if text.is_empty() && path == "/v1/embeddings" => vec![""],
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::String(text)) => vec![text.as_str()],
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect()
        }
        Some(_) => return reply::error(&path, 400, "invalid input type"),
    };
    let Some(model) = host.model(name) else {
        // Both handlers answer through handleScheduleError, which keeps the older words.
        let message = format!("model {name:?} not found, try pulling it first");
        return reply::error(&path, 404, &message);
    };
    let keep_alive = match fields.get("keep_alive").map(keep_alive::parse) {
        None => KeepAlive::For(host.config.keep_alive),
        Some(Ok(keep_alive)) => keep_alive,
        Some(Err(message)) => return reply::body_error(&path, &message),
    };
    let Ok(lease) = host.scheduler().acquire(&model, keep_alive).await else {
        return reply::error(&path, 503, reply::BUSY);
    };
    record.mark().slot();
    let prompt = usize::try_from(length / 4).unwrap_or(usize::MAX);
    if let Some(work) = lease.work(model.size, Load { prompt, answer: 0, conversation: host.ledger.count() as u64 }) {
        work.first_token().await;
    } else if !host.config.prompt_delay.is_zero() {
        tokio::time::sleep(host.config.prompt_delay).await;
    }
    host.token_gate.pass().await;
    record.mark().token();
    record.mark().update(|entry| entry.inputs += inputs.len());
    let length = host.config.embedding_length;
    let raw = inputs.iter().map(|text| raw_vector(&format!("{}{text}", model.digest), length));
    let dimensions = fields.get("dimensions").and_then(Value::as_u64).and_then(|wanted| usize::try_from(wanted).ok());
    let short = dimensions.filter(|wanted| (1..length).contains(wanted)).unwrap_or(length);
    if legacy {
        let first = raw.into_iter().next().unwrap_or_default();
        return reply::json(
            200,
            &Legacy { embedding: list(&first, |out, number| push_double(out, f64::from(number))) },
        );
    }
    let vectors: Vec<Vec<f32>> = raw.map(|vector| normalized(&normalized(&vector)[..short])).collect();
    let tokens: usize = inputs.iter().map(|text| text.len().div_ceil(4)).sum();
    match path.as_str() {
        "/v1/embeddings" => {
            let packed = fields.text_or_empty("encoding_format").eq_ignore_ascii_case("base64");
            let item = |(index, vector): (usize, Vec<f32>)| Item {
                object: "embedding",
                embedding: if packed { json(format!("\"{}\"", base64(&vector))) } else { list(&vector, push_single) },
                index,
            };
            let data = vectors.into_iter().enumerate().map(item).collect();
            let usage = Counts { prompt_tokens: tokens, total_tokens: tokens };
            reply::json_line(200, &List { object: "list", data, model: name, usage })
        }
        _ => {
            let some = !vectors.is_empty();
            let total = clock::now().saturating_duration_since(began);
            reply::json(
                200,
                &Embedded {
                    model: name,
                    embeddings: vectors.iter().map(|vector| list(vector, push_single)).collect(),
                    total_duration: some.then(|| nanoseconds(total)),
                    load_duration: some.then(|| nanoseconds(lease.waited)),
                    prompt_eval_count: some.then_some(tokens),
                },
            )
        }
    }
}

/// A vector that depends on the text only.
fn raw_vector(text: &str, length: usize) -> Vec<f32> {
    let mut state = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(i16::from_be_bytes([state.to_be_bytes()[0], state.to_be_bytes()[1]])) / 32_768.0
        })
        .collect()
}

/// The same direction with length one.
fn normalized(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    vector.iter().map(|value| value / norm).collect()
}

/// Numbers as Go writes them.
fn list(vector: &[f32], push: impl Fn(&mut String, f32)) -> Box<RawValue> {
    let mut text = String::from("[");
    for (place, number) in vector.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        push(&mut text, *number);
    }
    text.push(']');
    json(text)
}

fn json(text: String) -> Box<RawValue> {
    // It is JSON.
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Little-endian floats in standard base64.
fn base64(vector: &[f32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - group.len()));
        for position in 0..4_usize {
            let digit = (word >> (18 - 6 * position)) & 63;
            let known = position <= group.len();
            let letter = ALPHABET.get(digit as usize).filter(|_| known).copied().unwrap_or(b'=');
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_stable_and_of_length_one() {
        let one = normalized(&raw_vector("mule", 8));
        assert_eq!(one, normalized(&raw_vector("mule", 8)));
        assert_ne!(one, normalized(&raw_vector("llama", 8)));
        let norm: f32 = one.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }

    #[test]
    fn floats_are_packed_as_clients_unpack_them() {
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.0, 0.5]), "AACAPwAAAMAAAAA/");
    }
}
