//! The requests of one run: a slice of the trace, given models, conversations and users.
//!
//! Half of the requests go on with one of the last sixty conversations, so that remembered prompts matter. Models
//! have Zipf's popularity; now and then one of them gets a quarter of the new conversations for a while, as when
//! a class begins or a script is started. Arrivals keep the trace's rhythm, stretched to the wanted rate.

use std::collections::VecDeque;

use arriero::demo::{Plan, Planned};

use crate::random::Random;
use crate::trace::Arrival;

/// Probability that a request goes on with a conversation.
const CONTINUED: f64 = 0.5;
/// Conversations that may still go on.
const OPEN: usize = 60;
/// Share of new conversations that the favourite of the moment gets.
const FAVOURED: f64 = 0.25;
/// For how many requests it is the favourite, and there is none, at least and at most.
const FAVOUR: (usize, usize) = (40, 120);
/// Users, and the exponent by which some ask more than others.
const USERS: (usize, f64) = (20, 0.7);
/// Bytes of text for a token.
const BYTES_PER_TOKEN: usize = 4;
/// Every conversation begins with the same instructions.
const INSTRUCTIONS: &str = "You are a helpful assistant.";
const FILLER: &str = "the drover counts the mules at dawn and again at dusk and writes the number down ";

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its place in the run and in the plan.
    pub number: usize,
    /// Seconds from the beginning of the run, in the fleet's time.
    pub due: f64,
    /// Place of its model.
    pub model: usize,
    /// Who asks.
    pub user: usize,
    /// What the fleet knows.
    pub planned: Planned,
}

/// The requests of one run.
pub fn requests(trace: &[Arrival], count: usize, rate: f64, shares: &[f64], seed: u64) -> Vec<Request> {
    let mut random = Random::new(seed.wrapping_mul(7919).wrapping_add(13));
    let count = count.min(trace.len());
    let begin = random.below(trace.len() - count + 1);
    let slice = &trace[begin..begin + count];
    let (first, last) = (slice.first().map_or(0.0, |one| one.at), slice.last().map_or(0.0, |one| one.at));
    let stretch = (count as f64 / rate) / (last - first).max(1e-9);
    let users = crate::random::zipf(USERS.0, USERS.1);
    let mut open: VecDeque<(u64, usize, usize)> = VecDeque::new();
    let (mut favourite, mut until, mut conversations) = (None, 0, 0);
    let request = |(number, arrival): (usize, &Arrival)| {
        if number >= until {
            favourite = favourite.is_none().then(|| random.weighted(shares));
            until = number + FAVOUR.0 + random.below(FAVOUR.1 - FAVOUR.0);
        }
        let (conversation, model, user) = if !open.is_empty() && random.chance(CONTINUED) {
            open[random.below(open.len())]
        } else {
            conversations += 1;
            let model = favourite.filter(|_| random.chance(FAVOURED)).unwrap_or_else(|| random.weighted(shares));
            let new = (conversations, model, random.weighted(&users));
            open.push_back(new);
            if open.len() > OPEN {
                open.pop_front();
            }
            new
        };
        let planned = Planned { prompt: arrival.prompt, answer: arrival.answer, conversation };
        Request { number, due: (arrival.at - first) * stretch, model, user, planned }
    };
    slice.iter().enumerate().map(request).collect()
}

impl Request {
    /// The body of a chat with this model: four bytes for each token of the prompt.
    pub fn body(&self, model: &str) -> Vec<u8> {
        let conversation = self.planned.conversation;
        let opening = format!("conversation {conversation} begins, {:08x}", conversation.wrapping_mul(2_654_435_761));
        let mark = Plan::mark(self.number);
        let mut body = format!(
            r#"{{"model":"{model}","stream":true,"messages":[{{"role":"system","content":"{INSTRUCTIONS}"}},{{"role":"user","content":"{opening}"}},{{"role":"user","content":"{mark} "#
        );
        let end = r#""}]}"#;
        let missing = (self.planned.prompt * BYTES_PER_TOKEN).saturating_sub(body.len() + end.len());
        body.extend(FILLER.chars().cycle().take(missing));
        body.push_str(end);
        body.into_bytes()
    }
}
