//! The choice of a server for one attempt: candidates, then the upstream's rule, then a slot.
//!
//! A candidate has the model, nothing [excludes](super::exclusion) it, it is below its limit and was not tried by this
//! request. Circuits that say no to too many are [not followed](super::ejection): a request that may fail is better than
//! one that certainly does.
//!
//! Among candidates, those come last that just said they were too busy, and a server whose circuit has just closed gets
//! a growing part of its share.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::ejection;
use super::inventory::ServerSet;
use super::permit::Permit;
use super::server::Slot;
use super::snapshot::{Member, Upstream};
use crate::config::types::BalancePolicy;
use crate::policy::balance::affinity::Tier;
use crate::policy::balance::{least_requests, peak_ewma, random, scramble};
use crate::policy::failure::Reason;

/// Where weights are scaled by a share, so finely.
const SCALE: f32 = 1000.0;

/// What a request asks of an upstream.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The model by its canonical name; `None` when any server will do.
    pub model: Option<&'a str>,
    /// Whether the first in the order of the file will do, by no rule.
    pub first: bool,
    /// Whether it takes a slot: reads of what a server has do not wait for its models.
    pub takes_slot: bool,
    /// Whether only a server will do that has the model in memory and a free slot.
    pub warm: bool,
    /// Hash of what `consistent_hash` hashes.
    pub key: u64,
    /// Servers that this request tried already.
    pub tried: &'a [usize],
    /// The present.
    pub now: Instant,
}

/// The chosen server with what the request took from it.
pub struct Chosen {
    /// Its index in the upstream.
    pub index: usize,
    /// The slot; free again when dropped.
    pub slot: Slot,
    /// What its circuits want to be told about.
    pub permit: Permit,
}

/// A choice that is being made.
struct Field<'a> {
    upstream: &'a Upstream,
    ask: Ask<'a>,
    /// The model, where servers are told apart by it.
    model: Option<&'a str>,
    /// Used although their circuits say no.
    readmitted: ServerSet,
}

/// Chooses a server and takes a slot on it.
///
/// # Errors
/// Why there is none.
pub fn choose(upstream: &Upstream, ask: Ask<'_>) -> Result<Chosen, Reason> {
    let Some(model) = ask.model.filter(|_| upstream.has_models()) else {
        let field = Field::new(upstream, ask, None, 0..upstream.servers.len());
        return field.pick(None).ok_or_else(|| field.nobody(None));
    };
    let index = upstream.models.load();
    let Some(holders) = index.holders(model) else {
        if index.unknown.is_empty() {
            return Err(Reason::ModelNotFound);
        }
        // A server that has not told its models may have this one; it will say so itself.
        let field = Field::new(upstream, ask, Some(model), index.unknown.iter());
        return field.pick(Some(&index.unknown)).ok_or(Reason::NoServer);
    };
    let field = Field::new(upstream, ask, Some(model), holders.available.iter());
    let count = |set: &ServerSet| usize::from(set.iter().any(|index| field.usable(index)));
    let loaded = count(&holders.loaded);
    if ask.warm && loaded == 0 {
        return Err(Reason::ServerBusy);
    }
    // Who has it on disk matters only when nobody has it in memory.
    let available = if loaded > 0 { loaded } else { count(&holders.available) };
    let set = match upstream.balance.affinity.tier(loaded, available) {
        _ if ask.warm => &holders.loaded,
        Tier::Loaded => &holders.loaded,
        Tier::Available | Tier::Nobody => &holders.available,
        Tier::NotLoaded => return Err(Reason::NotLoaded),
    };
    field.pick(Some(set)).ok_or_else(|| field.nobody(Some(set)))
}

/// Whether a server other than those tried has the model in memory and a free slot, and at most `most_percent` hundredths
/// of the others are busy.
pub fn has_warm_server(upstream: &Upstream, ask: Ask<'_>, most_percent: usize) -> bool {
    let others = || upstream.servers.iter().enumerate().filter(|(index, _)| !ask.tried.contains(index));
    let reachable = || others().filter(|(_, member)| member.state.is_up());
    let busy = reachable().filter(|(_, member)| member.is_full() || member.state.is_held_back(ask.now)).count();
    let Some(model) = ask.model.filter(|_| upstream.has_models()) else { return false };
    let index = upstream.models.load();
    let warm = |index: usize, member: &Member| {
        let free = member.has_free_slot() && !member.state.is_held_back(ask.now);
        free && member.state.exclusion(Some(model), ask.now).is_none() && !ask.tried.contains(&index)
    };
    busy * 100 <= reachable().count() * most_percent
        && index.holders(model).is_some_and(|holders| {
            holders.loaded.iter().any(|index| upstream.servers.get(index).is_some_and(|member| warm(index, member)))
        })
}

/// Whether a server other than those tried may have the model, and nothing excludes it.
pub fn has_other_holder(upstream: &Upstream, ask: Ask<'_>) -> bool {
    let Some(model) = ask.model.filter(|_| upstream.has_models()) else { return false };
    let index = upstream.models.load();
    let set = index.holders(model).map_or(&index.unknown, |holders| &holders.available);
    set.iter().filter(|index| !ask.tried.contains(index)).any(|index| {
        let member = upstream.servers.get(index);
        member.is_some_and(|member| member.state.exclusion(Some(model), ask.now).is_none_or(|why| why.is_soft()))
    })
}

impl<'a> Field<'a> {
    fn new(
        upstream: &'a Upstream,
        ask: Ask<'a>,
        model: Option<&'a str>,
        candidates: impl Iterator<Item = usize>,
    ) -> Self {
        let readmitted = ejection::readmitted(upstream, candidates, model, ask.tried, ask.now);
        Self { upstream, ask, model, readmitted }
    }

    /// Whether a member may have the request as far as its own state goes.
    fn usable(&self, index: usize) -> bool {
        let Some(member) = self.upstream.servers.get(index) else { return false };
        let excluded = member.state.exclusion(self.model, self.ask.now);
        excluded.is_none_or(|why| why.is_soft() && self.readmitted.contains(index))
            && if self.ask.warm { member.has_free_slot() } else { !self.ask.takes_slot || !member.is_full() }
            && !self.ask.tried.contains(&index)
    }

    /// Whether it is this server's turn, as far as others could have the request as well.
    fn is_due(&self, index: usize, turn: u64) -> bool {
        let state = &self.upstream.servers[index].state;
        if state.is_held_back(self.ask.now) {
            return false;
        }
        let share = self.share(index);
        // `least_requests` weighs shares itself.
        share >= 1.0
            || matches!(self.upstream.balance.policy, BalancePolicy::LeastRequests | BalancePolicy::ExpectedWait)
            || {
                // The same key is given the same answer, or a client would change servers to and fro.
                let of_key = self.upstream.balance.policy == BalancePolicy::ConsistentHash;
                let lot = scramble(if of_key { self.ask.key } else { turn } ^ 0x5107) >> 40;
                (lot as f32) < share * (1_u64 << 24) as f32
            }
    }

    fn share(&self, index: usize) -> f32 {
        let state = &self.upstream.servers[index].state;
        self.model.map_or_else(|| state.share(self.ask.now), |model| state.share_of(model, self.ask.now))
    }

    /// Picks by the upstream's rule until a slot is really taken: another request may be quicker.
    fn pick(&self, set: Option<&ServerSet>) -> Option<Chosen> {
        match set {
            Some(set) => self.pick_of(set.iter(), |index| set.contains(index)),
            None => self.pick_of(0..self.upstream.servers.len(), |_| true),
        }
    }

    /// The cost follows the candidates, not the size of the upstream.
    fn pick_of(
        &self,
        candidates: impl Iterator<Item = usize> + Clone,
        is_candidate: impl Fn(usize) -> bool,
    ) -> Option<Chosen> {
        let balance = &self.upstream.balance;
        for anybody in [false, true] {
            for _ in candidates.clone() {
                let turn = balance.turn.fetch_add(1, Ordering::Relaxed);
                let usable =
                    |index: usize| is_candidate(index) && self.usable(index) && (anybody || self.is_due(index, turn));
                let index = match balance.policy {
                    _ if self.ask.first => candidates.clone().find(|index| usable(*index)),
                    BalancePolicy::RoundRobin => balance.schedule.pick(turn, candidates.clone(), usable),
                    BalancePolicy::ConsistentHash => balance.ring.pick(self.ask.key, usable),
                    BalancePolicy::PeakEwma => self.peak_ewma(candidates.clone(), usable, turn),
                    BalancePolicy::RandomTwo => {
                        random::of_two(candidates.clone(), |index| usable(index).then(|| self.load(index)), turn)
                    }
                    BalancePolicy::Weighted => random::weighted(
                        candidates.clone(),
                        |index| usable(index).then(|| self.upstream.servers[index].weight),
                        turn,
                    ),
                    // What is not scheduled of such an upstream goes to the least busy one.
                    BalancePolicy::LeastRequests | BalancePolicy::ExpectedWait => {
                        self.least_requests(candidates.clone(), usable, turn)
                    }
                };
                let Some(index) = index else { break };
                if let Some(chosen) = self.take(index) {
                    return Some(chosen);
                }
            }
        }
        None
    }

    fn load(&self, index: usize) -> (u32, u32) {
        let member = &self.upstream.servers[index];
        (member.state.in_flight(), member.weight)
    }

    fn peak_ewma(
        &self,
        candidates: impl Iterator<Item = usize> + Clone,
        usable: impl Fn(usize) -> bool,
        turn: u64,
    ) -> Option<usize> {
        let cost = |index: usize| {
            let (in_flight, weight) = self.load(index);
            usable(index).then(|| self.upstream.servers[index].state.times().cost(in_flight, weight, self.ask.now))
        };
        peak_ewma::pick(candidates, cost, turn)
    }

    fn least_requests(
        &self,
        candidates: impl Iterator<Item = usize> + Clone,
        usable: impl Fn(usize) -> bool,
        turn: u64,
    ) -> Option<usize> {
        let servers = &self.upstream.servers;
        let in_flight = |index: usize| usable(index).then(|| servers[index].state.in_flight());
        if candidates.clone().all(|index| self.share(index) >= 1.0) {
            return least_requests::pick(candidates, in_flight, |index| servers[index].weight, turn);
        }
        // One of them has just come back.
        let weight = |index: usize| (servers[index].weight as f32 * self.share(index) * SCALE) as u32;
        least_requests::pick(candidates, in_flight, |index| weight(index).max(1), scramble(turn))
    }

    /// Takes what the request needs of a server; nothing if somebody was quicker.
    fn take(&self, index: usize) -> Option<Chosen> {
        let member = &self.upstream.servers[index];
        let permit = member
            .state
            .admit(self.model, self.ask.now)
            .or_else(|| self.readmitted.contains(index).then(|| member.state.admit_anyway(self.ask.now)))?;
        let slot = member.state.take_slot(if self.ask.takes_slot { member.max_in_flight } else { u32::MAX })?;
        // An operator's decision may have come in between.
        member.state.standing(self.ask.now).takes_work().then_some(Chosen { index, slot, permit })
    }

    /// Why a set of servers has no candidate.
    fn nobody(&self, set: Option<&ServerSet>) -> Reason {
        let servers = self.upstream.servers.iter().enumerate();
        let members = servers.filter(|(index, _)| set.is_none_or(|set| set.contains(*index)));
        let there = |member: &Member| {
            member.state.exclusion(self.model, self.ask.now).is_none_or(super::exclusion::Exclusion::is_soft)
        };
        let mut there = members.filter(|(_, member)| there(member)).peekable();
        if there.peek().is_some() && there.all(|(_, member)| member.is_full()) {
            Reason::ServerBusy
        } else {
            Reason::NoServer
        }
    }
}
