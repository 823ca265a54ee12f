//! Loads and unloads that an operator orders.
//!
//! An ordered load is one more reason to bring a model into memory. It keeps to what holds for all loads: one at a time
//! on a server, pinned models make no room, nor do those that have just come. It differs in who goes first: with a high
//! priority it goes before everybody who waits for a load there, with a normal one it waits since the moment of the
//! order like a request, with a low one until nobody waits. It is carried out while the queue is paused, too: filling
//! the memory before requests begin is what a pause is good for.
//!
//! # Invariants
//! - An order ends exactly once, by an [`Action::Ended`], unless it is withdrawn before.
//! - An order never brings a model to a server that may not have it, nor over `max_warm`.

use super::residency::Residency;
use super::state::Scheduler;
use super::words::{Action, ModelId, Moment, OrderId, ServerId};
use crate::policy::queue::Class;

/// An ordered load that has not ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ordered {
    id: OrderId,
    model: ModelId,
    class: Class,
    since: f64,
}

/// What became of an ordered load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OrderEnd {
    /// The model is in memory; seconds of the load, where it was one of ours.
    Ready(Option<f64>),
    /// The server did not load it.
    Failed,
    /// It may not be loaded there any more: why.
    Refused(&'static str),
}

impl Scheduler {
    /// Orders a load. `None` when the model is in memory already.
    ///
    /// # Errors
    /// Why the model may not come into memory there.
    pub fn order_load(
        &mut self,
        server: ServerId,
        model: ModelId,
        class: Class,
        moment: &Moment<'_>,
    ) -> Result<Option<OrderId>, &'static str> {
        if let Some(why) = self.objection(server, model, moment) {
            return Err(why);
        }
        let residency = self.pairs[(server, model)].residency;
        if matches!(residency, Residency::Ready { .. }) {
            return Ok(None);
        }
        let id = self.next_order;
        self.next_order += 1;
        self.servers[server].ordered.push(Ordered { id, model, class, since: moment.now });
        self.begin_loads(server, moment);
        Ok(Some(id))
    }

    /// Withdraws an order. A load that has begun goes on: others may wait for it by now.
    pub fn withdraw(&mut self, order: OrderId) {
        self.servers.iter_mut().for_each(|server| server.ordered.retain(|ordered| ordered.id != order));
    }

    /// Notes that a model leaves the memory of a server because an operator says so. One that is pinned there comes back
    /// when it is asked for, or when the server does.
    ///
    /// # Errors
    /// Why it stays. With `force` only because it is on its way into memory.
    pub fn order_unload(
        &mut self,
        server: ServerId,
        model: ModelId,
        force: bool,
        now: f64,
    ) -> Result<(), &'static str> {
        let pair = &self.pairs[(server, model)];
        if self.servers[server].loading == Some(model) {
            return Err("the model is being loaded there");
        }
        let kept = self.copies(model) <= self.models[model].rules.min_warm && pair.residency != Residency::Cold;
        let pinned = self.is_pinned(server, model);
        if !force && pinned {
            return Err("the model is pinned there");
        }
        if !force && kept {
            return Err("`min_warm` copies of the model stay in memory");
        }
        if !force && pair.all() > 0 {
            return Err("requests for the model run or wait there");
        }
        self.pairs[(server, model)].sent_out = true;
        let pair = &self.pairs[(server, model)];
        // What requests run for is in memory until the last of them has ended.
        if pair.running() == 0 {
            self.set_residency(server, model, Residency::Cold, now);
            self.tell_sent_out(server, model, now);
        }
        self.pairs[(server, model)].put_out = pinned || kept;
        Ok(())
    }

    /// Seconds that a load is expected to take.
    #[must_use]
    pub fn expected_load(&self, server: ServerId, model: ModelId) -> Option<f64> {
        let known = server < self.servers.len() && model < self.models.len();
        known.then(|| self.load(server, model))
    }

    /// The models in memory that nobody uses: server, model, and seconds since they were used last.
    pub fn idle(&self, now: f64) -> impl Iterator<Item = (ServerId, ModelId, f64)> {
        let present = self.servers.iter().enumerate().filter(|(_, host)| host.present);
        present.flat_map(move |(server, host)| {
            host.resident.iter().filter_map(move |model| {
                let pair = &self.pairs[(server, *model)];
                let idle = matches!(pair.residency, Residency::Ready { .. }) && pair.all() == 0;
                idle.then(|| (server, *model, (now - pair.used).max(0.0)))
            })
        })
    }

    /// Ends the orders of a server that cannot be carried out any more.
    pub(super) fn drop_orders(&mut self, server: ServerId, moment: &Moment<'_>) {
        for ordered in self.servers[server].ordered.clone() {
            if let Some(why) = self.objection(server, ordered.model, moment) {
                self.end_orders(server, ordered.model, OrderEnd::Refused(why));
            }
        }
    }

    /// Loads that are ordered on a server and have not begun: since when each has been waiting, as far as others are
    /// concerned.
    pub(super) fn ordered_loads(&self, server: ServerId) -> impl Iterator<Item = (f64, ModelId)> {
        let cold = move |ordered: &&Ordered| self.pairs[(server, ordered.model)].residency == Residency::Cold;
        self.servers[server].ordered.iter().filter(cold).map(|ordered| {
            let since = match ordered.class {
                Class::High => f64::NEG_INFINITY,
                Class::Normal => ordered.since,
                Class::Low => f64::INFINITY,
            };
            (since, ordered.model)
        })
    }

    /// Ends the orders for a model on a server.
    pub(super) fn end_orders(&mut self, server: ServerId, model: ModelId, end: OrderEnd) {
        let (actions, ordered) = (&mut self.actions, &mut self.servers[server].ordered);
        ordered.retain(|ordered| {
            let over = ordered.model == model;
            if over {
                actions.push(Action::Ended { order: ordered.id, end });
            }
            !over
        });
    }

    /// Why a model may not come into memory on a server.
    fn objection(&self, server: ServerId, model: ModelId, moment: &Moment<'_>) -> Option<&'static str> {
        let rules = &self.models[model].rules;
        if !self.settings.loads {
            return Some("the server has in memory what it has");
        }
        if !self.servers[server].present || !self.pairs[(server, model)].on_disk {
            return Some("the server does not have the model");
        }
        if !self.takes_a_card(model) {
            return Some("the model runs elsewhere and is never in memory there");
        }
        if !self.holds(server, model) {
            return Some("`only` or `never` keeps the model from this server");
        }
        if let Some(excluded) = (moment.excluded)(server, model) {
            return Some(excluded.why);
        }
        if self.pairs[(server, model)].residency != Residency::Cold {
            return None;
        }
        if self.has_enough_copies(model) && !rules.pinned.contains(&server) {
            return Some("`max_warm` copies of the model are in memory");
        }
        (!self.victims(server, model, moment.now).possible).then_some("what is pinned there leaves no room")
    }
}
