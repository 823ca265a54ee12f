//! Errors as each dialect writes them. A reply that the proxy makes itself (no such model, queue full, time out)
//! must look to the client's library like one of Ollama's.
//!
//! | dialect | paths | shape | source in Ollama |
//! |---|---|---|---|
//! | native | `/api/…` and all else | `{"error":"…"}` | `gin.H{"error": …}` in `server/routes.go` |
//! | OpenAI | `/v1/…` | `{"error":{"message","type","param","code"}}` | `openai.NewError` |
//! | Anthropic | `/v1/messages` | `{"type":"error","error":{"type","message"}}` | `anthropic.NewError` |
//!
//! Strings are escaped as Go's `encoding/json` escapes them (`<`, `>`, `&`, U+2028 and U+2029 too), so that a
//! body of ours is the body that Ollama would have sent, but for two things that no client reads: the newline
//! that Go's encoder writes behind the `/v1` ones, and Anthropic's `request_id`.

use super::endpoint::{Endpoint, Inference, Management};

/// Whose error bodies, and whose streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Ollama's own: `/api/…`; NDJSON streams.
    Native,
    /// OpenAI's: `/v1/…`; server-sent events.
    Openai,
    /// Anthropic's: `/v1/messages`; server-sent events with names.
    Anthropic,
}

impl Dialect {
    /// The dialect of any path, known or not.
    pub fn of_path(path: &str) -> Dialect {
        let under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if under("/v1/messages") {
            Dialect::Anthropic
        } else if under("/v1") {
            Dialect::Openai
        } else {
            Dialect::Native
        }
    }

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Native => "native",
            Dialect::Openai => "openai",
            Dialect::Anthropic => "anthropic",
        }
    }

    /// The Content-Type of an error body: gin writes the first, Ollama's `/v1` writers the second.
    pub fn error_content_type(self) -> &'static str {
        match self {
            Dialect::Native => "application/json; charset=utf-8",
            Dialect::Openai | Dialect::Anthropic => "application/json",
        }
    }
}

/// The body of an error reply.
pub fn error_body(dialect: Dialect, status: u16, message: &str) -> String {
    let mut body = String::with_capacity(message.len() + 96);
    match dialect {
        Dialect::Native => {
            body.push_str(r#"{"error":"#);
            push_json_string(&mut body, message);
            body.push('}');
        }
        Dialect::Openai => {
            body.push_str(r#"{"error":{"message":"#);
            push_json_string(&mut body, message);
            body.push_str(r#","type":""#);
            body.push_str(openai_type(status));
            body.push_str(r#"","param":null,"code":null}}"#);
        }
        Dialect::Anthropic => {
            body.push_str(r#"{"type":"error","error":{"type":""#);
            body.push_str(anthropic_type(status));
            body.push_str(r#"","message":"#);
            push_json_string(&mut body, message);
            body.push_str("}}");
        }
    }
    body
}

/// An error in the middle of a stream whose status, 200, has already gone: the last line or event of it.
///
/// Ollama does the first (`server/routes.go`, `streamResponse`) and, for Anthropic, the third; the second is
/// what vLLM and llama.cpp send and what OpenAI's libraries raise.
pub fn stream_error(dialect: Dialect, status: u16, message: &str) -> String {
    error_event(dialect, &error_body(dialect, status, message))
}

/// The same, of the body of an error reply that has one line.
pub fn error_event(dialect: Dialect, body: &str) -> String {
    match dialect {
        Dialect::Native => format!("{body}\n"),
        Dialect::Openai => format!("data: {body}\n\n"),
        Dialect::Anthropic => format!("event: error\ndata: {body}\n\n"),
    }
}

/// The reply to a model that no server has: 404, in the words of Ollama's handler for this call, with the name as
/// the client wrote it.
///
/// The words are those of Ollama 0.33's `server/routes.go`: `model 'x' not found` from most handlers (chat and
/// all of `/v1` that rides on it too; 0.9.3 still said `model "x" not found, try pulling it first` there); the
/// embedding calls answer through `handleScheduleError`, which keeps the older words; `/api/copy` has its own.
pub fn model_not_found(endpoint: &Endpoint<'_>, written: &str) -> (u16, String) {
    let message = match endpoint {
        Endpoint::Inference(Inference::Embed | Inference::Embeddings | Inference::OpenaiEmbeddings) => {
            format!("model {} not found, try pulling it first", go_quoted(written))
        }
        Endpoint::Management(Management::Copy) => format!("model {} not found", go_quoted(written)),
        _ => format!("model '{written}' not found"),
    };
    (404, error_body(endpoint.dialect(), 404, &message))
}

/// `openai.NewError` (`openai/openai.go`).
fn openai_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    }
}

/// `anthropic.NewError` (`anthropic/anthropic.go`).
fn anthropic_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

/// Appends a JSON string as Go's `json.Marshal` writes it.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => push_unicode_escape(out, letter),
            letter => out.push(letter),
        }
    }
    out.push('"');
}

fn push_unicode_escape(out: &mut String, letter: char) {
    out.push_str("\\u");
    let code = u32::from(letter);
    for shift in [12, 8, 4, 0] {
        out.extend(char::from_digit(code >> shift & 0xf, 16));
    }
}

/// Go's `%q` for the names we meet: quotes and backslashes escaped.
fn go_quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn each_path_has_its_dialect() {
        for (path, dialect) in [
            ("/api/chat", Dialect::Native),
            ("/", Dialect::Native),
            ("/v1/chat/completions", Dialect::Openai),
            ("/v1", Dialect::Openai),
            ("/v1/anything", Dialect::Openai),
            ("/v1beta", Dialect::Native),
            ("/v1/messages", Dialect::Anthropic),
            ("/v1/messages/count_tokens", Dialect::Anthropic),
            ("/v1/messagesx", Dialect::Openai),
        ] {
            assert_eq!(Dialect::of_path(path), dialect, "{path}");
        }
    }

    #[test]
    fn bodies_are_ollamas_to_the_byte() {
        assert_eq!(error_body(Dialect::Native, 404, "model 'x' not found"), r#"{"error":"model 'x' not found"}"#);
        assert_eq!(
            error_body(Dialect::Openai, 404, "model \"x\" not found"),
            r#"{"error":{"message":"model \"x\" not found","type":"not_found_error","param":null,"code":null}}"#
        );
        assert_eq!(
            error_body(Dialect::Anthropic, 503, "busy"),
            r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#
        );
        assert_eq!(stream_error(Dialect::Native, 500, "x"), "{\"error\":\"x\"}\n");
        assert!(stream_error(Dialect::Openai, 500, "x").starts_with("data: {\"error\":{"));
        assert!(stream_error(Dialect::Anthropic, 500, "x").starts_with("event: error\ndata: {\"type\":\"error\""));
    }

    #[test]
    fn types_follow_the_status() {
        let of = |dialect, status| error_body(dialect, status, "");
        for (status, word) in
            [(400, "invalid_request_error"), (404, "not_found_error"), (429, "api_error"), (503, "api_error")]
        {
            assert!(of(Dialect::Openai, status).contains(&format!("\"type\":\"{word}\"")), "{status}");
        }
        for (status, word) in [
            (401, "authentication_error"),
            (403, "permission_error"),
            (429, "rate_limit_error"),
            (529, "overloaded_error"),
            (504, "api_error"),
        ] {
            assert!(of(Dialect::Anthropic, status).contains(&format!("{{\"type\":\"{word}\"")), "{status}");
        }
    }

    #[test]
    fn any_message_is_valid_json_and_escaped_as_go_escapes() {
        let nasty = "a\"b\\c\n\r\t\u{8}\u{c}\0\u{1f}<script>&\u{2028}\u{1f999}\u{7f}";
        for dialect in [Dialect::Native, Dialect::Openai, Dialect::Anthropic] {
            let body = error_body(dialect, 500, nasty);
            let value: Value = serde_json::from_str(&body).expect("JSON");
            let message = match dialect {
                Dialect::Native => &value["error"],
                _ => &value["error"]["message"],
            };
            assert_eq!(message, nasty);
        }
        assert_eq!(
            error_body(Dialect::Native, 500, "<&>\u{2028}\u{1}"),
            r#"{"error":"\u003c\u0026\u003e\u2028\u0001"}"#
        );
    }

    #[test]
    fn a_missing_model_is_said_in_each_handlers_words() {
        let say = |endpoint| model_not_found(&endpoint, "no\"pe").1;
        assert_eq!(say(Endpoint::Inference(Inference::Chat)), r#"{"error":"model 'no\"pe' not found"}"#);
        assert_eq!(
            say(Endpoint::Inference(Inference::Embed)),
            r#"{"error":"model \"no\\\"pe\" not found, try pulling it first"}"#
        );
        assert_eq!(say(Endpoint::Management(Management::Copy)), r#"{"error":"model \"no\\\"pe\" not found"}"#);
        assert!(say(Endpoint::Inference(Inference::AnthropicMessages)).contains("not_found_error"));
        assert!(say(Endpoint::Inference(Inference::OpenaiChat)).contains("\"param\":null"));
    }
}
