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
//! is for whoever goes first, wherever: each tells how many of each class wait, and since when the one does that goes first of
//! them. By class, lifted by age, and then by that time an instance leaves as many slots free as others wait for before its
//! own. Fairness between flows is each instance's own: whom it lets go first of a class, it tells.
//!
//! What runs elsewhere counts in the scores as what runs here; a load that another instance ordered is one like ours, and what
//! it sent out of memory is gone before the server is asked what it has. Who sees its part of the requests takes the demand for
//! a model for so many times as much.
//!
//! # Invariants
//!
//! - With one instance nothing here changes anything.
//! - What was heard is replaced as a whole, so a lost message is mended by the next one.

use std::collections::{BTreeMap, HashSet};

use super::residency::Residency;
use super::state::Scheduler;
use super::words::{ModelId, Moment, ServerId};
use crate::policy::queue::{Class, Turn};

/// Those of one class that wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// How many.
    pub count: u32,
    /// Since when the one has been waiting that goes first; infinite where there is none.
    pub since: f64,
}

impl Default for Line {
    fn default() -> Self {
        Self { count: 0, since: f64::INFINITY }
    }
}

impl Line {
    /// The same with others.
    pub fn add(&mut self, more: &Self) {
        self.count = self.count.saturating_add(more.count);
        self.since = self.since.min(more.since);
    }
}

/// Those that wait, by class.
pub type Lines = [Line; Class::ALL.len()];

/// What others have on a server, or on it for one model, and what they know of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Elsewhere {
    /// Requests of others that run.
    pub running: u32,
    /// Requests of others that wait.
    pub lines: Lines,
    /// Of our own that run, those that the others know of.
    pub known: u32,
}

impl Elsewhere {
    /// How many requests of others wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        count(&self.lines)
    }

    /// How many of them come before one whose turn this is. Where the first of a class does, all of them are taken to: whether the
    /// next one does is told when that one has gone.
    fn before(&self, turn: Turn, now: f64, aging: f64) -> u32 {
        let is_before = |(class, line): &(Class, &Line)| line.count > 0 && class.turn(line.since, now, aging) < turn;
        let before = Class::ALL.into_iter().zip(&self.lines).filter(is_before);
        before.fold(0, |count, (_, line)| line.count.saturating_add(count))
    }
}

fn count(lines: &Lines) -> u32 {
    lines.iter().fold(0, |count, line| line.count.saturating_add(count))
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
    /// When one of them had the model leave the memory of the server.
    pub sent_out: Option<f64>,
}

/// What this instance tells the others about a server, or about a model on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// Requests that run.
    pub running: u32,
    /// Requests that wait.
    pub lines: Lines,
    /// When a load of ours began.
    pub loading: Option<f64>,
    /// Until when a load that failed is not tried again.
    pub broken_until: Option<f64>,
    /// When we had the model leave the memory of the server.
    pub sent_out: Option<f64>,
}

/// A server with anything, all that it has, and each model on it.
pub type OwnOfServer = (ServerId, Own, Vec<(ModelId, Own)>);

/// Seconds for which the others are told that a model was sent out of memory: after that the server itself has told them.
pub(super) const TOLD_FOR: f64 = 10.0;

/// How many slots this instance may have in use.
struct Part {
    most: u32,
    own: u32,
    instances: u32,
    /// Whether nobody else is to be thought of.
    alone: bool,
}

impl Part {
    /// Whether one more request may begin.
    fn allows(&self, there: &Elsewhere) -> bool {
        let room = self.most.saturating_sub(there.running);
        let free = room.saturating_sub(there.known);
        let step = there.known.saturating_add(free.div_ceil(self.instances));
        self.own < room && (self.alone || self.own < step)
    }

    /// Whether a slot is left then for each of so many others.
    fn leaves(&self, there: &Elsewhere, others: u32) -> bool {
        let room = self.most.saturating_sub(there.running);
        self.alone || others == 0 || self.own.saturating_add(others) < room
    }
}

impl Scheduler {
    /// The part of the slots of a server and of those of a model on it, with what others have there.
    fn parts(&self, server: ServerId, model: ModelId) -> [(Part, &Elsewhere); 2] {
        let (host, pair) = (&self.servers[server], &self.pairs[(server, model)]);
        // Where nobody may wait, whoever is not let in now is refused. Parts would refuse a burst that comes to one instance
        // although slots are free; without them several such bursts at a time wait on the server. Where one slot is free, each
        // instance may take it with or without them.
        let alone = self.deaf || self.instances <= 1 || self.settings.max_pending == 0;
        let part = |most, own| Part { most, own, instances: self.instances, alone };
        let model = part(self.most_running(server, model), pair.in_flight);
        [(part(host.facts.max_in_flight, host.in_flight), &host.elsewhere), (model, &pair.elsewhere)]
    }

    /// Whether a request may begin there, as far as slots are concerned.
    pub(super) fn has_slot(&self, server: ServerId, model: ModelId) -> bool {
        self.parts(server, model).into_iter().all(|(part, there)| part.allows(there))
    }

    /// Whether one whose turn this is may have a slot there, with one left for each of others that come before it.
    pub(super) fn is_next(&self, server: ServerId, model: ModelId, turn: Turn, now: f64) -> bool {
        // No more of them begin than prompts are read at a time.
        let at_once = self.read_at_a_time(server).saturating_mul(self.instances);
        let before = |there: &Elsewhere| there.before(turn, now, self.settings.aging).min(at_once);
        self.parts(server, model).into_iter().all(|(part, there)| part.leaves(there, before(there)))
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
        for (_, model, _) in &self.heard {
            self.models[*model].waiting_elsewhere = 0;
        }
        let (mut ended, mut left) = (Vec::new(), Vec::new());
        for (server, model, loaded) in std::mem::take(&mut self.heard) {
            let on_card = self.takes_a_card(model);
            let pair = &mut self.pairs[(server, model)];
            let host = &mut self.servers[server];
            host.active -= u32::from(on_card && pair.in_flight == 0 && pair.elsewhere.running > 0);
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
            let on_card = self.takes_a_card(model);
            let pair = &mut self.pairs[(server, model)];
            pair.elsewhere = one.elsewhere;
            pair.broken_until = pair.broken_until.max(one.broken_until);
            if one.elsewhere.running > 0 {
                pair.used = moment.now;
            }
            let host = &mut self.servers[server];
            host.active += u32::from(on_card && pair.in_flight == 0 && one.elsewhere.running > 0);
            let residency = pair.residency;
            if let Some(since) = one.load {
                host.foreign_load = Some(model);
                if residency == Residency::Cold {
                    let ready_at = (since + self.load(server, model)).max(moment.now);
                    self.set_residency(server, model, Residency::Loading { since, ready_at }, moment.now);
                }
            }
            if let Some(at) = one.sent_out
                && matches!(residency, Residency::Ready { since } if since < at)
            {
                self.will_leave(server, model);
                self.set_residency(server, model, Residency::Cold, moment.now);
                left.push((server, model));
            }
            self.models[model].waiting_elsewhere += one.elsewhere.waiting();
            self.heard.push((server, model, one.load.is_some()));
            changed.push(server);
        }
        self.heard.sort_unstable();
        for (server, model) in ended {
            self.foreign_load_ended(server, model, moment);
        }
        for (server, model) in left {
            self.place_again(server, model, moment);
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
        ready || !self.takes_a_card(model) || !self.settings.loads
    }

    /// Those that wait for a model on a server.
    fn lines(&self, server: ServerId, model: ModelId) -> Lines {
        let mut lines = Lines::default();
        let here = self.models[model].queue.iter().filter(|(_, _, waiter)| waiter.server == server);
        for (place, since, _) in here {
            let line = &mut lines[place.class() as usize];
            // They come in the order in which they go.
            if line.count == 0 {
                line.since = since;
            }
            line.count += 1;
        }
        lines
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
                pairs.entry((server, *model)).or_default().lines = self.lines(server, *model);
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
        for (server, model, at) in &self.sent_out {
            if now - at < TOLD_FOR && self.pairs[(*server, *model)].residency == Residency::Cold {
                pairs.entry((*server, *model)).or_default().sent_out = Some(*at);
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
                sum.lines.iter_mut().zip(&own.lines).for_each(|(sum, line)| sum.add(line));
            }
            models.push((model, own));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many may begin, of those that nobody said anything about and that wait since 0.
    fn begun(most: u32, instances: u32, there: Elsewhere) -> u32 {
        let may = |own: u32| {
            let part = Part { most, own, instances, alone: instances == 1 };
            part.allows(&there) && part.leaves(&there, there.before(Class::Normal.turn(0.0, 5.0, 10.0), 5.0, 10.0))
        };
        (0..).find(|own| !may(*own)).unwrap_or(u32::MAX)
    }

    fn waits(class: Class, count: u32, since: f64) -> Elsewhere {
        let mut there = Elsewhere { running: 2, known: 2, ..Elsewhere::default() };
        there.lines[class as usize] = Line { count, since };
        there
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
        assert_eq!(begun(4, 2, waits(Class::Normal, 1, -1.0)), 1, "one slot is left");
        assert_eq!(begun(4, 2, waits(Class::Normal, 1, 1.0)), 2, "it came later");
        assert_eq!(begun(4, 2, waits(Class::Normal, 9, -1.0)), 0);
    }

    #[test]
    fn a_slot_is_left_for_a_higher_class_and_not_for_a_lower_one() {
        assert_eq!(begun(4, 2, waits(Class::High, 1, 1.0)), 1, "it came later, and goes first");
        assert_eq!(begun(4, 2, waits(Class::Low, 9, -1.0)), 2, "it came first, and goes later");
        assert_eq!(
            begun(4, 2, waits(Class::Low, 1, -10.0)),
            1,
            "it has waited for so long that it is of the same class"
        );
        let mut both = waits(Class::Low, 9, -1.0);
        both.lines[Class::High as usize] = Line { count: 1, since: 1.0 };
        assert_eq!(begun(4, 2, both), 1, "one of ten comes before");
    }

    #[test]
    fn who_cannot_hear_the_others_goes_on_with_what_is_left() {
        let part = |own| Part { most: 4, own, instances: 3, alone: true };
        let there = Elsewhere { running: 1, known: 0, ..waits(Class::High, 9, -1.0) };
        assert!(part(2).allows(&there) && !part(3).allows(&there));
        assert!(part(2).leaves(&there, 9));
    }
}
