//! A placement for the traffic that was seen lately: which models should be in memory where.
//!
//! # Problem
//! Choosing for one request at a time finds a good server for it, and may throw out today what is needed tomorrow. At high
//! load a placement that fits the mix of models is what keeps loads away (simulation: p99 at 95 % load 3 times lower).
//!
//! # Method
//! A local search off the hot path. The value of a placement is the load of its busiest server when the traffic is spread
//! as well as the placement allows (fictitious play on soft-max prices); a step adds a model to a server and throws others
//! out until it fits, or takes one out; what is not worse is kept. A new plan replaces the old one only if it carries 15 %
//! more, so that it does not swing. The plan forces nothing: evicting against it costs more
//! ([`super::score`]).

use super::learned::BATCHING;
use super::state::Scheduler;
use super::words::{ModelId, ServerId};
use crate::policy::balance::scramble;

/// Time between two plans, in typical loads.
const INTERVAL: f64 = 12.0;
/// By how much a new plan must be better.
const BETTER: f64 = 1.15;
/// Steps of the search.
const STEPS: u64 = 300;
/// Rounds of spreading the traffic.
const ROUNDS: u32 = 40;
/// Requests that must have been seen.
const LEAST: f64 = 30.0;

/// What a plan is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Bytes that fit, by server.
    pub room: Vec<f64>,
    /// Models that fit, by server.
    pub most: Vec<usize>,
    /// Bytes, by model.
    pub size: Vec<f64>,
    /// Share of the requests, by model; 0 for those that are not asked for.
    pub share: Vec<f64>,
    /// Seconds of a server for a request, by server and model; `None` where the server may not have it.
    pub work: Vec<Vec<Option<f64>>>,
    /// Models that stay, by server.
    pub fixed: Vec<Vec<ModelId>>,
    /// The plan in force.
    pub current: Vec<Vec<ModelId>>,
}

/// The models of each server.
pub type Placement = Vec<Vec<ModelId>>;

impl Problem {
    /// A better placement than the current one, if one was found; `seed` is any number.
    #[must_use]
    pub fn solve(&self, seed: u64) -> Option<Placement> {
        let mut random = seed;
        let mut next = move |below: usize| {
            random = scramble(random);
            usize::try_from(random % below.max(1) as u64).unwrap_or(0)
        };
        let asked: Vec<ModelId> = (0..self.share.len()).filter(|model| self.share[*model] > 0.0).collect();
        if asked.is_empty() {
            return None;
        }
        let mut best = self.first(&asked);
        let mut value = self.busiest(&best);
        for _ in 0..STEPS {
            let model = asked[next(asked.len())];
            let server = next(self.room.len());
            let Some(changed) = self.step(&best, server, model, &mut next) else { continue };
            let changed_value = self.busiest(&changed);
            if changed_value <= value {
                (best, value) = (changed, changed_value);
            }
        }
        (value * BETTER < self.busiest(&self.current)).then_some(best)
    }

    /// The largest models first, each where most room is left.
    fn first(&self, asked: &[ModelId]) -> Placement {
        let mut placed = self.fixed.clone();
        let mut order = asked.to_vec();
        order.sort_by(|one, other| self.size[*other].total_cmp(&self.size[*one]));
        for model in order {
            let free = |server: ServerId| self.room[server] - self.used(&placed[server]);
            let best = (0..self.room.len())
                .filter(|server| self.work[*server][model].is_some() && !placed[*server].contains(&model))
                .filter(|server| free(*server) >= self.size[model] && placed[*server].len() < self.most[*server])
                .max_by(|one, other| free(*one).total_cmp(&free(*other)));
            if let Some(server) = best {
                placed[server].push(model);
            }
        }
        placed
    }

    fn used(&self, models: &[ModelId]) -> f64 {
        models.iter().map(|model| self.size[*model]).sum()
    }

    fn step(
        &self,
        from: &Placement,
        server: ServerId,
        model: ModelId,
        next: &mut impl FnMut(usize) -> usize,
    ) -> Option<Placement> {
        self.work[server][model]?;
        let mut to = from.clone();
        let here = &mut to[server];
        if let Some(place) = here.iter().position(|placed| *placed == model) {
            if self.fixed[server].contains(&model) {
                return None;
            }
            here.swap_remove(place);
            return Some(to);
        }
        here.push(model);
        while self.used(here) > self.room[server] || here.len() > self.most[server] {
            let movable: Vec<usize> = (0..here.len())
                .filter(|place| here[*place] != model && !self.fixed[server].contains(&here[*place]))
                .collect();
            if movable.is_empty() {
                return None;
            }
            here.swap_remove(movable[next(movable.len())]);
        }
        Some(to)
    }

    /// The load of the busiest server when the traffic is spread as well as it can be. A model that is nowhere makes a
    /// placement worse than any in which it is somewhere.
    fn busiest(&self, placed: &Placement) -> f64 {
        let servers = placed.len();
        let mut holders: Vec<(f64, Vec<(ServerId, f64)>)> = Vec::new();
        let mut nowhere = 0.0;
        for (model, share) in self.share.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            let mut here = Vec::new();
            for (server, models) in placed.iter().enumerate() {
                if models.contains(&model) {
                    here.extend(self.work[server][model].map(|work| (server, work * share)));
                }
            }
            if here.is_empty() {
                // Nobody can have it, or nobody has.
                nowhere += if self.work.iter().any(|work| work[model].is_some()) { 1e6 * share } else { 0.0 };
            } else {
                holders.push((*share, here));
            }
        }
        let mut price = vec![1.0; servers];
        let mut load = vec![0.0; servers];
        let mut weights = 0.0;
        for round in 1..=ROUNDS {
            let weight = f64::from(round);
            weights += weight;
            for (_, here) in &holders {
                let cheapest =
                    here.iter().min_by(|one, other| (price[one.0] * one.1).total_cmp(&(price[other.0] * other.1)));
                if let Some((server, work)) = cheapest {
                    load[*server] += weight * work;
                }
            }
            let most = load.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            let eta = 3.0 * f64::from(round + 1).sqrt();
            for (price, load) in price.iter_mut().zip(&load) {
                *price = (eta * (load - most) / most).exp();
            }
        }
        nowhere + load.iter().copied().fold(0.0, f64::max) / weights.max(1.0)
    }
}

impl Scheduler {
    /// What the next plan is to be made from, when it is time for one.
    pub fn plan_is_due(&mut self, now: f64) -> Option<Problem> {
        if !self.settings.plan || now - self.planned_at < INTERVAL * self.typical_load() {
            return None;
        }
        let seen: f64 = self.models.iter().map(|model| model.slow_rate).sum();
        if seen < LEAST {
            return None;
        }
        self.planned_at = now;
        let servers = 0..self.servers.len();
        let models = 0..self.models.len();
        let share = self.models.iter().map(|model| model.slow_rate / seen).collect();
        for model in &mut self.models {
            model.slow_rate *= 0.9;
        }
        let fixed =
            servers.clone().map(|server| models.clone().filter(|model| self.is_pinned(server, *model)).collect());
        let current =
            servers.clone().map(|server| models.clone().filter(|model| self.pairs[(server, *model)].planned).collect());
        Some(Problem {
            room: servers.clone().map(|server| self.room(server)).collect(),
            most: servers.clone().map(|server| self.most_loaded(server)).collect(),
            size: models.clone().map(|model| self.size(model)).collect(),
            share,
            work: servers
                .clone()
                .map(|server| models.clone().map(|model| self.work(server, model)).collect())
                .collect(),
            fixed: fixed.collect(),
            current: current.collect(),
        })
    }

    /// Seconds of a server for a mean request at full batches; `None` where it may not have the model.
    fn work(&self, server: ServerId, model: ModelId) -> Option<f64> {
        if !self.holds(server, model) || self.size(model) > self.room(server) {
            return None;
        }
        let (prompt, output) = self.lengths(model);
        let slots = f64::from(self.slots(server, model));
        let batch = (1.0 + BATCHING * (slots - 1.0)) / slots;
        Some(prompt / self.prefill(server, model) + output / self.decode(server, model) * batch)
    }

    /// Puts a plan in force.
    pub fn set_plan(&mut self, plan: &Placement) {
        for (server, models) in plan.iter().enumerate().take(self.servers.len()) {
            for model in 0..self.models.len() {
                self.pairs[(server, model)].planned = models.contains(&model);
            }
        }
    }

    /// The plan in force, by names; empty without one.
    pub fn planned(&self) -> impl Iterator<Item = (&str, &str)> {
        self.servers.iter().enumerate().filter(|(_, server)| server.present).flat_map(|(id, server)| {
            let planned = self.pairs.of_server(id).filter(|(_, pair)| pair.planned);
            planned.map(|(model, _)| (server.facts.name.as_str(), self.models[model].name.as_str()))
        })
    }
}
