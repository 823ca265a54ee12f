//! Copies and deletes models on a server's disk. Both are quick: a copy is another name for the same files.

use std::time::Duration;

use serde_json::json;

use super::{Outcome, Place, complaint};
use crate::fleet::jobs::guard;
use crate::ollama::name::canonical;
use crate::probe::client::{self, Answer, Fault};

/// How long it may take.
const TIMEOUT: Duration = Duration::from_mins(1);

impl Place<'_> {
    /// Gives the model another name beside its own.
    pub(super) async fn copy(&self, destination: &str, force: bool) -> Outcome {
        self.check(&canonical(destination), force)?;
        let body = json!({ "source": self.model, "destination": destination }).to_string();
        let way = self.target.way(Some(self.upstream));
        done(client::post(way, "/api/copy", body.into(), TIMEOUT).await)
    }

    /// Takes the model off the disk, and out of memory before: a model that is deleted can be told to leave no more.
    pub(super) async fn delete(&self, force: bool) -> Outcome {
        self.check(self.model, force)?;
        if self.is_in_memory().await {
            let left = self.unload(force).await;
            if !force {
                left?;
            }
        }
        let body = json!({ "model": self.model }).to_string();
        let way = self.target.way(Some(self.upstream));
        done(client::delete(way, "/api/delete", body.into(), TIMEOUT).await)
    }

    /// Whether the model of a name may be lost; it may have come into use since the order was given.
    fn check(&self, model: &str, force: bool) -> Result<(), String> {
        if force || !self.target.state.inventory().has(model) {
            return Ok(());
        }
        guard::in_use(self.upstream, &self.target.state, model).map_or(Ok(()), |why| Err(why.to_owned()))
    }
}

fn done(answer: Result<Answer, Fault>) -> Outcome {
    let answer = answer.map_err(|fault| fault.text)?;
    if answer.status == 200 { Ok(None) } else { Err(complaint(answer.status, &answer.body)) }
}
