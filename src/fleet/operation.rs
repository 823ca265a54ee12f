//! What an operator decided about a server: that it works, empties, or rests.
//!
//! # Problem
//! Somebody wants to update a host. Requests that run there must finish, none may begin, and whoever looks at the
//! fleet an hour later must see why the server is idle, who wanted that, and since when.
//!
//! # States
//! ```text
//!             drain                        maintenance
//!   active ──────────▶ draining    active ─────────────▶ maintenance
//!          ◀──────────                    ◀─────────────
//!            undrain                 undrain, or `until` is over
//! ```
//! Both keep new work away, and either may follow the other. They differ in what they promise: a draining server is
//! about to be empty and somebody waits for that; one in maintenance may be down or half installed, and comes back
//! by itself where an end was given.
//!
//! # Invariants
//! - Whoever chooses a server asks [`Operating::standing`]: one atomic load while the server is active.
//! - A decision changes nothing about requests that run.
//! - A request takes its slot, then asks once more; an operator decides, then looks at the slots. Both in one total
//!   order, so a server that was found empty stays empty.
//! - A decision belongs to the server's state: it outlives reloads, and ends with the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Why, who and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why, in the operator's words; empty when nothing was said.
    pub reason: String,
    /// Who, in their own words.
    pub who: String,
    /// When it was decided.
    pub since: Instant,
}

/// What was decided about a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Operation {
    /// It works.
    #[default]
    Active,
    /// It finishes what it has and takes nothing new.
    Draining(Decision),
    /// It takes nothing new until it is called back, or until then.
    Maintenance(Decision, Option<Instant>),
}

/// The same in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It works.
    Active,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It takes nothing new.
    Maintenance,
}

impl Standing {
    /// Every standing.
    pub const ALL: [Self; 3] = [Self::Active, Self::Draining, Self::Maintenance];

    /// The word for logs, metrics and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }

    /// Whether a request may begin.
    #[must_use]
    pub const fn takes_work(self) -> bool {
        matches!(self, Self::Active)
    }
}

impl Operation {
    /// The same in one word.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match self {
            Self::Active => Standing::Active,
            Self::Draining(_) => Standing::Draining,
            Self::Maintenance(..) => Standing::Maintenance,
        }
    }

    /// Why, who and since when; `None` for a server that works.
    #[must_use]
    pub const fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Active => None,
            Self::Draining(decision) | Self::Maintenance(decision, _) => Some(decision),
        }
    }

    /// When it ends by itself.
    #[must_use]
    pub const fn until(&self) -> Option<Instant> {
        match self {
            Self::Maintenance(_, until) => *until,
            Self::Active | Self::Draining(_) => None,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| until <= now)
    }
}

/// A server's operation, where requests and operators meet.
#[derive(Default)]
pub struct Operating {
    /// Whether anything but "active" was decided: what the hot path reads.
    decided: AtomicBool,
    operation: Mutex<Operation>,
    /// Woken when the last request of a server that takes no work has ended.
    emptied: Notify,
}

impl Operating {
    /// What was decided, as it holds at `now`.
    pub fn operation(&self, now: Instant) -> Operation {
        let operation = self.operation.lock();
        if operation.is_over(now) { Operation::Active } else { operation.clone() }
    }

    /// The same in one word.
    pub fn standing(&self, now: Instant) -> Standing {
        if self.is_active() {
            return Standing::Active;
        }
        let operation = self.operation.lock();
        if operation.is_over(now) { Standing::Active } else { operation.standing() }
    }

    /// Takes a decision; returns what held before.
    pub fn decide(&self, next: Operation, now: Instant) -> Operation {
        let mut operation = self.operation.lock();
        self.decided.store(next != Operation::Active, Ordering::SeqCst);
        let before = std::mem::replace(&mut *operation, next);
        if before.is_over(now) { Operation::Active } else { before }
    }

    /// Ends a maintenance whose time is over; returns it the one time that it ends.
    pub fn expire(&self, now: Instant) -> Option<Operation> {
        if self.is_active() {
            return None;
        }
        let mut operation = self.operation.lock();
        if !operation.is_over(now) {
            return None;
        }
        self.decided.store(false, Ordering::SeqCst);
        Some(std::mem::take(&mut *operation))
    }

    /// Tells those who wait for it that nothing runs any more.
    pub fn is_empty_now(&self) {
        if !self.is_active() {
            self.emptied.notify_waiters();
        }
    }

    /// Returns once `in_flight` says 0.
    pub async fn until_empty(&self, in_flight: impl Fn() -> u32) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Listening before looking: an end between the two is not missed.
            emptied.as_mut().enable();
            if in_flight() == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn is_active(&self) -> bool {
        !self.decided.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn decision(now: Instant) -> Decision {
        Decision { reason: "new disk".to_owned(), who: "ana".to_owned(), since: now }
    }

    #[test]
    fn a_server_works_until_something_is_decided() {
        let (operating, now) = (Operating::default(), clock::now());
        assert_eq!((operating.standing(now), operating.operation(now)), (Standing::Active, Operation::Active));
        let draining = Operation::Draining(decision(now));
        assert_eq!(operating.decide(draining.clone(), now), Operation::Active);
        assert_eq!((operating.standing(now), operating.operation(now)), (Standing::Draining, draining.clone()));
        assert_eq!(operating.decide(Operation::Maintenance(decision(now), None), now), draining);
        assert_eq!(operating.standing(now + Duration::from_hours(10_000)), Standing::Maintenance);
        operating.decide(Operation::Active, now);
        assert!(operating.standing(now).takes_work());
    }

    #[test]
    fn maintenance_with_an_end_ends_by_itself_and_says_so_once() {
        let (operating, now) = (Operating::default(), clock::now());
        let until = now + Duration::from_mins(1);
        let maintenance = Operation::Maintenance(decision(now), Some(until));
        operating.decide(maintenance.clone(), now);
        let before = until.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!((operating.standing(before), operating.expire(before)), (Standing::Maintenance, None));
        assert_eq!((operating.standing(until), operating.operation(until)), (Standing::Active, Operation::Active));
        assert_eq!(operating.expire(until), Some(maintenance));
        assert_eq!(operating.expire(until), None);
        assert_eq!(operating.standing(before), Standing::Active, "it has ended for good");
    }
}
