//! A request finds its server, waits there, is stolen by another one, runs, ends.

use super::decision::{Candidate, Decision};
use super::learned::Known;
use super::residency::Residency;
use super::score::State;
use super::state::{Action, Arrival, ModelId, Moment, Request, Running, Scheduler, ServerId, Ticket, Usage, Waiter};
use crate::policy::queue::Place;

/// Why a server is not asked where only those with the model in memory are.
const NOT_LOADED: &str = "not_loaded";
/// Why a server is not asked that would have to load the model first.
const TAKES_LONGER: &str = "load_takes_longer";
/// Scores this close to the best are equal to it.
const NEAR: f64 = 1.05;
/// And this many typical loads besides.
const NEAR_LOADS: f64 = 0.002;
/// How long a server that said it is busy is avoided, s (reliability: a penalty, and no ejection).
const BUSY: f64 = 5.0;
/// Waiters that are chosen for anew at each tick: together they take less than a millisecond.
const VISITS: usize = 64;

impl Scheduler {
    /// A request has come.
    pub fn arrive(&mut self, request: Request, moment: &Moment<'_>) -> (Ticket, Arrival) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.note_demand(request.model, moment.now);
        let model = request.model;
        let Some(server) = self.choose(&request, moment) else {
            let last = self.decisions.last();
            let cold = last.is_some_and(|last| last.candidates.iter().any(|one| one.excluded == Some(NOT_LOADED)));
            return (ticket, if cold { Arrival::NotLoaded } else { Arrival::Nobody });
        };
        if self.pending(model) >= self.settings.max_pending && !self.can_begin(server, &request, moment) {
            match self.models[model].queue.makes_room_for(request.rank) {
                Some(place) if self.settings.max_pending > 0 => self.push_out(model, place),
                _ => return (ticket, Arrival::Full),
            }
        }
        let rank = request.rank;
        let place = self.models[model].queue.push(Waiter { ticket, server, request }, rank, moment.now);
        self.waiting.insert(ticket, (model, place));
        self.comes(server, model);
        self.serve(server, model, moment);
        self.begin_loads(server, moment);
        if let Some(position) = self
            .actions
            .iter()
            .position(|action| matches!(action, Action::Bind { ticket: bound, .. } if *bound == ticket))
            && let Action::Bind { server, .. } = self.actions.remove(position)
        {
            return (ticket, Arrival::Bound(server));
        }
        (ticket, Arrival::Waits)
    }

    /// A waiter has given up.
    pub fn leave(&mut self, ticket: Ticket) {
        let Some((model, place)) = self.waiting.remove(&ticket) else { return };
        if let Some(waiter) = self.models[model].queue.remove(place) {
            self.left(waiter.server, model);
        }
    }

    /// The answer to a request that runs has begun.
    pub fn first_byte(&mut self, ticket: Ticket, moment: &Moment<'_>) {
        self.prompt_is_read(ticket);
        let Some(ran) = self.running.get(&ticket) else { return };
        let (server, model) = (ran.server, ran.model);
        // A load of our own tells itself when it is done.
        let host = &self.servers[server];
        if host.loading != Some(model) && !matches!(self.pairs[(server, model)].residency, Residency::Ready { .. }) {
            self.set_residency(server, model, Residency::Ready { since: moment.now }, moment.now);
            self.serve(server, model, moment);
        }
    }

    /// A request that ran has ended, and its slot is free.
    pub fn finished(&mut self, ticket: Ticket, usage: &Usage, moment: &Moment<'_>) {
        self.prompt_is_read(ticket);
        let Some(mut ran) = self.running.remove(&ticket) else { return };
        let (server, model) = (ran.server, ran.model);
        ran.sharing_answer = (ran.sharing_answer + self.servers[server].sharing()) / 2.0;
        if usage.good {
            self.learn(&ran, usage);
        }
        let (host, pair) = (&mut self.servers[server], &mut self.pairs[(server, model)]);
        host.in_flight -= 1;
        pair.in_flight -= 1;
        pair.used = moment.now;
        host.answering -= u32::from(pair.answering() == 0);
        if pair.in_flight == 0 {
            host.active -= 1;
            if host.loading != Some(model) && matches!(pair.residency, Residency::Loading { .. }) && !usage.good {
                // It was to bring the model into memory, and did not.
                self.set_residency(server, model, Residency::Cold, moment.now);
            }
        }
        self.serve(server, model, moment);
        self.serve_server(server, moment);
        self.begin_loads(server, moment);
    }

    /// The server of a request that runs said that it is busy: it is avoided for a while.
    pub fn busy(&mut self, ticket: Ticket, now: f64) {
        if let Some(ran) = self.running.get(&ticket) {
            self.pairs[(ran.server, ran.model)].busy_until = now + BUSY;
        }
    }

    /// What the clock brings: waiters whose server is out of the question find another, others go where they are better
    /// off by now, loads begin, rules are followed.
    pub fn tick(&mut self, moment: &Moment<'_>) {
        let mut visits = VISITS;
        let count = self.servers.len();
        let first = self.visited % count.max(1);
        for server in (first..count).chain(0..first) {
            for model in self.servers[server].awaited.clone() {
                let pair = &self.pairs[(server, model)];
                let coming = self.servers[server].loading.is_none_or(|loading| loading == model);
                if !self.may_serve(server, model, moment) || pair.residency == Residency::Cold && !coming {
                    self.place_again(server, model, moment);
                } else if visits > 0 {
                    self.visited = server + 1;
                    self.visit(server, model, &mut visits, moment);
                }
                self.serve(server, model, moment);
            }
            self.begin_loads(server, moment);
        }
        if !self.paused {
            self.follow_rules(moment);
        }
    }

    /// Goes on after a pause.
    pub fn resume(&mut self, moment: &Moment<'_>) {
        self.paused = false;
        for server in 0..self.servers.len() {
            self.serve_server(server, moment);
            self.begin_loads(server, moment);
        }
    }

    /// Seconds until a request for this model would probably be served, for those that are turned away.
    #[must_use]
    pub fn expected_wait(&self, model: ModelId, moment: &Moment<'_>) -> Option<f64> {
        let request = Request { model, ..Request::default() };
        let open = |server: &ServerId| (moment.excluded)(*server, model).is_none_or(|excluded| excluded.soft);
        let candidates = self.holders(model).filter(open);
        candidates
            .map(|server| {
                let terms = self.score(server, &request, None, moment.now, 0);
                terms.wait + terms.load
            })
            .min_by(f64::total_cmp)
    }

    /// The answer to a request begins, or it ends without one.
    fn prompt_is_read(&mut self, ticket: Ticket) {
        let Some(ran) = self.running.get_mut(&ticket).filter(|ran| !ran.answers) else { return };
        let (host, pair) = (&mut self.servers[ran.server], &mut self.pairs[(ran.server, ran.model)]);
        ran.answers = true;
        ran.sharing = (ran.sharing + host.sharing()) / 2.0;
        host.answering += u32::from(pair.answering() == 0);
        host.prefilling -= 1;
        pair.prefilling -= 1;
        ran.sharing_answer = host.sharing();
    }

    fn note_demand(&mut self, model: ModelId, now: f64) {
        let tau = self.memory();
        let known = &mut self.models[model];
        known.rate = known.rate * ((known.rate_at - now) / tau).exp() + 1.0;
        known.rate_at = now;
        known.slow_rate += 1.0;
    }

    /// The server that a request should wait for.
    fn choose(&mut self, request: &Request, moment: &Moment<'_>) -> Option<ServerId> {
        let mut decisions = std::mem::take(&mut self.decisions);
        let chosen = self.weigh(request, moment, decisions.begin(moment.now, request.model));
        self.decisions = decisions;
        chosen
    }

    fn weigh(&mut self, request: &Request, moment: &Moment<'_>, decision: &mut Decision) -> Option<ServerId> {
        let quickest_load = self.quickest_load(request.model);
        for soft_too in [false, true] {
            decision.candidates.clear();
            self.candidates(request, moment, soft_too, quickest_load, decision);
            decision.chosen = self.best(&decision.candidates, moment.random);
            if decision.chosen.is_some() {
                break;
            }
        }
        decision.chosen
    }

    /// Servers that have the model in memory are scored first. A server that must load it is out of the question where
    /// the load alone takes longer than the best of them: then nobody need be found who makes room, and where that holds
    /// for all, none of them is looked at.
    fn candidates(
        &self,
        request: &Request,
        moment: &Moment<'_>,
        soft_too: bool,
        quickest_load: f64,
        decision: &mut Decision,
    ) {
        let model = request.model;
        let excluded = |server: ServerId| {
            if request.tried.contains(&server) {
                return Some("tried");
            }
            let excluded = (moment.excluded)(server, model).filter(|excluded| !(excluded.soft && soft_too));
            excluded.map(|excluded| excluded.why)
        };
        let known = self.known(request);
        let into = &mut decision.candidates;
        let mut least = f64::INFINITY;
        for server in self.warm_holders(model) {
            let residency = self.pairs[(server, model)].residency;
            let excluded = excluded(server);
            let terms = excluded.is_none().then(|| self.score(server, request, known, moment.now, 0));
            least = terms.map_or(least, |terms| least.min(terms.total()));
            into.push(Candidate { server, residency, terms, excluded });
        }
        if self.models[model].remote {
            return;
        }
        let barred = if self.has_enough_copies(model) {
            Some("max_warm")
        } else if self.settings.only_loaded || request.warm {
            Some(NOT_LOADED)
        } else {
            None
        };
        let limit = self.near(least);
        if least < f64::INFINITY && (barred.is_some() || quickest_load > limit) {
            decision.passed_over = barred.or(Some(TAKES_LONGER));
            return;
        }
        for server in self.holders(model) {
            let residency = self.pairs[(server, model)].residency;
            if residency != Residency::Cold {
                continue;
            }
            let slow = || (self.load(server, model) > limit).then_some(TAKES_LONGER);
            let excluded = barred.or_else(|| excluded(server)).or_else(slow);
            let terms = excluded.is_none().then(|| self.score(server, request, known, moment.now, 0));
            into.push(Candidate { server, residency, terms, excluded });
        }
    }

    /// Scores up to this are as good as the best.
    fn near(&self, least: f64) -> f64 {
        least * NEAR + NEAR_LOADS * self.typical_load()
    }

    fn best(&self, candidates: &[Candidate], random: u64) -> Option<ServerId> {
        let scored = candidates.iter().filter_map(|one| Some((one.server, one.terms?.total())));
        let least = scored.clone().map(|(_, total)| total).min_by(f64::total_cmp)?;
        let limit = self.near(least);
        let near = scored.filter(|(_, total)| *total <= limit);
        let count = near.clone().count() as u64;
        let chosen = usize::try_from(random % count.max(1)).unwrap_or(0);
        near.map(|(server, _)| server).nth(chosen)
    }

    /// Whether a server may begin requests for a model now: nothing excludes it, or nothing but what excludes all.
    pub(super) fn may_serve(&self, server: ServerId, model: ModelId, moment: &Moment<'_>) -> bool {
        if !self.holds(server, model) {
            return false;
        }
        match (moment.excluded)(server, model) {
            None => true,
            Some(excluded) if !excluded.soft => false,
            Some(_) => !self.holders(model).any(|other| (moment.excluded)(other, model).is_none()),
        }
    }

    fn has_slot(&self, server: ServerId, model: ModelId) -> bool {
        let host = &self.servers[server];
        host.in_flight < host.facts.max_in_flight
            && self.pairs[(server, model)].in_flight < self.most_running(server, model)
    }

    /// Whether a request could run on a server at once.
    fn can_begin(&self, server: ServerId, request: &Request, moment: &Moment<'_>) -> bool {
        !self.paused && self.has_slot(server, request.model) && self.can_run(server, request, moment.now)
    }

    /// Whether a model is there for a request, as it wants it.
    fn can_run(&self, server: ServerId, request: &Request, now: f64) -> bool {
        let pair = &self.pairs[(server, request.model)];
        // Where nobody may wait here, whoever finds a slot waits on the server.
        let waits_there = self.settings.max_pending == 0;
        match self.state(server, request.model, request, now) {
            State::Ready => true,
            State::Loading { .. } => waits_there,
            // The runner is loaded anew by the request itself, once nobody uses it.
            State::Other => pair.in_flight == 0,
            // Our own load failed: the request asks itself, and its client gets the server's own words.
            State::Cold => waits_there || now < pair.broken_until || !self.settings.loads,
        }
    }

    /// Gives the free slots of a model on a server to those that wait: to whose turn it is, wherever it waits, unless that
    /// one is better off where it is; then to the next one that waits here.
    pub(super) fn serve(&mut self, server: ServerId, model: ModelId, moment: &Moment<'_>) {
        if self.paused || self.models[model].queue.is_empty() || !self.may_serve(server, model, moment) {
            return;
        }
        while self.has_slot(server, model) {
            let Some(place) = self.whose_turn(server, model, moment) else { return };
            self.bind(server, model, place, moment.now);
        }
    }

    /// Serves all models that somebody waits for on a server, the one that was waited for longest first.
    pub(super) fn serve_server(&mut self, server: ServerId, moment: &Moment<'_>) {
        if self.waiting.is_empty() || self.paused {
            return;
        }
        let host = &self.servers[server];
        let here = host.awaited.iter().filter_map(|model| Some((self.oldest_waiter(server, *model)?, *model)));
        let mut models: Vec<(f64, ModelId)> = here.collect();
        // Those that wait elsewhere come after those that wait here.
        models.extend(host.resident.iter().filter_map(|model| {
            let pair = &self.pairs[(server, *model)];
            let ready = matches!(pair.residency, Residency::Ready { .. });
            (ready && pair.waiting == 0 && !self.models[*model].queue.is_empty()).then_some((f64::INFINITY, *model))
        }));
        models.sort_by(|one, other| one.0.total_cmp(&other.0));
        for (_, model) in models {
            self.serve(server, model, moment);
        }
    }

    fn whose_turn(&self, server: ServerId, model: ModelId, moment: &Moment<'_>) -> Option<Place> {
        let can_run = |waiter: &Waiter| {
            !waiter.request.tried.contains(&server) && self.can_run(server, &waiter.request, moment.now)
        };
        let (queue, aging) = (&self.models[model].queue, self.settings.aging);
        let (place, first) = queue.first(moment.now, aging, can_run)?;
        if first.server == server || self.is_sooner_here(server, model, first, moment) {
            return Some(place);
        }
        let own = queue.first(moment.now, aging, |waiter| waiter.server == server && can_run(waiter));
        own.map(|(place, _)| place)
    }

    /// Whether somebody who waits for another server would have its first token sooner on this one.
    fn is_sooner_here(&self, server: ServerId, model: ModelId, waiter: &Waiter, moment: &Moment<'_>) -> bool {
        if !matches!(self.pairs[(server, model)].residency, Residency::Ready { .. }) {
            return false;
        }
        let prompt = self.prompt_tokens(model, waiter.request.bytes);
        let here = prompt / self.prefill(server, model) * self.active(server, model);
        let behind = i64::from(self.pairs[(waiter.server, model)].waiting);
        let known = self.known(&waiter.request);
        let there = self.score(waiter.server, &waiter.request, known, moment.now, -behind).first_token();
        here <= there || !self.may_serve(waiter.server, model, moment)
    }

    fn bind(&mut self, server: ServerId, model: ModelId, place: Place, now: f64) {
        let Some(waiter) = self.models[model].queue.pop(place) else { return };
        self.waiting.remove(&waiter.ticket);
        self.left(waiter.server, model);
        let request = waiter.request;
        let state = self.state(server, model, &request, now);
        let load = self.load(server, model);
        let prompt = self.prompt_tokens(model, request.bytes);
        let known = self.known(&request).filter(|_| state == State::Ready);
        let cached = self.cached(server, model, known, prompt);
        let answer = self.lengths(model).1;
        let (host, pair) = (&mut self.servers[server], &mut self.pairs[(server, model)]);
        pair.turns += 1;
        if let Some(conversation) = request.conversation {
            let known = Known { server, model, tokens: prompt + answer, turn: pair.turns };
            self.conversations.note(conversation, known);
        }
        let beside = pair.in_flight;
        pair.options = Some(request.options);
        pair.in_flight += 1;
        pair.prefilling += 1;
        pair.used = now;
        host.in_flight += 1;
        host.prefilling += 1;
        host.active += u32::from(beside == 0);
        let sharing = host.sharing();
        if matches!(state, State::Other | State::Cold) && self.settings.loads {
            self.set_residency(server, model, Residency::Loading { since: now, ready_at: now + load }, now);
        }
        let bytes = request.bytes;
        let ran = Running { server, model, beside, bytes, cached, answers: false, sharing, sharing_answer: sharing };
        self.running.insert(waiter.ticket, ran);
        self.actions.push(Action::Bind { ticket: waiter.ticket, server });
    }

    /// Chooses anew for all that wait for a model on a server.
    pub(super) fn place_again(&mut self, server: ServerId, model: ModelId, moment: &Moment<'_>) {
        for place in self.waiting_here(server, model) {
            let Some(request) = self.models[model].queue.get(place).map(|waiter| waiter.request.clone()) else {
                continue;
            };
            // It does not wait behind itself.
            self.left(server, model);
            let Some(better) = self.choose(&request, moment) else {
                if let Some(waiter) = self.models[model].queue.remove(place) {
                    self.waiting.remove(&waiter.ticket);
                    self.actions.push(Action::Nobody { ticket: waiter.ticket });
                }
                continue;
            };
            self.goes(place, model, server, better, moment);
        }
    }

    /// Chooses anew for those that wait for a model on a server that is still good: a queue may have grown since, or another
    /// one become shorter. Whoever is no better off elsewhere stays.
    fn visit(&mut self, server: ServerId, model: ModelId, visits: &mut usize, moment: &Moment<'_>) {
        let mut decision = std::mem::take(&mut self.revision);
        for place in self.waiting_here(server, model) {
            let waiter = self.models[model].queue.get(place).filter(|waiter| waiter.server == server);
            let Some(request) = waiter.map(|waiter| waiter.request.clone()).filter(|_| *visits > 0) else { continue };
            *visits -= 1;
            decision.begin(moment.now, model);
            self.left(server, model);
            let chosen = self.weigh(&request, moment, &mut decision);
            let stays = decision.total(server);
            let better = chosen.filter(|chosen| {
                let goes = decision.total(*chosen);
                stays.is_none_or(|stays| goes.is_some_and(|goes| goes < stays))
            });
            if better.is_some_and(|better| better != server) {
                self.decisions.note(&decision);
            }
            self.goes(place, model, server, better.unwrap_or(server), moment);
        }
        self.revision = decision;
    }

    fn waiting_here(&self, server: ServerId, model: ModelId) -> Vec<Place> {
        let here = self.models[model].queue.iter().filter(|(_, _, waiter)| waiter.server == server);
        here.map(|(place, ..)| place).collect()
    }

    /// A waiter that has left its server waits for another, or for the same again.
    fn goes(&mut self, place: Place, model: ModelId, from: ServerId, to: ServerId, moment: &Moment<'_>) {
        self.comes(to, model);
        if to == from {
            return;
        }
        if let Some(waiter) = self.models[model].queue.get_mut(place) {
            waiter.server = to;
        }
        self.serve(to, model, moment);
        self.begin_loads(to, moment);
    }

    fn comes(&mut self, server: ServerId, model: ModelId) {
        let host = &mut self.servers[server];
        host.waiting += 1;
        self.pairs[(server, model)].waiting += 1;
        if self.pairs[(server, model)].waiting == 1 {
            host.awaited.push(model);
        }
    }

    fn push_out(&mut self, model: ModelId, place: Place) {
        if let Some(waiter) = self.models[model].queue.remove(place) {
            self.waiting.remove(&waiter.ticket);
            self.left(waiter.server, model);
            self.actions.push(Action::PushedOut { ticket: waiter.ticket });
        }
    }

    fn left(&mut self, server: ServerId, model: ModelId) {
        let host = &mut self.servers[server];
        host.waiting -= 1;
        self.pairs[(server, model)].waiting -= 1;
        if self.pairs[(server, model)].waiting == 0 {
            host.awaited.retain(|awaited| *awaited != model);
        }
    }
}
