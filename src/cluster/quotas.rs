//! Token quotas that all instances share: each tells what was used by way of it, and learns what all used.
//!
//! What an account is told of and what becomes of the answer stands in [`history::quotas::shared`](crate::history::quotas::shared).
//! Here is when: what changed or is asked for each half a second, at once where a quota is nearly used up. Who told something new
//! says so to the others, which then ask what all used. All accounts are told when Redis can be used again, when it lost what was
//! written, and every half a minute; then accounts are looked for too that only others know, so that each instance shows and
//! resets them all.
//!
//! # Invariants
//! - An instance writes under the name of the file that its sums are in, so that another name or address of its host, a crash or
//!   a lost answer makes nothing count twice; without a file under a name that this process has and no other.
//! - A sum never shrinks within a window but by a reset.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{FromRedisValue, Pipeline, Script, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;

use super::Around;
use super::fault::Fault;
use super::keys::Topic;
use super::link::Event;
use crate::clock;
use crate::fleet::quotas::Quota;
use crate::history::History;
use crate::history::quotas::Account;
use crate::history::quotas::shared::{Telling, Told};
use crate::policy::quota::{Tokens, Window};
use crate::telemetry::metrics::ClusterShare;

/// Time between two settlements.
const PAUSE: Duration = Duration::from_millis(500);
/// The same where a quota is nearly used up.
const SHORT_PAUSE: Duration = Duration::from_millis(20);
/// Time after which all accounts are compared again, and after which Redis is asked whether it lost something.
const COMPARE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));
/// Most accounts of a call.
const MOST: usize = 128;
/// Most steps in which the accounts of a quota are looked for.
const MOST_STEPS: usize = 200;

/// Whose sums changed: what is published.
#[derive(Deserialize, Serialize)]
struct News {
    /// The name of who says so.
    from: String,
    /// Whether it should be known at once.
    hurry: bool,
    /// Quota, window and subject of each.
    sums: Vec<(String, String, String)>,
}

/// Settles quotas for as long as the cluster is configured.
pub async fn run(around: Around) {
    let mut events = around.link.events();
    let mut quotas = Quotas::new(around);
    quotas.history.quotas().share(true);
    let _shared = Shared(Arc::clone(&quotas.history));
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = quotas.history.quotas().hurried() => {
                quotas.hurry = true;
                tokio::time::sleep(SHORT_PAUSE).await;
            }
            event = events.recv() => match event {
                Ok(Event::Up) | Err(RecvError::Lagged(_)) => quotas.compare = true,
                Ok(Event::Told(Topic::Quotas, news)) => {
                    quotas.hear(&news);
                    continue;
                }
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
            },
        }
        quotas.step().await;
    }
}

/// Tells what was used since the last time, when the process ends.
pub async fn tell_last(around: Around) {
    let mut quotas = Quotas::new(around);
    quotas.compare = false;
    quotas.step().await;
}

/// Quotas are shared until this is dropped; what others used counts still.
struct Shared(Arc<History>);

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.quotas().share(false);
    }
}

struct Quotas {
    around: Around,
    history: Arc<History>,
    script: Script,
    /// The name of the file of the sums.
    name: Option<String>,
    /// Under which name this instance wrote last.
    own: Option<String>,
    /// Whether all accounts are to be told of.
    compare: bool,
    compared: Instant,
    called: Instant,
    /// Whether what is told now should be known at once.
    hurry: bool,
    /// When what was used before a reset could not be forgotten, where that was so the last time.
    refused: Option<Instant>,
    /// Since when something waits that could not be settled.
    behind: Option<Instant>,
}

impl Quotas {
    fn new(around: Around) -> Self {
        let (history, now) = (Arc::clone(&around.history), clock::now());
        let script = script!("quotas");
        Self {
            around,
            history,
            script,
            name: None,
            own: None,
            compare: true,
            compared: now,
            called: now,
            hurry: false,
            refused: None,
            behind: None,
        }
    }

    async fn step(&mut self) {
        let now = clock::now();
        let history = Arc::clone(&self.history);
        let ledger = history.quotas();
        let mut name = None;
        if self.around.link.is_up() {
            self.compare |= now.saturating_duration_since(self.compared) >= COMPARE.0;
            name = self.name().await;
        }
        if let Some(name) = name {
            if self.compare {
                (self.compare, self.compared) = (false, now);
                self.find_others().await;
                let seconds = clock::unix_seconds();
                let all = ledger.all();
                all.iter().filter(|account| !account.is_idle(seconds)).for_each(|account| ledger.tell_of(account));
            }
            self.own = Some(name.clone());
            let accounts = ledger.untold();
            let settled = self.settle(&name, accounts).await;
            if settled.is_err() {
                self.compare = true;
            }
            self.behind = settled.err().map(|_| self.behind.unwrap_or(now));
        } else if !ledger.untold().is_empty() {
            // All of it is told when that can be done again.
            self.behind.get_or_insert(now);
        }
        let behind = self.behind.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.around.metrics.cluster.behind(ClusterShare::Quotas, behind);
    }

    /// Settles these accounts.
    async fn settle(&mut self, name: &str, accounts: Vec<Arc<Account>>) -> Result<(), Fault> {
        let now = clock::now();
        if accounts.is_empty() && now.saturating_duration_since(self.called) < COMPARE.1 {
            return Ok(());
        }
        self.called = now;
        let hurry = std::mem::take(&mut self.hurry);
        let mut forget = Vec::new();
        let mut batches = accounts.chunks(MOST);
        // A call without accounts tells whether something was lost.
        let mut batch = Some(batches.next().unwrap_or_default());
        let mut result = Ok(());
        while let (Some(accounts), Ok(())) = (batch, &result) {
            let seconds = clock::unix_seconds();
            let told: Vec<Telling> = accounts.iter().map(|account| account.telling(seconds)).collect();
            match self.tell(name, &told).await {
                Ok((lost, answers)) => {
                    self.compare |= lost;
                    let both = told.iter().zip(&answers);
                    let before = both.filter(|(telling, answer)| telling.account.told(telling, answer, seconds));
                    forget.extend(before.map(|(telling, _)| Arc::clone(&telling.account)));
                    self.around.metrics.cluster.settled(ClusterShare::Quotas, told.len());
                    self.say(name, hurry, &told).await;
                }
                Err(fault) => result = Err(fault),
            }
            batch = batches.next();
        }
        self.forget(forget).await;
        result
    }

    /// Says to the others whose sums changed; who does not hear it learns it later.
    async fn say(&self, name: &str, hurry: bool, told: &[Telling]) {
        let words = |Telling { account, .. }: &Telling| {
            (account.quota.clone(), account.window.as_str().to_owned(), account.subject.clone())
        };
        let sums: Vec<_> = told.iter().filter(|telling| telling.news).map(words).collect();
        if sums.is_empty() {
            return;
        }
        let news = serde_json::to_vec(&News { from: name.to_owned(), hurry, sums });
        if let Ok(news) = news {
            drop(self.around.link.publish(Topic::Quotas, &news).await);
        }
    }

    /// Others said whose sums changed: what they are is asked.
    fn hear(&self, news: &Bytes) {
        let Ok(News { from, hurry, sums }) = serde_json::from_slice(news) else { return };
        if self.own.as_ref() == Some(&from) {
            return;
        }
        let (snapshot, ledger, now) = (self.around.store.pin(), self.history.quotas(), clock::unix_seconds());
        for (name, window, subject) in sums {
            let Some(window) = Window::of_word(&window) else { continue };
            let known = |quota: &&Arc<Quota>| quota.name == name && quota.window == window && quota.counts(&subject);
            if snapshot.quotas.iter().any(|quota| known(&quota)) {
                ledger.tell_of(&ledger.account(&name, window, &subject, now));
            }
        }
        if hurry {
            ledger.hurry();
        }
    }

    /// Forgets what was used of windows that another instance began anew.
    async fn forget(&mut self, accounts: Vec<Arc<Account>>) {
        let now = clock::now();
        // A file that cannot be written is not tried for each request.
        let waits = self.refused.is_some_and(|at| now.saturating_duration_since(at) < COMPARE.1);
        if accounts.is_empty() || waits {
            return;
        }
        if self.refused.is_none() {
            tracing::info!(accounts = accounts.len(), "another instance began quotas anew");
        }
        let (history, forgotten) = (Arc::clone(&self.history), accounts.clone());
        let forgot = tokio::task::spawn_blocking(move || history.forget_quotas(forgotten)).await;
        let error = match forgot {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = error {
            if self.refused.replace(now).is_none() {
                tracing::warn!(error, "what was used before a reset still counts here, until the file can be written");
            }
            // The next comparison finds it again.
            return;
        }
        self.refused = None;
        let ledger = self.history.quotas();
        accounts.iter().for_each(|account| ledger.tell_of(account));
        ledger.hurry();
    }

    async fn tell(&self, name: &str, told: &[Telling]) -> Result<(bool, Vec<Told>), Fault> {
        let keys = self.around.link.keys();
        let mut call = self.script.prepare_invoke();
        call.key(keys.key("quotas")).arg(name);
        for Telling { account, period, own, resets, reset, from_file, .. } in told {
            let window = format!("{}:{}:{}", account.quota, account.window.as_str(), period.starts);
            call.key(keys.key(&format!("quota:{window}:{}", account.subject)));
            call.key(keys.key(&format!("quotas:{window}")));
            call.arg(&account.subject).arg(own.prompt).arg(own.output);
            call.arg(resets.map_or(-1, |resets| i64::try_from(resets).unwrap_or(i64::MAX)));
            call.arg(u8::from(*reset)).arg(u8::from(*from_file)).arg(period.ends);
        }
        let answer = self.around.link.run(&call).await?;
        read(&answer, told.len()).ok_or_else(|| Fault::Refused("an answer of an unknown form".to_owned()))
    }

    /// Makes accounts of those that only other instances know.
    async fn find_others(&self) {
        let (snapshot, now) = (self.around.store.pin(), clock::unix_seconds());
        let ledger = self.history.quotas();
        for quota in &snapshot.quotas {
            // More of them would only push out others.
            if ledger.is_full() {
                return;
            }
            let starts = quota.window.period(now).starts;
            let key = format!("quotas:{}:{}:{starts}", quota.name, quota.window.as_str());
            let key = self.around.link.keys().key(&key);
            let mut cursor = "0".to_owned();
            for _ in 0..MOST_STEPS {
                let mut step = Pipeline::with_capacity(1);
                step.cmd("SSCAN").arg(&key).arg(&cursor).arg("COUNT").arg(1000);
                // A key of another type is healed when something is told of it.
                let Ok(answers) = self.around.link.pipe(&step).await else { break };
                let Some((next, subjects)) =
                    answers.first().and_then(|one| <(String, Vec<String>)>::from_redis_value_ref(one).ok())
                else {
                    break;
                };
                for subject in subjects.iter().filter(|subject| quota.counts(subject)) {
                    if !ledger.knows(&quota.name, quota.window, subject) {
                        ledger.tell_of(&ledger.account(&quota.name, quota.window, subject, now));
                    }
                }
                cursor = next;
                if cursor == "0" || ledger.is_full() {
                    break;
                }
            }
        }
    }

    /// Under which name this instance writes.
    async fn name(&mut self) -> Option<String> {
        if !self.history.is_durable() {
            return Some(format!("run.{}", self.around.process.run));
        }
        if self.name.is_none() || self.compare {
            let (history, known) = (Arc::clone(&self.history), self.name.clone());
            let named = tokio::task::spawn_blocking(move || history.name_of_sums(known)).await;
            match named {
                Ok(Ok(name)) => self.name = Some(name),
                Ok(Err(error)) => tracing::warn!(%error, "the file of the history has no name yet"),
                Err(_) => {}
            }
        }
        // Under another name all of it would count once more: without this one nothing is told.
        Some(format!("file.{}", self.name.as_ref()?))
    }
}

/// What the script answers about so many accounts.
fn read(answer: &Value, accounts: usize) -> Option<(bool, Vec<Told>)> {
    let numbers = Vec::<i64>::from_redis_value_ref(answer).ok()?;
    let (lost, numbers) = numbers.split_first()?;
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    let told: Vec<Told> = numbers
        .chunks_exact(6)
        .map(|six| Told {
            others: Tokens { prompt: whole(six[0]), output: whole(six[1]) },
            own: Tokens { prompt: whole(six[2]), output: whole(six[3]) },
            resets: whole(six[4]),
            forget: six[5] != 0,
        })
        .collect();
    (told.len() == accounts).then_some((*lost != 0, told))
}
