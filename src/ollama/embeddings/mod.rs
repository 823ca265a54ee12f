//! Embeddings as they stand on the wire: a request taken apart into its inputs, an answer into its vectors, and both put
//! together again.
//!
//! # Problem
//! Whoever keeps embeddings has to ask a server for some inputs of a request only, and to give the client the answer that
//! the server would have given to all of them. So a request must be understood as Ollama understands it, and what is
//! written must be what Ollama writes, to the byte.
//!
//! | call | asks with | is answered with |
//! |---|---|---|
//! | `/api/embed` | `input`: a text or a list of them; `truncate`, `dimensions`, `options`, `keep_alive` | `{"model","embeddings":[[…],…],"total_duration","load_duration","prompt_eval_count"}` |
//! | `/v1/embeddings` | `input` likewise; `dimensions`, `encoding_format` | `{"object":"list","data":[{"object":"embedding","embedding":[…] or "…","index"},…],"model","usage":{"prompt_tokens","total_tokens"}}` and a line feed |
//! | `/api/embeddings` | `prompt`: one text; `options`, `keep_alive` | `{"embedding":[…]}`, not brought to length one |
//!
//! Sources: `EmbedHandler` and `EmbeddingsHandler` in `server/routes.go`, `EmbeddingsMiddleware` and `EmbedWriter` in
//! `middleware/openai.go`, `ToEmbeddingList` in `openai/openai.go`, the types in `api/types.go`.
//!
//! # Rules
//! - Only what can be read in one way is taken apart ([`Unfit`] is the rest): a key that stands twice or in capitals, a
//!   text that is not Unicode, a list with anything but texts.
//! - A vector is kept as the 32-bit floats that it is where writing them again gives the text that came, to the byte; that is
//!   tried with each one. Where it does not, the text is kept ([`Vector`]).
//! - What a key holds that is not known belongs to what a vector depends on, so that a key of tomorrow cannot be overlooked.

mod answer;
mod number;
mod request;
#[cfg(test)]
mod tests;
mod vector;

use super::endpoint::Inference;

pub use answer::{Answer, Frame, write_item};
pub use number::{push_double, push_single};
pub use request::{MOST_INPUTS, Request, Unfit};
pub use vector::Vector;

/// A call that asks for embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `POST /api/embed`.
    Embed,
    /// `POST /api/embeddings`.
    Legacy,
    /// `POST /v1/embeddings`.
    Openai,
}

impl Call {
    /// The call, if it is one of these.
    #[must_use]
    pub fn of(inference: Inference) -> Option<Self> {
        match inference {
            Inference::Embed => Some(Self::Embed),
            Inference::Embeddings => Some(Self::Legacy),
            Inference::OpenaiEmbeddings => Some(Self::Openai),
            _ => None,
        }
    }

    /// The key of what is to be embedded.
    fn input_key(self) -> &'static str {
        if self == Self::Legacy { "prompt" } else { "input" }
    }
}
