//! Rate limits: may this request pass now, later, or not at all?
//!
//! # Problem
//!
//! Servers with a GPU do a few requests a second; one client with a loop must not take them all. Counting
//! requests in windows lets twice the rate pass around each border and needs a timer; a queue of times needs
//! memory for each request.
//!
//! # Shape
//!
//! The generic cell rate algorithm (GCRA, ITU-T I.371): each key has one number, the time [`Due`] at which
//! its next request would be exactly on time. A request that passes moves it on by one interval (`period /
//! count`). A request may be early by as many intervals as `burst` says. This is the leaky bucket of nginx's
//! `limit_req`, which keeps the fill of the bucket where GCRA keeps the time at which it will be empty:
//!
//! | nginx | here |
//! |---|---|
//! | `rate=100r/m burst=20 nodelay` | 100 a minute, burst 20, delayed 0: 21 at once, then one each 600 ms |
//! | `rate=100r/m burst=20` | delayed 20: the first at once, the next 20 wait 600 ms, 1200 ms, … |
//! | `rate=100r/m burst=20 delay=8` | delayed 12: nine at once, then twelve that wait |
//!
//! # Invariants
//!
//! - In any stretch of time of length `w`, no more than `burst + 1 + w / interval` requests pass.
//! - Whoever stays at or below the rate is never refused and never delayed.
//! - No rounding: the part of a nanosecond that an interval such as a seventh of a second leaves is kept.
//! - A key that is not known is a key whose [`Due`] lies in the past: forgetting one of these loses nothing.

use std::time::Duration;

mod fields;
mod shared;

pub use fields::{quota_fields, refusal_fields, whole_seconds};
pub use shared::{Held, Next, Owed};

#[cfg(test)]
mod tests;

/// The numbers of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Requests in a period, at least 1.
    count: u32,
    /// Nanoseconds of the period, at least 1.
    period: u64,
    /// How many requests may come early.
    burst: u32,
    /// How many of these, the last, are delayed until they are on time for the rest.
    delayed: u32,
}

/// When the next request of a key would be on time: nanoseconds since whatever moment the caller counts from,
/// and parts of a nanosecond in units of one `count`th. The default has long passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    nanos: u64,
    part: u32,
}

impl Due {
    /// Whether a key with this is no different from one that is not known.
    #[must_use]
    pub const fn has_passed(self, now: u64) -> bool {
        self.nanos < now
    }

    /// The whole nanoseconds.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.nanos
    }
}

/// What a client may know about its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Most requests that may come at once.
    pub limit: u32,
    /// How many of them may come now.
    pub remaining: u32,
    /// When, from now, all of them may come again, if none comes before.
    pub reset: Duration,
}

impl Quota {
    /// The one of two limits that leaves less.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        let tightness = |quota: &Self| (quota.remaining, std::cmp::Reverse(quota.reset));
        std::cmp::min_by_key(self, other, tightness)
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes at once.
    Pass(Quota),
    /// It passes after a while.
    Delay {
        /// How long it waits.
        wait: Duration,
        /// What is left.
        quota: Quota,
    },
    /// It is refused, and counts for nothing.
    Reject {
        /// When a request would pass, if no other comes before.
        retry_after: Duration,
        /// What is left: nothing.
        quota: Quota,
    },
}

impl RateLimit {
    /// `count` requests in each `period`, of which `burst` may come early, the last `delayed` of these delayed.
    /// A count or period of zero is taken for the least that there is; `delayed` is at most `burst`.
    #[must_use]
    pub fn new(count: u32, period: Duration, burst: u32, delayed: u32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        Self { count: count.max(1), period: period.max(1), burst, delayed: delayed.min(burst) }
    }

    /// Requests in a period.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The period.
    #[must_use]
    pub const fn period(&self) -> Duration {
        Duration::from_nanos(self.period)
    }

    /// How many requests may come early.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// How many of these are delayed.
    #[must_use]
    pub const fn delayed(&self) -> u32 {
        self.delayed
    }

    /// The time between two requests at this rate, rounded down to nanoseconds.
    #[must_use]
    pub const fn interval(&self) -> u64 {
        self.period / self.count as u64
    }

    /// What becomes of a request that comes at `now` (nanoseconds on the scale of `due`) and the key's next
    /// [`Due`] if that is carried out. After [`Decision::Reject`] it is the same as before.
    #[must_use]
    pub fn decide(&self, due: Due, now: u64) -> (Decision, Due) {
        self.decide_as(due, now, 1)
    }

    /// The same for a request that counts as so many.
    fn decide_as(&self, due: Due, now: u64, weight: u32) -> (Decision, Due) {
        let early = self.early(due, now);
        let allowed = self.spans(self.burst);
        if early > allowed {
            let retry_after = self.time_of(early - allowed);
            return (Decision::Reject { retry_after, quota: self.quota(early) }, due);
        }
        let from = if early == 0 { Due { nanos: now, part: 0 } } else { due };
        let quota = self.quota(early + self.spans(1));
        let undelayed = self.spans(self.burst - self.delayed);
        let decision = if early > undelayed {
            Decision::Delay { wait: self.time_of(early - undelayed), quota }
        } else {
            Decision::Pass(quota)
        };
        (decision, self.after(from, weight))
    }

    /// How early a request at `now` is. Spans of time are in nanoseconds times `count`, in which an interval
    /// is whole.
    fn early(&self, due: Due, now: u64) -> u128 {
        due.nanos.checked_sub(now).map_or(0, |nanos| u128::from(nanos) * u128::from(self.count) + u128::from(due.part))
    }

    /// The span of so many intervals.
    fn spans(&self, intervals: u32) -> u128 {
        u128::from(intervals) * u128::from(self.period)
    }

    /// A span as time, rounded up: who waits that long is not early any more.
    fn time_of(&self, span: u128) -> Duration {
        Duration::from_nanos(u64::try_from(span.div_ceil(u128::from(self.count))).unwrap_or(u64::MAX))
    }

    /// So many intervals after `due`.
    fn after(&self, due: Due, intervals: u32) -> Due {
        let count = u128::from(self.count);
        let parts = u128::from(due.part) + self.spans(intervals);
        let nanos = due.nanos.saturating_add(u64::try_from(parts / count).unwrap_or(u64::MAX));
        Due { nanos, part: u32::try_from(parts % count).unwrap_or(0) }
    }

    /// What a key may know whose next request is early by `ahead`.
    fn quota(&self, ahead: u128) -> Quota {
        let room = (self.spans(self.burst) + self.spans(1)).saturating_sub(ahead);
        let remaining = u32::try_from(room / u128::from(self.period)).unwrap_or(u32::MAX);
        Quota { limit: self.burst.saturating_add(1), remaining, reset: self.time_of(ahead) }
    }
}
