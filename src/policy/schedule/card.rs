//! What the cards of a server leave for models, and what a model loses that is not on them.
//!
//! ```text
//! room    = total - margin - foreign      foreign: in use by no model, the least of the last looks
//! on card = 1                             where the model fits
//!         = what the server lists         for a model in memory: size_vram / size
//!         = room / size                   for one that would be larger than all the room
//!         = 0                             where there is no card, while other servers have one
//! suits   = on card²                      at least 1/25
//! ```
//!
//! A model that is partly in the host's memory is as slow as that part (layers there are computed by the processor), so a
//! server is asked as if it had so much less of a share. It is never out of the question: where no card is large enough,
//! the one that holds most of it has it.
//!
//! A model that runs elsewhere (`remote_host` in a list: ollama.com) takes neither memory nor time of a card, and how quick
//! it is says nothing about the server.

use super::residency::Residency;
use super::state::{Scheduler, Server};
use super::words::{ModelId, Running, ServerId};

/// Looks at memory of which the least counts: a model that somebody else loads is in use before it is listed.
const LOOKS: usize = 6;
/// What is left of a server's share at least.
const LEAST: f64 = 0.04;

/// Memory of all cards of a server, as a source tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardMemory {
    /// Bytes.
    pub total: u64,
    /// Bytes in use, by whomever.
    pub used: u64,
    /// Bytes that are to stay free.
    pub margin: u64,
}

/// What is known of the cards of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Cards {
    /// All that models and others can have, 10^9 bytes.
    most: Option<f64>,
    /// In use by no model, one for each of the last looks.
    foreign: Vec<f64>,
    /// Whether it computes by the processor alone.
    absent: bool,
}

impl Cards {
    /// Bytes that models may take, 10^9; `None` when nobody tells.
    pub(super) fn room(&self) -> Option<f64> {
        let foreign = self.foreign.iter().copied().min_by(f64::total_cmp)?;
        Some((self.most? - foreign).max(0.0))
    }
}

impl Server {
    fn is_without_card(&self) -> bool {
        self.cards.absent || self.facts.memory == Some(0)
    }
}

impl Scheduler {
    /// A source told how much memory the cards of a server have and how much of it is in use; `None` when it has been silent
    /// for too long.
    pub fn card_memory(&mut self, server: ServerId, told: Option<CardMemory>) {
        let Some(host) = self.servers.get(server) else { return };
        let listed: f64 = host.resident.iter().map(|resident| self.size(*resident)).sum();
        let cards = &mut self.servers[server].cards;
        let Some(memory) = told else {
            cards.most = None;
            cards.foreign.clear();
            return;
        };
        cards.most = Some(memory.total.saturating_sub(memory.margin) as f64 / 1e9);
        if cards.foreign.len() == LOOKS {
            cards.foreign.remove(0);
        }
        cards.foreign.push((memory.used as f64 / 1e9 - listed).max(0.0));
    }

    /// Whether a server has no card at all, by what it lists.
    pub fn set_without_card(&mut self, server: ServerId, absent: bool) {
        if let Some(host) = self.servers.get_mut(server) {
            host.cards.absent = absent;
            self.count_cards();
        }
    }

    /// Notes whether servers can be told apart by having a card.
    pub(super) fn count_cards(&mut self) {
        self.has_cards = self.servers.iter().any(|host| host.present && !host.is_without_card());
    }

    /// The models in a server's memory of which a part is not on its cards, each with the share that is; all others are there
    /// as a whole.
    pub fn set_spilled(&mut self, server: ServerId, spilled: &[(&str, f64)]) {
        let Some(host) = self.servers.get(server) else { return };
        for model in host.resident.clone() {
            let on_card =
                spilled.iter().find(|(name, _)| *name == self.models[model].name).map_or(1.0, |(_, share)| *share);
            self.pairs[(server, model)].spilled = 1.0 - on_card.clamp(0.0, 1.0);
        }
    }

    /// Whether a model takes time and memory of a card: one that runs elsewhere does not.
    pub(super) fn takes_a_card(&self, model: ModelId) -> bool {
        !self.models[model].remote
    }

    /// A name stands for a model that runs elsewhere from now on, or for one that does not any more.
    pub(super) fn set_remote(&mut self, model: ModelId, remote: bool) {
        if self.models[model].remote == remote {
            return;
        }
        self.models[model].remote = remote;
        for server in 0..self.servers.len() {
            self.count_work(server);
        }
    }

    /// Counts anew what the cards of a server work on.
    fn count_work(&mut self, server: ServerId) {
        let on_card = |ran: &&Running| ran.server == server && self.takes_a_card(ran.model);
        let read = self.running.values().filter(on_card).filter(|ran| !ran.answers);
        let (prefilling, reading) = read.fold((0, 0.0), |(count, sum), ran| (count + 1, sum + ran.reading));
        let models = self.pairs.of_server(server).filter(|(model, _)| self.takes_a_card(*model));
        let (answering, active) = models.fold((0, 0), |(answering, active), (_, pair)| {
            (answering + u32::from(pair.answering() > 0), active + u32::from(pair.running() > 0))
        });
        let host = &mut self.servers[server];
        (host.prefilling, host.reading, host.answering, host.active) = (prefilling, reading, answering, active);
    }

    /// The share of a model that is, or would be, on the cards of a server.
    fn on_card(&self, server: ServerId, model: ModelId) -> f64 {
        let (host, pair) = (&self.servers[server], &self.pairs[(server, model)]);
        if !self.takes_a_card(model) {
            return 1.0;
        }
        if host.is_without_card() {
            // Where nobody has one, that is nothing against anybody.
            return if self.has_cards { 0.0 } else { 1.0 };
        }
        if let Residency::Ready { .. } = pair.residency {
            return 1.0 - pair.spilled;
        }
        let (room, size) = (self.room(server), self.size(model));
        if size <= room { 1.0 } else { room / size }
    }

    /// What is left of the share of a server for a model, by where it computes: from 0.04 to 1.
    pub(super) fn suits(&self, server: ServerId, model: ModelId) -> f64 {
        self.on_card(server, model).powi(2).max(LEAST)
    }
}
