//! Decisions of operators and rules, shared: what is decided on one instance holds on all.
//!
//! Rules of merging are in [`crate::fleet::decisions::overlay`]; here it is told and heard. A decision is told at once when an
//! operator makes it, and within a second when a rule does. Messages carry versions that follow each other; a gap, another
//! connection, or a counter in Redis that is not the one that was seen lead to a comparison of all, entry by entry: a version
//! may have been counted twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Script, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;

use super::Around;
use super::fault::Fault;
use super::hints::{self, Hint};
use super::keys::Topic;
use super::link::Event;
use crate::clock;
use crate::fleet::circuits::CircuitOrder;
use crate::fleet::cluster::asking::{Comparison, Difference};
use crate::fleet::decisions::facts::{self, About};
use crate::fleet::decisions::overlay::{Entry, MOST_VERSION, Order, Overlay, Step, TOMBSTONE};
use crate::fleet::decisions::{Decisions, Present};

/// Time between two looks at the counter in Redis.
const CHECK: Duration = Duration::from_secs(2);
/// Entries that are given back in one go.
const AT_ONCE: usize = 100;

/// A message of this topic.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Message {
    /// A decision.
    Decided { about: About, entry: Entry },
    /// What an instance saw.
    Saw { hint: Hint },
}

/// The decisions of this cluster on this instance.
pub struct Sharing {
    around: Around,
    decisions: Arc<Decisions>,
    overlay: Overlay,
    decide: Script,
    recall: Script,
    restore: Script,
    /// Something was missed, or may have been.
    behind: bool,
    kept: u64,
}

impl Sharing {
    pub fn new(around: Around, decisions: Arc<Decisions>) -> Self {
        Self {
            overlay: decisions.shared(&around.link.plan().typed.name),
            around,
            decisions,
            decide: script!("decide"),
            recall: script!("recall"),
            restore: script!("restore"),
            behind: true,
            kept: 0,
        }
    }

    /// Tells and hears for as long as the cluster is configured.
    pub async fn run(mut self) {
        let mut events = self.around.link.events();
        let mut snapshots = self.around.store.subscribe();
        let mut checks = tokio::time::interval(CHECK);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let state = Arc::clone(&self.around.state);
        loop {
            let mut changed = false;
            tokio::select! {
                event = events.recv() => match event {
                    Ok(Event::Told(Topic::Decisions, message)) => {
                        // What was decided here a moment ago must not look like what is heard now.
                        changed |= self.look();
                        changed |= self.hear(&message);
                    }
                    Ok(Event::Up) | Err(RecvError::Lagged(_)) => self.behind = true,
                    Ok(_) => continue,
                    Err(RecvError::Closed) => return,
                },
                () = self.decisions.decided() => {}
                // The store lives as long as the process.
                _ = snapshots.changed() => {}
                () = state.asking.is_wanted() => {
                    self.look();
                    let found = self.compare().await;
                    for asking in state.asking.waiting() {
                        // Whoever asked may have left.
                        drop(asking.send(found.clone()));
                    }
                    changed = true;
                }
                _ = checks.tick() => self.check().await,
            }
            changed |= self.look();
            if self.behind && self.around.link.is_up() {
                drop(self.compare().await);
                changed = true;
            }
            changed |= self.tell().await;
            self.note(changed).await;
        }
    }

    fn own(&self) -> String {
        self.around.link.plan().instance.clone()
    }

    /// Looks at what was decided here, and makes what was decided about servers that have appeared. Whether there is any.
    fn look(&mut self) -> bool {
        let (snapshot, own) = (self.around.store.pin(), self.own());
        let present = Present::read();
        for (about, order, at) in self.decisions.take_orders(present) {
            let entry = Entry { version: 0, at, by: own.clone(), value: None, order: Some(order) };
            self.overlay.decided(about, entry);
        }
        let found = self.overlay.look(
            facts::all(&snapshot, present.now),
            &own,
            (present.now, present.unix),
            |at| present.unix_of(*at),
            |about| about.is_here(&snapshot),
        );
        let steps = self.overlay.appeared(&own, |about| about.is_here(&snapshot));
        let any = found || !steps.is_empty();
        self.make(steps);
        any
    }

    fn make(&mut self, steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        let (snapshot, present) = (self.around.store.pin(), Present::read());
        let mut made = Vec::new();
        for step in steps {
            match step {
                Step::Make(about, held) => {
                    let held = held.map(|held| held.map(|unix| present.at(*unix)));
                    facts::make(&about, held.as_ref(), &snapshot, present.now);
                    made.push(about);
                }
                Step::Order(about, order) => {
                    let order = match order {
                        Order::Close => CircuitOrder::Close,
                        Order::HalfOpen => CircuitOrder::HalfOpen,
                        Order::Reset => CircuitOrder::Reset,
                    };
                    facts::order(&about, order, &snapshot, present.now);
                }
            }
        }
        let mut holds = facts::all(&snapshot, present.now);
        for about in made {
            let held = holds.remove(&about);
            self.overlay.made(&about, held);
        }
    }

    /// Takes a message. Whether it changed anything.
    fn hear(&mut self, message: &[u8]) -> bool {
        let message = match serde_json::from_slice(message) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "a message of the cluster about decisions cannot be read");
                return false;
            }
        };
        match message {
            Message::Saw { hint } => {
                if hint.by() != self.own() {
                    hints::take(&hint, &self.around);
                }
                false
            }
            Message::Decided { about, entry } => {
                self.behind |= entry.version > self.overlay.highest().saturating_add(1);
                self.take([(about, entry)]) > 0
            }
        }
    }

    /// Takes entries of the cluster; how many were new.
    fn take(&mut self, entries: impl IntoIterator<Item = (About, Entry)>) -> usize {
        let (snapshot, unix, own) = (self.around.store.pin(), Present::read().unix, self.own());
        let mut taken = 0;
        let mut steps = Vec::new();
        for (about, entry) in entries {
            let is_here = about.is_here(&snapshot);
            let (kind, subject, by, holds) = (about.kind(), about.subject(), entry.by.clone(), entry.value.is_some());
            let more = self.overlay.take(about, entry, &own, unix, is_here);
            if !more.is_empty() {
                tracing::info!(kind, subject, by, holds, "decided in the cluster");
                taken += 1;
            }
            steps.extend(more);
        }
        self.make(steps);
        taken
    }

    /// Whether Redis counts as this instance does.
    async fn check(&mut self) {
        if !self.around.link.is_up() {
            return;
        }
        let mut pipe = redis::Pipeline::with_capacity(1);
        pipe.get(self.around.link.keys().key(KEYS[1]));
        match self.around.link.pipe(&pipe).await {
            Ok(values) => {
                let version =
                    values.first().and_then(|value| Option::<u64>::from_redis_value_ref(value).ok()).flatten();
                self.behind |= version.unwrap_or(0) != self.overlay.highest();
            }
            // It is no counter any more; the scripts heal that.
            Err(Fault::Refused(_)) => self.behind = true,
            Err(_) => {}
        }
    }

    /// Compares all that is known here with all that Redis has; each takes what the other one lacks.
    async fn compare(&mut self) -> Comparison {
        let asked = clock::now();
        let mut found = match self.ask().await {
            Ok(found) => found,
            Err(fault) => Comparison { fault: Some(fault.to_string()), ..Comparison::default() },
        };
        found.took = clock::now() - asked;
        self.around.state.asking.note(|known| {
            if found.fault.is_none() {
                known.comparisons += 1;
                known.compared = Some(clock::unix_time().as_secs_f64());
            }
        });
        found
    }

    async fn ask(&mut self) -> Result<Comparison, Fault> {
        let link = self.around.link.clone();
        let keys = link.keys();
        let mut call = self.recall.prepare_invoke();
        for key in KEYS {
            call.key(keys.key(key));
        }
        call.arg(TOMBSTONE.as_secs());
        let answer = link.run(&call).await?;
        let mut texts = Vec::<String>::from_redis_value(answer).map_err(unreadable)?.into_iter();
        let version: u64 = texts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut there = BTreeMap::new();
        while let (Some(about), Some(entry)) = (texts.next(), texts.next()) {
            // What another version wrote differently is left alone.
            if let (Ok(about), Ok(entry)) =
                (serde_json::from_str::<About>(&about), serde_json::from_str::<Entry>(&entry))
                && entry.version <= MOST_VERSION
            {
                there.insert(about, entry);
            }
        }
        let unix = Present::read().unix;
        let missing = self.overlay.missing(&there, unix);
        let difference = |about: &About, here: Option<&Entry>| {
            let version = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.version);
            let (kind, subject) = (about.kind(), about.subject());
            Difference { kind, subject, here: version(here), there: version(there.get(about)) }
        };
        let mut differences: Vec<Difference> =
            missing.iter().map(|(about, entry)| difference(about, Some(entry))).collect();
        for (about, entry) in &there {
            let here = self.overlay.entry(about);
            let differs = here.is_none_or(|here| here.differs(entry));
            if differs && !missing.iter().any(|(one, _)| one == about) {
                differences.push(difference(about, here));
            }
        }
        let decisions = there.len();
        self.take(there);
        self.overlay.saw(version);
        self.overlay.forget(unix);
        // Also without an entry: the counter must not begin anew.
        if !missing.is_empty() || version < self.overlay.highest() {
            self.give_back(&missing).await?;
        }
        self.behind = false;
        let mut pipe = redis::Pipeline::with_capacity(2);
        pipe.zrange(keys.key("members"), 0, -1).hget(keys.key("leader"), "id");
        let values = link.pipe(&pipe).await?;
        let [members, leader] = &values[..] else { return Err(Fault::Refused("an answer too few".to_owned())) };
        Ok(Comparison {
            version,
            decisions,
            differences,
            members: Vec::from_redis_value_ref(members).map_err(unreadable)?,
            leader: Option::<String>::from_redis_value_ref(leader).map_err(unreadable)?.filter(|id| !id.is_empty()),
            ..Comparison::default()
        })
    }

    async fn give_back(&self, missing: &[(About, Entry)]) -> Result<(), Fault> {
        let link = &self.around.link;
        if !missing.is_empty() {
            tracing::info!(count = missing.len(), "Redis lacks decisions and gets them back");
        }
        let mut parts = missing.chunks(AT_ONCE);
        let mut part = parts.next().unwrap_or_default();
        loop {
            let mut call = self.restore.prepare_invoke();
            for key in KEYS {
                call.key(link.keys().key(key));
            }
            call.arg(link.keys().channel(Topic::Decisions)).arg(self.overlay.highest());
            for (about, entry) in part {
                call.arg(text(about)).arg(entry.version).arg(text(entry));
            }
            link.run(&call).await?;
            match parts.next() {
                Some(next) => part = next,
                None => return Ok(()),
            }
        }
    }

    /// Tells what was decided here. Whether anything was told.
    async fn tell(&mut self) -> bool {
        let link = self.around.link.clone();
        let mut any = false;
        // What others decided comes first: it may be later than ours.
        if self.behind || !link.is_up() {
            return false;
        }
        for told in self.overlay.pending() {
            let Ok(serde_json::Value::Object(mut entry)) = serde_json::to_value(&told.entry) else { continue };
            entry.remove("version");
            let rest = text(&entry);
            let mut call = self.decide.prepare_invoke();
            for key in KEYS {
                call.key(link.keys().key(key));
            }
            call.arg(link.keys().channel(Topic::Decisions)).arg(text(&told.about)).arg(told.after);
            call.arg(self.overlay.highest()).arg(told.entry.at).arg(rest.trim_start_matches('{'));
            let answer = match link.run(&call).await {
                Ok(answer) => answer,
                Err(fault) => {
                    tracing::debug!(%fault, "a decision is not told yet");
                    break;
                }
            };
            any = true;
            match read(&answer) {
                Ok(Settled::Ours(version)) => {
                    self.behind |= version > self.overlay.highest().saturating_add(1);
                    tracing::info!(
                        kind = told.about.kind(),
                        subject = told.about.subject(),
                        version,
                        "told the cluster"
                    );
                    self.overlay.settled(told, version);
                }
                Ok(Settled::Theirs(entry)) => drop(self.take([(told.about, entry)])),
                Err(fault) => tracing::warn!(%fault, "what Redis said of a decision cannot be read"),
            }
        }
        any
    }

    /// Shows what is known, and keeps it if it changed.
    async fn note(&mut self, changed: bool) {
        let overlay = &self.overlay;
        let unix = Present::read().unix;
        self.around.state.asking.note(|known| {
            known.version = overlay.highest();
            known.decisions = overlay.entries().count();
            known.in_force = overlay.in_force(unix);
            known.untold = overlay.untold();
        });
        if changed || self.kept != overlay.highest() {
            self.kept = overlay.highest();
            let (decisions, overlay) = (Arc::clone(&self.decisions), overlay.clone());
            let name = self.around.link.plan().typed.name.clone();
            // A panic there is none of ours.
            drop(tokio::task::spawn_blocking(move || decisions.keep_shared(&name, &overlay)).await);
        }
    }
}

const KEYS: [&str; 2] = ["decisions", "decisions:version"];

enum Settled {
    Ours(u64),
    Theirs(Entry),
}

fn read(answer: &Value) -> Result<Settled, Fault> {
    let (ours, said) = <(u8, String)>::from_redis_value_ref(answer).map_err(unreadable)?;
    let wrong = |text: String| Fault::Refused(text);
    if ours == 1 {
        return said.parse().map(Settled::Ours).map_err(|error| wrong(format!("{said}: {error}")));
    }
    serde_json::from_str(&said).map(Settled::Theirs).map_err(|error| wrong(error.to_string()))
}

fn unreadable(error: redis::ParsingError) -> Fault {
    Fault::Refused(error.to_string())
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
