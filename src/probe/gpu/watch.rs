//! Looks at the cards of a server, again and again, and tells whoever wants to know.

use std::sync::Arc;

use super::local::Local;
use super::{Source, Why, read_once};
use crate::clock;
use crate::fleet::gpu::GpuSource;
use crate::policy::gpu::reading::Reading;
use crate::probe::{Target, spread};

impl Target {
    /// Looks at the cards of the server for as long as it has a source that tells.
    pub(in crate::probe) async fn watching_gpu(&self) {
        let Some((plan, source)) = self.plan.gpu.as_ref().and_then(|plan| Some((plan, plan.source.as_ref()?))) else {
            return std::future::pending().await;
        };
        let local = matches!(source, GpuSource::Nvml).then(Local::start);
        let mut fault: Option<String> = None;
        loop {
            let read = match (&local, source) {
                (Some(local), _) => local.read(),
                (None, source) => remote(source).await.map(Arc::new),
            };
            self.metrics.probed("gpu", if read.is_ok() { "ok" } else { "failed" });
            self.tell_source(read.as_ref().err(), &mut fault);
            let now = clock::now();
            let change = match read {
                Ok(reading) => {
                    let unix_ms = u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX);
                    self.state.gpu.read(&reading, now, unix_ms)
                }
                Err(why) => self.state.gpu.not_read(why.unread, why.detail, now),
            };
            change.iter().for_each(|change| self.state.gpu_changed(change));
            if let Some(upstream) = self.upstream() {
                upstream.dispatcher.card_memory(&self.state, plan.margin);
            }
            tokio::time::sleep(spread(plan.interval)).await;
        }
    }

    /// Logs that a source fell silent, why, and that it answers again; once each.
    fn tell_source(&self, why: Option<&Why>, before: &mut Option<String>) {
        let now = why.map(|why| why.detail.clone());
        if now == *before {
            return;
        }
        let (server, upstream) = (self.state.name(), &self.state.identity.upstream);
        match &now {
            Some(why) => tracing::warn!(server, upstream, why, "nobody tells how the GPU is"),
            None => tracing::info!(server, upstream, "the GPU can be seen again"),
        }
        *before = now;
    }
}

async fn remote(source: &GpuSource) -> Result<Reading, Why> {
    let source = match source {
        GpuSource::Nvml => return Err(Why::silent("the driver of this machine is not asked over the network")),
        GpuSource::Exporter { url, mapping } => Source::Exporter { url: url.clone(), mapping: mapping.clone() },
        GpuSource::Agent { url, token_file } => {
            Source::Agent { url: url.clone(), token: token(token_file.as_deref()).await? }
        }
    };
    read_once(&source).await
}

/// The agent's token, read anew each time, so that it can be changed.
async fn token(file: Option<&str>) -> Result<Option<String>, Why> {
    let Some(file) = file else { return Ok(None) };
    match tokio::fs::read_to_string(file).await {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) => Err(Why::silent(format!("the token of the agent cannot be read from `{file}`: {error}"))),
    }
}
