//! A key of a rate limit that several instances share: decided from memory, settled later.
//!
//! # Problem
//! A request cannot ask the others whether they let one pass at this moment. Yet all together should let pass what the limit
//! says, wherever the requests come, and each should go on with its share when nobody can be asked.
//!
//! # Shape
//! An instance knows two times of a key:
//!
//! - **exact**: what was told last, and one interval for each request that it let pass since. It can only be too early, by
//!   what others let pass meanwhile.
//! - **guess**: the same, but each request since counts as many as there are instances: the others are taken to do as this one
//!   does. Whoever takes from `free` requests this way takes the share `⌈free / instances⌉` of it and no more.
//!
//! A request passes if the guess lets it. What passed is told soon ([`Held::send`]), the answer says where all are
//! ([`Held::told`]), and the guess begins from there again; so an instance to which all requests come gets the next share of
//! what is left, and the next. (Not at once, where nobody used the key before: others may have begun at the same moment. Then it is
//! asked again.) Where nobody answers, the guess goes on by itself: it is then a limit of a share of the rate and
//! of the burst. No state has to be changed for that, neither when the answers end nor when they come again.
//!
//! # Invariants
//! - All that passed is told, once it is known that it was not yet: what was too much is paid back.
//! - After a silence no more is told than what still counts, at most the share of the burst: what passed at a share of the rate
//!   has been paid by the time that went.
//! - What is told of a key makes it only later, so that an engine that lost everything learns it again from whoever knows.

use super::{Decision, Due, RateLimit};

#[cfg(test)]
mod tests;

/// How long, in nanoseconds, it is believed how many instances use a key.
const FRESH: u64 = 250_000_000;
/// Of requests that passed that many nanoseconds ago only what still counts is told.
const LATE: u64 = 1_000_000_000;

/// What an instance knows of a key that it shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    exact: Due,
    guess: Due,
    /// Requests that passed and were not told yet.
    unsent: u32,
    /// Requests that were told without an answer so far.
    sent: u32,
    /// When the first of `unsent` passed.
    first: u64,
    /// When the last answer came, and how many instances used the key then.
    answered: Option<(u64, u32)>,
    /// Whether it is to be asked again: the guess stands in the way of requests, and others may have begun at the same moment.
    early: bool,
}

/// What becomes of a key if a decision is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    exact: Due,
    guess: Due,
    /// Whether only the guess is what stands in the way of the next request: then it is time to settle.
    pub hungry: bool,
}

/// What is to be told of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Requests that passed.
    pub taken: u32,
    /// How far the key is ahead of now at least, in nanoseconds; below zero where its time has passed.
    pub ahead: i64,
}

impl Next {
    /// The time that decides next.
    #[must_use]
    pub const fn guess(&self) -> Due {
        self.guess
    }
}

impl Held {
    /// A key that was not shared so far.
    #[must_use]
    pub const fn of(due: Due) -> Self {
        Self { exact: due, guess: due, unsent: 0, sent: 0, first: 0, answered: None, early: false }
    }

    /// The time that decides.
    #[must_use]
    pub const fn guess(&self) -> Due {
        self.guess
    }

    /// What becomes of a request at `now`, where there are so many instances, and of the key if it passes.
    #[must_use]
    pub fn decide(&self, limit: &RateLimit, now: u64, instances: u32) -> (Decision, Next) {
        let (exact, after) = limit.decide(self.exact, now);
        let (guess, guessed) = limit.decide_as(self.guess, now, self.weight(now, instances));
        let passes = |due| limit.early(due, now) <= limit.spans(limit.burst);
        let next = Next { exact: after, guess: guessed, hungry: !passes(guessed) && passes(after) };
        let decision = match (exact, guess) {
            // How long it waits and what is left is said as if the others did nothing.
            (Decision::Pass(_) | Decision::Delay { .. }, Decision::Reject { retry_after, mut quota }) => {
                quota.remaining = 0;
                Decision::Reject { retry_after, quota }
            }
            (exact, _) => exact,
        };
        (decision, next)
    }

    /// A request passed.
    pub const fn take(&mut self, next: Next, now: u64) {
        (self.exact, self.guess) = (next.exact, next.guess);
        if self.unsent == 0 {
            self.first = now;
        }
        self.unsent = self.unsent.saturating_add(1);
    }

    /// A request that was the last to pass is taken back; false where that is too late.
    pub fn give_back(&mut self, before: &Self, after: Due) -> bool {
        let can = self.guess == after && self.unsent > 0;
        if can {
            (self.exact, self.guess) = (before.exact, before.guess);
            self.unsent -= 1;
        }
        can
    }

    /// What is to be told now, if anything; it counts as told until [`told`](Self::told) or [`failed`](Self::failed).
    pub fn send(&mut self, limit: &RateLimit, now: u64, instances: u32) -> Option<Owed> {
        let mut taken = std::mem::take(&mut self.unsent);
        let mut ahead = signed(self.exact.nanos) - signed(now);
        if now.saturating_sub(self.first) > LATE {
            // What of this instance's share is used now, or of the whole where it took as if it were alone.
            let share = limit.early(self.guess, now).div_ceil(u128::from(instances.max(1)) * u128::from(limit.period));
            let whole = limit.early(self.exact, now).div_ceil(u128::from(limit.period));
            taken = taken.min(u32::try_from(share.max(whole)).unwrap_or(u32::MAX));
            ahead = ahead.max(signed(limit.after(Due { nanos: 0, part: 0 }, taken).nanos));
        }
        self.sent = taken;
        (taken > 0 || self.early).then_some(Owed { taken, ahead })
    }

    /// What was sent is counted: at `asked` all together were ahead by so many nanoseconds, and so many instances use the key;
    /// `None` where it is in use since this moment, so that others may not have told yet what they took: then the guess stays.
    pub fn told(&mut self, limit: &RateLimit, asked: u64, ahead: i64, among: Option<u32>, instances: u32) {
        let nanos = u64::try_from(signed(asked).saturating_add(ahead)).unwrap_or(0);
        self.sent = 0;
        self.answered = among.map(|among| (asked, among));
        let weight = self.weight(asked, instances);
        self.exact = self.exact.max(limit.after(Due { nanos, part: 0 }, self.unsent));
        let guess = limit.after(self.exact, self.unsent.saturating_mul(weight - 1));
        self.guess = if among.is_none() { self.guess.max(guess) } else { guess };
        self.early = among.is_none() && limit.early(self.guess, asked) > limit.spans(limit.burst);
    }

    /// What was sent may have been counted or not: it is told again, as far as it still counts then.
    pub const fn failed(&mut self) {
        if self.sent > 0 {
            self.first = 0;
        }
        self.unsent = self.unsent.saturating_add(self.sent);
        self.sent = 0;
    }

    /// Whether a key with this is no different from one that is not known.
    #[must_use]
    pub const fn is_over(&self, now: u64) -> bool {
        let told = self.unsent == 0 || now.saturating_sub(self.first) > LATE;
        self.guess.has_passed(now) && self.sent == 0 && told
    }

    /// As how many a request counts until it is settled.
    fn weight(&self, now: u64, instances: u32) -> u32 {
        let known = self.answered.filter(|(at, _)| now.saturating_sub(*at) < FRESH);
        known.map_or(instances, |(_, among)| among.min(instances)).max(1)
    }
}

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}
