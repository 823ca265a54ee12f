//! What is learned of speeds, load times, lengths and slots.
//!
//! Every number has a prior, used until something was observed:
//!
//! | number | prior | learned from |
//! |---|---|---|
//! | prefill of a model on a server, tokens/s | the server's constant / size, else the fleet's, else 15,000 tokens GB/s / size | `prompt_eval_count / prompt_eval_duration` |
//! | decode, tokens/s | the same with 400 | `eval_count / eval_duration` |
//! | load, s | (size / 1.5 GB/s + 1.5 s), times what the server's, else the fleet's loads took of that | our own loads |
//! | prompt of a model, tokens | bytes of the body / 4, at most 16 mean ones; 1,000 without a body | `prompt_eval_count` |
//! | answer, tokens | the fleet's mean, else 150 | `eval_count` |
//! | parallel slots | `max_in_flight_per_model`, else 4, 1 for vision models | whether requests beside others had to wait on the server |
//!
//! Speeds are inversely proportional to the size of a model on the same card, which is what makes a constant of a
//! server out of one observation of one model (fleet-choice: within a factor of two, and the choice is robust to that).
//! Moving averages with a weight of 0.2 for a new observation (0.3 for loads, 0.05 for lengths).

use std::collections::HashMap;

use fnv::FnvBuildHasher;

use super::state::Scheduler;
use super::words::{ModelId, Running, ServerId, Usage};

/// Prefill of a model of 10^9 bytes, tokens/s, that nothing is known about.
const PREFILL: f64 = 15_000.0;
/// Decode of such a model.
const DECODE: f64 = 400.0;
/// Load rate, 10^9 bytes/s.
const LOAD_RATE: f64 = 1.5;
/// What a load takes besides, s.
const LOAD_FIXED: f64 = 1.5;
/// Size of a model that nothing is known about, 10^9 bytes.
const SIZE: f64 = 5.0;
/// Prompt and answer, tokens.
const PROMPT: f64 = 1000.0;
const OUTPUT: f64 = 150.0;
/// Bytes of text to a token.
const BYTES_PER_TOKEN: f64 = 4.0;
/// What each further request of a batch adds to its step (measured on llama.cpp; the simulator's figure too).
pub(super) const BATCHING: f64 = 0.25;
/// A prompt is taken for no longer than this many mean ones: pictures are megabytes of a body and few tokens.
const LONGEST: f64 = 16.0;
/// Observations in a row without a wait after which one slot more is tried.
const SLOT_TRIAL: u32 = 32;
/// Observations that a prior counts for.
const SUPPOSED: f64 = 3.0;
/// Conversations that are remembered, at least; twice that at most.
const CONVERSATIONS: usize = 8192;

fn average(known: &mut Option<f64>, value: f64, weight: f64) {
    if value.is_finite() {
        *known = Some(known.map_or(value, |known| known * (1.0 - weight) + value * weight));
    }
}

/// Constants of a server or of a fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Speed {
    /// Prefill, tokens/s times 10^9 bytes.
    pub prefill: Option<f64>,
    /// Decode, the same.
    pub decode: Option<f64>,
    /// Time of loads relative to their prior.
    pub load: Option<f64>,
}

/// What was learned of a model on a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learned {
    /// Tokens/s of one prompt alone on the server.
    pub prefill: Option<f64>,
    /// Tokens/s of one answer alone on the server.
    pub decode: Option<f64>,
    /// Seconds of a load.
    pub load: Option<f64>,
    /// Requests that it works on at once.
    pub slots: Option<u32>,
    /// Requests in a row that took all known slots and did not wait.
    pub(super) good: u32,
}

/// A moving mean that starts from what was supposed before, and not from the first that was seen: one request for a model
/// says little about the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    value: Option<f64>,
    seen: u32,
}

impl Mean {
    /// What was seen so far.
    #[must_use]
    pub const fn get(self) -> Option<f64> {
        self.value
    }

    /// A mean that is known from before.
    #[must_use]
    pub const fn known(value: Option<f64>) -> Self {
        Self { value, seen: if value.is_some() { u32::MAX } else { 0 } }
    }

    /// Takes in one more; `prior` counts as [`SUPPOSED`] that were seen before, and a new one for `least` at least.
    fn note(&mut self, value: f64, prior: f64, least: f64) {
        self.seen = self.seen.saturating_add(1);
        let weight = (1.0 / (f64::from(self.seen) + SUPPOSED)).max(least);
        self.value.get_or_insert(prior);
        average(&mut self.value, value, weight);
    }
}

/// Lengths of the requests for a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Typical {
    /// Tokens of a prompt.
    pub prompt: Mean,
    /// Tokens of an answer.
    pub output: Mean,
    /// Tokens to a byte of the body.
    pub density: Option<f64>,
}

/// Where each conversation was last, and how long it is: that server has its prefix in a slot.
#[derive(Debug, Default)]
pub struct Conversations {
    young: HashMap<u64, Known, FnvBuildHasher>,
    old: HashMap<u64, Known, FnvBuildHasher>,
}

/// A conversation that was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Where it was last.
    pub server: ServerId,
    /// With which model.
    pub model: ModelId,
    /// How many tokens it has.
    pub tokens: f64,
    /// Which turn of that model on that server it was.
    pub turn: u64,
}

impl Conversations {
    /// What is known of one.
    #[must_use]
    pub fn get(&self, conversation: u64) -> Option<Known> {
        self.young.get(&conversation).or_else(|| self.old.get(&conversation)).copied()
    }

    /// Notes one; those that were not seen for long are forgotten.
    pub fn note(&mut self, conversation: u64, known: Known) {
        if self.young.len() >= CONVERSATIONS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(conversation, known);
    }
}

impl Scheduler {
    /// A load takes typically this long, s; the unit of what has no time scale of its own.
    #[must_use]
    pub fn typical_load(&self) -> f64 {
        if self.typical_load > 0.0 { self.typical_load.clamp(0.05, 60.0) } else { prior_load(SIZE) }
    }

    /// Bytes in memory, 10^9.
    pub(super) fn size(&self, model: ModelId) -> f64 {
        let size = self.models[model].size;
        if size > 0.0 { size } else { SIZE }
    }

    /// Tokens/s of one prompt alone.
    #[inline]
    pub(super) fn prefill(&self, server: ServerId, model: ModelId) -> f64 {
        let prior = || {
            let speed = self.servers[server].speed.prefill.or(self.fleet_speed.prefill);
            speed.unwrap_or(PREFILL) / self.size(model)
        };
        self.pairs[(server, model)].learned.prefill.unwrap_or_else(prior)
    }

    /// Tokens/s of one answer alone.
    #[inline]
    pub(super) fn decode(&self, server: ServerId, model: ModelId) -> f64 {
        let prior = || {
            let speed = self.servers[server].speed.decode.or(self.fleet_speed.decode);
            speed.unwrap_or(DECODE) / self.size(model)
        };
        self.pairs[(server, model)].learned.decode.unwrap_or_else(prior)
    }

    /// Seconds of a load.
    pub(super) fn load(&self, server: ServerId, model: ModelId) -> f64 {
        let prior = || {
            let relative = self.servers[server].speed.load.or(self.fleet_speed.load);
            prior_load(self.size(model)) * relative.unwrap_or(1.0)
        };
        self.pairs[(server, model)].learned.load.unwrap_or_else(prior)
    }

    /// Seconds of the quickest load of a model among those that have it. It is kept until something is learned about
    /// loads, so that a choice need not look at every server.
    pub(super) fn quickest_load(&mut self, model: ModelId) -> f64 {
        let (epoch, known) = self.models[model].quickest_load;
        if epoch == self.load_epoch {
            return known;
        }
        let loads = self.models[model].holders.iter().map(|server| self.load(*server, model));
        let quickest = loads.fold(f64::INFINITY, f64::min);
        self.models[model].quickest_load = (self.load_epoch, quickest);
        quickest
    }

    /// Requests that a model on a server works on at once.
    pub(super) fn slots(&self, server: ServerId, model: ModelId) -> u32 {
        let facts = &self.servers[server].facts;
        let most = facts.max_in_flight_per_model.unwrap_or(u32::MAX).min(facts.max_in_flight).max(1);
        let learned =
            self.pairs[(server, model)].learned.slots.unwrap_or_else(|| match facts.max_in_flight_per_model {
                Some(told) => told,
                None if self.models[model].sees => 1,
                // A limit of the whole server is the best hint there is.
                None if facts.max_in_flight < u32::MAX => facts.max_in_flight,
                None => self.settings.slots,
            });
        learned.clamp(1, most)
    }

    /// Requests for a model that may run on a server: as many as are known to be worked on at once, and no limit where
    /// nothing is known, so that nobody waits for a guess.
    pub(super) fn most_running(&self, server: ServerId, model: ModelId) -> u32 {
        let server_facts = &self.servers[server].facts;
        let known = server_facts.max_in_flight_per_model.or(self.pairs[(server, model)].learned.slots);
        if known.is_some() { self.slots(server, model) } else { server_facts.max_in_flight }
    }

    /// Tokens of the prompt of a request with such a body.
    pub(super) fn prompt_tokens(&self, model: ModelId, bytes: u64) -> f64 {
        let mean = self.lengths(model).0;
        if bytes == 0 {
            return mean;
        }
        let density = self.models[model].typical.density.unwrap_or(1.0 / BYTES_PER_TOKEN);
        (bytes as f64 * density).clamp(1.0, LONGEST * mean.max(1.0))
    }

    /// Tokens of a prompt and of an answer.
    pub(super) fn lengths(&self, model: ModelId) -> (f64, f64) {
        let typical = &self.models[model].typical;
        (
            typical.prompt.get().or(self.typical.prompt.get()).unwrap_or(PROMPT),
            typical.output.get().or(self.typical.output.get()).unwrap_or(OUTPUT),
        )
    }

    /// A load of ours took this long, and nothing was in its way.
    pub(super) fn learn_load(&mut self, server: ServerId, model: ModelId, seconds: f64) {
        let prior = prior_load(self.size(model));
        average(&mut self.pairs[(server, model)].learned.load, seconds, 0.3);
        average(&mut self.servers[server].speed.load, seconds / prior, 0.3);
        average(&mut self.fleet_speed.load, seconds / prior, 0.1);
        self.load_epoch += 1;
        let before = self.typical_load;
        self.typical_load = if before > 0.0 { before * 0.9 + seconds * 0.1 } else { seconds };
    }

    /// A request ended well and told how it went.
    pub(super) fn learn(&mut self, ran: &Running, usage: &Usage) {
        let (server, model) = (ran.server, ran.model);
        let size = self.size(model);
        if usage.prompt > 0.0 && usage.prompt_tokens > 32.0 {
            let alone = usage.prompt_tokens / usage.prompt * ran.sharing.max(1.0);
            average(&mut self.pairs[(server, model)].learned.prefill, alone, 0.2);
            if self.takes_a_card(model) {
                average(&mut self.servers[server].speed.prefill, alone * size, 0.1);
                average(&mut self.fleet_speed.prefill, alone * size, 0.02);
            }
        }
        if usage.output > 0.0 && usage.output_tokens > 8.0 {
            let batch = f64::from(ran.beside.min(self.slots(server, model).saturating_sub(1)));
            let alone = usage.output_tokens / usage.output * ran.sharing_answer.max(1.0) * (1.0 + BATCHING * batch);
            average(&mut self.pairs[(server, model)].learned.decode, alone, 0.2);
            if self.takes_a_card(model) {
                average(&mut self.servers[server].speed.decode, alone * size, 0.1);
                average(&mut self.fleet_speed.decode, alone * size, 0.02);
            }
        }
        if usage.output_tokens > 0.0 {
            let fleet = self.typical.output.get().unwrap_or(OUTPUT);
            self.models[model].typical.output.note(usage.output_tokens, fleet, 0.05);
            self.typical.output.note(usage.output_tokens, OUTPUT, 0.02);
        }
        // A prefix that the server knew already is not counted by it, so only a first turn tells how long bodies are.
        if usage.prompt_tokens > 0.0 && ran.cached == 0.0 {
            let fleet = self.typical.prompt.get().unwrap_or(PROMPT);
            self.models[model].typical.prompt.note(usage.prompt_tokens, fleet, 0.05);
            self.typical.prompt.note(usage.prompt_tokens, PROMPT, 0.02);
            if ran.bytes > 0 {
                let density = (usage.prompt_tokens / ran.bytes as f64).min(1.0);
                average(&mut self.models[model].typical.density, density, 0.1);
            }
        }
        if usage.total > 0.0 {
            self.learn_slots(ran, usage);
        }
    }

    /// A request that waited on the server, though fewer than the supposed slots ran beside it, shows that there are
    /// fewer; many that took the last slot and did not wait make it worth trying one more.
    fn learn_slots(&mut self, ran: &Running, usage: &Usage) {
        let slots = self.slots(ran.server, ran.model);
        let worked = usage.prompt + usage.output;
        let waited = usage.total - usage.load - worked;
        let learned = &mut self.pairs[(ran.server, ran.model)].learned;
        if worked <= 0.0 {
            return;
        }
        if ran.beside > 0 && usage.load < 0.2 * worked && waited > 0.5 * worked {
            learned.slots = Some(slots.min(ran.beside).max(1));
            learned.good = 0;
        } else if ran.beside + 1 >= slots {
            learned.good += 1;
            if learned.good >= SLOT_TRIAL && learned.slots.is_some() {
                learned.slots = Some(slots + 1);
                learned.good = 0;
            }
        }
    }
}

/// Seconds of a load that nothing is known about.
fn prior_load(size: f64) -> f64 {
    size / LOAD_RATE + LOAD_FIXED
}

/// Whether a model sees pictures, by its name; Ollama gave such models one slot for long.
pub(super) fn is_vision(name: &str) -> bool {
    ["llava", "vision", "-vl", "moondream", "minicpm-v"].iter().any(|word| name.contains(word))
}
