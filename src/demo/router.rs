//! One request from its head to its handler: ledger, access, faults, body, endpoint.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, ORIGIN, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Version};
use hyper::body::Incoming;

use super::access;
use super::faults::Fault;
use super::fields::{BadBody, Fields};
use super::ledger::{Entry, Framing, Record};
use super::lifecycle::Shared;
use super::reply::{self, Reply};
use super::wire::{Control, Ending};
use super::{embedding, inference, intake, library};
use crate::clock;

/// An answer that no HTTP parser accepts.
const GARBAGE: &[u8] = b"\x16\x03\x01 this is not HTTP at all\r\n\r\n";

/// What the handlers share about a request.
pub(super) struct Exchange<'a> {
    pub(super) host: &'a Arc<Shared>,
    pub(super) control: &'a Arc<Control>,
    pub(super) record: &'a Record,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) fields: Fields,
    /// Bytes of the body.
    pub(super) length: u64,
    /// Hex SHA-256 of the body, for blobs.
    pub(super) sha256: Option<String>,
    /// A fault for the handler to act out.
    pub(super) fault: Option<Fault>,
}

/// Answers one request, or never does, if that is its fault.
pub(super) async fn answer(host: Arc<Shared>, control: Arc<Control>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let record = host.ledger.begin(Arc::clone(&control), || entry(&head, control.id));
    let headless = head.method == Method::HEAD;
    let reply = handle(&host, &control, &record, &head, body).await;
    let status = reply.status().as_u16();
    record.update(|entry| entry.status = Some(status));
    reply.map(|body| body.with_record(record, headless))
}

async fn handle(host: &Arc<Shared>, control: &Arc<Control>, record: &Record, head: &Parts, body: Incoming) -> Reply {
    let path = head.uri.path().to_owned();
    match host.faults.early(&path) {
        Some(Fault::ResetBeforeBody) => {
            control.end_now(Ending::Reset);
            return never().await;
        }
        Some(_) => return never().await,
        None => {}
    }
    if host.config.check_host
        && let Some(refusal) = access::refuse(head)
    {
        return refusal;
    }
    let Some(allowed) = methods(&path) else {
        return reply::plain(404, "404 page not found");
    };
    if !allowed.contains(&head.method.as_str()) {
        let mut refusal = reply::plain(405, "405 method not allowed");
        if let Ok(allow) = HeaderValue::from_str(&allowed.join(", ")) {
            refusal.headers_mut().insert("allow", allow);
        }
        return refusal;
    }
    let outlined = !path.starts_with("/api/blobs/");
    let Some(body) = intake::read(body, record, host.ledger.is_recording(), outlined).await else {
        // The client broke off. Hyper would wait for an answer before it lets go of the connection.
        control.hang_up();
        return never().await;
    };
    let decoded = Fields::decode(&body.outline);
    let model = named_model(&path, decoded.as_ref().ok());
    record.update(|entry| entry.model.clone_from(&model));
    let fault = host.faults.late(&path, model.as_deref());
    if let Some(reply) = act_out(control, &path, model.as_deref(), fault.as_ref()).await {
        return reply;
    }
    let fields = match decoded {
        Ok(fields) => fields,
        Err(_) if head.method != Method::POST && head.method != Method::DELETE || !outlined => Fields::default(),
        Err(BadBody::Missing) if path.starts_with("/v1/") => return reply::body_error(&path, "EOF"),
        Err(BadBody::Missing) => return reply::body_error(&path, "missing request body"),
        Err(BadBody::Wrong(message)) => return reply::body_error(&path, &message),
    };
    let huge = match fault {
        Some(Fault::HugeHeader(length)) => HeaderValue::from_str(&"a".repeat(length)).ok(),
        _ => None,
    };
    let method = head.method.clone();
    let (length, sha256) = (body.length, body.sha256);
    let exchange = Exchange { host, control, record, method, path, fields, length, sha256, fault };
    let mut reply = dispatch(exchange).await;
    access::allow_origin(head.headers.get(ORIGIN), &mut reply);
    if let Some(value) = huge {
        reply.headers_mut().insert("x-huge", value);
    }
    reply
}

/// Acts out a fault that needs no handler. None: go on.
async fn act_out(control: &Control, path: &str, model: Option<&str>, fault: Option<&Fault>) -> Option<Reply> {
    match fault? {
        Fault::Hang => never().await,
        Fault::ResetBeforeHeaders => {
            control.end_now(Ending::Reset);
            never().await
        }
        Fault::CloseBeforeHeaders => {
            control.end_now(Ending::Close);
            never().await
        }
        Fault::Garbage => {
            control.inject_and_close(bytes::Bytes::from_static(GARBAGE));
            never().await
        }
        Fault::RunnerCrash => Some(reply::error(path, 500, "llama runner process has terminated: exit status 2")),
        Fault::Busy => Some(reply::error(path, 503, reply::BUSY)),
        Fault::ModelNotFound => {
            Some(reply::error(path, 404, &format!("model '{}' not found", model.unwrap_or_default())))
        }
        Fault::Status(status, message) => Some(reply::error(path, *status, message)),
        Fault::Delay(delay) => {
            tokio::time::sleep(*delay).await;
            None
        }
        _ => None,
    }
}

async fn dispatch(exchange: Exchange<'_>) -> Reply {
    let path = exchange.path.clone();
    match path.as_str() {
        "/" => reply::text(200, "Ollama is running"),
        "/api/generate"
        | "/api/chat"
        | "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/messages"
        | "/v1/responses" => inference::answer(exchange).await,
        "/api/embed" | "/api/embeddings" | "/v1/embeddings" => embedding::answer(exchange).await,
        _ => library::answer(exchange).await,
    }
}

/// The methods of a path; None if Ollama does not know it.
fn methods(path: &str) -> Option<&'static [&'static str]> {
    Some(match path {
        "/" | "/api/version" | "/api/tags" => &["GET", "HEAD"],
        "/api/status" | "/api/ps" | "/v1/models" => &["GET"],
        "/api/delete" => &["DELETE"],
        "/api/show" | "/api/pull" | "/api/copy" => &["POST"],
        _ if super::faults::is_inference(path) => &["POST"],
        _ if path.starts_with("/v1/models/") => &["GET"],
        _ if path.starts_with("/api/blobs/") => &["HEAD", "POST"],
        _ => return None,
    })
}

/// The model a request is about, as sent.
fn named_model(path: &str, fields: Option<&Fields>) -> Option<String> {
    if let Some(name) = path.strip_prefix("/v1/models/") {
        return Some(name.to_owned());
    }
    let fields = fields?;
    ["model", "name", "source"]
        .iter()
        .map(|key| fields.text_or_empty(key))
        .find(|name| !name.is_empty())
        .map(str::to_owned)
}

fn entry(head: &Parts, connection: u64) -> Entry {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let framing = match length {
        Some(length) => Framing::ContentLength(length),
        None if head.headers.contains_key(TRANSFER_ENCODING) => Framing::Chunked,
        None if head.version == Version::HTTP_2 => Framing::Frames,
        None => Framing::None,
    };
    Entry {
        index: 0,
        request_id: head.headers.get("x-request-id").map(text),
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string),
        model: None,
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body_bytes: 0,
        body_sha256: None,
        framing,
        started: clock::now(),
        slot_at: None,
        finished: None,
        http_version: format!("{:?}", head.version),
        status: None,
        tokens: 0,
        inputs: 0,
        connection,
    }
}

async fn never<T>() -> T {
    std::future::pending().await
}
