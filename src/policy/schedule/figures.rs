//! What metrics show of a scheduler.

use super::residency::Residency;
use super::state::Scheduler;
use super::words::ServerId;

impl Scheduler {
    /// Models on their way into the memory of a server.
    #[must_use]
    pub fn loading_on(&self, server: ServerId) -> usize {
        let resident = self.servers.get(server).into_iter().flat_map(|host| &host.resident);
        resident.filter(|model| self.is_loading(server, **model)).count()
    }

    /// Requests that may run on a server: its limit or, without one, what the models in its memory take together. `None`
    /// while that is not known of one of them, or none is there.
    #[must_use]
    pub fn known_slots(&self, server: ServerId) -> Option<u32> {
        let host = self.servers.get(server)?;
        if host.facts.max_in_flight < u32::MAX {
            return Some(host.facts.max_in_flight);
        }
        let mut models = host.resident.iter().filter(|model| !self.is_loading(server, **model)).peekable();
        models.peek()?;
        let slots = models.map(|model| match self.most_running(server, *model) {
            u32::MAX => None,
            slots => Some(slots),
        });
        slots.sum()
    }

    /// Requests that wait for a model that is on its way into memory.
    #[must_use]
    pub fn waiting_for_loads(&self) -> usize {
        let servers = self.servers.iter().enumerate();
        let pairs = servers.flat_map(|(server, host)| host.awaited.iter().map(move |model| (server, *model)));
        let waiting = pairs
            .filter(|(server, model)| self.is_loading(*server, *model))
            .map(|pair| self.pairs[pair].waiting as usize);
        waiting.sum()
    }

    fn is_loading(&self, server: ServerId, model: usize) -> bool {
        matches!(self.pairs[(server, model)].residency, Residency::Loading { .. })
    }
}
