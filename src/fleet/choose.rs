//! The choice of a server for one attempt: candidates, then the upstream's rule, then a slot.
//!
//! A candidate has the model, is up and neither draining nor in maintenance, is below its limit, was not tried by this request, and its
//! circuit lets the request pass. When circuits alone leave nobody, they are ignored: a request that
//! may fail is better than one that certainly does. One that an operator holds open is not ignored.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::inventory::ServerSet;
use super::server::Slot;
use super::snapshot::{Member, Upstream};
use crate::config::types::BalancePolicy;
use crate::policy::balance::affinity::Tier;
use crate::policy::balance::least_requests;
use crate::policy::circuit::Pass;
use crate::policy::failure::Reason;

/// What a request asks of an upstream.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The model by its canonical name; `None` when any server will do.
    pub model: Option<&'a str>,
    /// Whether the first in the order of the file will do, by no rule.
    pub first: bool,
    /// Whether it takes a slot: reads of what a server has do not wait for its models.
    pub takes_slot: bool,
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
    /// What its circuit wants to be told about; `None` when the circuit was ignored.
    pub pass: Option<Pass>,
}

/// Chooses a server and takes a slot on it.
///
/// # Errors
/// Why there is none.
pub fn choose(upstream: &Upstream, ask: Ask<'_>) -> Result<Chosen, Reason> {
    let Some(model) = ask.model.filter(|_| upstream.has_models()) else {
        return pick(upstream, ask, None).ok_or_else(|| nobody(upstream, ask.now, None));
    };
    let index = upstream.models.load();
    let Some(holders) = index.holders(model) else {
        if index.unknown.is_empty() {
            return Err(Reason::ModelNotFound);
        }
        // A server that has not told its models may have this one; it will say so itself.
        return pick(upstream, ask, Some(&index.unknown)).ok_or(Reason::NoServer);
    };
    let count = |set: &ServerSet| usize::from(set.iter().any(|index| usable(upstream, ask, index, true)));
    let loaded = count(&holders.loaded);
    // Who has it on disk matters only when nobody has it in memory.
    let available = if loaded > 0 { loaded } else { count(&holders.available) };
    let set = match upstream.balance.affinity.tier(loaded, available) {
        Tier::Loaded => &holders.loaded,
        Tier::Available | Tier::Nobody => &holders.available,
        Tier::NotLoaded => return Err(Reason::NotLoaded),
    };
    pick(upstream, ask, Some(set)).ok_or_else(|| nobody(upstream, ask.now, Some(set)))
}

/// Whether a member may have the request as far as its own state goes.
fn usable(upstream: &Upstream, ask: Ask<'_>, index: usize, heed_circuit: bool) -> bool {
    let Some(member) = upstream.servers.get(index) else { return false };
    member.state.is_up()
        && member.state.standing(ask.now).takes_work()
        && (!ask.takes_slot || member.state.in_flight() < member.max_in_flight)
        && !ask.tried.contains(&index)
        && !member.state.is_shut(ask.now)
        && (!heed_circuit || member.state.would_admit(ask.now))
}

/// Picks by the upstream's rule until a slot is really taken: another request may be quicker.
fn pick(upstream: &Upstream, ask: Ask<'_>, set: Option<&ServerSet>) -> Option<Chosen> {
    match set {
        Some(set) => pick_of(upstream, ask, set.iter(), |index| set.contains(index)),
        None => pick_of(upstream, ask, 0..upstream.servers.len(), |_| true),
    }
}

/// The cost follows the candidates, not the size of the upstream.
fn pick_of(
    upstream: &Upstream,
    ask: Ask<'_>,
    candidates: impl Iterator<Item = usize> + Clone,
    is_candidate: impl Fn(usize) -> bool,
) -> Option<Chosen> {
    let balance = &upstream.balance;
    for heed_circuit in [true, false] {
        for _ in candidates.clone() {
            let usable = |index: usize| is_candidate(index) && usable(upstream, ask, index, heed_circuit);
            let turn = balance.turn.fetch_add(1, Ordering::Relaxed);
            let index = match balance.policy {
                _ if ask.first => candidates.clone().find(|index| usable(*index)),
                BalancePolicy::RoundRobin => balance.schedule.pick(turn, candidates.clone(), usable),
                BalancePolicy::ConsistentHash => balance.ring.pick(ask.key, usable),
                // What is not scheduled of such an upstream goes to the least busy one.
                BalancePolicy::LeastRequests | BalancePolicy::ExpectedWait => least_requests::pick(
                    candidates.clone(),
                    |index| usable(index).then(|| upstream.servers[index].state.in_flight()),
                    |index| upstream.servers[index].weight,
                    turn,
                ),
            };
            let Some(index) = index else { break };
            let member = &upstream.servers[index];
            let admission = member.state.admit(ask.now);
            if heed_circuit && admission.pass().is_none() {
                continue;
            }
            match member.state.take_slot(if ask.takes_slot { member.max_in_flight } else { u32::MAX }) {
                // An operator's decision may have come in between.
                Some(slot) if member.state.standing(ask.now).takes_work() => {
                    return Some(Chosen { index, slot, pass: admission.pass() });
                }
                _ => admission.pass().into_iter().for_each(|pass| member.state.release(pass)),
            }
        }
    }
    None
}

/// Why a set of servers has no candidate.
fn nobody(upstream: &Upstream, now: Instant, set: Option<&ServerSet>) -> Reason {
    let members = upstream.servers.iter().enumerate().filter(|(index, _)| set.is_none_or(|set| set.contains(*index)));
    let works = |member: &Member| member.state.is_up() && member.state.standing(now).takes_work();
    let mut up = members.filter(|(_, member)| works(member)).peekable();
    if up.peek().is_some() && up.all(|(_, member)| member.state.in_flight() >= member.max_in_flight) {
        Reason::ServerBusy
    } else {
        Reason::NoServer
    }
}
