//! What an operator laid down about models: where they may be, where they stay, how many copies there are.

use super::residency::Residency;
use super::state::Scheduler;
use super::words::{Eviction, ModelId, Moment, ServerId};
use crate::policy::queue::Class;

/// The rules for one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Where it stays in memory: it is loaded there and makes no room.
    pub pinned: Vec<ServerId>,
    /// Where it is loaded when the server is new or has come back; it may make room later.
    pub warm: Vec<ServerId>,
    /// The only servers that may have it.
    pub only: Option<Vec<ServerId>>,
    /// Servers that may not.
    pub never: Vec<ServerId>,
    /// Least copies in memory.
    pub min_warm: u32,
    /// Most copies in memory.
    pub max_warm: Option<u32>,
    /// Seconds that it stays in memory at least; a part of the time of its load otherwise.
    pub min_residency: Option<f64>,
    /// Seconds without a request after which it is taken out of memory.
    pub idle_unload: Option<f64>,
    /// How much its copies are worth.
    pub priority: Class,
}

impl Rules {
    /// By how much its priority scales what evicting it costs.
    pub(super) const fn worth(&self) -> f64 {
        match self.priority {
            Class::High => 4.0,
            Class::Normal => 1.0,
            Class::Low => 0.25,
        }
    }

    fn allow(&self, server: ServerId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&server)) && !self.never.contains(&server)
    }
}

/// Tells the rules for a model by its name.
pub trait RuleBook: Send {
    /// The rules for that model.
    fn rules(&self, model: &str) -> Rules;
}

/// No rules.
pub struct NoRules;

impl RuleBook for NoRules {
    fn rules(&self, _: &str) -> Rules {
        Rules::default()
    }
}

/// A model just loaded stays for this share of the time that its load took, which is to be of some use.
const MIN_RESIDENCY: f64 = 0.5;

impl Scheduler {
    /// Takes the rules of a configuration.
    pub fn set_rules(&mut self, book: Box<dyn RuleBook>) {
        self.rule_book = book;
        self.apply_rules();
    }

    pub(super) fn apply_rules(&mut self) {
        for model in &mut self.models {
            model.rules = self.rule_book.rules(&model.name);
        }
        let ruled = self.models.iter().enumerate().filter(|(_, model)| model.rules != Rules::default());
        self.ruled = ruled.map(|(model, _)| model).collect();
    }

    /// Whether a server has a model and may be asked for it.
    pub(super) fn holds(&self, server: ServerId, model: ModelId) -> bool {
        self.pairs[(server, model)].on_disk && self.is_open(server, model)
    }

    /// Servers that have a model and may be asked for it.
    pub fn holders(&self, model: ModelId) -> impl Iterator<Item = ServerId> {
        self.models[model].holders.iter().copied().filter(move |server| self.is_open(*server, model))
    }

    /// Those of them that have it in memory, or on its way there.
    pub(super) fn warm_holders(&self, model: ModelId) -> impl Iterator<Item = ServerId> {
        let known = &self.models[model];
        // What runs elsewhere is never in the server's own memory.
        let servers = if known.remote { &known.holders } else { &known.copies };
        servers.iter().copied().filter(move |server| self.holds(*server, model))
    }

    fn is_open(&self, server: ServerId, model: ModelId) -> bool {
        self.servers[server].present && self.models[model].rules.allow(server)
    }

    /// Copies in memory or on their way there.
    pub(super) fn copies(&self, model: ModelId) -> u32 {
        let copies = self.models[model].copies.iter().filter(|server| self.servers[**server].present);
        u32::try_from(copies.count()).unwrap_or(u32::MAX)
    }

    /// Whether there may be no further copy of a model.
    pub(super) fn has_enough_copies(&self, model: ModelId) -> bool {
        self.models[model].rules.max_warm.is_some_and(|most| self.copies(model) >= most.max(1))
    }

    pub(super) fn is_pinned(&self, server: ServerId, model: ModelId) -> bool {
        self.models[model].rules.pinned.contains(&server)
    }

    /// Seconds that a model stays in memory at least.
    pub(super) fn min_residency(&self, server: ServerId, model: ModelId) -> f64 {
        self.models[model].rules.min_residency.unwrap_or_else(|| MIN_RESIDENCY * self.load(server, model))
    }

    /// A server is new or has come back: what is to be warm there is loaded again.
    pub fn appeared(&mut self, server: ServerId) {
        if let Some(host) = self.servers.get_mut(server) {
            host.warmed = false;
            for model in self.ruled.iter().copied() {
                self.pairs[(server, model)].put_out = false;
            }
        }
    }

    /// Says whether rules are followed here; one of several schedulers before the same servers does.
    pub const fn lead(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// Loads what the rules want in memory and unloads what has been idle for too long, one step for each server.
    pub(super) fn follow_rules(&mut self, moment: &Moment<'_>) {
        if self.ruled.is_empty() || !self.leads {
            return;
        }
        for server in 0..self.servers.len() {
            if self.servers[server].present && self.servers[server].loading.is_none() {
                self.load_wanted(server, moment);
            }
            self.unload_idle(server, moment.now);
        }
        for model in self.ruled.clone() {
            if self.models[model].rules.min_warm > self.copies(model) {
                self.add_copy(model, moment);
            }
        }
    }

    fn load_wanted(&mut self, server: ServerId, moment: &Moment<'_>) {
        let wanted = self.ruled.iter().copied().find(|model| {
            let rules = &self.models[*model].rules;
            let here = rules.pinned.contains(&server) || !self.servers[server].warmed && rules.warm.contains(&server);
            here && self.is_loadable(server, *model, moment)
        });
        match wanted {
            Some(model) => self.begin_load(server, model, moment.now),
            // Until it has told what it has, nothing can be said to be in place.
            None if !self.servers[server].on_disk.is_empty() => self.servers[server].warmed = true,
            None => {}
        }
    }

    fn is_loadable(&self, server: ServerId, model: ModelId, moment: &Moment<'_>) -> bool {
        let pair = &self.pairs[(server, model)];
        self.holds(server, model)
            && self.takes_a_card(model)
            && pair.residency == Residency::Cold
            && !pair.put_out
            && moment.now >= pair.broken_until
            && (moment.excluded)(server, model).is_none()
            && self.victims(server, model, moment.now).may_begin
    }

    fn add_copy(&mut self, model: ModelId, moment: &Moment<'_>) {
        let best =
            self.holders(model).filter(|server| self.is_loadable(*server, model, moment)).min_by(|one, other| {
                let price = |server| self.victims(server, model, moment.now).price + self.load(server, model);
                price(*one).total_cmp(&price(*other))
            });
        if let Some(server) = best {
            self.begin_load(server, model, moment.now);
        }
    }

    fn unload_idle(&mut self, server: ServerId, now: f64) {
        let host = &self.servers[server];
        let idle = host.resident.iter().copied().filter(|model| {
            let pair = &self.pairs[(server, *model)];
            let rules = &self.models[*model].rules;
            matches!(pair.residency, Residency::Ready { .. })
                && pair.all() == 0
                && !rules.pinned.contains(&server)
                && self.copies(*model) > rules.min_warm
                && rules.idle_unload.is_some_and(|most| now - pair.used > most)
        });
        for model in idle.collect::<Vec<_>>() {
            self.send_out(server, model, Eviction::Idle, now);
        }
    }
}
