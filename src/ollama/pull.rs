//! What Ollama tells while it pulls a model, line by line (`server/routes.go`, `PullHandler`; `api/types.go`,
//! `ProgressResponse`).
//!
//! `{"status":"pulling 6a0746a1ec1a","digest":"sha256:…","total":4661211808,"completed":12288}` for each layer, several at
//! a time and in any order; `{"status":"verifying sha256 digest"}` and the like between; `{"status":"success"}` last. An
//! error is a line `{"error":"…"}` in a stream that has begun with 200.

use std::borrow::Cow;

use serde::Deserialize;

/// Layers that are counted; a model has about six.
const MOST_LAYERS: usize = 1024;
/// Letters of a status that are kept.
const LONGEST_STATUS: usize = 200;

#[derive(Deserialize)]
struct Line<'l> {
    #[serde(borrow, default)]
    status: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    digest: Option<Cow<'l, str>>,
    #[serde(default)]
    total: Option<u64>,
    #[serde(default)]
    completed: Option<u64>,
    #[serde(borrow, default)]
    error: Option<Cow<'l, str>>,
}

struct Layer {
    digest: String,
    total: u64,
    completed: u64,
}

/// A pull as far as it was told.
#[derive(Default)]
pub struct Pull {
    layers: Vec<Layer>,
    status: String,
    succeeded: bool,
}

impl Pull {
    /// Takes in a line.
    ///
    /// # Errors
    /// What went wrong, in Ollama's words; or that the line is none of Ollama's.
    pub fn tell(&mut self, line: &[u8]) -> Result<(), String> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|_| "the answer is not Ollama's".to_owned())?;
        if let Some(error) = line.error {
            return Err(short(&error));
        }
        if let (Some(digest), Some(total)) = (&line.digest, line.total) {
            self.layer(digest, total, line.completed.unwrap_or(0));
        }
        let status = line.status.unwrap_or_default();
        self.succeeded = status == "success";
        self.status = short(&status);
        Ok(())
    }

    fn layer(&mut self, digest: &str, total: u64, completed: u64) {
        let completed = completed.min(total);
        if let Some(layer) = self.layers.iter_mut().find(|layer| layer.digest == digest) {
            (layer.total, layer.completed) = (total, completed);
        } else if self.layers.len() < MOST_LAYERS {
            self.layers.push(Layer { digest: short(digest), total, completed });
        }
    }

    /// What it said last.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Bytes that are there, of all layers that it has named so far.
    pub fn completed(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.completed))
    }

    /// Bytes of all layers that it has named so far.
    pub fn total(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.total))
    }

    /// Whether it has said that all went well.
    pub fn has_succeeded(&self) -> bool {
        self.succeeded
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> Result<Pull, String> {
        let mut pull = Pull::default();
        lines.iter().try_for_each(|line| pull.tell(line.as_bytes()))?;
        Ok(pull)
    }

    #[test]
    fn layers_add_up_whatever_their_order() {
        let pull = told(&[
            r#"{"status":"pulling manifest"}"#,
            r#"{"status":"pulling a","digest":"sha256:a","total":100}"#,
            r#"{"status":"pulling b","digest":"sha256:b","total":10,"completed":10}"#,
            r#"{"status":"pulling a","digest":"sha256:a","total":100,"completed":40}"#,
        ])
        .unwrap();
        assert_eq!((pull.completed(), pull.total(), pull.status()), (50, 110, "pulling a"));
        assert!(!pull.has_succeeded());
    }

    #[test]
    fn only_success_at_the_end_is_success() {
        assert!(told(&[r#"{"status":"success"}"#]).unwrap().has_succeeded());
        assert!(!told(&[r#"{"status":"success"}"#, r#"{"status":"pulling manifest"}"#]).unwrap().has_succeeded());
    }

    #[test]
    fn an_error_line_is_told_in_its_own_words() {
        let error =
            told(&[r#"{"status":"pulling manifest"}"#, r#"{"error":"pull model manifest: file does not exist"}"#]);
        assert_eq!(error.err().as_deref(), Some("pull model manifest: file does not exist"));
        assert!(told(&["<html>"]).is_err());
        let huge = format!(r#"{{"error":"{}"}}"#, "x".repeat(10_000));
        assert_eq!(told(&[&huge]).err().map(|text| text.len()), Some(LONGEST_STATUS));
    }
}
