//! Each API's words.

use super::*;

#[tokio::test]
async fn unknown_models_are_missed_in_the_words_of_each_api() {
    let host = host(1).await;
    for (path, body, status, text) in [
        ("/api/generate", r#"{"model":"nope","prompt":"x"}"#, 404, r#"{"error":"model 'nope' not found"}"#),
        ("/api/chat", r#"{"model":"nope"}"#, 404, r#"{"error":"model 'nope' not found"}"#),
        ("/api/chat", "{}", 400, r#"{"error":"model is required"}"#),
        ("/api/chat", "", 400, r#"{"error":"missing request body"}"#),
        ("/api/chat", r#"{"model":}"#, 400, r#"{"error":"invalid character '}' looking for beginning of value"}"#),
        (
            "/api/chat",
            r#"{"model":"nomic-embed-text","messages":[{}]}"#,
            400,
            r#"{"error":"\"nomic-embed-text\" does not support chat"}"#,
        ),
        (
            "/api/embeddings",
            r#"{"model":"nope"}"#,
            404,
            r#"{"error":"model \"nope\" not found, try pulling it first"}"#,
        ),
        ("/api/delete", "", 405, "405 method not allowed"),
        (
            "/v1/chat/completions",
            r#"{"messages":[{"role":"user","content":"x"}],"model":"nope"}"#,
            404,
            "{\"error\":{\"message\":\"model 'nope' not found\",\"type\":\"not_found_error\",\"param\":null,\"code\":null}}\n",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"llava:13b"}"#,
            400,
            r#"{"error":{"message":"[] is too short - 'messages'","type":"invalid_request_error","param":null,"code":null}}"#,
        ),
        (
            "/v1/messages",
            r#"{"max_tokens":9,"messages":[{}],"model":"nope"}"#,
            404,
            "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"model 'nope' not found\"}}\n",
        ),
    ] {
        let answer = post(&host, path, body).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, text), "{path} {body}");
        assert!(answer.whole);
    }
}

#[tokio::test]
async fn openai_streams_end_in_usage_and_done() {
    let host = host(2).await;
    let body = r#"{"messages":[{"role":"user","content":"x"}],"model":"llava:13b","stream":true,"stream_options":{"include_usage":true}}"#;
    let answer = post(&host, "/v1/chat/completions", body).await;
    assert!(answer.head.contains("Content-Type: text/event-stream\r\n"));
    assert_eq!(answer.chunks.len(), 3);
    assert!(answer.chunks[1].starts_with("data: {\"id\":\"chatcmpl-"));
    let end = &answer.chunks[2];
    assert!(end.contains(r#""finish_reason":"stop""#) && end.contains(r#""choices":[],"usage":{"prompt_tokens":"#));
    assert!(end.ends_with("data: [DONE]\n\n"));
    let body = r#"{"messages":[{"role":"user","content":"x"}],"model":"llava:13b","max_tokens":5}"#;
    let whole = post(&host, "/v1/chat/completions", body).await;
    assert!(whole.head.contains("Content-Type: application/json\r\n"));
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "length");
    assert_eq!(whole.json()["usage"]["completion_tokens"], 5);
    let text = post(&host, "/v1/completions", r#"{"prompt":"x","model":"llava:13b"}"#).await;
    assert_eq!(text.json()["choices"][0]["text"], " the arriero");
}

#[tokio::test]
async fn anthropic_and_responses_streams_are_typed_events() {
    let host = host(2).await;
    let events = |answer: &Answer| -> Vec<String> {
        answer.text().lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
    };
    let body = r#"{"max_tokens":100,"messages":[{"role":"user","content":"x"}],"model":"llava:13b","stream":true}"#;
    let answer = post(&host, "/v1/messages", body).await;
    let delta = "content_block_delta";
    assert_eq!(
        events(&answer),
        ["message_start", "content_block_start", delta, delta, "content_block_stop", "message_delta", "message_stop"]
    );
    assert!(answer.whole);
    let whole = post(&host, "/v1/messages", &body.replace("true", "false")).await;
    assert_eq!(whole.json()["stop_reason"], "end_turn");
    let answer = post(&host, "/v1/responses", r#"{"input":"x","model":"llava:13b","stream":true}"#).await;
    assert_eq!(events(&answer).last().map(String::as_str), Some("response.completed"));
    let whole = post(&host, "/v1/responses", r#"{"input":"x","model":"llava:13b"}"#).await;
    assert_eq!(whole.json()["output"][0]["content"][0]["text"], " the arriero");
}

#[tokio::test]
async fn embeddings_come_in_three_forms() {
    let host = host(1).await;
    let native = post(&host, "/api/embed", r#"{"model":"nomic-embed-text","input":["a","b"]}"#).await;
    assert_eq!(native.json()["embeddings"].as_array().map(Vec::len), Some(2));
    assert!(native.head.contains("Transfer-Encoding: chunked"));
    let legacy = post(&host, "/api/embeddings", r#"{"model":"nomic-embed-text","prompt":"a"}"#).await;
    // The old call does not bring them to length one, and writes them as numbers of 64 bits.
    let numbers = |list: &serde_json::Value| -> Vec<f64> {
        list.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
    };
    let (raw, unit) = (numbers(&legacy.json()["embedding"]), numbers(&native.json()["embeddings"][0]));
    let length = raw.iter().map(|number| number * number).sum::<f64>().sqrt();
    assert!(length > 2.0 && raw.iter().zip(&unit).all(|(raw, unit)| (raw / length - unit).abs() < 1e-6));
    let body = r#"{"input":"a","model":"nomic-embed-text","encoding_format":"base64"}"#;
    let packed = post(&host, "/v1/embeddings", body).await;
    assert_eq!(packed.json()["data"][0]["embedding"].as_str().map(str::len), Some(768 * 4 / 3 * 4));
}

#[tokio::test]
async fn the_library_can_be_listed_and_changed() {
    let host = host(1).await;
    let tags = get(&host, "/api/tags").await;
    assert_eq!(tags.json()["models"][0]["name"], "llava:13b");
    assert_eq!(tags.json()["models"][0]["digest"].as_str().map(str::len), Some(64));
    let pull = post(&host, "/api/pull", r#"{"name":"mistral"}"#).await;
    assert_eq!(pull.chunks.last().map(String::as_str), Some("{\"status\":\"success\"}\n"));
    let copy = post(&host, "/api/copy", r#"{"source":"mistral","destination":"mine"}"#).await;
    assert_eq!((copy.status, copy.body.len()), (200, 0));
    assert_eq!(get(&host, "/v1/models/mine").await.json()["id"], "mine");
    let delete = receive(send(&host, "DELETE", "/api/delete", "", r#"{"model":"mine"}"#).await, false).await;
    assert_eq!((delete.status, delete.body.len()), (200, 0));
    let missing = get(&host, "/v1/models/mine").await;
    assert_eq!(missing.status, 404);
    assert_eq!(get(&host, "/v1/models").await.json()["data"].as_array().map(Vec::len), Some(3));
    let wrong = post(&host, "/api/blobs/sha256:00", "not json").await;
    assert!(wrong.status == 400 && wrong.text().contains("digest mismatch"));
}
