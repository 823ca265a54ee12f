//! What a request would wait on a server, and what that would cost the others.
//!
//! With `n` requests of the model running or waiting there, `P` slots, `E` models that requests run for there and `A` of them
//! that answers come from (a card shares its time among them):
//!
//! ```text
//! work     = (prompt / prefill + answer / decode (1 + 0.25 (P - 1)) / P) E      time of the card for a mean request
//! unread   = the prompts that wait there and are being read, / prefill (1 + A)  each by its own length
//! wait     = unread, or (n - P + 1) work if that is longer                      n >= P, or the same for the server's own limit
//! load     = time of the load + the loads before it + victims that are busy      when it is cold; what is left, when it is loading
//! wait     = unread - load, at least the prompts that wait for this model        beside a load
//! prefill  = (prompt - what the server knows of this conversation) / prefill (1 + A)   at least a twentieth of the prompt
//! eviction = for each victim twice: its load time times the chance that it will be asked for meanwhile, two loads more if
//!            it is in use and one for each that waits for it; and 0.75 of the load, for those whose load waits for this one
//! crowding = work of this request for the card, for each of those that it slows down
//! penalty  = what makes the server a bad choice just now: a load that may not begin yet, a server that said it was busy,
//!            a model that is not, or would not be, on its cards as a whole
//! ```
//!
//! Slots make answers cheaper, which are bound by memory: a step of four costs less than twice a step of one. They do not
//! make prompts cheaper, which are bound by arithmetic.
//!
//! The choice is the least sum; among those within a twentieth of it, a random one, so that equal servers share.
//! Where the figures come from: a simulation with ablation (discrete events, seven servers, twelve models): without the
//! load term p99 was 5 times worse, without the eviction term 4, without late binding or the queue term 2. That prompts count by
//! their own length, and not by their number, makes it 3 % better (`make bench-fleet FLEET=simulate`, 300 seeds).

use super::learned::{BATCHING, Known};
use super::residency::Residency;
use super::state::Scheduler;
use super::words::{ModelId, Request, ServerId};

/// The terms of a score, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// For a slot.
    pub wait: f64,
    /// For the model to come into memory.
    pub load: f64,
    /// For the prompt.
    pub prefill: f64,
    /// What others lose whose model is thrown out.
    pub eviction: f64,
    /// What others lose who share the card.
    pub crowding: f64,
    /// Because it is a bad moment.
    pub penalty: f64,
}

impl Terms {
    /// The expected time to the first token.
    #[must_use]
    pub fn first_token(&self) -> f64 {
        self.wait + self.load + self.prefill
    }

    /// What the choice goes by.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.first_token() + (self.eviction + self.crowding + self.penalty)
    }
}

/// Who makes room for a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Victims {
    /// The cheapest first.
    pub models: Vec<ModelId>,
    /// Seconds until all of them are out.
    pub drain: f64,
    /// What others lose.
    pub price: f64,
    /// Whether the load may begin now.
    pub may_begin: bool,
    /// Whether there is a way at all: what is pinned makes no room.
    pub possible: bool,
}

/// The penalty of a load that may not begin yet, in typical loads.
const NOT_YET: f64 = 2.0;
/// Unloading takes this share of a typical load.
const UNLOAD: f64 = 0.05;
/// The share of a load that others lose whose load waits for it: one at a time on a server. It also keeps a model from
/// being loaded everywhere in the moment in which a fleet starts.
const IN_THE_WAY: f64 = 0.75;
/// So many of its loads the score of a server is at least that has to load the model.
pub(super) const LEAST_OF_LOADS: f64 = 1.0 + IN_THE_WAY;
/// How long popularity is remembered, in typical loads.
const MEMORY: f64 = 6.5;

impl Scheduler {
    /// Requests per second for a model, lately.
    pub(super) fn demand(&self, model: ModelId, now: f64) -> f64 {
        let model = &self.models[model];
        let tau = self.memory();
        if model.rate <= 0.0 {
            return 0.0;
        }
        // Each instance sees its part of them.
        f64::from(self.instances) * model.rate * ((model.rate_at - now) / tau).exp() / tau
    }

    /// How long popularity is remembered, s.
    pub(super) fn memory(&self) -> f64 {
        MEMORY * self.typical_load()
    }

    /// Models that requests run for on a server, this one included.
    pub(super) fn active(&self, server: ServerId, model: ModelId) -> f64 {
        if !self.takes_a_card(model) {
            return 1.0;
        }
        let others = self.servers[server].active - u32::from(self.pairs[(server, model)].running() > 0);
        f64::from(others + 1)
    }

    /// What a mean request for a model costs a server.
    pub(super) fn cost(&self, server: ServerId, model: ModelId) -> Cost {
        let (prompt, output) = self.lengths(model);
        let slots = f64::from(self.slots(server, model));
        let pace = 1.0 / self.prefill(server, model);
        let answer = output * (1.0 + BATCHING * (slots - 1.0)) / (self.decode(server, model) * slots);
        Cost { slots, pace, answer, work: prompt * pace + answer }
    }

    /// Where the conversation of a request was last.
    pub(super) fn known(&self, request: &Request) -> Option<Known> {
        request.conversation.and_then(|conversation| self.conversations.get(conversation))
    }

    /// Tokens of a prompt that a server should know from the turn before. Each turn takes the slot that was least recently
    /// used, so after as many others as there are slots nothing is left of it (Ollama, `runner/ollamarunner/cache.go`).
    pub(super) fn cached(&self, server: ServerId, model: ModelId, known: Option<Known>, prompt: f64) -> f64 {
        let Some(known) = known.filter(|known| known.server == server && known.model == model) else { return 0.0 };
        let since = self.pairs[(server, model)].turns - known.turn;
        if since < u64::from(self.slots(server, model)) { known.tokens.min(0.95 * prompt) } else { 0.0 }
    }

    /// What is known of a request wherever it goes.
    pub(super) fn asked<'r>(&self, request: &'r Request) -> Asked<'r> {
        Asked { request, known: self.known(request), prompt: self.prompt_tokens(request.model, request.bytes) }
    }

    /// Scores a server for a request; the `first` of those that wait for its model there comes before them.
    pub(super) fn score(&self, server: ServerId, asked: &Asked<'_>, now: f64, first: bool) -> Terms {
        let Asked { request, known, prompt } = *asked;
        let model = request.model;
        let (host, pair) = (&self.servers[server], &self.pairs[(server, model)]);
        let cost = self.cost(server, model);
        let work = cost.work * self.active(server, model);
        let behind = if first { pair.waiting } else { 0 };
        let before = pair.all() - behind;
        let all = host.all() - f64::from(behind);
        let on_card = self.takes_a_card(model);
        let unread = if on_card { self.unread(server, model, first) } else { 0.0 };
        let sharing = if on_card { f64::from(host.answering + 1) } else { 1.0 };
        let own_unread = if first { 0.0 } else { pair.unread };
        let (mut cached, mut wait, mut load, mut eviction, mut penalty) = (0.0, 0.0, 0.0, 0.0, 0.0);
        match self.state(server, model, request, now) {
            State::Ready => {
                cached = self.cached(server, model, known, prompt);
                wait = self.slot(server, f64::from(before), all, cost.slots, work).max(unread * sharing);
            }
            State::Loading { left } => load = left,
            State::Cold => {
                let victims = self.victims(server, model, now);
                let alone = self.load(server, model);
                load = alone + victims.drain + self.loads_before(server, model, now);
                eviction = victims.price + IN_THE_WAY * alone;
                if !victims.may_begin {
                    penalty += NOT_YET * self.typical_load();
                }
                if !victims.possible {
                    penalty += 100.0 * self.typical_load();
                }
            }
            // The runner is there with other options: those who use it first, then it is loaded anew, and they will
            // load it back.
            State::Other => {
                load = self.load(server, model) + f64::from(pair.running()) * work;
                eviction = if pair.all() > 0 { 2.0 * load } else { load };
            }
        }
        if load > 0.0 {
            // Meanwhile the card reads what others wait for.
            wait = own_unread.max(unread * sharing - load);
        }
        let reading = (prompt - cached) * cost.pace;
        let own = reading + cost.answer;
        let crowding = own * all.clamp(0.0, 8.0) / 4.0 * host.crowds;
        let share = host.share * self.suits(server, model);
        if share < 1.0 {
            penalty += (1.0 / share - 1.0) * cost.slots * work;
        }
        if now < pair.busy_until {
            penalty += NOT_YET * self.typical_load();
        }
        if now < pair.broken_until {
            penalty += 10.0 * self.typical_load();
        }
        Terms { wait, load, prefill: reading * sharing, eviction, crowding, penalty }
    }

    /// Time until a slot is free, with so many before it for its model, and so many for all models.
    fn slot(&self, server: ServerId, before: f64, all: f64, slots: f64, work: f64) -> f64 {
        let first = (before - slots).max(all - f64::from(self.servers[server].facts.max_in_flight)) + 1.0;
        first.max(0.0) * work
    }

    /// What a model is on a server, for a request with its options.
    pub(super) fn state(&self, server: ServerId, model: ModelId, request: &Request, now: f64) -> State {
        let pair = &self.pairs[(server, model)];
        if !self.takes_a_card(model) {
            return State::Ready;
        }
        match pair.residency {
            Residency::Ready { .. } if pair.options.is_some_and(|options| options != request.options) => State::Other,
            Residency::Ready { .. } => State::Ready,
            Residency::Loading { ready_at, .. } => {
                State::Loading { left: (ready_at - now).max(0.02 * self.typical_load()) }
            }
            Residency::Cold => State::Cold,
        }
    }

    /// Loads under way on a server, and those that others wait for there: one load at a time.
    fn loads_before(&self, server: ServerId, model: ModelId, now: f64) -> f64 {
        let host = &self.servers[server];
        let running: f64 = host
            .resident
            .iter()
            .map(|resident| match self.pairs[(server, *resident)].residency {
                Residency::Loading { ready_at, .. } if *resident != model => (ready_at - now).max(0.0),
                _ => 0.0,
            })
            .sum();
        let comes = |other: ModelId| {
            other != model && self.pairs[(server, other)].residency == Residency::Cold && self.takes_a_card(other)
        };
        let waited_for = host.awaited.iter().filter(|other| comes(**other));
        let first = self.heard.partition_point(|heard| heard.0 < server);
        let of_others = self.heard[first..].iter().take_while(|heard| heard.0 == server).filter(|heard| {
            let pair = &self.pairs[(server, heard.1)];
            comes(heard.1) && pair.elsewhere.waiting() > 0 && pair.waiting == 0
        });
        let of_others = of_others.map(|heard| self.load(server, heard.1)).sum::<f64>();
        running + waited_for.map(|other| self.load(server, *other)).sum::<f64>() + of_others
    }

    /// Who would make room for a model on a server, and what that takes.
    pub(super) fn victims(&self, server: ServerId, model: ModelId, now: f64) -> Victims {
        let may_begin = self.servers[server].is_free_to_load();
        let mut victims = Victims { may_begin, possible: true, ..Victims::default() };
        if !self.settings.loads {
            // Such a server will not load it for us.
            return Victims { possible: false, may_begin: false, ..victims };
        }
        let (going, enough) = self.who_goes(server, model, now);
        for (busy, price, victim) in going {
            victims.price += price;
            victims.drain += UNLOAD * self.typical_load();
            let pair = &self.pairs[(server, victim)];
            match pair.residency {
                Residency::Loading { ready_at, .. } => {
                    victims.may_begin = false;
                    victims.drain += (ready_at - now).max(0.0);
                }
                Residency::Ready { since } if now - since < self.min_residency(server, victim) => {
                    victims.may_begin = false;
                }
                Residency::Ready { .. } | Residency::Cold => {}
            }
            if busy {
                let cost = self.cost(server, victim);
                victims.drain += f64::from(pair.running()) * cost.work * self.active(server, victim);
            }
            victims.models.push(victim);
        }
        if !enough {
            victims.possible = false;
            victims.may_begin = false;
        }
        victims
    }

    /// Who goes when a model comes, with whether it is busy and what others lose: the cheapest first, the idle before the
    /// busy, and nobody in vain. The second value says whether that is enough.
    fn who_goes(&self, server: ServerId, model: ModelId, now: f64) -> (Vec<(bool, f64, ModelId)>, bool) {
        let resident = &self.servers[server].resident;
        let need = self.size(model);
        let mut used: f64 = resident.iter().map(|resident| self.size(*resident)).sum();
        let mut count = resident.len();
        let (room, most) = (self.room(server), self.most_loaded(server));
        // What is larger than all the room has the server for itself.
        let fits = |used: f64, count: usize| count == 0 || used + need <= room && count < most;
        if fits(used, count) {
            return (Vec::new(), true);
        }
        let mut order: Vec<(bool, f64, ModelId)> = Vec::with_capacity(resident.len());
        for resident in resident.iter().filter(|resident| !self.is_pinned(server, **resident)) {
            let busy = self.pairs[(server, *resident)].running() > 0;
            order.push((busy, self.price(server, *resident, now), *resident));
        }
        order.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
        let mut going = Vec::with_capacity(order.len());
        for one in order {
            if fits(used, count) {
                break;
            }
            used -= self.size(one.2);
            count -= 1;
            going.push(one);
        }
        let enough = fits(used, count);
        // A large one that has to go makes room enough for some that were to go before it.
        for place in (0..going.len().saturating_sub(1)).rev() {
            let size = self.size(going[place].2);
            if fits(used + size, count + 1) {
                used += size;
                count += 1;
                going.remove(place);
            }
        }
        (going, enough)
    }

    /// Seconds that others are expected to lose when a model is thrown out of a server.
    pub(super) fn price(&self, server: ServerId, model: ModelId, now: f64) -> f64 {
        let demand = self.demand(model, now);
        let load = self.load(server, model);
        let mut price = (1.0 - (-demand * self.memory()).exp()) * load * (1.0 + demand * load);
        // The other copies take the work; what is lost is the room for it. It need not be known exactly how much more
        // than enough they are.
        let enough = demand / 0.8 / LEAST_LOST.sqrt();
        let mut elsewhere = 0.0;
        for copy in self.models[model].copies.iter().filter(|copy| **copy != server && self.servers[**copy].present) {
            let cost = self.cost(*copy, model);
            elsewhere += 1.0 / cost.work;
            if elsewhere >= enough {
                break;
            }
        }
        if elsewhere > 0.0 {
            price *= (demand / elsewhere / 0.8).powi(2).clamp(LEAST_LOST, 1.0);
        }
        let pair = &self.pairs[(server, model)];
        if pair.planned {
            price += PLANNED * load;
        }
        if pair.all() > 0 {
            let waiting = self.models[model].queue.len() as f64 + f64::from(self.models[model].waiting_elsewhere);
            price += (2.0 + waiting) * load;
        }
        DEAR * price * self.models[model].rules.worth()
    }

    /// Bytes that models may take on a server, 10^9.
    pub(super) fn room(&self, server: ServerId) -> f64 {
        let host = &self.servers[server];
        match host.facts.memory {
            _ if host.cards.room().is_some() => host.cards.room().unwrap_or_default(),
            // Models of a server without a card are in the memory of its host, which nobody tells.
            Some(0) => f64::INFINITY,
            // Of what a card is said to have, the driver, the contexts and Ollama's own margin take their part.
            Some(bytes) => (bytes as f64 / 1e9 * USABLE).max(host.seen_memory),
            None => f64::INFINITY,
        }
    }

    pub(super) fn most_loaded(&self, server: ServerId) -> usize {
        let host = &self.servers[server];
        host.facts.max_loaded.max(host.seen_loaded) as usize
    }
}

/// The share of a card's memory that models can have.
const USABLE: f64 = 0.87;
/// What is expected to be lost counts so many times: a load is certain, and what it is to bring is not. Below 1 fleets
/// thrash, between 1 and 4 the first token comes equally soon, with fewer loads the higher it is.
const DEAR: f64 = 2.0;
/// The share of a copy's price that is lost at least, however many others there are.
const LEAST_LOST: f64 = 0.2;
/// Loads that evicting against the plan costs.
const PLANNED: f64 = 2.0;

/// A request, with what is the same on every server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'r> {
    /// The request.
    pub(super) request: &'r Request,
    /// Where its conversation was last.
    pub(super) known: Option<Known>,
    /// Tokens of its prompt.
    pub(super) prompt: f64,
}

/// What a mean request costs a server that has nothing else to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Requests at once.
    pub(super) slots: f64,
    /// Seconds for a token of the prompt.
    pub(super) pace: f64,
    /// Seconds of the card for the answer, when all slots are taken.
    pub(super) answer: f64,
    /// Seconds of the card for all of it.
    pub(super) work: f64,
}

/// What a model is on a server, for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// Not in memory.
    Cold,
    /// On its way; seconds that are left.
    Loading { left: f64 },
    /// In memory.
    Ready,
    /// In memory, loaded with options that this request does not want.
    Other,
}
