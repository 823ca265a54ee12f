//! Whether a line or an event of a stream brings a token: something that the model said, thought, or calls a tool with.
//!
//! | dialect | brings a token | does not |
//! |---|---|---|
//! | Ollama's own | `response`, `thinking` or `content` that is not empty, `tool_calls` | the last object with its counts, an error |
//! | OpenAI, chat and completions | `content`, `text`, `reasoning`, `reasoning_content` or `refusal` that is not empty, `tool_calls` | the first chunk with nothing but a role, the one with `finish_reason`, the one with `usage` |
//! | OpenAI, Responses | `response.*.delta` with a `delta` that is not empty | `response.created`, `….added`, `….done`, `response.completed` |
//! | Anthropic | `content_block_delta` with `text`, `thinking` or `partial_json` that is not empty | `message_start`, `content_block_start`, `ping`, a signature, `message_delta` |
//!
//! Comments and empty lines bring nothing in any of them. The JSON is not parsed: keys are found by their colons. Inside a
//! string a quote has a backslash before it, so that what a model writes is not taken for a key.

use memchr::memrchr_iter;

/// Whether an event of this name is a piece of an answer; others of its API may repeat what the pieces said. `None` for a name
/// that says nothing.
pub(super) fn is_piece(event: &[u8]) -> Option<bool> {
    let known = [b"response.".as_slice(), b"message_", b"content_block_", b"ping"];
    let is_delta = event.ends_with(b"delta");
    (is_delta || known.iter().any(|begin| event.starts_with(begin))).then_some(is_delta)
}

/// Whether an object brings a token.
pub(super) fn brings_token(object: &[u8]) -> bool {
    // From the end: what a model says stands close to it.
    memrchr_iter(b':', object).any(|colon| {
        // Most keys are left behind by one look at what stands before the colon or behind it.
        let (before, after) = (&object[..colon], &object[colon + 1..]);
        let [.., last, b'"'] = before else { return false };
        match after {
            [b'"', b'"', ..] => false,
            [b'"', _, ..] => is_text(before, *last),
            [b'[', ..] => is_calls(before) && has_items(after),
            [b' ', ..] => match after.trim_ascii_start() {
                [b'"', first, ..] => *first != b'"' && is_text(before, *last),
                [b'[', rest @ ..] => is_calls(before) && has_items(rest),
                _ => false,
            },
            _ => false,
        }
    })
}

/// Whether the key that ends here, and whose last letter this is, is one whose string is text of the model.
fn is_text(before: &[u8], last: u8) -> bool {
    match last {
        b't' => ends(before, b"\"content\"") || ends(before, b"\"text\"") || ends(before, b"\"reasoning_content\""),
        b'e' => ends(before, b"\"response\""),
        b'g' => ends(before, b"\"thinking\"") || ends(before, b"\"reasoning\""),
        b'a' => ends(before, b"\"delta\""),
        b'n' => ends(before, b"\"partial_json\""),
        b'l' => ends(before, b"\"refusal\""),
        _ => false,
    }
}

/// Whether the key that ends here is the one whose list calls tools.
fn is_calls(before: &[u8]) -> bool {
    ends(before, b"\"tool_calls\"")
}

/// Whether a list that begins here is not empty.
fn has_items(list: &[u8]) -> bool {
    let inside = list.strip_prefix(b"[").unwrap_or(list).trim_ascii_start();
    inside.first().is_some_and(|first| *first != b']')
}

/// Whether this key ends here. A quote inside a string has a backslash before it: then it is text.
fn ends(before: &[u8], quoted_key: &[u8]) -> bool {
    before.strip_suffix(quoted_key).is_some_and(|rest| !rest.ends_with(b"\\"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ollama::usage::{UsageKind, UsageScan};

    /// How many of the lines bring a token, each given to a scan of its own kind in two pieces, wherever it is cut.
    fn count(kind: UsageKind, stream: &str) -> usize {
        let lines: Vec<&str> = stream.split_inclusive('\n').collect();
        let mut seen = None;
        for cut in 0..stream.len() {
            let mut scan = UsageScan::new(kind);
            let mut tokens = 0;
            for line in &lines {
                let (head, tail) = line.as_bytes().split_at(cut.min(line.len()));
                scan.push(head);
                let early = scan.takes_token();
                scan.push(tail);
                tokens += usize::from(early) + usize::from(scan.takes_token());
                assert!(!early || cut >= line.len(), "before its end: {line}");
            }
            assert_eq!(*seen.get_or_insert(tokens), tokens, "cut at {cut}");
        }
        seen.unwrap_or_default()
    }

    #[test]
    fn lines_of_ollama() {
        let stream = concat!(
            r#"{"model":"m:1","created_at":"2026-11-22T01:14:19Z","response":"Hel","done":false}"#,
            "\n",
            r#"{"model": "m:1", "response": "lo", "done": false}"#,
            "\r\n",
            r#"{"model":"m:1","response":"","thinking":"hm","done":false}"#,
            "\n\n",
            r#"{"model":"m:1","message":{"role":"assistant","content":": \"content\":"},"done":false}"#,
            "\n",
            r#"{"model":"m:1","message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f"}}]},"done":false}"#,
            "\n",
            r#"{"model":"m:1","response":"","done":false}"#,
            "\n",
            r#"{"model":"m:1","message":{"role":"assistant","content":"","tool_calls":[ ]},"done":false}"#,
            "\n",
            r#"{"status":"pulling manifest","total":7}"#,
            "\n",
            r#"{"error":"content \"response\":\"x\""}"#,
            "\n",
            r#"{"model":"m:1","response":"","done":true,"done_reason":"stop","context":[1,2],"eval_count":5}"#,
            "\n",
        );
        assert_eq!(count(UsageKind::Ndjson, stream), 5);
    }

    #[test]
    fn events_of_openai() {
        let stream = concat!(
            ": waiting\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"finish_reason\":null}]}\n\n",
            "data:{\"id\": \"c\", \"choices\": [{\"delta\": {\"content\": \"lo\"}}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\"}}]}}]}\n\n",
            "event: message\ndata: {\"choices\":[{\"delta\":{\"refusal\":\"no\"}}]}\n\n",
            "data: {\"id\":\"c\",\"object\":\"text_completion\",\"choices\":[{\"text\":\"Hel\",\"index\":0}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
            "data: [DONE]\n\n",
        );
        assert_eq!(count(UsageKind::Sse, stream), 6);
    }

    #[test]
    fn events_of_openai_that_repeat_what_was_said() {
        let stream = concat!(
            "event: response.created\ndata: {\"response\":{\"output\":[]},\"type\":\"response.created\"}\n\n",
            "event: response.output_text.delta\ndata: {\"delta\":\"Hel\",\"type\":\"response.output_text.delta\"}\n\n",
            "data: {\"type\":\"response.output_text.delta\",\"delta\":\"lo\"}\n\n",
            "event: response.output_text.done\ndata: {\"text\":\"Hello\",\"type\":\"response.output_text.done\"}\n\n",
            "data: {\"type\":\"response.output_text.done\",\"text\":\"Hello\"}\n\n",
            "event: response.completed\ndata: {\"response\":{\"output\":[{\"content\":[{\"text\":\"Hello\"}]}]}}\n\n",
        );
        assert_eq!(count(UsageKind::Sse, stream), 2);
    }

    #[test]
    fn events_of_anthropic() {
        let stream = concat!(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[]}}\n\n",
            "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hel\"}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"signature_delta\",\"signature\":\"x\"}}\n\n",
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        );
        assert_eq!(count(UsageKind::Sse, stream), 3);
    }

    #[test]
    fn an_answer_that_is_no_stream_brings_none() {
        let mut scan = UsageScan::new(UsageKind::Json);
        scan.push(br#"{"response":"Hello","done":true}"#);
        assert!(!scan.takes_token());
    }

    #[test]
    fn what_a_model_writes_is_no_key() {
        for text in [
            r#"{"role":"user","name":"\"content\":\"x\""}"#,
            r#"{"name":"a\\\"text\":\"b"}"#,
            r#"{"name":":\"response\":\"x\""}"#,
            r#"{"finish_reason":"content","model":"text:1"}"#,
            "",
            ":",
            "\":\"",
        ] {
            assert!(!brings_token(text.as_bytes()), "{text}");
        }
    }
}
