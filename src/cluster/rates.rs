//! Rate limits that all instances share: what passed here is told, where all are is learned.
//!
//! How a key is decided and what is told of it stands in [`policy::rate_limit`](crate::policy::rate_limit): a request takes from
//! this instance's share, and what was taken is settled soon. Here is when: as soon as something is taken, not before
//! [`PAUSE`] after the last time, unless a share is used up, for then there may be another one. Many keys go in one call.
//!
//! While Redis is gone, keys that were taken from wait; each is told as far as it still counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, Script, Value};

use super::Around;
use super::fault::Fault;
use crate::clock;
use crate::fleet::limiter::{Claim, Limiter, Settled};
use crate::telemetry::metrics::ClusterShare;

/// Time between two settlements.
const PAUSE: Duration = Duration::from_millis(20);
/// The same where a share is used up.
const SHORT_PAUSE: Duration = Duration::from_millis(1);
/// The same where Redis cannot be used.
const RETRY: Duration = Duration::from_millis(100);
/// Time after which it is looked again what changed around.
const LOOK: Duration = Duration::from_secs(1);
/// Most keys of a call.
const MOST: usize = 128;

/// Settles rate limits for as long as the cluster is configured.
pub async fn run(around: Around) {
    let limiter = Arc::clone(&around.store.load().lasting.limiter);
    let mut rates = Rates { script: script!("rates"), limiter, around, behind: None };
    rates.run().await;
}

/// Keys that were asked about: they are told again unless they are settled, also where the task ends in the middle.
struct Open {
    limiter: Arc<Limiter>,
    claims: Vec<Claim>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.limiter.tell_again(&self.claims);
    }
}

struct Rates {
    around: Around,
    script: Script,
    limiter: Arc<Limiter>,
    /// Since when something waits that could not be settled.
    behind: Option<Instant>,
}

/// What became of all that waited.
enum Sweep {
    /// It is settled.
    Done,
    /// There is more.
    More,
    /// Redis cannot be used.
    Failed,
}

impl Rates {
    async fn run(&mut self) {
        let mut looked = clock::now();
        loop {
            let limiter = &self.limiter;
            limiter.share_among(self.around.state.instances());
            if !limiter.has_news() {
                drop(tokio::time::timeout(LOOK, limiter.changed()).await);
            }
            let sweep = self.settle().await;
            let now = clock::now();
            if now.saturating_duration_since(looked) >= LOOK {
                looked = now;
                self.limiter.forget_shared(now);
                let behind = self.behind.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                self.around.metrics.cluster.behind(ClusterShare::Rates, behind);
            }
            match sweep {
                Sweep::Failed => tokio::time::sleep(RETRY).await,
                Sweep::More => tokio::time::sleep(SHORT_PAUSE).await,
                Sweep::Done => {
                    if tokio::time::timeout(PAUSE, self.limiter.hungry()).await.is_ok() {
                        tokio::time::sleep(SHORT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Settles what waits, for no longer than a while: under load something always does.
    async fn settle(&mut self) -> Sweep {
        let began = clock::now();
        let mut open = Open { limiter: Arc::clone(&self.limiter), claims: Vec::new() };
        loop {
            let asked = clock::now();
            if !self.around.link.is_up() && self.limiter.has_news() {
                self.behind.get_or_insert(asked);
                return Sweep::Failed;
            }
            let claims = self.limiter.owed(MOST, asked);
            if claims.is_empty() {
                self.behind = None;
                return Sweep::Done;
            }
            let early = open.claims.len();
            open.claims.extend(&claims);
            match self.tell(&claims).await {
                Ok(answers) => {
                    self.limiter.settle(&claims, &answers, asked);
                    open.claims.truncate(early);
                    let unsure = claims.iter().zip(&answers).filter(|(_, answer)| answer.among.is_none());
                    open.claims.extend(unsure.map(|(claim, _)| *claim));
                    self.around.metrics.cluster.settled(ClusterShare::Rates, claims.len());
                }
                Err(fault) => {
                    tracing::debug!(%fault, keys = claims.len(), "rate limits could not be settled");
                    self.behind.get_or_insert(asked);
                    return Sweep::Failed;
                }
            }
            if clock::now().saturating_duration_since(began) >= PAUSE {
                self.behind = None;
                return Sweep::More;
            }
        }
    }

    async fn tell(&self, claims: &[Claim]) -> Result<Vec<Settled>, Fault> {
        let link = &self.around.link;
        let mut call = self.script.prepare_invoke();
        call.arg(&self.around.state.view().own);
        for Claim { id, limit, owed, .. } in claims {
            let id = id.iter().fold("rate:".to_owned(), |text, byte| text + &format!("{byte:02x}"));
            call.key(link.keys().key(&id));
            let micros = limit.period().as_secs_f64() * 1e6;
            call.arg(owed.taken).arg(owed.ahead / 1000).arg(micros).arg(limit.count()).arg(limit.burst());
        }
        let answer = link.run(&call).await?;
        read(&answer, claims.len()).ok_or_else(|| Fault::Refused("an answer of an unknown form".to_owned()))
    }
}

/// What the script answers about so many keys.
fn read(answer: &Value, keys: usize) -> Option<Vec<Settled>> {
    let numbers = Vec::<i64>::from_redis_value_ref(answer).ok()?;
    let answers: Vec<Settled> = numbers
        .chunks_exact(2)
        .map(|pair| Settled {
            ahead: pair[0].saturating_mul(1000),
            among: u32::try_from(pair[1]).ok().filter(|among| *among > 0),
        })
        .collect();
    (answers.len() == keys).then_some(answers)
}
