//! What is in memory where: from what servers list, from our own loads, from requests that were answered.
//!
//! ```text
//!          our load begins, or the server lists it while it loads
//!   ┌──────┐ ─────────────────────────▶ ┌─────────┐    the load is done, an answer begins    ┌───────┐
//!   │ cold │                            │ loading │ ───────────────────────────────────────▶ │ ready │
//!   └──────┘ ◀── it failed ──────────── └─────────┘                                          └───────┘
//!       ▲                                                                                        │
//!       └──────────── the server lists it no more, or it makes room for another ─────────────────┘
//! ```
//!
//! A server that does not answer `/api/ps` in time is most likely loading something (Ollama's handler waits for the
//! runner); what was known of it stays. A model that requests of ours run for is in memory, whatever the list says, unless it
//! was told to leave: then it gets no more of them, though it is there until the last has ended.

use super::elsewhere::TOLD_FOR;
use super::orders::OrderEnd;
use super::state::Scheduler;
use super::words::{Action, Eviction, ModelId, Moment, ServerId};

/// What a model is on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Residency {
    /// Not in memory.
    #[default]
    Cold,
    /// On its way there.
    Loading {
        /// Since when.
        since: f64,
        /// When it is expected to be there.
        ready_at: f64,
    },
    /// In memory.
    Ready {
        /// Since when.
        since: f64,
    },
}

impl Residency {
    /// The word in the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Loading { .. } => "loading",
            Self::Ready { .. } => "ready",
        }
    }
}

/// A model that a server has.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<'l> {
    /// Its name.
    pub name: &'l str,
    /// Bytes on disk, or in memory.
    pub size: u64,
    /// Which bytes the name stands for.
    pub digest: Option<&'l str>,
    /// Whether it runs elsewhere.
    pub remote: bool,
}

impl Scheduler {
    /// A server told what it has on disk and in memory, after it had been asked at `asked`: what happened since then is not
    /// in it.
    pub fn listed(
        &mut self,
        server: ServerId,
        on_disk: &[Listed<'_>],
        in_memory: &[Listed<'_>],
        asked: f64,
        moment: &Moment<'_>,
    ) {
        let before = self.models.len();
        let mut here = Vec::with_capacity(on_disk.len());
        for row in on_disk {
            let model = self.model(row.name);
            here.push(model);
            self.know(server, model, row);
        }
        here.extend(in_memory.iter().map(|row| self.model(row.name)));
        self.set_on_disk(server, here);
        self.in_memory(server, in_memory, asked, moment.now);
        if self.models.len() > before {
            self.apply_rules();
        }
        self.serve_server(server, moment);
        self.begin_loads(server, moment);
    }

    fn in_memory(&mut self, server: ServerId, rows: &[Listed<'_>], asked: f64, now: f64) {
        let mut here = Vec::with_capacity(rows.len());
        let mut bytes = 0.0;
        for row in rows {
            let model = self.model(row.name);
            here.push(model);
            bytes += row.size as f64 / 1e9;
            if row.size > 0 {
                self.set_size(model, row.size);
                self.models[model].size_is_known = true;
            }
            let loads = !self.servers[server].is_free_to_load();
            let pair = &mut self.pairs[(server, model)];
            // What was told to leave is listed until its last answer has ended, and must get no more of them. Others that go on
            // to ask for it keep it there.
            let answers = pair.in_flight > 0 || pair.elsewhere.running > 0 && now - pair.changed < TOLD_FOR;
            let leaves = pair.sent_out && (answers || loads);
            if pair.residency == Residency::Cold && pair.changed <= asked && !leaves {
                pair.used = now;
                self.set_residency(server, model, Residency::Ready { since: now }, now);
            }
        }
        let host = &mut self.servers[server];
        host.seen_memory = host.seen_memory.max(bytes);
        host.seen_loaded = host.seen_loaded.max(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        let gone = host.resident.iter().copied().filter(|model| {
            let pair = &self.pairs[(server, *model)];
            matches!(pair.residency, Residency::Ready { .. })
                && pair.changed <= asked
                && pair.running() == 0
                && !here.contains(model)
        });
        let gone = gone.collect::<Vec<_>>();
        // A load that nobody has any more, neither we nor others nor a request.
        let lost = host.resident.iter().copied().filter(|model| {
            let pair = &self.pairs[(server, *model)];
            matches!(pair.residency, Residency::Loading { .. })
                && pair.changed <= asked
                && pair.running() == 0
                && host.loading != Some(*model)
                && !self.heard.contains(&(server, *model, true))
        });
        for model in lost.collect::<Vec<_>>() {
            let there = here.contains(&model);
            let residency = if there { Residency::Ready { since: now } } else { Residency::Cold };
            self.set_residency(server, model, residency, now);
        }
        for model in gone {
            if !self.pairs[(server, model)].sent_out {
                self.actions.push(Action::Left { server });
            }
            self.set_residency(server, model, Residency::Cold, now);
        }
    }

    fn know(&mut self, server: ServerId, model: ModelId, row: &Listed<'_>) {
        self.set_remote(model, row.remote);
        let (known, pair) = (&mut self.models[model], &mut self.pairs[(server, model)]);
        if let Some(digest) = row.digest
            && pair.digest.as_deref() != Some(digest)
            && pair.digest.replace(digest.into()).is_some()
        {
            // The same name, another model: what was learned was about the old one.
            pair.learned = super::learned::Learned::default();
            known.size_is_known = false;
            self.load_epoch += 1;
        }
        if !known.size_is_known && row.size > 0 {
            self.set_size(model, row.size);
        }
    }

    fn set_size(&mut self, model: ModelId, bytes: u64) {
        let size = bytes as f64 / 1e9;
        if self.models[model].size != size {
            self.models[model].size = size;
            self.load_epoch += 1;
        }
    }

    /// Notes which models a server has; they may be named twice.
    fn set_on_disk(&mut self, server: ServerId, mut models: Vec<ModelId>) {
        models.sort_unstable();
        models.dedup();
        let before = std::mem::take(&mut self.servers[server].on_disk);
        for gone in before.iter().filter(|model| models.binary_search(model).is_err()) {
            self.models[*gone].holders.retain(|holder| *holder != server);
            self.pairs[(server, *gone)].on_disk = false;
        }
        for new in models.iter().filter(|model| before.binary_search(model).is_err()) {
            let holders = &mut self.models[*new].holders;
            let place = holders.partition_point(|holder| *holder < server);
            holders.insert(place, server);
            self.pairs[(server, *new)].on_disk = true;
            self.load_epoch += 1;
        }
        self.servers[server].on_disk = models;
    }

    /// Has a model leave the memory of a server. It may be listed for a moment still.
    pub(super) fn send_out(&mut self, server: ServerId, model: ModelId, why: Eviction, now: f64) {
        self.set_residency(server, model, Residency::Cold, now);
        self.will_leave(server, model);
        self.tell_sent_out(server, model, now);
        self.actions.push(Action::Unload { server, model, why });
    }

    /// The other instances are to know that a model leaves.
    pub(super) fn tell_sent_out(&mut self, server: ServerId, model: ModelId, now: f64) {
        self.sent_out.retain(|(_, _, at)| now - at < TOLD_FOR);
        if self.instances > 1 {
            self.sent_out.push((server, model, now));
        }
    }

    /// Notes that a model was told to leave the memory of a server: when it does, that is no surprise.
    pub fn will_leave(&mut self, server: ServerId, model: ModelId) {
        if server < self.servers.len() && model < self.models.len() {
            self.pairs[(server, model)].sent_out = true;
        }
    }

    /// Notes what a model is on a server.
    pub(super) fn set_residency(&mut self, server: ServerId, model: ModelId, residency: Residency, now: f64) {
        let host = &mut self.servers[server];
        self.pairs[(server, model)].changed = now;
        self.pairs[(server, model)].residency = residency;
        let copies = &mut self.models[model].copies;
        if residency == Residency::Cold {
            self.pairs[(server, model)].options = None;
            self.pairs[(server, model)].spilled = 0.0;
            host.resident.retain(|resident| *resident != model);
            copies.retain(|copy| *copy != server);
        } else if !host.resident.contains(&model) {
            host.resident.push(model);
            copies.push(server);
        }
        if matches!(residency, Residency::Loading { .. }) {
            self.pairs[(server, model)].put_out = false;
            self.pairs[(server, model)].sent_out = false;
        }
        if matches!(residency, Residency::Ready { .. }) {
            self.end_orders(server, model, OrderEnd::Ready(None));
        }
    }

    /// What a model is on a server.
    #[must_use]
    pub fn residency(&self, server: ServerId, model: ModelId) -> Residency {
        let known = server < self.servers.len() && model < self.models.len();
        if known { self.pairs[(server, model)].residency } else { Residency::Cold }
    }
}
