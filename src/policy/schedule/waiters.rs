//! Those that wait: where each waits, and when it goes elsewhere.

use super::choice::Among;
use super::residency::Residency;
use super::state::Scheduler;
use super::words::{Action, ModelId, Moment, ServerId};
use crate::policy::queue::Place;

/// Waiters that are chosen for anew at each tick, so that a long queue does not hold the scheduler up: a choice takes 1 to 20
/// microseconds with 50 servers (`benches/decision.rs`).
const VISITS: usize = 64;

impl Scheduler {
    /// What the clock brings: waiters whose server is out of the question find another, others go where they are better
    /// off by now, loads begin, rules are followed.
    pub fn tick(&mut self, moment: &Moment<'_>) {
        self.prompts_are_read(moment);
        let mut visits = VISITS;
        let count = self.servers.len();
        let first = self.visited % count.max(1);
        for server in (first..count).chain(0..first) {
            for model in self.servers[server].awaited.clone() {
                let pair = &self.pairs[(server, model)];
                let coming = self.servers[server].loading.is_none_or(|loading| loading == model);
                let never = pair.residency == Residency::Cold && !coming && self.takes_a_card(model);
                if never || !self.may_serve(server, model, moment) {
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

    /// Chooses anew for all that wait for a model on a server.
    pub(super) fn place_again(&mut self, server: ServerId, model: ModelId, moment: &Moment<'_>) {
        for place in self.waiting_here(server, model) {
            let Some(waiter) = self.models[model].queue.get(place) else { continue };
            let (request, reading) = (waiter.request.clone(), waiter.reading);
            // It does not wait behind itself.
            self.left(server, model, reading);
            let Some(better) = self.choose(&request, Among::All, moment) else {
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
            let Some(waiter) = waiter.filter(|_| *visits > 0) else { continue };
            let (request, reading) = (waiter.request.clone(), waiter.reading);
            *visits -= 1;
            decision.begin(moment.now, model);
            self.left(server, model, reading);
            let chosen = self.weigh(&request, Among::All, moment, &mut decision);
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
        self.comes(place, to, model, moment.now);
        if to == from {
            return;
        }
        self.serve(to, model, moment);
        self.begin_loads(to, moment);
    }

    /// A waiter waits for a server from now on.
    pub(super) fn comes(&mut self, place: Place, server: ServerId, model: ModelId, now: f64) {
        let waiter = self.models[model].queue.get(place);
        let reading = waiter.map_or(0.0, |waiter| self.reading(server, &waiter.request, now));
        if let Some(waiter) = self.models[model].queue.get_mut(place) {
            (waiter.server, waiter.reading) = (server, reading);
        }
        let (host, pair) = (&mut self.servers[server], &mut self.pairs[(server, model)]);
        host.waiting += 1;
        host.unread += reading;
        pair.waiting += 1;
        pair.unread += reading;
        if pair.waiting == 1 {
            host.awaited.push(model);
        }
    }

    pub(super) fn push_out(&mut self, model: ModelId, place: Place) {
        if let Some(waiter) = self.models[model].queue.remove(place) {
            self.waiting.remove(&waiter.ticket);
            self.left(waiter.server, model, waiter.reading);
            self.actions.push(Action::PushedOut { ticket: waiter.ticket });
        }
    }

    /// A waiter, whose prompt would have been read for so long, waits for a server no more.
    pub(super) fn left(&mut self, server: ServerId, model: ModelId, reading: f64) {
        let (host, pair) = (&mut self.servers[server], &mut self.pairs[(server, model)]);
        host.waiting -= 1;
        host.unread = if host.waiting == 0 { 0.0 } else { host.unread - reading };
        pair.waiting -= 1;
        pair.unread = if pair.waiting == 0 { 0.0 } else { pair.unread - reading };
        if pair.waiting == 0 {
            host.awaited.retain(|awaited| *awaited != model);
        }
    }
}
