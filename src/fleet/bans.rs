//! The bans of an upstream, where requests, operators and the rule meet.
//!
//! A request reads the table: one load, and a look only when there is a ban. Who changes it makes a new one and swaps it
//! in. The table belongs to the upstream by name and outlives snapshots.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use crate::policy::ban::{Ban, BanRule, BanTable};

/// The bans of one upstream.
#[derive(Default)]
pub struct Bans {
    table: ArcSwap<BanTable>,
    /// Held while the table is changed.
    changing: Mutex<()>,
    rule: ArcSwapOption<BanRule>,
}

impl Bans {
    /// Whether a server may not have a request, or one for this model.
    pub fn forbids(&self, server: &str, model: Option<&str>, now: Instant) -> bool {
        let table = self.table.load();
        !table.is_empty() && table.forbids(server, model, now)
    }

    /// Bans; `false` when there is no room, or nothing is named.
    pub fn ban(&self, ban: Ban, now: Instant) -> bool {
        let told = ban.clone();
        let added = self.change(|table| table.add(ban, now));
        if added {
            tracing::warn!(server = told.server, model = told.model, reason = told.reason, who = told.who, "banned");
        }
        added
    }

    /// Lifts the ban about exactly this; returns it if it still held.
    pub fn lift(&self, server: Option<&str>, model: Option<&str>, now: Instant) -> Option<Ban> {
        let lifted = self.change(|table| table.lift(server, model, now));
        if lifted.is_some() {
            tracing::info!(server, model, "ban lifted");
        }
        lifted
    }

    /// The bans that hold, the oldest first.
    pub fn list(&self, now: Instant) -> Vec<Ban> {
        self.table.load().iter(now).cloned().collect()
    }

    /// Takes the rule of a new configuration; bans stay as they are.
    pub fn set_rule(&self, rule: Option<BanRule>) {
        self.rule.store(rule.map(Arc::new));
    }

    /// The rule in force.
    pub fn rule(&self) -> Option<BanRule> {
        self.rule.load().as_deref().copied()
    }

    fn change<T>(&self, change: impl FnOnce(&mut BanTable) -> T) -> T {
        let changing = self.changing.lock();
        let mut table = BanTable::clone(&self.table.load());
        let result = change(&mut table);
        self.table.store(Arc::new(table));
        drop(changing);
        result
    }
}
