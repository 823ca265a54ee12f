//! What the text of a server's error says about the server, the model and the request.
//!
//! # Problem
//!
//! Ollama answers 500 when a prompt killed the process that runs the model, when a model did not fit into memory, and
//! when an image was not one. The first must never be sent anywhere again, the second is the server's trouble, the third
//! is the client's. Only the words tell them apart. The same words come inside a stream whose status was 200.
//!
//! The texts are those of Ollama 0.9 to 0.33 (`server/routes.go`, `server/sched.go`, `llm/server.go`,
//! `runner/ollamarunner`) and of the servers with OpenAI's API (vLLM, llama.cpp).

use memchr::memmem;

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The process that ran the model died under a request: the next one would, too.
    Crash,
    /// The model could not be loaded.
    Load,
    /// The server had too much to do and began nothing.
    Busy,
    /// The server does not have the model.
    NoModel,
    /// The request itself was wrong, whatever the status.
    Request,
    /// Anything else.
    Other,
}

/// Parts of texts, in the order in which they are looked for.
const TEXTS: [(&str, Complaint); 27] = [
    // sched.go: ErrMaxQueue.
    ("server busy", Complaint::Busy),
    ("maximum pending requests exceeded", Complaint::Busy),
    // A load that failed may say "runner" too, so it comes first. llm/server.go.
    ("requires more system memory", Complaint::Load),
    ("unable to load model", Complaint::Load),
    ("error loading model", Complaint::Load),
    ("failed to load model", Complaint::Load),
    ("timed out waiting for llama runner to start", Complaint::Load),
    ("unable to allocate", Complaint::Load),
    // llm/server.go and routes.go: what is left when a runner is gone.
    ("runner process has terminated", Complaint::Crash),
    ("runner process no longer running", Complaint::Crash),
    ("runner has unexpectedly stopped", Complaint::Crash),
    ("error was encountered while running the model", Complaint::Crash),
    ("cuda error", Complaint::Crash),
    ("hip error", Complaint::Crash),
    ("ggml_assert", Complaint::Crash),
    ("signal arrived during cgo execution", Complaint::Crash),
    ("enginedeaderror", Complaint::Crash),
    ("enginecore encountered an issue", Complaint::Crash),
    // What a client sent: images, lengths, formats.
    ("failed to process inputs", Complaint::Request),
    ("failed to decode image", Complaint::Request),
    ("image: unknown format", Complaint::Request),
    ("invalid image", Complaint::Request),
    ("exceeds maximum context length", Complaint::Request),
    ("input length exceeds", Complaint::Request),
    ("does not support", Complaint::Request),
    ("failed to parse grammar", Complaint::Request),
    ("invalid format", Complaint::Request),
];

/// Reads an error's text, or the body that it stands in, JSON or not. `status` is that of the answer, if it was one.
#[must_use]
pub fn read(text: &[u8], status: Option<u16>) -> Complaint {
    let text = text.to_ascii_lowercase();
    let says = |part: &str| memmem::find(&text, part.as_bytes()).is_some();
    match status {
        // Ollama: "model 'x' not found"; vLLM: "The model `x` does not exist."
        Some(404) if says("model") && (says("not found") || says("does not exist")) => Complaint::NoModel,
        Some(400..=499) => Complaint::Request,
        Some(503) => Complaint::Busy,
        _ => TEXTS.iter().find(|(part, _)| says(part)).map_or(Complaint::Other, |(_, complaint)| *complaint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Complaint {
        read(format!(r#"{{"error":"{text}"}}"#).as_bytes(), Some(500))
    }

    #[test]
    fn a_runner_that_died_is_told_from_one_that_did_not_start() {
        for crash in [
            "llama runner process has terminated: exit status 2",
            "llama runner process has terminated: signal: segmentation fault (core dumped)",
            "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama server logs for details",
            "an error was encountered while running the model: unexpected EOF",
            "llama runner process no longer running: -1",
            "CUDA error: an illegal memory access was encountered",
        ] {
            assert_eq!(of(crash), Complaint::Crash, "{crash}");
        }
        for load in [
            "model requires more system memory (12.1 GiB) than is available (3.0 GiB)",
            "unable to load model: /models/blobs/sha256-00",
            "timed out waiting for llama runner to start - progress 0.00 - ",
            "llama runner process has terminated: error loading model: unable to allocate CUDA0 buffer",
        ] {
            assert_eq!(of(load), Complaint::Load, "{load}");
        }
    }

    #[test]
    fn what_the_client_sent_is_the_clients() {
        assert_eq!(of("Failed to process inputs: image: unknown format"), Complaint::Request);
        assert_eq!(read(b"crash: runner process has terminated", Some(400)), Complaint::Request);
        assert_eq!(read(b"404 page not found", Some(404)), Complaint::Request);
    }

    #[test]
    fn a_model_that_is_not_there_is_seen_in_every_dialect() {
        for text in [
            r#"{"error":"model 'llava' not found"}"#,
            r#"{"error":"model \"llava\" not found, try pulling it first"}"#,
            r#"{"error":{"message":"model 'llava' not found","type":"not_found_error","param":null,"code":null}}"#,
            r#"{"object":"error","message":"The model `x` does not exist.","code":404}"#,
        ] {
            assert_eq!(read(text.as_bytes(), Some(404)), Complaint::NoModel, "{text}");
        }
    }

    #[test]
    fn every_503_is_a_server_that_began_nothing_and_an_unknown_text_is_nothing_known() {
        assert_eq!(read(b"", Some(503)), Complaint::Busy);
        assert_eq!(of("server busy, please try again.  maximum pending requests exceeded"), Complaint::Busy);
        assert_eq!(of("boom"), Complaint::Other);
        assert_eq!(read(b"unexpected EOF", None), Complaint::Other);
        assert_eq!(read("model runner has unexpectedly stopped".as_bytes(), None), Complaint::Crash);
    }
}
