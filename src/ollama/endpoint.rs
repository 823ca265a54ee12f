//! What a method and a path mean: Ollama's API and its two compatible ones, as `server/routes.go` of Ollama
//! (0.33, `GenerateRoutes`) registers them. The path given here is the canonical one (the guard has decoded it
//! and refused what does not decode cleanly); the match is exact and case-sensitive, as gin's is.
//!
//! One departure: gin's `:model` in `/v1/models/:model` ends at a slash; llama.cpp's and vLLM's ids hold slashes,
//! so here the rest of the path is the name.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use http::Method;

use super::dialect::Dialect;
use super::scan::Want;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint<'path> {
    /// Runs a model: goes to a server that has it, takes a slot.
    Inference(Inference),
    /// `POST /api/show`: metadata, from any server that has the model.
    Show,
    /// `GET /api/tags`: merged over the fleet.
    Tags,
    /// `GET /api/ps`: merged over the fleet.
    Ps,
    /// `GET /api/version`.
    Version,
    /// `GET /api/status`: whether Ollama's cloud is on.
    Status,
    /// `GET /`: "Ollama is running".
    Root,
    /// `GET /v1/models`: merged over the fleet.
    OpenaiModels,
    /// `GET /v1/models/NAME`: the name, percent-decoded; it may hold `/` and `:`.
    OpenaiModel(Cow<'path, str>),
    /// Changes a server or an account: refused unless the route and the key allow it.
    Management(Management),
    /// Not a path of any of the three APIs.
    Unknown,
    /// A known path with another method: the value of `Allow`.
    WrongMethod(&'static str),
}

/// The calls that run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inference {
    /// `POST /api/generate`.
    Generate,
    /// `POST /api/chat`.
    Chat,
    /// `POST /api/embed`.
    Embed,
    /// `POST /api/embeddings`, the old form of `embed`.
    Embeddings,
    /// `POST /v1/chat/completions`.
    OpenaiChat,
    /// `POST /v1/completions`.
    OpenaiCompletions,
    /// `POST /v1/embeddings`.
    OpenaiEmbeddings,
    /// `POST /v1/responses`.
    OpenaiResponses,
    /// `POST /v1/images/generations`.
    OpenaiImageGenerations,
    /// `POST /v1/images/edits`.
    OpenaiImageEdits,
    /// `POST /v1/audio/transcriptions`: a multipart form.
    OpenaiTranscriptions,
    /// `POST /v1/messages`.
    AnthropicMessages,
}

/// The calls that change a server or an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Management {
    /// `POST /api/pull`.
    Pull,
    /// `POST /api/push`.
    Push,
    /// `POST /api/create`.
    Create,
    /// `POST /api/copy`.
    Copy,
    /// `DELETE /api/delete`.
    Delete,
    /// `HEAD` and `POST /api/blobs/DIGEST`: must go to the server of the `create` that follows.
    Blob,
    /// `POST /api/me`.
    Account,
    /// `POST /api/signout` and `DELETE /api/user/keys/KEY`.
    Signout,
    /// `/api/experimental/…`: web search and fetch with the owner's account.
    Experimental,
    /// `/debug/…`: Go's profiler, where it is linked in.
    Debug,
}

/// Where the model's name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The call is for no model.
    None,
    /// The body's `model`.
    Json,
    /// The body's `model`, or its `name`.
    JsonNameFallback,
    /// The body's `source`.
    JsonSource,
    /// The body's `model`, or its `name`; other models stand beside it.
    JsonCreate,
    /// The form's `model`.
    Multipart,
    /// The path.
    Path,
}

impl ModelSource {
    /// What to ask of a [`super::ModelScan`], where the body is JSON.
    pub fn want(self) -> Option<Want> {
        match self {
            ModelSource::Json => Some(Want::ModelOnly),
            ModelSource::JsonNameFallback => Some(Want::Model),
            ModelSource::JsonSource => Some(Want::Source),
            ModelSource::JsonCreate => Some(Want::Create),
            ModelSource::None | ModelSource::Multipart | ModelSource::Path => None,
        }
    }
}

/// Reads a method and a canonical path.
pub fn classify<'path>(method: &Method, path: &'path str) -> Endpoint<'path> {
    use Endpoint as E;
    use Inference as I;
    use Management as M;

    let (endpoint, allow) = match path {
        "/" => (E::Root, "GET, HEAD"),
        "/api/generate" => (E::Inference(I::Generate), "POST"),
        "/api/chat" => (E::Inference(I::Chat), "POST"),
        "/api/embed" => (E::Inference(I::Embed), "POST"),
        "/api/embeddings" => (E::Inference(I::Embeddings), "POST"),
        "/v1/chat/completions" => (E::Inference(I::OpenaiChat), "POST"),
        "/v1/completions" => (E::Inference(I::OpenaiCompletions), "POST"),
        "/v1/embeddings" => (E::Inference(I::OpenaiEmbeddings), "POST"),
        "/v1/responses" => (E::Inference(I::OpenaiResponses), "POST"),
        "/v1/images/generations" => (E::Inference(I::OpenaiImageGenerations), "POST"),
        "/v1/images/edits" => (E::Inference(I::OpenaiImageEdits), "POST"),
        "/v1/audio/transcriptions" => (E::Inference(I::OpenaiTranscriptions), "POST"),
        "/v1/messages" => (E::Inference(I::AnthropicMessages), "POST"),
        "/api/show" => (E::Show, "POST"),
        "/api/tags" => (E::Tags, "GET, HEAD"),
        "/api/ps" => (E::Ps, "GET"),
        "/api/version" => (E::Version, "GET, HEAD"),
        "/api/status" => (E::Status, "GET"),
        "/v1/models" => (E::OpenaiModels, "GET"),
        "/api/pull" => (E::Management(M::Pull), "POST"),
        "/api/push" => (E::Management(M::Push), "POST"),
        "/api/create" => (E::Management(M::Create), "POST"),
        "/api/copy" => (E::Management(M::Copy), "POST"),
        "/api/delete" => (E::Management(M::Delete), "DELETE"),
        "/api/me" => (E::Management(M::Account), "POST"),
        "/api/signout" => (E::Management(M::Signout), "POST"),
        _ => match classify_prefix(path) {
            Some(found) => found,
            None => return E::Unknown,
        },
    };
    if allow.is_empty() || allow.split(", ").any(|allowed| allowed == method.as_str()) {
        endpoint
    } else {
        E::WrongMethod(allow)
    }
}

/// The paths with a parameter at their end. An empty `allow` is any method.
fn classify_prefix(path: &str) -> Option<(Endpoint<'_>, &'static str)> {
    let rest = |prefix: &str| path.strip_prefix(prefix).filter(|rest| !rest.is_empty());
    if let Some(name) = rest("/v1/models/") {
        return Some((Endpoint::OpenaiModel(percent_decode(name)?), "GET"));
    }
    let management = |verb| Endpoint::Management(verb);
    if rest("/api/blobs/").is_some_and(|digest| !digest.contains('/')) {
        return Some((management(Management::Blob), "HEAD, POST"));
    }
    if rest("/api/user/keys/").is_some_and(|key| !key.contains('/')) {
        return Some((management(Management::Signout), "DELETE"));
    }
    if path.starts_with("/api/experimental/") {
        return Some((management(Management::Experimental), ""));
    }
    if path.starts_with("/debug/") {
        return Some((management(Management::Debug), ""));
    }
    None
}

/// RFC 3986, 2.1. `None` for a broken escape and for bytes that are not UTF-8.
fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            decoded.push(digit(bytes.get(at + 1))? << 4 | digit(bytes.get(at + 2))?);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

impl Endpoint<'_> {
    /// Whose errors to write. For [`Endpoint::Unknown`] and [`Endpoint::WrongMethod`] ask [`Dialect::of_path`].
    pub fn dialect(&self) -> Dialect {
        match self {
            Endpoint::Inference(inference) => inference.dialect(),
            Endpoint::OpenaiModels | Endpoint::OpenaiModel(_) => Dialect::Openai,
            _ => Dialect::Native,
        }
    }

    /// Whether the answer streams when the body has no `stream`.
    pub fn default_stream(&self) -> bool {
        match self {
            Endpoint::Inference(inference) => matches!(inference, Inference::Generate | Inference::Chat),
            Endpoint::Management(verb) => {
                matches!(verb, Management::Pull | Management::Push | Management::Create)
            }
            _ => false,
        }
    }

    /// Where the model's name stands.
    pub fn want_model(&self) -> ModelSource {
        match self {
            Endpoint::Inference(Inference::OpenaiTranscriptions) => ModelSource::Multipart,
            Endpoint::Inference(_) => ModelSource::Json,
            Endpoint::Show => ModelSource::JsonNameFallback,
            Endpoint::OpenaiModel(_) => ModelSource::Path,
            Endpoint::Management(verb) => match verb {
                Management::Pull | Management::Push | Management::Delete => ModelSource::JsonNameFallback,
                Management::Create => ModelSource::JsonCreate,
                Management::Copy => ModelSource::JsonSource,
                _ => ModelSource::None,
            },
            _ => ModelSource::None,
        }
    }

    /// A word from a closed list, for labels: a path with a parameter is one word whatever the parameter.
    pub fn label(&self) -> &'static str {
        match self {
            Endpoint::Inference(inference) => inference.path(),
            Endpoint::Show => "/api/show",
            Endpoint::Tags => "/api/tags",
            Endpoint::Ps => "/api/ps",
            Endpoint::Version => "/api/version",
            Endpoint::Status => "/api/status",
            Endpoint::Root => "/",
            Endpoint::OpenaiModels => "/v1/models",
            Endpoint::OpenaiModel(_) => "/v1/models/{model}",
            Endpoint::Management(verb) => verb.label(),
            Endpoint::Unknown => "unknown",
            Endpoint::WrongMethod(_) => "wrong_method",
        }
    }
}

impl Inference {
    /// The path of this call.
    pub fn path(self) -> &'static str {
        match self {
            Inference::Generate => "/api/generate",
            Inference::Chat => "/api/chat",
            Inference::Embed => "/api/embed",
            Inference::Embeddings => "/api/embeddings",
            Inference::OpenaiChat => "/v1/chat/completions",
            Inference::OpenaiCompletions => "/v1/completions",
            Inference::OpenaiEmbeddings => "/v1/embeddings",
            Inference::OpenaiResponses => "/v1/responses",
            Inference::OpenaiImageGenerations => "/v1/images/generations",
            Inference::OpenaiImageEdits => "/v1/images/edits",
            Inference::OpenaiTranscriptions => "/v1/audio/transcriptions",
            Inference::AnthropicMessages => "/v1/messages",
        }
    }

    /// Whether its answer, where the body asks for a stream, is one of server-sent events.
    pub fn streams_events(self) -> bool {
        matches!(
            self,
            Inference::OpenaiChat
                | Inference::OpenaiCompletions
                | Inference::OpenaiResponses
                | Inference::AnthropicMessages
        )
    }

    /// Whose dialect this call speaks.
    pub fn dialect(self) -> Dialect {
        Dialect::of_path(self.path())
    }
}

impl Management {
    /// A word from a closed list, for labels.
    pub fn label(self) -> &'static str {
        match self {
            Management::Pull => "/api/pull",
            Management::Push => "/api/push",
            Management::Create => "/api/create",
            Management::Copy => "/api/copy",
            Management::Delete => "/api/delete",
            Management::Blob => "/api/blobs/{digest}",
            Management::Account => "/api/me",
            Management::Signout => "/api/signout",
            Management::Experimental => "/api/experimental",
            Management::Debug => "/debug",
        }
    }
}
