//! Quotas: how many tokens somebody may use in a minute, an hour, a day or a month.
//!
//! # Problem
//! What a request costs is known when it has ended, and a stream that has begun must not be cut. So a request is let in
//! by what was used before it, and charged by what it used.
//!
//! # Rules
//! - Windows are those of the calendar, in UTC: a day begins at midnight, a month on its first.
//! - While less than the limit is used in the window, a request is let in; what it uses may go beyond the limit.
//! - From the share `warn_at` of the limit on, whoever asks is warned.
//! - A charge counts in the window in which its request ended.
//!
//! # Invariants
//! - Sums never wrap and are never negative.
//! - A clock that goes back over the border of a window does not give anything back: the later window goes on. One that
//!   was wrong by more than a window is forgotten.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, Time};

#[cfg(test)]
mod tests;

/// How long a quota counts before it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// A minute of the clock.
    Minute,
    /// An hour of the clock.
    Hour,
    /// A day, from midnight.
    Day,
    /// A month of the calendar.
    Month,
}

/// A window of time, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// Its first second.
    pub starts: i64,
    /// The first second that is not in it.
    pub ends: i64,
}

impl Period {
    /// Whether a moment is in it.
    #[must_use]
    pub const fn contains(&self, now: i64) -> bool {
        self.starts <= now && now < self.ends
    }

    /// How long it lasts from `now` on; at least a second.
    #[must_use]
    pub fn left(&self, now: i64) -> Duration {
        Duration::from_secs(u64::try_from(self.ends.saturating_sub(now)).unwrap_or(0).max(1))
    }
}

impl Window {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Minute, Self::Hour, Self::Day, Self::Month];

    /// The word for configuration, store and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The window that the word means.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|window| window.as_str() == word)
    }

    /// The window that a moment is in; seconds since 1970, from 1970 to the year 9999.
    #[must_use]
    pub fn period(self, now: i64) -> Period {
        let of_length = |seconds: i64| {
            let starts = now.div_euclid(seconds).saturating_mul(seconds);
            Period { starts, ends: starts.saturating_add(seconds) }
        };
        match self {
            Self::Minute => of_length(60),
            Self::Hour => of_length(3600),
            Self::Day => of_length(DAY),
            Self::Month => month(now).unwrap_or_else(|| of_length(30 * DAY)),
        }
    }

    /// The window that counts at `now`, where `known` is the one that counted last.
    #[must_use]
    pub fn next(self, known: Period, now: i64) -> Period {
        let present = self.period(now);
        // The clock went back over the border between the two.
        if known.starts == present.ends && known.ends > known.starts { known } else { present }
    }
}

const DAY: i64 = 86_400;

/// The month of the calendar that a moment is in.
fn month(now: i64) -> Option<Period> {
    let first = OffsetDateTime::from_unix_timestamp(now).ok()?.date().replace_day(1).ok()?;
    let next = match first.month() {
        Month::December => Date::from_calendar_date(first.year() + 1, Month::January, 1),
        month => Date::from_calendar_date(first.year(), month.next(), 1),
    };
    let seconds = |date: Date| date.with_time(Time::MIDNIGHT).assume_utc().unix_timestamp();
    Some(Period { starts: seconds(first), ends: seconds(next.ok()?) })
}

/// Tokens of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of what was asked.
    pub prompt: u64,
    /// Of what was answered.
    pub output: u64,
}

impl Tokens {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { prompt: self.prompt.saturating_add(other.prompt), output: self.output.saturating_add(other.output) }
    }

    /// What is left of these without the others; nothing below zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self { prompt: self.prompt.saturating_sub(other.prompt), output: self.output.saturating_sub(other.output) }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.prompt == 0 && self.output == 0
    }
}

/// Which tokens a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Those of prompts and of answers.
    Total,
    /// Those of prompts.
    Prompt,
    /// Those of answers.
    Output,
}

impl Counted {
    /// The word for configuration and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Prompt => "prompt",
            Self::Output => "output",
        }
    }

    /// How many of these tokens it counts.
    #[must_use]
    pub const fn of(self, tokens: Tokens) -> u64 {
        match self {
            Self::Total => tokens.prompt.saturating_add(tokens.output),
            Self::Prompt => tokens.prompt,
            Self::Output => tokens.output,
        }
    }
}

/// How much may be used in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Tokens.
    pub limit: u64,
    /// From how many hundredths of them on whoever asks is warned.
    pub warn_at: u8,
    /// Whether requests beyond the limit are let in all the same.
    pub only_warns: bool,
}

/// How much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Less than the share that is warned of.
    Within,
    /// That share or more.
    Warned,
    /// All of it.
    Exceeded,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Within, Self::Warned, Self::Exceeded];

    /// The word for metrics and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Warned => "warned",
            Self::Exceeded => "exceeded",
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is let in.
    Allowed {
        /// Tokens that are left.
        left: u64,
        /// Whether its client is warned.
        warn: bool,
    },
    /// It is refused.
    Refused {
        /// When the window is over; at least a second.
        retry_after: Duration,
    },
}

impl Allowance {
    /// How far `used` tokens go.
    #[must_use]
    pub fn level(&self, used: u64) -> Level {
        if used >= self.limit {
            Level::Exceeded
        } else if u128::from(used) * 100 >= u128::from(self.limit) * u128::from(self.warn_at) {
            Level::Warned
        } else {
            Level::Within
        }
    }

    /// What becomes of a request at `now`, when `used` tokens of this window are used.
    #[must_use]
    pub fn decide(&self, used: u64, window: Period, now: i64) -> Decision {
        match self.level(used) {
            Level::Exceeded if !self.only_warns => Decision::Refused { retry_after: window.left(now) },
            level => Decision::Allowed { left: self.limit.saturating_sub(used), warn: level != Level::Within },
        }
    }
}
