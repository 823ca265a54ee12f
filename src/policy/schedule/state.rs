//! What the scheduler knows.

use std::collections::HashMap;

use fnv::FnvBuildHasher;

use super::decision::{Decision, Decisions};
use super::elsewhere::Elsewhere;
use super::learned::{Speed, Typical, is_vision};
use super::orders::Ordered;
use super::pairs::Pairs;
use super::residency::Residency;
use super::rules::{NoRules, RuleBook, Rules};
use super::words::{Action, ModelId, OrderId, RunnerOptions, Running, ServerFacts, ServerId, Settings, Ticket, Waiter};
use crate::policy::queue::{FairQueue, Place};

/// One server.
pub(super) struct Server {
    pub(super) facts: ServerFacts,
    /// Whether the configuration has it.
    pub(super) present: bool,
    /// Models that it has at all.
    pub(super) on_disk: Vec<ModelId>,
    /// Models in memory or on their way there.
    pub(super) resident: Vec<ModelId>,
    /// Models that somebody waits for here.
    pub(super) awaited: Vec<ModelId>,
    /// Requests of ours that run on it.
    pub(super) in_flight: u32,
    /// Requests that wait for it.
    pub(super) waiting: u32,
    /// Seconds for which it will read their prompts.
    pub(super) unread: f64,
    /// Seconds for which it reads those prompts, alone, that it is at.
    pub(super) reading: f64,
    /// Models that requests run for, of others too.
    pub(super) active: u32,
    /// Requests that run and whose prompt is being read.
    pub(super) prefilling: u32,
    /// Models that answers come from.
    pub(super) answering: u32,
    /// The model that a load of ours brings.
    pub(super) loading: Option<ModelId>,
    /// The model that a load of ours did not bring last.
    pub(super) failed: Option<ModelId>,
    /// The model that another instance brings.
    pub(super) foreign_load: Option<ModelId>,
    /// What others have on it.
    pub(super) elsewhere: Elsewhere,
    /// Whether nothing is in the way of that load, so that its time says something.
    pub(super) loading_is_clean: bool,
    /// How much a request crowds it: the mean weight of the servers, / its own.
    pub(super) crowds: f64,
    /// The share of the requests that it should have: less than all while it has just come back.
    pub(super) share: f64,
    /// Whether what is to be warm here has been loaded.
    pub(super) warmed: bool,
    /// Loads that an operator ordered here.
    pub(super) ordered: Vec<Ordered>,
    /// The largest sum of sizes seen in memory: memory is at least that.
    pub(super) seen_memory: f64,
    /// The most models seen in memory.
    pub(super) seen_loaded: u32,
    /// What is known of its cards.
    pub(super) cards: super::card::Cards,
    /// Speeds by size, from all its models.
    pub(super) speed: Speed,
}

/// One model on one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    /// Whether the server has it at all.
    pub(super) on_disk: bool,
    /// Which bytes its name stands for there.
    pub(super) digest: Option<Box<str>>,
    pub(super) residency: Residency,
    /// When that changed last.
    pub(super) changed: f64,
    /// Options that the runner was loaded with, where that is known.
    pub(super) options: Option<RunnerOptions>,
    pub(super) in_flight: u32,
    /// Those of them whose answer has not begun.
    pub(super) prefilling: u32,
    /// What others have there.
    pub(super) elsewhere: Elsewhere,
    /// Requests that have begun here so far.
    pub(super) turns: u64,
    /// Requests that wait here.
    pub(super) waiting: u32,
    /// Seconds for which their prompts will be read.
    pub(super) unread: f64,
    /// What was learned about it.
    pub(super) learned: super::learned::Learned,
    /// When it was last used or became ready.
    pub(super) used: f64,
    /// Until when a load of it is not tried again.
    pub(super) broken_until: f64,
    /// Until when it is to be avoided: it said that it is busy.
    pub(super) busy_until: f64,
    /// Whether the learned plan has it here.
    pub(super) planned: bool,
    /// Whether an operator took it out although a rule keeps it here: the rule holds again once it was asked for.
    pub(super) put_out: bool,
    /// The share of it that is not on the cards, while it is in memory.
    pub(super) spilled: f64,
    /// Whether it was told to leave memory, and has not been asked for since.
    pub(super) sent_out: bool,
}

/// One model.
pub(super) struct Model {
    pub(super) name: String,
    /// Whether it sees pictures.
    pub(super) sees: bool,
    /// 10^9 bytes in memory.
    pub(super) size: f64,
    /// Whether memory told the size, and not the disk.
    pub(super) size_is_known: bool,
    /// It runs elsewhere and takes no memory.
    pub(super) remote: bool,
    /// Servers that have it at all, in the order of their ids.
    pub(super) holders: Vec<ServerId>,
    /// Servers that have it in memory, or on its way there.
    pub(super) copies: Vec<ServerId>,
    /// The quickest load among the holders, s, and the [`Scheduler::load_epoch`] in which that was found.
    pub(super) quickest_load: (u64, f64),
    pub(super) queue: FairQueue<Waiter>,
    /// Requests of other instances that wait for it, wherever.
    pub(super) waiting_elsewhere: u32,
    pub(super) typical: Typical,
    /// Arrivals, decaying.
    pub(super) rate: f64,
    pub(super) rate_at: f64,
    /// Arrivals for the plan, decaying slowly.
    pub(super) slow_rate: f64,
    pub(super) rules: Rules,
}

/// Knows a fleet and decides for it.
pub struct Scheduler {
    pub(super) settings: Settings,
    pub(super) servers: Vec<Server>,
    pub(super) models: Vec<Model>,
    pub(super) pairs: Pairs,
    pub(super) names: HashMap<String, ModelId, FnvBuildHasher>,
    /// Where each waiter stands.
    pub(super) waiting: HashMap<Ticket, (ModelId, Place), FnvBuildHasher>,
    pub(super) running: HashMap<Ticket, Running, FnvBuildHasher>,
    pub(super) conversations: super::learned::Conversations,
    /// Constants of all servers together.
    pub(super) fleet_speed: Speed,
    pub(super) typical: Typical,
    pub(super) typical_load: f64,
    /// Counts what changes how long loads are thought to take.
    pub(super) load_epoch: u64,
    pub(super) next_ticket: Ticket,
    pub(super) next_order: OrderId,
    pub(super) actions: Vec<Action>,
    pub(super) decisions: Decisions,
    /// Where choices for those that wait already are made.
    pub(super) revision: Decision,
    /// The server after the one whose waiters were chosen for anew last.
    pub(super) visited: usize,
    pub(super) paused: bool,
    /// How many instances there are.
    pub(super) instances: u32,
    /// Models that were sent out of memory lately: server, model, when.
    pub(super) sent_out: Vec<(ServerId, ModelId, f64)>,
    /// Whether the others cannot be heard.
    pub(super) deaf: bool,
    /// Where others have something, as was heard last, and whether that is a load.
    pub(super) heard: Vec<(ServerId, ModelId, bool)>,
    pub(super) planned_at: f64,
    /// Whether any of the servers has a card.
    pub(super) has_cards: bool,
    pub(super) rule_book: Box<dyn RuleBook>,
    /// Models that there are rules for.
    pub(super) ruled: Vec<ModelId>,
    /// Whether rules are followed here.
    pub(super) leads: bool,
}

impl Server {
    /// How many share the card: each prompt that is read has it for itself in turn, answers of one model are worked on
    /// together.
    pub(super) fn sharing(&self) -> f64 {
        f64::from(self.prefilling + self.answering)
    }

    /// Whether no load was ordered that has not ended, by whomever.
    pub(super) const fn is_free_to_load(&self) -> bool {
        self.loading.is_none() && self.foreign_load.is_none()
    }

    /// Requests that run or wait there, of others too.
    pub(super) fn all(&self) -> f64 {
        f64::from(self.in_flight + self.waiting + self.elsewhere.running + self.elsewhere.waiting())
    }
}

impl Pair {
    /// Requests whose answer has begun.
    pub(super) const fn answering(&self) -> u32 {
        self.in_flight - self.prefilling
    }

    /// Requests that run there, of others too.
    pub(super) const fn running(&self) -> u32 {
        self.in_flight + self.elsewhere.running
    }

    /// Requests that run or wait there, of others too.
    pub(super) fn all(&self) -> u32 {
        self.running() + self.waiting + self.elsewhere.waiting()
    }
}

impl Scheduler {
    /// A fleet that nothing is known about.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            servers: Vec::new(),
            models: Vec::new(),
            pairs: Pairs::default(),
            names: HashMap::default(),
            waiting: HashMap::default(),
            running: HashMap::default(),
            conversations: super::learned::Conversations::default(),
            fleet_speed: Speed::default(),
            typical: Typical::default(),
            typical_load: 0.0,
            load_epoch: 1,
            next_ticket: 1,
            next_order: 1,
            actions: Vec::new(),
            decisions: Decisions::default(),
            revision: Decision::default(),
            visited: 0,
            paused: false,
            instances: 1,
            sent_out: Vec::new(),
            deaf: false,
            heard: Vec::new(),
            planned_at: 0.0,
            has_cards: true,
            rule_book: Box::new(NoRules),
            ruled: Vec::new(),
            leads: true,
        }
    }

    /// Takes the numbers of a new configuration.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Takes the servers of a configuration: their ids in the same order. What was learned of a server that stays is
    /// kept; one that is gone takes no more requests.
    pub fn set_servers(&mut self, facts: &[ServerFacts]) -> Vec<ServerId> {
        self.servers.iter_mut().for_each(|server| server.present = false);
        let ids = facts.iter().map(|facts| self.set_server(facts.clone())).collect();
        let weights: u32 = facts.iter().map(|facts| facts.weight).sum();
        let mean = f64::from(weights.max(1)) / facts.len().max(1) as f64;
        self.servers.iter_mut().for_each(|server| server.crowds = mean / f64::from(server.facts.weight.max(1)));
        self.count_cards();
        self.apply_rules();
        ids
    }

    fn set_server(&mut self, facts: ServerFacts) -> ServerId {
        if let Some(id) = self.servers.iter().position(|server| server.facts.name == facts.name) {
            self.servers[id].facts = facts;
            self.servers[id].present = true;
            return id;
        }
        self.pairs.add_server();
        self.servers.push(Server {
            facts,
            present: true,
            on_disk: Vec::new(),
            resident: Vec::new(),
            awaited: Vec::new(),
            in_flight: 0,
            waiting: 0,
            unread: 0.0,
            reading: 0.0,
            active: 0,
            prefilling: 0,
            answering: 0,
            loading: None,
            failed: None,
            foreign_load: None,
            elsewhere: Elsewhere::default(),
            loading_is_clean: false,
            crowds: 1.0,
            share: 1.0,
            warmed: false,
            ordered: Vec::new(),
            seen_memory: 0.0,
            seen_loaded: 0,
            cards: super::card::Cards::default(),
            speed: Speed::default(),
        });
        self.servers.len() - 1
    }

    /// Whether the configuration has a server.
    #[must_use]
    pub fn is_present(&self, server: ServerId) -> bool {
        self.servers.get(server).is_some_and(|server| server.present)
    }

    /// The id of a model, which it keeps.
    pub fn model(&mut self, name: &str) -> ModelId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let id = self.models.len();
        self.models.push(Model {
            name: name.to_owned(),
            sees: is_vision(name),
            size: 0.0,
            size_is_known: false,
            remote: false,
            holders: Vec::new(),
            copies: Vec::new(),
            quickest_load: (0, 0.0),
            queue: FairQueue::default(),
            waiting_elsewhere: 0,
            typical: Typical::default(),
            rate: 0.0,
            rate_at: 0.0,
            slow_rate: 0.0,
            rules: Rules::default(),
        });
        self.names.insert(name.to_owned(), id);
        self.pairs.add_model();
        id
    }

    /// The id of a model that some server has.
    #[must_use]
    pub fn known_model(&self, name: &str) -> Option<ModelId> {
        self.names.get(name).copied()
    }

    /// Name of a model.
    #[must_use]
    pub fn model_name(&self, model: ModelId) -> &str {
        self.models.get(model).map_or("", |model| model.name.as_str())
    }

    /// Name of a server.
    #[must_use]
    pub fn server_name(&self, server: ServerId) -> &str {
        self.servers.get(server).map_or("", |server| server.facts.name.as_str())
    }

    /// How many models have been seen.
    #[must_use]
    pub fn model_count(&self) -> usize {
        self.models.len()
    }

    /// The last choices.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// How much of the requests a server should have now, from 0.1 to 1.
    pub fn set_share(&mut self, server: ServerId, share: f64) {
        if let Some(server) = self.servers.get_mut(server) {
            server.share = share.clamp(0.05, 1.0);
        }
    }

    /// The model that a request runs for.
    #[must_use]
    pub fn running_for(&self, ticket: Ticket) -> Option<ModelId> {
        self.running.get(&ticket).map(|ran| ran.model)
    }

    /// What is to be done since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Lets nobody be bound until [`resume`](Self::resume): requests wait, those that run go on.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// How many wait for a model.
    #[must_use]
    pub fn pending(&self, model: ModelId) -> usize {
        self.models.get(model).map_or(0, |model| model.queue.len())
    }

    /// The model and the number of those that wait for it, where anybody waits.
    pub fn queues(&self) -> impl Iterator<Item = (&str, usize)> {
        self.models.iter().map(|model| (model.name.as_str(), model.queue.len())).filter(|(_, waiting)| *waiting > 0)
    }

    /// The models for which requests wait, and since when the oldest of each does.
    pub fn oldest(&self) -> impl Iterator<Item = (&str, f64)> {
        self.models.iter().filter_map(|model| {
            let since = model.queue.iter().map(|(_, since, _)| since).min_by(f64::total_cmp)?;
            Some((model.name.as_str(), since))
        })
    }

    /// How many wait.
    #[must_use]
    pub fn all_pending(&self) -> usize {
        self.waiting.len()
    }

    /// How many run.
    #[must_use]
    pub fn all_running(&self) -> usize {
        self.running.len()
    }
}
