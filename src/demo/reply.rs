//! Answers with the headers and the JSON that gin and Go make: Content-Type, then Date, then what
//! hyper adds (Content-Length or Transfer-Encoding).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::body::ReplyBody;
use super::times;
use crate::clock;

/// An answer, not yet sent.
pub(super) type Reply = Response<ReplyBody>;

/// What a full pending queue says.
pub(super) const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// What a request says whose runner died.
pub(super) const RUNNER_GONE: &str = "an error was encountered while running the model: unexpected EOF";

/// JSON as Go marshals it: `<`, `>` and `&` are escaped.
pub(super) fn go_json(value: &impl Serialize) -> Vec<u8> {
    // Only maps with odd keys can fail to serialize, and there are none here.
    let plain = serde_json::to_vec(value).unwrap_or_default();
    if !plain.iter().any(|byte| matches!(byte, b'<' | b'>' | b'&')) {
        return plain;
    }
    let mut escaped = Vec::with_capacity(plain.len() + 16);
    for byte in plain {
        match byte {
            b'<' => escaped.extend_from_slice(b"\\u003c"),
            b'>' => escaped.extend_from_slice(b"\\u003e"),
            b'&' => escaped.extend_from_slice(b"\\u0026"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// One line of NDJSON.
pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut bytes = go_json(value);
    bytes.push(b'\n');
    bytes.into()
}

/// gin's `c.JSON`.
pub(super) fn json(status: u16, value: &impl Serialize) -> Reply {
    with_type(status, "application/json; charset=utf-8", ReplyBody::whole(go_json(value)))
}

/// What the `/v1` middlewares write: a bare content type, and a newline at the end.
pub(super) fn json_line(status: u16, value: &impl Serialize) -> Reply {
    with_type(status, "application/json", ReplyBody::whole(line(value)))
}

/// gin's `c.String`.
pub(super) fn text(status: u16, text: &'static str) -> Reply {
    with_type(status, "text/plain; charset=utf-8", ReplyBody::whole(text))
}

/// What gin itself says about a path or a method it does not know.
pub(super) fn plain(status: u16, text: &'static str) -> Reply {
    with_type(status, "text/plain", ReplyBody::whole(text))
}

/// A status and nothing else.
pub(super) fn empty(status: u16) -> Reply {
    build(status, None, ReplyBody::whole(""))
}

/// An answer of a content type.
pub(super) fn with_type(status: u16, content_type: &'static str, body: ReplyBody) -> Reply {
    build(status, Some(content_type), body)
}

fn build(status: u16, content_type: Option<&'static str>, body: ReplyBody) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(content_type) = content_type {
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Ok(date) = HeaderValue::from_str(&times::http_date(clock::unix_time())) {
        reply.headers_mut().insert(DATE, date);
    }
    reply
}

/// An error in the dialect of a path, from a handler.
pub(super) fn error(path: &str, status: u16, message: &str) -> Reply {
    if path == "/v1/messages" {
        json_line(status, &anthropic_error(status, message))
    } else if path.starts_with("/v1/") {
        json_line(status, &openai_error(status, message))
    } else {
        json(status, &json!({ "error": message }))
    }
}

/// An error in the dialect of a path, from the middleware that reads the body.
pub(super) fn body_error(path: &str, message: &str) -> Reply {
    if path == "/v1/messages" {
        json(400, &anthropic_error(400, message))
    } else if path.starts_with("/v1/") {
        json(400, &openai_error(400, message))
    } else {
        json(400, &json!({ "error": message }))
    }
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<()>,
    code: Option<()>,
}

fn openai_error(status: u16, message: &str) -> impl Serialize {
    #[derive(Serialize)]
    struct Envelope<'a> {
        error: OpenAiError<'a>,
    }
    let r#type = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    };
    Envelope { error: OpenAiError { message, r#type, param: None, code: None } }
}

/// Anthropic's error object, also sent inside a stream.
pub(super) fn anthropic_error(status: u16, message: &str) -> impl Serialize {
    #[derive(Serialize)]
    struct Inner<'a> {
        r#type: &'static str,
        message: &'a str,
    }
    #[derive(Serialize)]
    struct Envelope<'a> {
        r#type: &'static str,
        error: Inner<'a>,
    }
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    };
    Envelope { r#type: "error", error: Inner { r#type: kind, message } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_as_go_escapes_it() {
        assert_eq!(go_json(&json!({ "a": "<&>é" })), "{\"a\":\"\\u003c\\u0026\\u003eé\"}".as_bytes());
    }
}
