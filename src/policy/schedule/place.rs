//! A request comes, gets a slot, runs, ends.

use super::choice::{Among, NOT_LOADED};
use super::learned::Known;
use super::residency::Residency;
use super::score::State;
use super::state::Scheduler;
use super::words::{Action, Arrival, ModelId, Moment, Request, Running, ServerId, Ticket, Usage, Waiter};
use crate::policy::queue::Place;

/// How long a server that said it is busy is avoided, s (reliability: a penalty, and no ejection).
const BUSY: f64 = 5.0;

impl Scheduler {
    /// A request has come.
    pub fn arrive(&mut self, request: Request, moment: &Moment<'_>) -> (Ticket, Arrival) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.note_demand(request.model, moment.now);
        let model = request.model;
        let Some(mut server) = self.choose(&request, Among::All, moment) else {
            let last = self.decisions.last();
            let cold = last.is_some_and(|last| last.candidates.iter().any(|one| one.excluded == Some(NOT_LOADED)));
            return (ticket, if cold { Arrival::NotLoaded } else { Arrival::Nobody });
        };
        if self.pending(model) >= self.settings.max_pending && !self.can_begin(server, &request, moment) {
            // Where nobody may wait the best server is the best of those that have a slot.
            let free = if self.settings.max_pending == 0 { self.choose(&request, Among::Free, moment) } else { None };
            match (free, self.models[model].queue.makes_room_for(request.rank)) {
                (Some(free), _) => server = free,
                (None, Some(place)) if self.settings.max_pending > 0 => self.push_out(model, place),
                (None, _) => return (ticket, Arrival::Full),
            }
        }
        let rank = request.rank;
        let place = self.models[model].queue.push(Waiter { ticket, server, reading: 0.0, request }, rank, moment.now);
        self.waiting.insert(ticket, (model, place));
        self.comes(place, server, model, moment.now);
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
            self.left(waiter.server, model, waiter.reading);
        }
    }

    /// The answer to a request that runs has begun.
    pub fn first_byte(&mut self, ticket: Ticket, moment: &Moment<'_>) {
        self.prompt_is_read(ticket);
        let Some(ran) = self.running.get(&ticket) else { return };
        let (server, model) = (ran.server, ran.model);
        // A load of our own tells itself when it is done, what was told to leave does so after its last answer, and what
        // runs elsewhere is in no memory here.
        let (host, pair) = (&self.servers[server], &self.pairs[(server, model)]);
        let comes = match pair.residency {
            Residency::Ready { .. } => false,
            Residency::Cold => !pair.sent_out,
            Residency::Loading { .. } => true,
        };
        if comes && host.loading != Some(model) && self.takes_a_card(model) {
            self.set_residency(server, model, Residency::Ready { since: moment.now }, moment.now);
        }
        self.serve_server(server, moment);
    }

    /// A request that ran has ended, and its slot is free.
    pub fn finished(&mut self, ticket: Ticket, usage: &Usage, moment: &Moment<'_>) {
        self.prompt_is_read(ticket);
        let Some(mut ran) = self.running.remove(&ticket) else { return };
        let (server, model) = (ran.server, ran.model);
        if self.takes_a_card(model) {
            ran.sharing_answer = (ran.sharing_answer + self.servers[server].sharing()) / 2.0;
        }
        if usage.good {
            self.learn(&ran, usage);
        }
        let on_card = self.takes_a_card(model);
        let (host, pair) = (&mut self.servers[server], &mut self.pairs[(server, model)]);
        host.in_flight -= 1;
        pair.in_flight -= 1;
        pair.used = moment.now;
        host.answering -= u32::from(on_card && pair.answering() == 0);
        if pair.in_flight == 0 {
            host.active -= u32::from(on_card && pair.elsewhere.running == 0);
            if host.loading != Some(model) && matches!(pair.residency, Residency::Loading { .. }) {
                // It was to bring the model into memory, and did, or did not.
                let residency = if usage.good { Residency::Ready { since: moment.now } } else { Residency::Cold };
                self.set_residency(server, model, residency, moment.now);
            }
        }
        self.serve_server(server, moment);
        self.serve(server, model, moment);
        self.begin_loads(server, moment);
    }

    /// The server of a request that runs said that it is busy: it is avoided for a while.
    pub fn busy(&mut self, ticket: Ticket, now: f64) {
        if let Some(ran) = self.running.get(&ticket) {
            self.pairs[(ran.server, ran.model)].busy_until = now + BUSY;
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
        let asked = self.asked(&request);
        let candidates = self.holders(model).filter(open);
        candidates
            .map(|server| {
                let terms = self.score(server, &asked, moment.now, false);
                terms.wait + terms.load
            })
            .min_by(f64::total_cmp)
    }

    fn note_demand(&mut self, model: ModelId, now: f64) {
        let tau = self.memory();
        let known = &mut self.models[model];
        known.rate = known.rate * ((known.rate_at - now) / tau).exp() + 1.0;
        known.rate_at = now;
        known.slow_rate += 1.0;
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

    /// Whether a request could run on a server at once.
    pub(super) fn can_begin(&self, server: ServerId, request: &Request, moment: &Moment<'_>) -> bool {
        let (model, now) = (request.model, moment.now);
        let turn = request.rank.class.turn(now, now, self.settings.aging);
        !self.paused
            && self.has_slot(server, model)
            && self.is_next(server, model, turn, now)
            && self.can_run(server, request, now)
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
            State::Other => pair.running() == 0,
            // Our own load failed: the request asks itself, and its client gets the server's own words.
            State::Cold => waits_there || now < pair.broken_until || !self.settings.loads,
        }
    }

    /// Gives the free slots of a model on a server to those that wait: to whose turn it is, wherever it waits, unless that
    /// one is better off where it is; then to the next one that waits here. Nobody gets one who comes after those of others.
    pub(super) fn serve(&mut self, server: ServerId, model: ModelId, moment: &Moment<'_>) {
        if self.paused || self.models[model].queue.is_empty() || !self.may_serve(server, model, moment) {
            return;
        }
        let now = moment.now;
        while self.has_slot(server, model) {
            let Some(place) = self.whose_turn(server, model, moment) else { return };
            let queue = &self.models[model].queue;
            let (Some(turn), Some(next)) = (queue.turn(place, now, self.settings.aging), queue.get(place)) else {
                return;
            };
            let waited = now - turn.1;
            if !self.is_next(server, model, turn, now) || !self.may_read(server, &next.request, waited, now) {
                return;
            }
            self.bind(server, model, place, now);
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
        let ready = matches!(self.pairs[(server, model)].residency, Residency::Ready { .. });
        if !ready && self.takes_a_card(model) {
            return false;
        }
        let asked = self.asked(&waiter.request);
        let here = asked.prompt / self.prefill(server, model) * self.active(server, model);
        let there = self.score(waiter.server, &asked, moment.now, true).first_token();
        here <= there || !self.may_serve(waiter.server, model, moment)
    }

    fn bind(&mut self, server: ServerId, model: ModelId, place: Place, now: f64) {
        let Some(waiter) = self.models[model].queue.pop(place) else { return };
        self.waiting.remove(&waiter.ticket);
        self.left(waiter.server, model, waiter.reading);
        let request = waiter.request;
        let state = self.state(server, model, &request, now);
        let load = self.load(server, model);
        let until_there = match state {
            State::Ready => 0.0,
            State::Loading { left } => left,
            State::Cold | State::Other => load,
        };
        let prompt = self.prompt_tokens(model, request.bytes);
        let known = self.known(&request).filter(|_| state == State::Ready);
        let cached = self.cached(server, model, known, prompt);
        let on_card = self.takes_a_card(model);
        let reading = if on_card { (prompt - cached) / self.prefill(server, model) } else { 0.0 };
        let answer = self.lengths(model).1;
        let (host, pair) = (&mut self.servers[server], &mut self.pairs[(server, model)]);
        pair.turns += 1;
        if let Some(conversation) = request.conversation {
            let known = Known { server, model, tokens: prompt + answer, turn: pair.turns };
            self.conversations.note(conversation, known);
        }
        let beside = pair.running();
        pair.options = Some(request.options);
        pair.sent_out = false;
        pair.in_flight += 1;
        pair.prefilling += 1;
        pair.used = now;
        host.in_flight += 1;
        host.prefilling += u32::from(on_card);
        host.reading += reading;
        host.active += u32::from(on_card && beside == 0);
        let sharing = if on_card { host.sharing() } else { 1.0 };
        if matches!(state, State::Other | State::Cold) && self.settings.loads {
            self.set_residency(server, model, Residency::Loading { since: now, ready_at: now + load }, now);
        }
        let bytes = request.bytes;
        let read_by = now + until_there + reading * sharing;
        let ran = Running {
            server,
            model,
            beside,
            bytes,
            cached,
            reading,
            read_by,
            answers: false,
            sharing,
            sharing_answer: sharing,
        };
        self.running.insert(waiter.ticket, ran);
        self.actions.push(Action::Bind { ticket: waiter.ticket, server });
    }
}
