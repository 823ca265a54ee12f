//! May another connection be accepted, or are the file descriptors needed for something else?
//!
//! # Problem
//!
//! A process that has used up its descriptors cannot read its configuration, answer a health check or reach a
//! server; accepting then fails, and trying again at once burns a core. So the last ones are kept: when
//! accepting another connection would touch them, it waits until one closes.
//!
//! # Invariants
//!
//! - A connection that was accepted finds a descriptor for its server: it is counted as two from the start. Between
//!   requests it counts as one. The last eighth is left to requests on such connections, so that newcomers cannot take
//!   away what those who are served already will need; a request that finds none all the same is refused
//!   ([`Descriptors::holds`]), which closes its connection and so frees one.
//! - However small the limit, one connection is accepted: a process that accepts none serves nobody.

/// Descriptors that a connection needs whose request is served or has still to come: its own, and one towards a server.
pub const BUSY: u64 = 2;
/// Descriptors that a connection needs between two requests.
pub const IDLE: u64 = 1;
/// The part of all that new connections leave to requests on kept ones: one in so many.
const KEPT_BACK: u64 = 8;

/// How many descriptors there are and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The process's soft limit (`RLIMIT_NOFILE`); no limit is `u64::MAX`.
    pub soft: u64,
    /// How many are kept, beside those that are open before any client came.
    pub reserved: u64,
}

impl Descriptors {
    /// Most that the connections of clients may need in all.
    #[must_use]
    pub const fn most(&self) -> u64 {
        let most = self.soft.saturating_sub(self.reserved);
        if most < BUSY { BUSY } else { most }
    }

    /// Most that they may need for another one to be accepted.
    #[must_use]
    pub const fn room(&self) -> u64 {
        self.most() - self.most() / KEPT_BACK - BUSY
    }

    /// Whether there are as many as they need.
    #[must_use]
    pub const fn holds(&self, needed: u64) -> bool {
        needed <= self.most()
    }

    /// Whether a connection that was just accepted must be closed, because its descriptor is one of those that
    /// are kept. The system gives the lowest free number, so all numbers below `newest` are taken: this counts
    /// also what [`Self::room`] does not know of, such as idle connections to servers and held bodies.
    #[must_use]
    pub const fn is_kept(&self, newest: u64) -> bool {
        newest.saturating_add(self.reserved) >= self.soft
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_connection_is_accepted_where_it_finds_two() {
        let descriptors = Descriptors { soft: 512, reserved: 32 };
        assert_eq!((descriptors.room(), descriptors.most()), (418, 480));
        assert!(descriptors.holds(480));
        assert!(!descriptors.holds(481));
        assert!(Descriptors { soft: u64::MAX, reserved: 32 }.room() > 1 << 40);
    }

    #[test]
    fn a_limit_below_the_reserve_still_serves_one() {
        let descriptors = Descriptors { soft: 16, reserved: 32 };
        assert_eq!(descriptors.room(), 0);
        assert!(descriptors.holds(BUSY));
        assert!(!descriptors.holds(BUSY + IDLE));
    }

    #[test]
    fn the_last_numbers_are_kept() {
        let descriptors = Descriptors { soft: 512, reserved: 32 };
        assert!(!descriptors.is_kept(479));
        assert!(descriptors.is_kept(480));
        assert!(descriptors.is_kept(u64::MAX));
    }
}
