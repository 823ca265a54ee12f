//! Why a server may not have a request just now: what its own state says, and when that is not followed.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use crate::fleet::server::ServerState;
use crate::policy::ejection::readmit;
use crate::policy::schedule::{Excluded, ModelId, ServerId};

/// Why servers may not have requests, at one moment.
pub(super) struct Judgement<'j> {
    pub(super) servers: &'j [Arc<ServerState>],
    pub(super) models: &'j [Arc<str>],
    pub(super) max_ejected: u8,
    pub(super) now: Instant,
    /// Those that are used although their circuits say no, for the model that was asked about last.
    pub(super) readmitted: RefCell<Option<(ModelId, Vec<ServerId>)>>,
}

impl Judgement<'_> {
    pub(super) fn exclusion(&self, server: ServerId, model: ModelId) -> Option<Excluded> {
        let Some(state) = self.servers.get(server) else { return Some(Excluded { why: "gone", soft: false }) };
        let name = self.models.get(model).map(AsRef::as_ref);
        let why = state.exclusion(name, self.now)?;
        let used = why.is_soft() && name.is_some_and(|name| self.is_readmitted(server, model, name));
        (!used).then(|| Excluded { why: why.as_str(), soft: why.is_soft() })
    }

    fn is_readmitted(&self, server: ServerId, model: ModelId, name: &str) -> bool {
        let mut known = self.readmitted.borrow_mut();
        let (_, servers) = match known.take() {
            Some(found) if found.0 == model => known.insert(found),
            _ => known.insert((model, self.readmit(name))),
        };
        servers.contains(&server)
    }

    /// The rule that no more than a share of the holders is left alone, and never the last one.
    fn readmit(&self, model: &str) -> Vec<ServerId> {
        let (mut all, mut left, mut ejected) = (0, 0, Vec::new());
        for (id, state) in self.servers.iter().enumerate().filter(|(_, state)| state.inventory().has(model)) {
            all += 1;
            match state.exclusion(Some(model), self.now) {
                None => left += 1,
                Some(why) if why.is_soft() => ejected.extend(state.badness(Some(model), self.now, id)),
                Some(_) => {}
            }
        }
        let count = readmit(&mut ejected, all, left, self.max_ejected);
        ejected[..count].iter().map(|bad| bad.index).collect()
    }
}
