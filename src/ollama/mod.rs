//! What Ollama's wire is like, and the two dialects beside it. Pure: bytes in, facts out; no I/O, no clock, no
//! logging, so that each rule can be tested byte by byte.
//!
//! The problem: a proxy in front of a fleet must know *which model* a request is for before it can choose a
//! server, and Ollama puts that name in the body, anywhere in the body, under several spellings.
//!
//! - **The model is a JSON key, and clients disagree on where.** ollama-python and the `ollama` CLI write
//!   `model` first; openai-python 1.x, anthropic-python and any JavaScript client write it where the caller did,
//!   often behind megabytes of base64 images. Some calls carry `name` instead, or an empty `model` *and* a
//!   `name` (the CLI's `/api/show`). The Content-Type says nothing: curl sends `x-www-form-urlencoded`, Node
//!   sends `text/plain`, litellm sends none. Hence [`scan`]: it reads the body as it streams, at memchr speed,
//!   and says the name as soon as it is known. `/v1/audio/transcriptions` is a form: [`multipart`].
//! - **One model has many names.** `llama3`, `LLAMA3:latest`, `library/llama3`, ` registry.ollama.ai/library/llama3 `
//!   are one model to Ollama (`types/model/name.go`). Every key, queue, breaker, ban and label uses the one
//!   canonical form: [`name`]; lists of models in the config are globs over that form: [`pattern`].
//! - **Paths decide everything else** ([`endpoint`]): which dialect an error must be written in, whether the
//!   answer streams when `stream` is absent (yes under `/api`, no under `/v1`), and whether the call is
//!   inference or one of the management verbs that are denied unless asked for.
//! - **Errors come in three dialects** ([`dialect`]): Ollama's `{"error":"…"}`, OpenAI's and Anthropic's. A
//!   reply that the proxy makes itself must look as the client's library expects.
//! - **Only the words of an error tell whose fault it was** ([`complaint`]): a runner that died, a model that did not
//!   fit, an image that was none all come as 500.
//! - **A stream that breaks still says 200.** Ollama sends `{"error":"…"}` as the last line of an NDJSON stream
//!   and ends it cleanly; status and transport both call that success. [`usage`] reads the stream in passing and
//!   sees the error, and the final object's token counts and durations.
//! - **A pull tells of its progress in lines** ([`pull`]), of its errors too.
//! - **Embeddings are taken apart and put together again** ([`embeddings`]), so that those that are known need not be asked
//!   for.
//! - **Lists of models are merged without being re-written** ([`wire`]): each row keeps the bytes that its
//!   server sent, so that a field of tomorrow's Ollama passes through.
//!
//! Invariants: no function here panics on any input; memory is bounded by a constant whatever the client or the
//! server sends; every incremental reader gives the same answer however its input is cut into pieces.

pub mod complaint;
pub mod conversation;
pub mod dialect;
pub mod embeddings;
pub mod endpoint;
pub mod multipart;
pub mod name;
pub mod pattern;
pub mod pull;
pub mod scan;
pub mod usage;
pub mod wire;

pub use complaint::Complaint;
pub use dialect::Dialect;
pub use endpoint::{Endpoint, Inference, Management, ModelSource, classify};
pub use multipart::MultipartScan;
pub use name::ModelName;
pub use pattern::ModelPattern;
pub use scan::{ModelScan, Progress, Scanned, Want};
pub use usage::{Usage, UsageKind, UsageScan};
