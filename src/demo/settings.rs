//! What one simulated host is like: its models, its memory, its speed.

use std::sync::Arc;
use std::time::Duration;

use super::card::Card;
use super::model::{DemoModel, GB};
use super::plan::Plan;

/// How one simulated Ollama host behaves. [`HostConfig::new`] is instant in every respect (no load
/// time, no time between tokens), which is what most tests want.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// A name for logs and reports.
    pub name: String,
    /// Models on disk.
    pub models: Vec<DemoModel>,
    /// Bytes of video memory.
    pub vram: u64,
    /// `OLLAMA_NUM_PARALLEL`: requests one loaded model answers at once.
    pub parallel: usize,
    /// `OLLAMA_MAX_QUEUE`: requests that may wait for a load before 503.
    pub max_queue: usize,
    /// `OLLAMA_MAX_LOADED_MODELS`.
    pub max_loaded: usize,
    /// How long a load takes for each 10^9 bytes of the model.
    pub load_time_per_gb: Duration,
    /// From the slot to the first token.
    pub prompt_delay: Duration,
    /// From one token to the next; zero only yields to other tasks.
    pub token_interval: Duration,
    /// Tokens in an answer when the request does not say.
    pub tokens: usize,
    /// `OLLAMA_KEEP_ALIVE`: how long an idle model stays loaded.
    pub keep_alive: Duration,
    /// What `/api/version` says.
    pub version: String,
    /// Also serve HTTP/2 with prior knowledge on the same port. Ollama itself does not.
    pub http2: bool,
    /// `/api/ps` waits while a model loads, as Ollama's does.
    pub ps_waits_for_load: bool,
    /// Context length of loaded models.
    pub context_length: u64,
    /// Dimensions of an embedding.
    pub embedding_length: usize,
    /// Refuse a foreign `Host` or `Origin` as Ollama on loopback does.
    pub check_host: bool,
    /// The GPU. With one, prompts and answers take the time that the card needs, requests slow each other
    /// down, slots remember conversations, vision models have one slot, and loads and unloads take time; the
    /// delays above do not count. Without one the host is as quick as they say.
    pub card: Option<Card>,
    /// What can be pulled; `None` for any name, as a model of 1 GB.
    pub registry: Option<Vec<DemoModel>>,
    /// Bytes per second of a pull; `None` for as quick as can be.
    pub pull_rate: Option<u64>,
    /// What a bench knows of its requests.
    pub plan: Option<Arc<Plan>>,
    /// Keep ledger entries and hash bodies. Benches turn it off; only counters remain.
    pub record: bool,
}

impl HostConfig {
    /// An instant host of 24 GB with no models.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            models: Vec::new(),
            vram: 24 * GB,
            parallel: 1,
            max_queue: 512,
            max_loaded: 3,
            load_time_per_gb: Duration::ZERO,
            prompt_delay: Duration::ZERO,
            token_interval: Duration::ZERO,
            tokens: 16,
            keep_alive: Duration::from_mins(5),
            version: "0.33.0".to_owned(),
            http2: false,
            ps_waits_for_load: true,
            context_length: 4096,
            embedding_length: 768,
            check_host: true,
            card: None,
            registry: None,
            pull_rate: None,
            plan: None,
            record: true,
        }
    }

    /// Adds a model.
    #[must_use]
    pub fn model(mut self, model: DemoModel) -> Self {
        self.models.push(model);
        self
    }

    /// Adds a model of 1 GB by name: enough for most tests.
    #[must_use]
    pub fn small_model(self, name: &str) -> Self {
        self.model(DemoModel::new(name, GB))
    }

    /// Sets the video memory, in bytes.
    #[must_use]
    pub fn vram(mut self, bytes: u64) -> Self {
        self.vram = bytes;
        self
    }

    /// Gives it a GPU, and its memory.
    #[must_use]
    pub fn card(mut self, card: Card) -> Self {
        self.vram = card.usable();
        self.card = Some(card);
        self
    }

    /// Sets `OLLAMA_NUM_PARALLEL`.
    #[must_use]
    pub fn parallel(mut self, slots: usize) -> Self {
        self.parallel = slots;
        self
    }

    /// Sets how many tokens an answer has.
    #[must_use]
    pub fn tokens(mut self, tokens: usize) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets the time between tokens.
    #[must_use]
    pub fn token_interval(mut self, interval: Duration) -> Self {
        self.token_interval = interval;
        self
    }

    /// Serves HTTP/2 with prior knowledge as well.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// How many requests a loaded model answers at once. Ollama gives vision models one slot.
    pub(super) fn slots(&self, model: &DemoModel) -> usize {
        let vision = model.capabilities.iter().any(|capability| capability == "vision");
        if self.card.is_some() && vision { 1 } else { self.parallel.max(1) }
    }

    /// How long an unload takes.
    pub(super) fn unload_time(&self) -> Duration {
        self.card.map_or(Duration::ZERO, |card| card.unload)
    }

    /// How long a model of this size takes to load.
    pub(super) fn load_time(&self, size: u64) -> Duration {
        if let Some(card) = self.card {
            return card.load_time(size);
        }
        let nanoseconds = self.load_time_per_gb.as_nanos() * u128::from(size) / u128::from(GB);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_takes_time_in_proportion_to_its_size() {
        let mut config = HostConfig::new("t4");
        config.load_time_per_gb = Duration::from_millis(500);
        assert_eq!(config.load_time(3 * GB), Duration::from_millis(1500));
        assert_eq!(config.load_time(0), Duration::ZERO);
    }
}
