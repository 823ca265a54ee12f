//! What was learned, in a form that outlives the process.
//!
//! Names and not ids: the next process may number servers and models otherwise. What was learned of a model on a server
//! holds for its digest only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::learned::Mean;
use super::state::Scheduler;

/// What was learned of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Its servers by name and URL.
    pub servers: BTreeMap<String, ServerMemory>,
    /// Its models by name.
    pub models: BTreeMap<String, ModelMemory>,
    /// Seconds of a typical load.
    pub typical_load: f64,
}

/// What was learned of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerMemory {
    /// Prefill, tokens/s times 10^9 bytes.
    pub prefill: Option<f64>,
    /// Decode, the same.
    pub decode: Option<f64>,
    /// Loads relative to their prior.
    pub load: Option<f64>,
    /// 10^9 bytes seen in memory.
    pub memory: f64,
    /// Its models by name.
    pub models: BTreeMap<String, PairMemory>,
}

/// What was learned of a model on a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PairMemory {
    /// Which bytes it was learned of.
    pub digest: Option<String>,
    /// Tokens/s of one prompt alone.
    pub prefill: Option<f64>,
    /// Tokens/s of one answer alone.
    pub decode: Option<f64>,
    /// Seconds of a load.
    pub load: Option<f64>,
    /// Requests at once.
    pub slots: Option<u32>,
}

/// What was learned of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelMemory {
    /// 10^9 bytes in memory, where memory told.
    pub size: Option<f64>,
    /// Tokens of a prompt.
    pub prompt: Option<f64>,
    /// Tokens of an answer.
    pub output: Option<f64>,
    /// Tokens to a byte of a body.
    pub density: Option<f64>,
}

impl Scheduler {
    /// What is worth keeping.
    #[must_use]
    pub fn memory_of_all(&self) -> Memory {
        let mut memory = Memory { typical_load: self.typical_load, ..Memory::default() };
        for (id, server) in self.servers.iter().enumerate() {
            let pairs = self.pairs.of_server(id).filter(|(_, pair)| {
                let learned = &pair.learned;
                learned.prefill.or(learned.decode).or(learned.load).is_some() || learned.slots.is_some()
            });
            let models = pairs.map(|(model, pair)| {
                let learned = &pair.learned;
                let kept = PairMemory {
                    digest: pair.digest.as_deref().map(str::to_owned),
                    prefill: learned.prefill,
                    decode: learned.decode,
                    load: learned.load,
                    slots: learned.slots,
                };
                (self.models[model].name.clone(), kept)
            });
            let kept = ServerMemory {
                prefill: server.speed.prefill,
                decode: server.speed.decode,
                load: server.speed.load,
                memory: server.seen_memory,
                models: models.collect(),
            };
            if kept != ServerMemory::default() {
                memory.servers.insert(server.facts.name.clone(), kept);
            }
        }
        for model in &self.models {
            let kept = ModelMemory {
                size: model.size_is_known.then_some(model.size),
                prompt: model.typical.prompt.get(),
                output: model.typical.output.get(),
                density: model.typical.density,
            };
            if kept != ModelMemory::default() {
                memory.models.insert(model.name.clone(), kept);
            }
        }
        memory
    }

    /// Takes what a process before this one learned, for servers that are known already.
    pub fn remember(&mut self, memory: &Memory) {
        self.typical_load = positive(Some(memory.typical_load)).unwrap_or(0.0);
        for (name, kept) in &memory.models {
            let model = self.model(name);
            let known = &mut self.models[model];
            if let Some(size) = positive(kept.size) {
                (known.size, known.size_is_known) = (size, true);
            }
            known.typical.prompt = Mean::known(positive(kept.prompt));
            known.typical.output = Mean::known(positive(kept.output));
            known.typical.density = positive(kept.density);
        }
        for (name, kept) in &memory.servers {
            let Some(server) = self.servers.iter().position(|server| server.facts.name == *name) else { continue };
            let host = &mut self.servers[server];
            host.speed.prefill = positive(kept.prefill);
            host.speed.decode = positive(kept.decode);
            host.speed.load = positive(kept.load);
            host.seen_memory = positive(Some(kept.memory)).unwrap_or(0.0);
            for (model, kept) in &kept.models {
                let model = self.model(model);
                let pair = &mut self.pairs[(server, model)];
                pair.digest = kept.digest.as_deref().map(Into::into);
                pair.learned.prefill = positive(kept.prefill);
                pair.learned.decode = positive(kept.decode);
                pair.learned.load = positive(kept.load);
                pair.learned.slots = kept.slots.filter(|slots| *slots > 0);
            }
        }
        self.load_epoch += 1;
        self.apply_rules();
    }
}

/// A number that can be divided by; a file may hold anything.
fn positive(number: Option<f64>) -> Option<f64> {
    number.filter(|number| number.is_finite() && *number > 0.0)
}
