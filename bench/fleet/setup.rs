//! The fleet that is replayed against: its servers, its models, and which server has which.

use std::sync::Arc;
use std::time::Duration;

use arriero::demo::{Card, DemoModel, HostConfig, Plan};

use crate::random::Random;

/// Bytes in a gigabyte, as sizes of models are given.
const GB: f64 = 1e9;
/// Models that one server keeps loaded at most: Ollama's default with one GPU.
pub const MAX_LOADED: usize = 3;
/// Ollama's default for models that nobody uses.
const KEEP_ALIVE: Duration = Duration::from_mins(5);

/// Models by popularity, with the 10^9 bytes each takes in video memory (4-bit weights and context).
const CATALOGUE: [(&str, f64); 16] = [
    ("llama3.1:8b", 6.2),
    ("qwen2.5-coder:7b", 5.6),
    ("gemma3:27b", 19.5),
    ("llava:13b", 9.5),
    ("qwen2.5:14b", 10.5),
    ("llama3.3:70b", 43.0),
    ("mistral-nemo:12b", 8.4),
    ("qwen2.5-coder:32b", 22.0),
    ("llama3.2:3b", 4.0),
    ("phi4:14b", 10.4),
    ("mixtral:8x7b", 28.0),
    ("deepseek-r1:70b", 43.1),
    ("gemma2:9b", 7.0),
    ("codellama:34b", 21.0),
    ("starcoder2:15b", 10.6),
    ("command-r:35b", 24.0),
];

/// Which servers there are, and where models are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Two of 16 GB, two of 24, two of 48, one of 80; each has every model that fits.
    Hetero,
    /// Six of 48 GB, alike.
    Homog,
    /// As hetero, but a model is on half of the servers where it fits, at least on two.
    Subset,
}

/// One server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name in configurations.
    pub name: String,
    /// Its GPU, at its real speed.
    pub card: Card,
    /// Places in [`Setup::models`] of what it has on disk.
    pub models: Vec<usize>,
}

/// A whole fleet.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Every model there is, most popular first.
    pub models: Vec<DemoModel>,
    /// The servers.
    pub servers: Vec<Server>,
    /// Requests that a model which is not a vision model answers at once.
    pub parallel: usize,
    /// Whether servers have what they have on disk in memory from the beginning.
    pub warm: bool,
}

impl Setup {
    /// A fleet of a kind with the first so many models of the catalogue.
    pub fn new(kind: Kind, models: usize, parallel: usize) -> Self {
        let models: Vec<DemoModel> =
            CATALOGUE.iter().take(models).map(|(name, size)| DemoModel::new(name, (size * GB) as u64)).collect();
        let cards: Vec<(&str, Card, usize)> = match kind {
            Kind::Homog => vec![("a6000", Card::a6000(), 6)],
            Kind::Hetero | Kind::Subset => vec![
                ("t4", Card::t4(), 2),
                ("rtx4090", Card::rtx4090(), 2),
                ("a6000", Card::a6000(), 2),
                ("a100", Card::a100(), 1),
            ],
        };
        let servers = cards.iter().flat_map(|(name, card, count)| {
            (1..=*count).map(move |number| Server { name: format!("{name}-{number}"), card: *card, models: Vec::new() })
        });
        let mut setup = Self { models, servers: servers.collect(), parallel, warm: false };
        setup.put_models(kind);
        setup
    }

    fn put_models(&mut self, kind: Kind) {
        let mut random = Random::new(99);
        for (place, model) in self.models.iter().enumerate() {
            let fits = self.servers.iter().enumerate().filter(|(_, server)| model.size <= server.card.usable());
            let mut holders: Vec<usize> = fits.map(|(index, _)| index).collect();
            let wanted = if kind == Kind::Subset { holders.len().div_ceil(2).max(2) } else { holders.len() };
            while holders.len() > wanted {
                holders.swap_remove(random.below(holders.len()));
            }
            for holder in holders {
                self.servers[holder].models.push(place);
            }
        }
    }

    /// The same fleet with a fixed placement: each server has these models in memory, and no others at all.
    pub fn fixed(&self, kept: &[Vec<usize>]) -> Self {
        let mut fixed = Self { warm: true, ..self.clone() };
        fixed.servers.iter_mut().zip(kept).for_each(|(server, kept)| server.models.clone_from(kept));
        fixed
    }

    /// Places of the servers that have a model.
    pub fn holders(&self, model: usize) -> Vec<usize> {
        (0..self.servers.len()).filter(|server| self.servers[*server].models.contains(&model)).collect()
    }

    /// How many requests a loaded model answers at once; vision models get one slot.
    pub fn slots(&self, model: usize) -> usize {
        if self.models[model].capabilities.iter().any(|word| word == "vision") { 1 } else { self.parallel }
    }

    /// The simulated hosts, that many times faster than real ones.
    pub fn hosts(&self, scale: f64, plan: &Arc<Plan>) -> Vec<HostConfig> {
        let host = |server: &Server| {
            let mut config = HostConfig::new(&server.name).card(server.card.faster(scale)).parallel(self.parallel);
            config.models = server.models.iter().map(|model| self.models[*model].clone()).collect();
            config.max_loaded = MAX_LOADED;
            config.keep_alive = KEEP_ALIVE.div_f64(scale);
            config.context_length = 8192;
            config.plan = Some(Arc::clone(plan));
            // It listens on all addresses, and then does not look at `Host`.
            config.check_host = false;
            config.record = false;
            config
        };
        self.servers.iter().map(host).collect()
    }
}
