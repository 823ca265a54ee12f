//! What an HTTP cache may keep, and when it may answer from that (RFC 9111, RFC 5861).
//!
//! # Problem
//! A cache that many clients share must never give one what was meant for another, nor anybody what is out of date, and the
//! rules for that are spread over a dozen fields. Each of them is a decision of its own here, made of plain values.
//!
//! | module | question |
//! |---|---|
//! | [`directives`] | what do the fields `Cache-Control` say? |
//! | [`storing`] | may this answer be kept, and how long is it fresh? |
//! | [`using`] | may this request be answered from what is kept, by now? |
//! | [`key`] | which requests share an answer, and which answers does a purge mean? |
//! | [`form`] | how is an answer written as bytes, so that a flaw in them is noticed? |
//! | [`validation`] | with what is a server asked whether an answer still holds, and what does a 304 change of it? |
//!
//! Storability and freshness are judged by the crate `http-cache-semantics`. It gets heads in one form: it takes names of
//! directives in small letters only, dates in one of the three forms that there are (RFC 9110, 5.6.7), takes
//! `proxy-revalidate` for no lifetime at all, and counts no time that an answer spent on its way. It is asked once for an
//! answer, when that is kept: what came of it are a few numbers ([`Life`]), and a hit compares those with the clock.
//!
//! # Invariants
//! - What cannot be read is taken for what keeps least: a lifetime that is no number is zero.
//! - The answer to a request with credentials reaches nobody else, unless the server or the configuration says so in as many
//!   words.
//! - Nothing here depends on the process: keys and forms are the same in another one.

pub mod directives;
pub mod form;
pub mod key;
pub mod storing;
pub mod using;
pub mod validation;

/// How long an answer may be used. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When it was received, or confirmed last.
    pub received: u64,
    /// How old it was then, in milliseconds (RFC 9111, 4.2.3).
    pub age: u64,
    /// For how many milliseconds it was fresh from then on.
    pub fresh: u64,
    /// For how many milliseconds after that it is given while it is asked for anew (RFC 5861, 3).
    pub while_revalidate: u64,
    /// For how many milliseconds after that it is given in the place of an error (RFC 5861, 4).
    pub if_error: u64,
    /// What its server said.
    pub marks: Marks,
}

/// What a server said of an answer, where it matters later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u8);

impl Marks {
    /// It is for everybody: `public` or `s-maxage`.
    pub const OPEN: Self = Self(1);
    /// It is never given stale: `must-revalidate`, `proxy-revalidate` or `no-cache` (RFC 9111, 4.2.4).
    pub const NEVER_STALE: Self = Self(2);
    /// A client cannot ask for it stale, since it has `s-maxage` (RFC 9111, 5.2.2.10).
    pub const NOT_BY_CLIENT: Self = Self(4);
    /// It may answer requests with Authorization too: `public`, `s-maxage` or `must-revalidate` (RFC 9111, 3.5).
    pub const FOR_AUTHORIZED: Self = Self(8);

    /// Whether all of these are set.
    #[must_use]
    pub const fn has(self, marks: Self) -> bool {
        self.0 & marks.0 == marks.0
    }

    /// With these too, where `set` says so.
    #[must_use]
    pub const fn with(self, marks: Self, set: bool) -> Self {
        if set { Self(self.0 | marks.0) } else { self }
    }

    /// As a byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From a byte.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl Life {
    /// How old it is, in milliseconds (RFC 9111, 4.2.3). A clock that was set back makes nothing younger than it came.
    #[must_use]
    pub fn age(&self, now: u64) -> u64 {
        self.age.saturating_add(now.saturating_sub(self.received))
    }

    /// For how many seconds more it is fresh; how long it has not been, as a negative number.
    #[must_use]
    pub fn ttl(&self, now: u64) -> i64 {
        let passed = i128::from(now.saturating_sub(self.received));
        i64::try_from((i128::from(self.fresh) - passed).div_euclid(1000)).unwrap_or(i64::MAX)
    }

    /// Milliseconds since it stopped to be fresh; `None` while it is.
    #[must_use]
    pub fn stale_for(&self, now: u64) -> Option<u64> {
        // Fresh means that the lifetime is greater than the age (RFC 9111, 4.2).
        now.saturating_sub(self.received).checked_sub(self.fresh)
    }
}
