//! Pulling a model: layer by layer, going on where an earlier pull stopped.

use std::time::Duration;

use serde_json::json;

use super::body::{Chunks, ReplyBody};
use super::faults::Fault;
use super::ledger::{Mark, Outcome};
use super::lifecycle::Shared;
use super::model::{DemoModel, GB, hex};
use super::reply::{self, Reply};
use super::router::Exchange;
use super::wire::{Control, Ending};

use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Lines of progress for the largest layer.
const STEPS: u64 = 20;
/// What Ollama says of a model that its registry does not have.
const UNKNOWN: &str = "pull model manifest: file does not exist";
/// What it says when the registry stays away.
const LOST: &str = "max retries exceeded: unexpected EOF";

struct Layer {
    digest: String,
    size: u64,
}

/// How a pull is cut short after some lines.
enum Cut {
    Error,
    End(Ending),
    Stall,
}

struct Pulling {
    host: Arc<Shared>,
    control: Arc<Control>,
    model: DemoModel,
    mark: Mark,
    cut: Option<(usize, Cut)>,
    lines: usize,
}

/// Answers `/api/pull` for a name that is not empty.
pub(super) fn answer(exchange: &Exchange<'_>, name: &str) -> Reply {
    let host = Arc::clone(exchange.host);
    let known = match &host.config.registry {
        None => Some(DemoModel::new(name, GB)),
        Some(models) => models.iter().find(|model| model.is_called(name)).cloned(),
    };
    let streams = exchange.fields.flag("stream") != Some(false);
    let Some(model) = known else {
        if !streams {
            return reply::error(&exchange.path, 500, UNKNOWN);
        }
        let body = ReplyBody::stream(|chunks| async move {
            say(&chunks, &json!({ "status": "pulling manifest" })).await;
            say(&chunks, &json!({ "error": UNKNOWN })).await;
            Outcome::Fault
        });
        return reply::with_type(200, "application/x-ndjson", body);
    };
    if !streams {
        put(&host, model);
        return reply::json(200, &json!({ "status": "success" }));
    }
    let cut = match &exchange.fault {
        Some(Fault::StreamErrorAfterTokens(after)) => Some((*after, Cut::Error)),
        Some(Fault::ResetAfterTokens(after)) => Some((*after, Cut::End(Ending::Reset))),
        Some(Fault::CloseAfterTokens(after)) => Some((*after, Cut::End(Ending::Close))),
        Some(Fault::StallAfterTokens(after)) => Some((*after, Cut::Stall)),
        _ => None,
    };
    let (control, mark) = (Arc::clone(exchange.control), exchange.record.mark());
    let pulling = Pulling { host, control, model, mark, cut, lines: 0 };
    let body = ReplyBody::stream(|chunks| pulling.run(chunks));
    reply::with_type(200, "application/x-ndjson", body)
}

impl Pulling {
    async fn run(mut self, chunks: Chunks) -> Outcome {
        match self.steps(&chunks).await {
            Ok(()) => Outcome::Completed,
            Err(Cut::Error) => {
                say(&chunks, &json!({ "error": LOST })).await;
                Outcome::Fault
            }
            Err(Cut::End(ending)) => {
                // There is room again once hyper has taken the last line.
                let _ = chunks.reserve().await;
                self.control.end_when_flushed(ending);
                std::future::pending().await
            }
            Err(Cut::Stall) => std::future::pending().await,
        }
    }

    async fn steps(&mut self, chunks: &Chunks) -> Result<(), Cut> {
        self.line(chunks, &json!({ "status": "pulling manifest" })).await?;
        for layer in layers(&self.model) {
            let status = format!("pulling {}", layer.digest.get(7..19).unwrap_or_default());
            let step = (layer.size / STEPS).max(1_000_000);
            let mut there = self.host.partial.lock().get(&layer.digest).copied().unwrap_or(0);
            loop {
                let mut line = json!({ "status": status, "digest": layer.digest, "total": layer.size });
                if there > 0 {
                    // Go leaves out what is zero.
                    line["completed"] = there.into();
                }
                self.line(chunks, &line).await?;
                if there >= layer.size {
                    break;
                }
                let next = (there + step).min(layer.size);
                self.transfer(next - there).await;
                there = next;
                self.host.partial.lock().insert(layer.digest.clone(), there);
            }
        }
        for status in ["verifying sha256 digest", "writing manifest"] {
            self.line(chunks, &json!({ "status": status })).await?;
        }
        put(&self.host, self.model.clone());
        say(chunks, &json!({ "status": "success" })).await;
        Ok(())
    }

    async fn transfer(&self, bytes: u64) {
        if let Some(rate) = self.host.config.pull_rate {
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
        }
        self.host.pull_gate.pass().await;
    }

    async fn line(&mut self, chunks: &Chunks, line: &serde_json::Value) -> Result<(), Cut> {
        if let Some((_, cut)) = self.cut.take_if(|(after, _)| self.lines >= *after) {
            return Err(cut);
        }
        say(chunks, line).await;
        self.mark.token();
        self.lines += 1;
        Ok(())
    }
}

/// The layers of a model, the weights first, then what Ollama keeps beside them.
fn layers(model: &DemoModel) -> Vec<Layer> {
    let beside = |what: &str, size| Layer {
        digest: format!("sha256:{}", hex(&Sha256::digest(format!("{} {what}", model.name)))),
        size,
    };
    let weights = Layer { digest: format!("sha256:{}", model.digest), size: model.size };
    vec![weights, beside("template", 1_481), beside("license", 12_320), beside("config", 485)]
}

/// Puts a model on disk.
fn put(host: &Shared, model: DemoModel) {
    let mut models = host.models.write();
    models.retain(|other| !other.is_called(&model.name));
    models.push(model);
}

async fn say(chunks: &Chunks, line: &serde_json::Value) {
    // The receiver lives in the same body.
    let _ = chunks.send(reply::line(line)).await;
}
