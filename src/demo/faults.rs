//! What goes wrong, for which requests, and how often. Rules can change while requests run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::model::canonical_name;

/// One way for a request to go wrong. Those "after tokens" apply to inference only; where an answer
/// does not stream, its head has not been sent by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The body is read; no byte is ever answered.
    Hang,
    /// The body is not read at all, and no byte is answered: backpressure. Matched by path only.
    StopReading,
    /// The connection is reset (RST) as soon as the head has come. Matched by path only.
    ResetBeforeBody,
    /// The body is read, then the connection is reset (RST) without an answer.
    ResetBeforeHeaders,
    /// The body is read, then the connection is closed (FIN) without an answer.
    CloseBeforeHeaders,
    /// The connection is reset (RST) once this many tokens are on the wire.
    ResetAfterTokens(usize),
    /// The connection is closed (FIN) there: a chunked body without its terminator.
    CloseAfterTokens(usize),
    /// The runner dies there: the stream stays 200 and ends in due form after a line
    /// `{"error":"an error was encountered while running the model: unexpected EOF"}`.
    StreamErrorAfterTokens(usize),
    /// The stream falls silent there, for ever.
    StallAfterTokens(usize),
    /// 500, `llama runner process has terminated: exit status 2`.
    RunnerCrash,
    /// 503, in the words of a full pending queue.
    Busy,
    /// 404 in Ollama's words, for any model.
    ModelNotFound,
    /// The first byte of the answer comes this much later.
    Delay(Duration),
    /// Every token comes this much later.
    SlowTokens(Duration),
    /// An answer that is not HTTP, then the connection is closed.
    Garbage,
    /// A header `X-Huge` of this many bytes comes with an otherwise proper answer.
    HugeHeader(usize),
    /// Any status, with an Ollama error of this text.
    Status(u16, String),
}

impl Fault {
    /// Whether it strikes before the body is read.
    fn is_early(&self) -> bool {
        matches!(self, Self::StopReading | Self::ResetBeforeBody)
    }
}

/// A fault and the requests it strikes: by default every one, for ever.
#[derive(Clone, Debug)]
pub struct FaultRule {
    fault: Fault,
    remaining: Option<usize>,
    path: Option<String>,
    model: Option<String>,
    inference_only: bool,
}

impl FaultRule {
    /// Strikes every request, probes included.
    #[must_use]
    pub fn everywhere(fault: Fault) -> Self {
        Self { fault, remaining: None, path: None, model: None, inference_only: false }
    }

    /// Strikes requests for inference: generate, chat, embed and their `/v1` kin.
    #[must_use]
    pub fn inference(fault: Fault) -> Self {
        Self { inference_only: true, ..Self::everywhere(fault) }
    }

    /// Only the next so many requests that match.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.remaining = Some(count);
        self
    }

    /// Only this path.
    #[must_use]
    pub fn on_path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Only this model, in any spelling.
    #[must_use]
    pub fn on_model(mut self, model: &str) -> Self {
        self.model = Some(canonical_name(model));
        self
    }

    fn matches(&self, path: &str, model: Option<&str>, early: bool) -> bool {
        self.remaining != Some(0)
            && self.fault.is_early() == early
            && (!self.inference_only || is_inference(path))
            && self.path.as_deref().is_none_or(|wanted| wanted == path)
            && (early
                || self.model.as_deref().is_none_or(|wanted| model.is_some_and(|name| canonical_name(name) == wanted)))
    }
}

/// Names a rule, to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(u64);

/// The fault rules of one host. The first rule that matches a request strikes it.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<(RuleId, FaultRule)>>,
    next: AtomicU64,
}

impl Faults {
    /// Adds a rule behind those there are.
    pub fn add(&self, rule: FaultRule) -> RuleId {
        let id = RuleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.rules.lock().push((id, rule));
        id
    }

    /// Strikes all inference until it is cleared.
    pub fn always(&self, fault: Fault) -> RuleId {
        self.add(FaultRule::inference(fault))
    }

    /// Strikes the next so many requests for inference.
    pub fn next(&self, count: usize, fault: Fault) -> RuleId {
        self.add(FaultRule::inference(fault).times(count))
    }

    /// Takes one rule back.
    pub fn remove(&self, id: RuleId) {
        self.rules.lock().retain(|(other, _)| *other != id);
    }

    /// Takes all rules back. Requests that already hang stay so.
    pub fn clear(&self) {
        self.rules.lock().clear();
    }

    /// How often a counted rule can still strike; None for one without a count or taken back.
    #[must_use]
    pub fn remaining(&self, id: RuleId) -> Option<usize> {
        self.rules.lock().iter().find(|(other, _)| *other == id).and_then(|(_, rule)| rule.remaining)
    }

    /// The fault that strikes before the body is read.
    pub(super) fn early(&self, path: &str) -> Option<Fault> {
        self.strike(path, None, true)
    }

    /// The fault that strikes once the body has been read.
    pub(super) fn late(&self, path: &str, model: Option<&str>) -> Option<Fault> {
        self.strike(path, model, false)
    }

    fn strike(&self, path: &str, model: Option<&str>, early: bool) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let (_, rule) = rules.iter_mut().find(|(_, rule)| rule.matches(path, model, early))?;
        if let Some(remaining) = &mut rule.remaining {
            *remaining -= 1;
        }
        Some(rule.fault.clone())
    }
}

/// Whether a path asks for inference.
pub(super) fn is_inference(path: &str) -> bool {
    matches!(
        path,
        "/api/generate"
            | "/api/chat"
            | "/api/embed"
            | "/api/embeddings"
            | "/v1/chat/completions"
            | "/v1/completions"
            | "/v1/embeddings"
            | "/v1/responses"
            | "/v1/messages"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_by_path_model_and_count() {
        let faults = Faults::default();
        let id = faults.add(FaultRule::inference(Fault::Busy).on_model("llava").times(1));
        assert_eq!(faults.late("/api/tags", None), None);
        assert_eq!(faults.late("/api/chat", Some("mistral")), None);
        assert_eq!(faults.late("/api/chat", Some("LLaVA:latest")), Some(Fault::Busy));
        assert_eq!(faults.late("/api/chat", Some("llava")), None);
        assert_eq!(faults.remaining(id), Some(0));
        faults.add(FaultRule::everywhere(Fault::StopReading).on_path("/api/blobs"));
        assert_eq!(faults.early("/api/chat"), None);
        assert_eq!(faults.early("/api/blobs"), Some(Fault::StopReading));
        faults.clear();
        assert_eq!(faults.early("/api/blobs"), None);
    }
}
