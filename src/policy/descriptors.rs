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
//! - A connection that was accepted finds a descriptor for its server: it is counted as two from the start.
//! - However small the limit, one connection is accepted: a process that accepts none serves nobody.

/// Descriptors that a client's connection may need: its own, and one towards a server.
const PER_CONNECTION: u64 = 2;

/// How many descriptors there are and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The process's soft limit (`RLIMIT_NOFILE`); no limit is `u64::MAX`.
    pub soft: u64,
    /// How many are kept, beside those that are open before any client came.
    pub reserved: u64,
}

impl Descriptors {
    /// Most connections of clients, over all listeners.
    #[must_use]
    pub const fn most(&self) -> u64 {
        let most = self.soft.saturating_sub(self.reserved) / PER_CONNECTION;
        if most == 0 { 1 } else { most }
    }

    /// Whether another connection may be accepted while `open` connections of clients are.
    #[must_use]
    pub const fn may_accept(&self, open: u64) -> bool {
        open < self.most()
    }

    /// Whether a connection that was just accepted must be closed, because its descriptor is one of those that
    /// are kept. The system gives the lowest free number, so all numbers below `newest` are taken: this counts
    /// also what [`Self::may_accept`] does not know of, such as idle connections to servers and held bodies.
    #[must_use]
    pub const fn is_kept(&self, newest: u64) -> bool {
        newest.saturating_add(self.reserved) >= self.soft
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_counts_as_two() {
        let descriptors = Descriptors { soft: 512, reserved: 32 };
        assert!(descriptors.may_accept(239));
        assert!(!descriptors.may_accept(240));
        assert!(Descriptors { soft: u64::MAX, reserved: 32 }.may_accept(1 << 40));
    }

    #[test]
    fn a_limit_below_the_reserve_still_serves_one() {
        let descriptors = Descriptors { soft: 16, reserved: 32 };
        assert!(descriptors.may_accept(0));
        assert!(!descriptors.may_accept(1));
    }

    #[test]
    fn the_last_numbers_are_kept() {
        let descriptors = Descriptors { soft: 512, reserved: 32 };
        assert!(!descriptors.is_kept(479));
        assert!(descriptors.is_kept(480));
        assert!(descriptors.is_kept(u64::MAX));
    }
}
