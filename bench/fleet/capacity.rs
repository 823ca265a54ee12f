//! How many requests a second a fleet can answer at most, so that "70 % load" means something.
//!
//! The measure is the best fixed placement of models that a search finds: each server keeps what fits into its
//! memory and never loads again, and the traffic of a model is split over the servers that keep it so that the
//! busiest one is as little busy as possible. It is not a bound, but a yardstick that does not depend on any policy.

use crate::random::Random;
use crate::setup::{MAX_LOADED, Setup};

/// Rounds in which the split of the traffic is improved: while searching, and for the result.
const ROUNDS: (usize, usize) = (60, 400);
/// Changes that are tried, from each of so many beginnings.
const CHANGES: usize = 500;
const BEGINNINGS: u64 = 3;
/// What each further answer of a batch adds to its step, as the simulated hosts have it.
const BATCH_COST: f64 = 0.25;

/// A fixed placement.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Places of the models that each server keeps.
    pub kept: Vec<Vec<usize>>,
    /// Requests a second that it can answer.
    pub rate: f64,
}

/// What the traffic is like.
pub struct Traffic {
    /// Share of each model; sums to one.
    pub shares: Vec<f64>,
    /// Mean tokens of prompts and of answers.
    pub means: (f64, f64),
}

struct Search<'a> {
    setup: &'a Setup,
    shares: &'a [f64],
    /// GPU seconds of one request, by server and model.
    work: Vec<Vec<f64>>,
}

/// The best placement that the search finds; the same for the same arguments.
pub fn best(setup: &Setup, traffic: &Traffic) -> Placement {
    let (prompt, answer) = traffic.means;
    let seconds = |server: usize, model: usize| {
        let (card, size) = (&setup.servers[server].card, setup.models[model].size);
        let slots = setup.slots(model) as f64;
        // In full batches; lengths are means, so they are scaled from a thousand tokens.
        let prefill = card.prefill_seconds(size, 1000) * prompt / 1000.0;
        let decode = card.decode_seconds(size, 1000) * answer / 1000.0;
        prefill + decode * (1.0 + BATCH_COST * (slots - 1.0)) / slots
    };
    let servers = 0..setup.servers.len();
    let work = servers.map(|server| (0..setup.models.len()).map(|model| seconds(server, model)).collect()).collect();
    let search = Search { setup, shares: &traffic.shares, work };
    let found = (0..BEGINNINGS).map(|seed| search.climb(seed));
    let (_, kept) = found.min_by(|one, other| one.0.total_cmp(&other.0)).expect("there is a beginning");
    let rate = 1.0 / search.busiest(&kept, ROUNDS.1);
    Placement { kept, rate }
}

impl Search<'_> {
    fn fits(&self, kept: &[usize], server: usize) -> bool {
        let used: u64 = kept.iter().map(|model| self.setup.models[*model].size).sum();
        used <= self.setup.servers[server].card.usable() && kept.len() <= MAX_LOADED
    }

    /// Improves a placement by single changes as long as chance offers some that are not worse.
    fn climb(&self, seed: u64) -> (f64, Vec<Vec<usize>>) {
        let mut random = Random::new(seed);
        let mut kept = self.beginning(&mut random, seed == 0);
        let mut value = self.busiest(&kept, ROUNDS.0);
        for _ in 0..CHANGES {
            let mut changed = kept.clone();
            let model = random.below(self.setup.models.len());
            let holders = self.setup.holders(model);
            let Some(&server) = holders.get(random.below(holders.len())) else { continue };
            let place = &mut changed[server];
            if place.contains(&model) {
                place.retain(|other| *other != model);
            } else {
                place.push(model);
                while !self.fits(place, server) {
                    place.remove(random.below(place.len() - 1));
                }
            }
            let now = self.busiest(&changed, ROUNDS.0);
            if now <= value {
                (kept, value) = (changed, now);
            }
        }
        (value, kept)
    }

    /// Every model once, the largest first: where most is free, or anywhere.
    fn beginning(&self, random: &mut Random, orderly: bool) -> Vec<Vec<usize>> {
        let mut kept = vec![Vec::new(); self.setup.servers.len()];
        let mut models: Vec<usize> = (0..self.setup.models.len()).collect();
        models.sort_by_key(|model| std::cmp::Reverse(self.setup.models[*model].size));
        for model in models {
            let mut holders = self.setup.holders(model);
            holders.retain(|server| self.fits(&[kept[*server].as_slice(), &[model]].concat(), *server));
            let free = |server: &usize| {
                let used: u64 = kept[*server].iter().map(|other: &usize| self.setup.models[*other].size).sum();
                self.setup.servers[*server].card.usable() - used
            };
            let chosen = if orderly {
                holders.iter().copied().max_by_key(free)
            } else {
                holders.get(random.below(holders.len())).copied()
            };
            if let Some(server) = chosen {
                kept[server].push(model);
            }
        }
        kept
    }

    /// The load of the busiest server for one request a second, with the traffic split well.
    ///
    /// Each round every model goes to the server that is cheapest for it; a server's price grows with its mean
    /// load so far. The mean over the rounds comes close to the best split.
    fn busiest(&self, kept: &[Vec<usize>], rounds: usize) -> f64 {
        let servers = self.setup.servers.len();
        let missing = (0..self.shares.len()).filter(|model| !kept.iter().any(|place| place.contains(model))).count();
        if missing > 0 {
            return 1e9 * missing as f64;
        }
        let (mut price, mut sum, mut weights) = (vec![1.0; servers], vec![0.0; servers], 0.0);
        for round in 1..=rounds {
            let mut load = vec![0.0; servers];
            for (model, share) in self.shares.iter().enumerate() {
                let cost = |server: &usize| price[*server] * self.work[*server][model];
                let holders = (0..servers).filter(|server| kept[*server].contains(&model));
                if let Some(server) = holders.min_by(|one, other| cost(one).total_cmp(&cost(other))) {
                    load[server] += share * self.work[server][model];
                }
            }
            // Later rounds know more.
            let weight = round as f64;
            weights += weight;
            sum.iter_mut().zip(&load).for_each(|(sum, load)| *sum += weight * load);
            let most = sum.iter().copied().fold(f64::MIN, f64::max);
            let steepness = 3.0 * weight.sqrt();
            price = sum.iter().map(|sum| (steepness * (sum - most) / most).exp()).collect();
        }
        sum.into_iter().fold(f64::MIN, f64::max) / weights
    }
}
