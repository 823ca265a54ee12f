//! What other instances of a cluster used, and what they are told of what was used here.
//!
//! Each instance tells its own sum of a window, not what came to it: who tells it twice tells nothing new, and who did not hear it
//! the first time hears it the next time. What all others used comes back, apart from what is known of this instance: that may be
//! more than this process knows, where another one uses the same file, or where the account was given up here. While nobody can
//! be heard, what is charged here and was not told counts as many times as there are instances: the others are taken to use as
//! much.
//!
//! Resets are numbered within a window. A sum of an instance that does not know of the last reset was used before it, and is
//! forgotten there.
//!
//! | what happens | `others` | `told` |
//! |---|---|---|
//! | it was told, and the answer came | what the answer says, if it is more | what the answer says |
//! | nobody can be heard | as before | as before |
//! | the window is over, or was begun anew | zero | zero |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::ledger::Ledger;
use super::{Account, History, HistoryError};
use crate::clock;
use crate::policy::quota::{Period, Tokens};

/// Where the name of the file is kept.
const KIND: &str = "cluster";
const KEY: &str = "name of sums";
/// Seconds after which a request wants to know again what others used.
const FRESH: i64 = 1;

/// What an account knows of other instances.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beyond {
    /// What they used.
    pub(super) others: Tokens,
    /// What they know of what was used here: at times more than this process does.
    pub(super) told: Tokens,
    /// The number of the last reset, where it is known.
    pub(super) resets: Option<u64>,
    /// The number of a reset that another instance told, until what was used here before it is forgotten.
    pub(super) forgetting: Option<u64>,
    /// An operator began it anew here, and the others do not know yet.
    pub(super) reset: bool,
    /// Whether what is known of this instance is from the file, from a time before this process.
    pub(super) from_file: bool,
    /// Whether it waits to be told.
    pub(super) queued: bool,
    /// When it was told last, seconds since 1970.
    pub(super) at: i64,
}

/// What is told of an account.
#[derive(Clone, Debug)]
pub struct Telling {
    /// The account.
    pub account: Arc<Account>,
    /// The window.
    pub period: Period,
    /// What was used of it here.
    pub own: Tokens,
    /// The number of the last reset, where it is known.
    pub resets: Option<u64>,
    /// Whether an operator began it anew here.
    pub reset: bool,
    /// Whether the others do not know all of this.
    pub news: bool,
    /// Whether what was used may be from before a reset that this process did not hear of.
    pub from_file: bool,
}

/// What the answer was.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// What all others used.
    pub others: Tokens,
    /// What is known of this instance.
    pub own: Tokens,
    /// The number of the last reset.
    pub resets: u64,
    /// Whether what was used here was used before that.
    pub forget: bool,
}

/// Accounts that have something to tell.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    on: AtomicBool,
    hurry: Notify,
}

impl Account {
    /// What was used by way of this instance.
    pub fn own(&self, now: i64) -> Tokens {
        let mut state = self.state.lock();
        state.roll(self.window, now);
        state.own()
    }

    /// Whether it is no different from one that is not known: nothing is used, and there is nothing to tell.
    pub fn is_idle(&self, now: i64) -> bool {
        let mut state = self.state.lock();
        state.roll(self.window, now);
        state.used().is_none() && !state.beyond.reset
    }

    /// The window that counts at `now`, and what is taken to be used of it, where so many instances cannot be heard.
    pub fn judge(&self, now: i64, unheard: u32) -> (Period, Tokens) {
        let mut state = self.state.lock();
        state.roll(self.window, now);
        let (own, times) = (state.own().minus(state.beyond.told), u64::from(unheard));
        let guess = Tokens { prompt: own.prompt.saturating_mul(times), output: own.output.saturating_mul(times) };
        (state.period, state.used().plus(guess))
    }

    /// What is to be told now.
    pub fn telling(self: &Arc<Self>, now: i64) -> Telling {
        let mut state = self.state.lock();
        state.roll(self.window, now);
        state.beyond.queued = false;
        let (period, own) = (state.period, state.own());
        let Beyond { resets, reset, from_file, told, .. } = state.beyond;
        drop(state);
        let news = reset || !own.minus(told).is_none();
        Telling { account: Arc::clone(self), period, own, resets, reset, news, from_file }
    }

    /// Takes the answer to what was told. Whether what was used here is to be forgotten.
    pub fn told(&self, telling: &Telling, told: &Told, now: i64) -> bool {
        let mut state = self.state.lock();
        // An answer about what an operator has begun anew since says nothing of it.
        if state.period != telling.period || (state.beyond.reset && !telling.reset) {
            return false;
        }
        let beyond = &mut state.beyond;
        // Where Redis lost sums, those who have them tell them again.
        let least = if beyond.resets == Some(told.resets) { beyond.others } else { Tokens::default() };
        beyond.others = told.others.plus(least.minus(told.others));
        beyond.told = told.own;
        if told.forget {
            beyond.forgetting = Some(told.resets);
        } else {
            beyond.resets = Some(told.resets);
        }
        beyond.reset &= !telling.reset;
        // Until it is forgotten it is from before the reset.
        beyond.from_file &= told.forget;
        beyond.at = now;
        told.forget
    }

    /// Whether it is to be told now, where it was not before.
    fn queue(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().beyond.queued, true)
    }

    fn is_stale(&self, now: i64) -> (bool, bool) {
        let state = self.state.lock();
        (now.saturating_sub(state.beyond.at) > FRESH || state.beyond.at > now, state.beyond.resets.is_none())
    }
}

impl Ledger {
    /// Says whether there is somebody who tells others. What they used counts all the same.
    pub fn share(&self, on: bool) {
        self.sharing.on.store(on, Ordering::Relaxed);
        if !on {
            self.untold();
        }
    }

    /// Forgets what others used: this instance is in their cluster no more.
    pub fn forget_others(&self) {
        for account in self.all() {
            account.state.lock().beyond = Beyond::default();
        }
    }

    /// Somebody asks who used what: what others used is looked after, soon where it was never known.
    pub fn wonder(&self, account: &Arc<Account>, now: i64) {
        if !self.sharing.on.load(Ordering::Relaxed) {
            return;
        }
        let (stale, unknown) = account.is_stale(now);
        if stale {
            self.tell_of(account);
        }
        if unknown {
            self.hurry();
        }
    }

    /// What an account has is to be told.
    pub fn tell_of(&self, account: &Arc<Account>) {
        if self.sharing.on.load(Ordering::Relaxed) && account.queue() {
            self.shard(account.hash).lock().to_tell.push(Arc::clone(account));
        }
    }

    /// What is to be told is to be told soon.
    pub fn hurry(&self) {
        if self.sharing.on.load(Ordering::Relaxed) {
            self.sharing.hurry.notify_one();
        }
    }

    /// Waits until something is to be told soon.
    pub async fn hurried(&self) {
        self.sharing.hurry.notified().await;
    }

    /// All that is to be told. Nothing holds accounts for longer, so that those that are used least can be given up.
    pub fn untold(&self) -> Vec<Arc<Account>> {
        let take = |shard: &parking_lot::Mutex<super::ledger::Shard>| std::mem::take(&mut shard.lock().to_tell);
        let accounts: Vec<Arc<Account>> = self.shards().iter().flat_map(take).collect();
        for account in &accounts {
            account.state.lock().beyond.queued = false;
        }
        accounts
    }
}

impl History {
    /// Forgets what was used here of windows that another instance began anew; waits until that is in the file.
    ///
    /// # Errors
    /// When it could not be written; then nothing was changed.
    pub fn forget_quotas(&self, accounts: Vec<Arc<Account>>) -> Result<(), HistoryError> {
        self.begin_anew(accounts)
    }

    /// The name of the file that sums are in: made up once, the same for each process that uses the file. `known` is one that this
    /// process used before: a file that began anew gets it.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn name_of_sums(&self, known: Option<String>) -> Result<String, HistoryError> {
        let kept = self.kept(KIND)?;
        if let Some(name) = kept.iter().find(|kept| kept.key == KEY).and_then(|kept| kept.value.as_str()) {
            return Ok(name.to_owned());
        }
        let made_up = || {
            let mut bytes = [0; 8];
            if getrandom::fill(&mut bytes).is_err() {
                bytes = u64::try_from(clock::unix_time().as_nanos()).unwrap_or(0).to_le_bytes();
            }
            bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
        };
        let name = known.unwrap_or_else(made_up);
        self.keep(KIND, KEY, &name.clone().into(), "arriero", clock::unix_time().as_secs_f64())?;
        Ok(name)
    }
}
