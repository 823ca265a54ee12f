//! Has a server fetch a model, and listens to how far it is.
//!
//! There is no limit of the whole, for a large model on a slow line takes hours; but a server that says nothing for long
//! is given up. Ollama keeps what came, so another pull goes on from there.

use std::time::Duration;

use serde_json::json;

use super::{Outcome, Place, complaint};
use crate::fleet::jobs::words::Progress;
use crate::ollama::pull::Pull;
use crate::probe::client;

/// How long the head of the answer may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest silence. The sums over a large model are made without a word, at the speed of the disk.
const GAP: Duration = Duration::from_mins(15);

impl Place<'_> {
    /// Has the server pull the model under the name that was written.
    pub(super) async fn pull(&self, told: impl Fn(&Progress)) -> Outcome {
        // `insecure` is never asked for: models come over TLS or not at all.
        let body = json!({ "model": self.written, "stream": true }).to_string();
        let way = self.target.way(Some(self.upstream));
        let answer = client::lines(way, "/api/pull", body.into(), HEAD_TIMEOUT).await;
        let mut lines = answer.map_err(|fault| fault.text)?;
        let mut pull = Pull::default();
        while let Some(line) = lines.next(GAP).await.map_err(|fault| fault.text)? {
            if lines.status != 200 {
                return Err(complaint(lines.status, &line));
            }
            pull.tell(&line)?;
            told(&Progress { status: pull.status().to_owned(), completed: pull.completed(), total: pull.total() });
        }
        match lines.status {
            200 if pull.has_succeeded() => Ok(None),
            200 => Err("the answer ended before the pull was done".to_owned()),
            status => Err(complaint(status, b"")),
        }
    }
}
