//! What runs and waits elsewhere: other instances send requests to the same servers.
//!
//! # Problem
//!
//! Each instance has a scheduler of its own and hears of the others a moment late. If each believed that an idle server is
//! its own, all would send to it at once, and a server of four slots would get twelve requests from three instances. Asking
//! before each request would make every request wait.
//!
//! # Shape
//!
//! Each tells the others what runs and waits, and hears itself among them, so it knows of which of its own requests the
//! others know. Between two such moments an instance takes no more than its part of what is free:
//!
//! ```text
//! free  = slots - running elsewhere - own that the others know of
//! begin   while own running < own that the others know of + ⌈free / instances⌉
//! ```
//!
//! So `n` instances that see the same `free` slots take `n ⌈free / n⌉` at most, which is less than `free + n`. A freed slot
//! is for whoever has waited longest, wherever: an instance leaves as many slots free as others wait for that came before
//! its own.
//!
//! What runs elsewhere counts in the scores as what runs here; a load that another instance ordered is one like ours.
//!
//! # Invariants
//!
//! - With one instance nothing here changes anything.
//! - What was heard is replaced as a whole, so a lost message is mended by the next one.

use std::collections::{BTreeMap, HashSet};

use super::residency::Residency;
use super::state::Scheduler;
use super::words::{ModelId, Moment, ServerId};

/// What others have on a server, or on it for one model, and what they know of ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elsewhere {
    /// Requests of others that run.
    pub running: u32,
    /// Requests of others that wait.
    pub waiting: u32,
    /// Since when the oldest of those has been waiting.
    pub oldest: f64,
    /// Of our own that run, those that the others know of.
    pub known: u32,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self { running: 0, waiting: 0, oldest: f64::INFINITY, known: 0 }
    }
}

/// What is known of all others together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Others {
    /// How many instances there are, this one among them.
    pub instances: u32,
    /// Whether they cannot be heard: what was known of ours is then of no use, and everything that is free may be taken.
    pub deaf: bool,
    /// By server.
    pub servers: Vec<(ServerId, Elsewhere)>,
    /// By server and model.
    pub pairs: Vec<OthersOfPair>,
}

/// What is known of others about a model on a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OthersOfPair {
    /// The server.
    pub server: ServerId,
    /// The model.
    pub model: ModelId,
    /// What they have there.
    pub elsewhere: Elsewhere,
    /// When a load began that one of them ordered.
    pub load: Option<f64>,
    /// Until when none of them tries a load again that failed.
    pub broken_until: f64,
}

/// What this instance tells the others about a server, or about a model on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// Requests that run.
    pub running: u32,
    /// Requests that wait.
    pub waiting: u32,
    /// Since when the oldest of those has been waiting.
    pub oldest: Option<f64>,
    /// When a load of ours began.
    pub loading: Option<f64>,
    /// Until when a load that failed is not tried again.
    pub broken_until: Option<f64>,
}

/// A server with anything, all that it has, and each model on it.
pub type OwnOfServer = (ServerId, Own, Vec<(ModelId, Own)>);

/// How many slots this instance may have in use.
struct Part {
    most: u32,
    own: u32,
    instances: u32,
    /// Whether nobody else is to be thought of.
    alone: bool,
}

impl Part {
    /// Whether one more request may begin, whose turn is since `since`.
    fn allows(&self, there: &Elsewhere, since: f64) -> bool {
        let room = self.most.saturating_sub(there.running);
        if self.own >= room {
            return false;
        }
        if self.alone {
            return true;
        }
        let free = room.saturating_sub(there.known);
        let step = there.known.saturating_add(free.div_ceil(self.instances));
        let before = if there.oldest < since { there.waiting } else { 0 };
        self.own < step && (before == 0 || self.own.saturating_add(before) < room)
    }
}

impl Scheduler {
    /// Whether a request may begin there whose turn is since `since`, as far as slots are concerned.
    pub(super) fn has_slot(&self, server: ServerId, model: ModelId, since: f64) -> bool {
        let (host, pair) = (&self.servers[server], &self.pairs[(server, model)]);
        // Where nobody may wait, a request that is not let in now is refused.
        let alone = self.deaf || self.instances <= 1 || self.settings.max_pending == 0;
        let part = |most, own| Part { most, own, instances: self.instances, alone };
        part(host.facts.max_in_flight, host.in_flight).allows(&host.elsewhere, since)
            && part(self.most_running(server, model), pair.in_flight).allows(&pair.elsewhere, since)
    }

    /// Takes what is known of the others now, and goes on with what that makes possible.
    pub fn hear(&mut self, others: &Others, moment: &Moment<'_>) {
        self.instances = others.instances.max(1);
        self.deaf = others.deaf;
        let mut changed = Vec::new();
        let loads: HashSet<(ServerId, ModelId)> =
            others.pairs.iter().filter(|pair| pair.load.is_some()).map(|pair| (pair.server, pair.model)).collect();
        for server in &mut self.servers {
            (server.elsewhere, server.foreign_load) = (Elsewhere::default(), None);
        }
        let mut ended = Vec::new();
        for (server, model, loaded) in std::mem::take(&mut self.heard) {
            let pair = &mut self.pairs[(server, model)];
            let host = &mut self.servers[server];
            host.active -= u32::from(pair.in_flight == 0 && pair.elsewhere.running > 0);
            pair.elsewhere = Elsewhere::default();
            if loaded && !loads.contains(&(server, model)) {
                ended.push((server, model));
            }
            changed.push(server);
        }
        for (server, elsewhere) in &others.servers {
            if let Some(host) = self.servers.get_mut(*server) {
                host.elsewhere = *elsewhere;
                changed.push(*server);
            }
        }
        for one in &others.pairs {
            let (server, model) = (one.server, one.model);
            if server >= self.servers.len() || model >= self.models.len() {
                continue;
            }
            let pair = &mut self.pairs[(server, model)];
            pair.elsewhere = one.elsewhere;
            pair.broken_until = pair.broken_until.max(one.broken_until);
            if one.elsewhere.running > 0 {
                pair.used = moment.now;
            }
            let host = &mut self.servers[server];
            host.active += u32::from(pair.in_flight == 0 && one.elsewhere.running > 0);
            let residency = pair.residency;
            if let Some(since) = one.load {
                host.foreign_load = Some(model);
                if residency == Residency::Cold {
                    let ready_at = (since + self.load(server, model)).max(moment.now);
                    self.set_residency(server, model, Residency::Loading { since, ready_at }, moment.now);
                }
            }
            self.heard.push((server, model, one.load.is_some()));
            changed.push(server);
        }
        for (server, model) in ended {
            self.foreign_load_ended(server, model, moment);
        }
        changed.sort_unstable();
        changed.dedup();
        for server in changed {
            self.serve_server(server, moment);
            self.begin_loads(server, moment);
        }
    }

    /// A load that another instance ordered is over. Where it did not say that it failed it is thought to have gone well, until
    /// the server itself tells.
    fn foreign_load_ended(&mut self, server: ServerId, model: ModelId, moment: &Moment<'_>) {
        let pair = &self.pairs[(server, model)];
        let is_loading = matches!(pair.residency, Residency::Loading { .. });
        if !is_loading || pair.in_flight > 0 || self.servers[server].loading == Some(model) {
            return;
        }
        if moment.now < pair.broken_until {
            self.set_residency(server, model, Residency::Cold, moment.now);
            self.place_again(server, model, moment);
        } else {
            self.set_residency(server, model, Residency::Ready { since: moment.now }, moment.now);
        }
    }

    /// What others have on a server, as was heard last.
    #[must_use]
    pub fn elsewhere(&self, server: ServerId) -> Elsewhere {
        self.servers.get(server).map(|host| host.elsewhere).unwrap_or_default()
    }

    /// Whether requests for a model could begin on a server, if there were a slot.
    fn is_there(&self, server: ServerId, model: ModelId) -> bool {
        let ready = matches!(self.pairs[(server, model)].residency, Residency::Ready { .. });
        ready || self.models[model].remote || !self.settings.loads
    }

    /// What the others are to know: each server with anything, and each model on it.
    #[must_use]
    pub fn own(&self, now: f64) -> Vec<OwnOfServer> {
        let mut pairs: BTreeMap<(ServerId, ModelId), Own> = BTreeMap::new();
        for ran in self.running.values() {
            pairs.entry((ran.server, ran.model)).or_default().running += 1;
        }
        for (server, host) in self.servers.iter().enumerate() {
            // Whoever may not begin anyway keeps nobody from beginning.
            for model in host.awaited.iter().filter(|_| !self.paused) {
                let own = pairs.entry((server, *model)).or_default();
                own.waiting = self.pairs[(server, *model)].waiting;
                own.oldest = self.oldest_waiter(server, *model);
            }
            if let Some(model) = host.loading
                && let Residency::Loading { since, .. } = self.pairs[(server, model)].residency
            {
                pairs.entry((server, model)).or_default().loading = Some(since);
            }
            if let Some(model) = host.failed
                && now < self.pairs[(server, model)].broken_until
            {
                pairs.entry((server, model)).or_default().broken_until = Some(self.pairs[(server, model)].broken_until);
            }
        }
        let mut all: Vec<OwnOfServer> = Vec::new();
        for ((server, model), own) in pairs {
            if all.last().is_none_or(|(last, ..)| *last != server) {
                all.push((server, Own::default(), Vec::new()));
            }
            let Some((_, sum, models)) = all.last_mut() else { continue };
            sum.running += own.running;
            // Who waits for a model to come into memory could not begin: nobody need leave a slot for that one.
            if self.is_there(server, model) {
                sum.waiting += own.waiting;
                sum.oldest = [sum.oldest, own.oldest].into_iter().flatten().min_by(f64::total_cmp);
            }
            models.push((model, own));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(most: u32, instances: u32, there: Elsewhere) -> u32 {
        (0..)
            .find(|own| !Part { most, own: *own, instances, alone: instances == 1 }.allows(&there, 0.0))
            .unwrap_or(u32::MAX)
    }

    #[test]
    fn alone_everything_may_be_taken() {
        assert_eq!(begun(4, 1, Elsewhere::default()), 4);
    }

    #[test]
    fn instances_that_see_the_same_take_less_than_one_each_too_many() {
        for instances in 2..6 {
            for most in 1..20 {
                let one = begun(most, instances, Elsewhere::default());
                assert_eq!(one, most.div_ceil(instances));
                assert!(one * instances < most + instances, "{instances} {most}");
            }
        }
    }

    #[test]
    fn one_alone_among_many_gets_all_in_a_few_rounds() {
        let mut known = 0;
        for _ in 0..16 {
            known = begun(16, 3, Elsewhere { known, ..Elsewhere::default() });
        }
        assert_eq!(known, 16);
    }

    #[test]
    fn what_runs_elsewhere_is_not_free() {
        assert_eq!(begun(4, 2, Elsewhere { running: 3, ..Elsewhere::default() }), 1);
        assert_eq!(begun(4, 2, Elsewhere { running: 4, known: 1, ..Elsewhere::default() }), 0);
        // More than there is, since two were quick: nobody begins until it is less.
        assert_eq!(begun(4, 2, Elsewhere { running: 3, known: 2, ..Elsewhere::default() }), 1);
    }

    #[test]
    fn a_slot_is_left_for_whoever_has_waited_longer() {
        let waits = |oldest| Elsewhere { running: 2, waiting: 1, oldest, known: 2 };
        assert_eq!(begun(4, 2, waits(-1.0)), 1, "one slot is left");
        assert_eq!(begun(4, 2, waits(1.0)), 2, "it came later");
    }

    #[test]
    fn who_cannot_hear_the_others_goes_on_with_what_is_left() {
        let part = |own| Part { most: 4, own, instances: 3, alone: true };
        let there = Elsewhere { running: 1, waiting: 9, oldest: -1.0, known: 0 };
        assert!(part(2).allows(&there, 0.0) && !part(3).allows(&there, 0.0));
    }
}
