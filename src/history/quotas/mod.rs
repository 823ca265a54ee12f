//! How many tokens were used of each quota, by each key, in the window that runs: in memory for whoever decides, in the
//! file for the next process.
//!
//! # Problem
//! A request asks before it begins and is charged when it ends, and neither may wait for a disk. A process that is killed
//! must not give its users a new month. And two processes use one file for as long as an upgrade takes.
//!
//! # Shape
//! An [`Account`] is the sum of one quota and one key. A request finds it in the [`Ledger`], keeps it to its end and charges
//! it; the charge goes to the writer of the history, which adds up all of half a second and adds that to the row of the
//! file ([`rows`]). What the row is then comes back. So a sum is `stored`, what the file has, whoever charged it, and
//! `waiting`, what this process has charged beyond that.
//!
//! | what happens | `stored` | `waiting` |
//! |---|---|---|
//! | a request of this process is charged | | grows |
//! | the writer has added it to the file | as the file is now | shrinks by it |
//! | another process changed the file | as the file is now | |
//! | an operator resets it | zero | |
//!
//! Where instances share quotas, what others used is added to it ([`shared`]).
//!
//! # Invariants
//! - What is charged is charged once, however often it takes to write it.
//! - A file that cannot be written takes nothing from the sums in memory, and one that begins anew gets them.
//! - Never more than [`ledger::MOST`] accounts; one that a request holds is not given up.

pub mod ledger;
pub(super) mod rows;
pub mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use parking_lot::Mutex;

use super::{Fact, History, HistoryError, READ_LIMIT};
use crate::policy::quota::{Level, Period, Tokens, Window};
use ledger::Ledger;
use shared::Beyond;

/// The sum of one quota and one key.
#[derive(Debug)]
pub struct Account {
    /// Name of the quota.
    pub quota: String,
    /// How long it counts.
    pub window: Window,
    /// Whose it is, in words: `api_key=0a1b2c3d`.
    pub subject: String,
    hash: u64,
    state: Mutex<State>,
}

/// What is known of the window that counts.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    period: Period,
    stored: Tokens,
    waiting: Tokens,
    /// That part of `waiting` that the writer was not told yet.
    unsent: Tokens,
    /// What was told people about this window; `None` where the process before this one may have told it.
    told: Option<Level>,
    /// What is known of other instances.
    beyond: Beyond,
}

impl State {
    fn roll(&mut self, window: Window, now: i64) {
        let period = window.next(self.period, now);
        if period != self.period {
            *self = Self { period, told: Some(Level::Within), ..Self::default() };
        }
    }

    /// What was used by way of this instance.
    const fn own(&self) -> Tokens {
        self.stored.plus(self.waiting)
    }

    /// What was used by way of all of them.
    const fn used(&self) -> Tokens {
        let own = self.own();
        // The others may know more of this instance than this process does.
        own.plus(self.beyond.told.minus(own)).plus(self.beyond.others)
    }
}

impl Account {
    fn new(quota: &str, window: Window, subject: &str, hash: u64) -> Self {
        let (quota, subject) = (quota.to_owned(), subject.to_owned());
        Self { quota, window, subject, hash, state: Mutex::default() }
    }

    /// The window that counts at `now` (seconds since 1970), and what was used in it.
    pub fn look(&self, now: i64) -> (Period, Tokens) {
        let mut state = self.state.lock();
        state.roll(self.window, now);
        (state.period, state.used())
    }

    /// Whether people are to be told that so much is used: once a window for each level, also over a restart.
    pub fn is_news(&self, level: Level) -> bool {
        let before = self.state.lock().told.replace(level);
        before.is_some_and(|before| level > before)
    }

    fn charge(&self, tokens: Tokens, now: i64) -> Charge {
        let mut state = self.state.lock();
        state.roll(self.window, now);
        state.waiting = state.waiting.plus(tokens);
        Charge { period: state.period, tokens: std::mem::take(&mut state.unsent).plus(tokens) }
    }

    /// The writer could not take a charge: it goes with the next one of the same window.
    fn keep(&self, charge: Charge) {
        let mut state = self.state.lock();
        if state.period == charge.period {
            state.unsent = state.unsent.plus(charge.tokens);
        }
    }

    /// The file has so much, of which this process charged `written` since it last knew.
    fn settle(&self, period: Period, written: Tokens, total: Tokens) {
        let mut state = self.state.lock();
        if state.period == period {
            state.stored = total;
            state.waiting = state.waiting.minus(written);
        }
    }

    /// The file has a row of this window.
    fn adopt(&self, period: Period, total: Tokens, now: i64) {
        let mut state = self.state.lock();
        if self.window.next(period, now) != period || period.starts < state.period.starts {
            return;
        }
        if state.period != period {
            *state = State { period, ..State::default() };
        }
        state.beyond.from_file |= state.own().is_none() && !total.is_none();
        state.stored = total;
    }

    /// An operator began the window anew; the file says so already.
    fn forget(&self, period: Period) {
        let mut state = self.state.lock();
        if state.period == period {
            state.stored = Tokens::default();
            state.told = Some(Level::Within);
            let resets = state.beyond.forgetting.or(state.beyond.resets);
            state.beyond = Beyond { resets, ..Beyond::default() };
        }
    }

    /// What the file should have at least, where anything.
    fn owed(&self, now: i64) -> Option<(Period, Tokens)> {
        let mut state = self.state.lock();
        state.roll(self.window, now);
        (!state.stored.is_none()).then_some((state.period, state.stored))
    }
}

/// What a request used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    pub(super) period: Period,
    pub(super) tokens: Tokens,
}

/// An order to begin the windows of these accounts anew.
#[derive(Debug)]
pub(super) struct Reset {
    pub(super) accounts: Vec<Arc<Account>>,
    pub(super) done: SyncSender<Result<(), HistoryError>>,
}

impl History {
    /// All accounts.
    #[must_use]
    pub fn quotas(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Charges an account with what a request used that ended at `now`; never waits.
    pub fn charge(&self, account: &Arc<Account>, tokens: Tokens, now: i64) {
        if tokens.is_none() {
            return;
        }
        let charge = account.charge(tokens, now);
        if self.queue.try_send(Fact::Charged(Arc::clone(account), charge)).is_err() {
            account.keep(charge);
        }
        self.quotas().tell_of(account);
    }

    /// Begins the windows of these accounts anew; waits until that is in the file.
    ///
    /// # Errors
    /// When it could not be written; then nothing was changed.
    pub fn reset_quotas(&self, accounts: Vec<Arc<Account>>) -> Result<(), HistoryError> {
        self.begin_anew(accounts.clone())?;
        for account in &accounts {
            account.state.lock().beyond.reset = true;
            self.quotas().tell_of(account);
        }
        self.quotas().hurry();
        Ok(())
    }

    fn begin_anew(&self, accounts: Vec<Arc<Account>>) -> Result<(), HistoryError> {
        let (done, outcome) = sync_channel(1);
        self.queue.try_send(Fact::Reset(Box::new(Reset { accounts, done }))).map_err(|_| HistoryError::Busy)?;
        outcome.recv_timeout(READ_LIMIT).unwrap_or(Err(HistoryError::Busy))
    }
}
