//! Which model is loaded next on which server, and which one makes room.
//!
//! Loads are requests of our own (Ollama loads a model that is asked for without a prompt), one at a time on each
//! server, so that no client can abort one by leaving and no model is loaded twice because two requests came.
//!
//! Ollama itself throws out idle models in the order of their blobs' paths, whoever is using them next. So what makes
//! room is unloaded by us before the load begins.

use super::orders::OrderEnd;
use super::residency::Residency;
use super::state::Scheduler;
use super::words::{Action, Eviction, ModelId, Moment, RunnerOptions, ServerId};

/// Loads that a newcomer waits before a model with waiters of its own makes room for it.
const PATIENCE: f64 = 12.0;
/// Typical loads that a load which failed is not tried again.
const BROKEN: f64 = 5.0;

/// What came of a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LoadOutcome {
    /// The model is in memory.
    Done {
        /// Seconds that it took.
        seconds: f64,
    },
    /// It is not.
    Failed,
}

impl Scheduler {
    /// Begins the load that was waited for longest on a server, if one may begin; those that an operator ordered are among
    /// them.
    pub(super) fn begin_loads(&mut self, server: ServerId, moment: &Moment<'_>) {
        self.drop_orders(server, moment);
        let host = &self.servers[server];
        if !host.is_free_to_load() {
            return;
        }
        let mut wanted: Vec<(f64, ModelId)> = self.ordered_loads(server).collect();
        // While nobody may begin, nobody needs a model.
        for model in host.awaited.iter().copied().filter(|_| !self.paused) {
            let pair = &self.pairs[(server, model)];
            if pair.residency == Residency::Cold && moment.now >= pair.broken_until {
                wanted.extend(self.oldest_waiter(server, model).map(|since| (since, model)));
            }
        }
        wanted.sort_by(|one, other| one.0.total_cmp(&other.0));
        for (since, model) in wanted {
            if !self.takes_a_card(model) || !self.may_serve(server, model, moment) {
                continue;
            }
            let victims = self.victims(server, model, moment.now);
            let patient = moment.now - since < PATIENCE * self.load(server, model);
            let unfair = victims.models.iter().any(|victim| {
                let lines = &self.pairs[(server, *victim)].elsewhere.lines;
                let others = lines.iter().filter(|line| line.count > 0).map(|line| line.since);
                let theirs = self.oldest_waiter(server, *victim).into_iter().chain(others).min_by(f64::total_cmp);
                theirs.is_some_and(|theirs| theirs < since || patient)
            });
            if victims.may_begin && victims.possible && !unfair {
                self.begin_load(server, model, moment.now);
                return;
            }
        }
    }

    /// Since when somebody has been waiting for a model on a server.
    pub(super) fn oldest_waiter(&self, server: ServerId, model: ModelId) -> Option<f64> {
        if self.pairs[(server, model)].waiting == 0 {
            return None;
        }
        let waiters = self.models[model].queue.iter().filter(|(_, _, waiter)| waiter.server == server);
        waiters.map(|(_, since, _)| since).min_by(f64::total_cmp)
    }

    /// Begins a load: those that make room go first.
    pub(super) fn begin_load(&mut self, server: ServerId, model: ModelId, now: f64) {
        let victims = self.victims(server, model, now);
        let host = &self.servers[server];
        let busy = victims.models.iter().any(|victim| self.pairs[(server, *victim)].running() > 0);
        let others = host
            .resident
            .iter()
            .any(|resident| matches!(self.pairs[(server, *resident)].residency, Residency::Loading { .. }));
        let ready_at = now + victims.drain + self.load(server, model);
        for victim in victims.models {
            self.send_out(server, victim, Eviction::Room, now);
        }
        let options = self.models[model].queue.first(now, self.settings.aging, |waiter| waiter.server == server);
        let options = options.map_or_else(RunnerOptions::default, |(_, waiter)| waiter.request.options);
        self.set_residency(server, model, Residency::Loading { since: now, ready_at }, now);
        let host = &mut self.servers[server];
        self.pairs[(server, model)].options = Some(options);
        host.loading = Some(model);
        host.loading_is_clean = !busy && !others;
        self.actions.push(Action::Load { server, model, options });
    }

    /// A load of ours has ended.
    pub fn loaded(&mut self, server: ServerId, model: ModelId, outcome: LoadOutcome, moment: &Moment<'_>) {
        let Some(host) = self.servers.get_mut(server) else { return };
        if host.loading == Some(model) {
            host.loading = None;
        }
        let clean = host.loading_is_clean;
        match outcome {
            LoadOutcome::Done { seconds } => {
                if clean {
                    self.learn_load(server, model, seconds);
                }
                self.pairs[(server, model)].used = moment.now;
                self.pairs[(server, model)].broken_until = 0.0;
                self.end_orders(server, model, OrderEnd::Ready(Some(seconds)));
                self.set_residency(server, model, Residency::Ready { since: moment.now }, moment.now);
            }
            LoadOutcome::Failed => {
                host.failed = Some(model);
                self.pairs[(server, model)].broken_until = moment.now + BROKEN * self.typical_load();
                self.end_orders(server, model, OrderEnd::Failed);
                self.set_residency(server, model, Residency::Cold, moment.now);
                self.place_again(server, model, moment);
            }
        }
        self.serve_server(server, moment);
        self.begin_loads(server, moment);
    }
}
