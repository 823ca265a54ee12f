//! Who is alive, and who leads: the sign of life of this instance, and those of the others.
//!
//! A sign is written when a connection opens, which proves that it can be written to, then each five seconds. Whoever has
//! not written one for twelve seconds is dead. The leader is whoever holds a lease, which a sign of life prolongs; its token
//! grows with each change of hands, also beyond the loss of all keys, so that what an old leader writes late can be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{FromRedisValue, Script, Value};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::Around;
use super::connect::Opened;
use super::fault::Fault;
use super::keys::Topic;
use crate::clock;
use crate::fleet::cluster::{DEAD_AFTER, HEARTBEAT, Leader, Member};
use crate::telemetry::metrics::ClusterFigures;
use crate::version;

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct About {
    run: String,
    version: String,
    config: String,
    started: f64,
    stopping: bool,
}

/// What stays the same however often a process joins a cluster.
#[derive(Debug)]
pub struct Process {
    /// Another one for each process: what it told under this name is its own, also where it comes again under another one.
    pub run: String,
    /// When it started, seconds since 1970.
    pub started: f64,
}

impl Process {
    /// This process; to be made once.
    pub fn this() -> Self {
        Self { run: run_id(), started: clock::unix_time().as_secs_f64() }
    }
}

/// The signs of life of this instance.
pub struct Signs {
    around: Around,
    beat: Script,
    leave: Script,
    /// Whether it leaves, and gives no sign of life any more.
    leaving: AtomicBool,
    /// Under which name it is known: its own, and a few letters that another process of this name would not have.
    id: String,
}

impl Signs {
    pub fn new(around: Around) -> Self {
        Self {
            id: format!("{}.{}", around.link.plan().instance, &around.process.run[..4]),
            leaving: AtomicBool::new(false),
            beat: script!("beat"),
            leave: script!("leave"),
            around,
        }
    }

    /// Writes the first sign of life over a connection, which shows whether it can be used.
    pub async fn first(&self, opened: &Opened) -> Result<(), Fault> {
        if self.leaving.load(Ordering::Acquire) {
            return Err(Fault::Down);
        }
        let (said, asked) = (self.about(), clock::since_boot());
        let link = &self.around.link;
        let answer = link.run_on(opened, &self.call(&said)).await?;
        self.take(&answer, asked)
    }

    /// Writes signs of life for as long as the cluster is configured, and forgets the dead.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(HEARTBEAT / 5);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since = 0_u32;
        loop {
            ticks.tick().await;
            let state = &self.around.state;
            let now = clock::now();
            // Without Redis nobody is heard: the others are there as far as is known, and have their shares.
            let buried = if state.is_linked() { state.bury(now) } else { Vec::new() };
            for dead in &buried {
                tracing::warn!(
                    instance = dead.id,
                    "an instance of the cluster gives no sign of life and counts as dead"
                );
            }
            since += 1;
            // Who led may be dead: at once rather than at the next turn.
            let due = since.is_multiple_of(5) || !buried.is_empty();
            if due && self.around.link.is_up() && !self.leaving.load(Ordering::Acquire) {
                let (said, asked) = (self.about(), clock::since_boot());
                let answer = self.around.link.run(&self.call(&said)).await;
                match answer.and_then(|answer| self.take(&answer, asked)) {
                    Ok(()) => {}
                    // Another call may be refused; an instance that cannot show that it lives may not be of the cluster.
                    Err(fault @ (Fault::Full(_) | Fault::Refused(_))) => drop(self.around.link.give_up_all(fault)),
                    Err(fault) => tracing::debug!(%fault, "no sign of life could be given"),
                }
            }
            self.show();
        }
    }

    /// Leaves the cluster, so that nobody waits for this instance.
    pub async fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        let keys = self.around.link.keys();
        let mut call = self.leave.prepare_invoke();
        for key in KEYS {
            call.key(keys.key(key));
        }
        call.arg(&self.id);
        let gone = serde_json::json!({ "gone": self.id }).to_string();
        if self.around.link.run(&call).await.is_ok() {
            // Who does not hear it sees it at the next sign of life.
            drop(self.around.link.publish(Topic::Members, gone.as_bytes()).await);
        }
    }

    /// Takes what another instance says of its coming and going.
    pub fn told(&self, message: &[u8]) {
        #[derive(Deserialize)]
        struct Gone {
            gone: String,
        }
        let Ok(Gone { gone }) = serde_json::from_slice(message) else { return };
        if gone != self.id {
            tracing::info!(instance = gone, "an instance left the cluster");
            self.around.state.change(|view| view.members.retain(|member| member.id != gone));
        }
    }

    /// The name under which this instance is known.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn about(&self) -> String {
        let about = About {
            run: self.around.process.run.clone(),
            version: version::VERSION.to_owned(),
            config: self.around.store.load().common_hash.clone(),
            started: self.around.process.started,
            stopping: *self.around.stopping.borrow(),
        };
        serde_json::to_string(&about).unwrap_or_default()
    }

    fn call(&self, said: &str) -> redis::ScriptInvocation<'_> {
        let keys = self.around.link.keys();
        let view = self.around.state.view();
        let mut call = self.beat.prepare_invoke();
        for key in KEYS {
            call.key(keys.key(key));
        }
        let millis = u64::try_from(DEAD_AFTER.as_millis()).unwrap_or(u64::MAX);
        call.arg(&self.id).arg(said).arg(millis).arg(millis);
        call.arg(view.leader.as_ref().map_or(0, |leader| leader.token));
        call.arg(u8::from(!*self.around.stopping.borrow()));
        call
    }

    /// Takes what the script answers to what was said at `asked`.
    fn take(&self, answer: &Value, asked: Duration) -> Result<(), Fault> {
        let unreadable = |_| Fault::Refused("an answer of an unknown form".to_owned());
        let parts = Vec::<Value>::from_redis_value_ref(answer).map_err(unreadable)?;
        let [_, leader, token, rest @ ..] = &parts[..] else {
            return Err(Fault::Refused("an answer that is too short".to_owned()));
        };
        let leader = String::from_redis_value_ref(leader).map_err(unreadable)?;
        let token = u64::from_redis_value_ref(token).map_err(unreadable)?;
        let (now, own) = (clock::now(), self.id.clone());
        let mut members = Vec::new();
        for one in rest.chunks_exact(3) {
            let id = String::from_redis_value_ref(&one[0]).map_err(unreadable)?;
            let ago = u64::from_redis_value_ref(&one[1]).map_err(unreadable)?;
            let about = String::from_redis_value_ref(&one[2]).map_err(unreadable)?;
            // One of another version may say it in other words; it is alive all the same.
            let about: About = serde_json::from_str(&about).unwrap_or_else(|_| About {
                run: String::new(),
                version: String::new(),
                config: String::new(),
                started: 0.0,
                stopping: false,
            });
            let heard = now.checked_sub(Duration::from_millis(ago)).unwrap_or(now);
            members.push(Member {
                id,
                run: about.run,
                version: about.version,
                config: about.config,
                started: about.started,
                stopping: about.stopping,
                heard,
            });
        }
        self.around.state.change(|view| {
            for member in &mut members {
                // A message of theirs may have come since.
                let heard = view.members.iter().find(|known| known.id == member.id).map(|known| known.heard);
                member.heard = member.heard.max(heard.unwrap_or(member.heard));
                if !view.own.is_empty() && !view.members.iter().any(|known| known.id == member.id) {
                    tracing::info!(instance = member.id, version = member.version, "an instance joined the cluster");
                }
            }
            // Whoever Redis does not know, or no more, and was heard of a moment ago, will write itself there again.
            let alive = |known: &&Member| now.saturating_duration_since(known.heard) <= DEAD_AFTER;
            let told: Vec<String> = members.iter().map(|member| member.id.clone()).collect();
            // It may have had another name before.
            let other = |known: &&Member| known.id != view.own && !told.contains(&known.id);
            members.extend(view.members.iter().filter(alive).filter(other).cloned());
            if view.leader.as_ref().map(|leader| &leader.id) != Some(&leader) && !leader.is_empty() {
                tracing::info!(instance = leader, token, "leads the cluster");
            }
            view.own = own;
            view.leader = (!leader.is_empty()).then_some(Leader { id: leader, token, asked });
            view.members = members;
        });
        Ok(())
    }

    fn show(&self) {
        let state: &Arc<_> = &self.around.state;
        let view = state.view();
        let mut configurations: Vec<&str> = view.members.iter().map(|member| member.config.as_str()).collect();
        configurations.sort_unstable();
        configurations.dedup();
        let figures = ClusterFigures {
            linked: state.is_linked(),
            instances: view.members.len().max(1),
            configurations: configurations.len().max(1),
            leads: state.leads(clock::now()),
        };
        let name = &self.around.link.plan().typed.name;
        self.around.metrics.cluster.show(Some((name, figures)));
    }
}

const KEYS: [&str; 3] = ["members", "about", "leader"];

/// Another one for each process.
fn run_id() -> String {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        bytes = clock::unix_time().as_nanos().to_le_bytes()[..8].try_into().unwrap_or_default();
    }
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
