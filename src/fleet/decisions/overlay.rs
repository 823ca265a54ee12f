//! The decisions of a cluster, as one instance knows them: entries with versions, and what was decided here and is not told yet.
//!
//! # Problem
//! Several instances decide about the same servers. Messages get lost, Redis is away for hours or forgets everything, and an
//! instance may come back that was away while the others went on. In the end all must have decided the same.
//!
//! # Shape
//! An entry for each thing that was ever decided about, with a version that the cluster counts. The higher version wins. A Redis
//! that lost what it counted may give a version twice: of two entries of one version the one that was decided later wins, and of
//! two of one moment that of the instance whose name comes later ([`Entry::precedence`]). What was lifted stays as an entry
//! without a value for [`TOMBSTONE`], so that it does not come back with somebody who was away.
//!
//! What was decided here is seen by comparison with what was decided a moment ago ([`Overlay::look`]), so it does not matter
//! who decided it: an operator, a rule, or the start of the process. It waits as pending until the cluster gave it a version.
//! Where somebody else's version came in between, the later decision wins, by the wall clocks of the two.
//!
//! # Invariants
//! - What ends because its time is over, or because the configuration has its subject no more, was not decided.
//! - What was made again from the store at the start gives way to any version that is not older than it.
//! - An entry about something that the configuration lacks is kept, and made when the configuration has it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::facts::{About, Held};

/// How long it is known that something was lifted, or was over.
pub const TOMBSTONE: Duration = Duration::from_hours(24);
/// The highest version that there can be: scripts count in doubles, which have it exactly.
pub const MOST_VERSION: u64 = 1 << 52;
/// Whoever hears of an order about a circuit later than this does not follow it any more.
pub const ORDER_HOLDS: f64 = 60.0;
/// Times that differ less are the same: clocks are read one after the other.
const SAME: f64 = 2.0;

/// What the cluster has about one thing.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Entry {
    /// Counted by the cluster; 0 while it is not told yet.
    #[serde(default)]
    pub version: u64,
    /// When it was decided, seconds since 1970; whole milliseconds, which are the same wherever they are read.
    pub at: f64,
    /// Name of the instance where.
    pub by: String,
    /// What holds; `None` when it was lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Held<f64>>,
    /// What was ordered of a circuit: an event, which holds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// What may be ordered of a circuit beside holding it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Let everything pass.
    Close,
    /// Let one request pass.
    HalfOpen,
    /// Let everything pass and forget what was.
    Reset,
}

impl Entry {
    /// When nobody needs it any more, seconds since 1970.
    #[must_use]
    pub fn ends(&self) -> Option<f64> {
        match &self.value {
            None => Some(self.at + TOMBSTONE.as_secs_f64()),
            Some(held) => held.until.map(|until| until + TOMBSTONE.as_secs_f64()),
        }
    }

    /// Which of two about the same thing stands: the greater one. `restore.lua` goes by the same.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let by_time = || self.at.total_cmp(&other.at);
        self.version.cmp(&other.version).then_with(by_time).then_with(|| self.by.cmp(&other.by))
    }

    /// Whether it says something else than another one: also where that has the same version.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.precedence(other) != Ordering::Equal || !same_values(self, other)
    }

    /// What is shown here: who decided it elsewhere did it by way of that instance.
    fn seen_by(&self, own: &str) -> Option<Held<f64>> {
        let mut held = self.value.clone()?;
        if self.by != own && !held.who.is_empty() && !held.who.contains(" via ") {
            held.who = format!("{} via {}", held.who, self.by);
        }
        Some(held)
    }
}

/// What was decided here and is not told yet.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
struct Pending {
    entry: Entry,
    /// The version that it follows.
    after: u64,
}

/// What is to be done with a decision of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make it, or lift it.
    Make(About, Option<Held<f64>>),
    /// Follow an order about a circuit.
    Order(About, Order),
}

/// The decisions of the cluster as this instance knows them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Overlay {
    #[serde(with = "pairs")]
    entries: BTreeMap<About, Entry>,
    #[serde(with = "pairs")]
    pending: BTreeMap<About, Pending>,
    /// The highest version that was ever seen.
    highest: u64,
    /// What held here at the last look.
    #[serde(skip)]
    held: BTreeMap<About, Held<Instant>>,
    /// Entries about what the configuration lacks.
    #[serde(skip)]
    absent: BTreeSet<About>,
    #[serde(skip)]
    looked: bool,
}

/// A decision that is to be told.
#[derive(Clone, Debug)]
pub struct Told {
    /// What it is about.
    pub about: About,
    /// What was decided, without a version.
    pub entry: Entry,
    /// The version that it follows.
    pub after: u64,
}

impl Overlay {
    /// The highest version that was seen.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Notes a version that the cluster counted; nobody counted one that there cannot be.
    pub fn saw(&mut self, version: u64) {
        if version <= MOST_VERSION {
            self.highest = self.highest.max(version);
        }
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = (&About, &Entry)> {
        self.entries.iter()
    }

    /// The entry about one thing.
    #[must_use]
    pub fn entry(&self, about: &About) -> Option<&Entry> {
        self.entries.get(about)
    }

    /// How many decisions hold.
    #[must_use]
    pub fn in_force(&self, now: f64) -> usize {
        let holds =
            |entry: &&Entry| entry.value.as_ref().is_some_and(|held| held.until.is_none_or(|until| until > now));
        self.entries.values().filter(holds).count()
    }

    /// How many decisions are not told yet.
    #[must_use]
    pub fn untold(&self) -> usize {
        self.pending.len()
    }

    /// What is to be told.
    #[must_use]
    pub fn pending(&self) -> Vec<Told> {
        let told = |(about, one): (&About, &Pending)| Told {
            about: about.clone(),
            entry: one.entry.clone(),
            after: one.after,
        };
        self.pending.iter().map(told).collect()
    }

    /// Looks at what holds now. Changes since the last look were decided here, at `unix` by `own`, where `is_here` says that
    /// there is what they are about. Whether there are any.
    pub fn look(
        &mut self,
        facts: BTreeMap<About, Held<Instant>>,
        own: &str,
        (now, unix): (Instant, f64),
        to_unix: impl Fn(&Instant) -> f64,
        is_here: impl Fn(&About) -> bool,
    ) -> bool {
        let first = !std::mem::replace(&mut self.looked, true);
        let before = std::mem::replace(&mut self.held, facts);
        let mut found = Vec::new();
        for (about, held) in &self.held {
            if before.get(about) == Some(held) {
                continue;
            }
            let value = held.map(&to_unix);
            let known = self.pending.get(about).map(|one| &one.entry).or_else(|| self.entries.get(about));
            if first && known.is_some_and(|known| is_same(known.seen_by(own).as_ref(), &value)) {
                continue;
            }
            // At the start it is as old as it says, and what does not say so gives way to all others.
            let at = if first { value.since.unwrap_or(0.0) } else { unix };
            found.push((about.clone(), Entry { version: 0, at, by: own.to_owned(), value: Some(value), order: None }));
        }
        for (about, held) in &before {
            if self.held.contains_key(about) {
                continue;
            }
            if !is_here(about) {
                self.absent.insert(about.clone());
            } else if held.until.is_none_or(|until| until > now) {
                let entry = Entry { version: 0, at: unix, by: own.to_owned(), value: None, order: None };
                found.push((about.clone(), entry));
            }
        }
        if first {
            // The process ended after it heard of them and before they were written down.
            let lacking =
                self.entries.iter().filter(|(about, entry)| entry.value.is_some() && !self.held.contains_key(about));
            self.absent.extend(lacking.map(|(about, _)| about.clone()));
        }
        let any = !found.is_empty();
        for (about, entry) in found {
            self.decided(about, entry);
        }
        any
    }

    /// Something was decided here.
    pub fn decided(&mut self, about: About, mut entry: Entry) {
        entry.at = (entry.at * 1000.0).round() / 1000.0;
        if entry.value.is_none() {
            self.held.remove(&about);
        }
        let after = self.entries.get(&about).map_or(0, |entry| entry.version);
        self.pending.insert(about, Pending { entry, after });
    }

    /// The cluster gave a decision of ours a version.
    pub fn settled(&mut self, told: Told, version: u64) {
        self.saw(version);
        if self.pending.get(&told.about).is_some_and(|one| one.entry == told.entry) {
            self.pending.remove(&told.about);
        }
        self.entries.insert(told.about, Entry { version, ..told.entry });
    }

    /// Takes an entry of the cluster; what is to be done with it, if it stands rather than ours. Where nothing says which of two
    /// that differ stands, it is the one that the cluster has.
    pub fn take(&mut self, about: About, entry: Entry, own: &str, unix: f64, is_here: bool) -> Vec<Step> {
        self.saw(entry.version);
        let stands = |known: &Entry| !entry.differs(known) || entry.precedence(known) == Ordering::Less;
        if entry.version == 0 || entry.version > MOST_VERSION || self.entries.get(&about).is_some_and(stands) {
            return Vec::new();
        }
        let value = entry.seen_by(own);
        let mut steps = Vec::new();
        match self.pending.get_mut(&about) {
            // What was decided here since is the later one; it is told as following this version.
            Some(ours) if ours.entry.at > entry.at && !same_values(&ours.entry, &entry) => ours.after = entry.version,
            _ => {
                self.pending.remove(&about);
                if is_here {
                    steps.push(Step::Make(about.clone(), value));
                    let order = entry.order.filter(|_| unix - entry.at < ORDER_HOLDS);
                    steps.extend(order.map(|order| Step::Order(about.clone(), order)));
                } else {
                    self.absent.insert(about.clone());
                }
            }
        }
        self.entries.insert(about, entry);
        steps
    }

    /// What was made of the cluster's decisions holds now, and was not decided here.
    pub fn made(&mut self, about: &About, held: Option<Held<Instant>>) {
        match held {
            Some(held) => drop(self.held.insert(about.clone(), held)),
            None => drop(self.held.remove(about)),
        }
    }

    /// Decisions about what the configuration has by now.
    pub fn appeared(&mut self, own: &str, is_here: impl Fn(&About) -> bool) -> Vec<Step> {
        let here: Vec<About> = self.absent.iter().filter(|about| is_here(about)).cloned().collect();
        let mut steps = Vec::new();
        for about in here {
            self.absent.remove(&about);
            let value = self.entries.get(&about).and_then(|entry| entry.seen_by(own));
            if value.is_some() && !self.pending.contains_key(&about) {
                steps.push(Step::Make(about, value));
            }
        }
        steps
    }

    /// What the cluster lacks of all that we know, given the entries that it has.
    #[must_use]
    pub fn missing(&self, there: &BTreeMap<About, Entry>, unix: f64) -> Vec<(About, Entry)> {
        let lacks = |(about, entry): &(&About, &Entry)| {
            there.get(about).is_none_or(|there| entry.precedence(there) == Ordering::Greater)
                && entry.ends().is_none_or(|end| end > unix + 60.0)
        };
        self.entries.iter().filter(lacks).map(|(about, entry)| (about.clone(), entry.clone())).collect()
    }

    /// Forgets what nobody needs any more.
    pub fn forget(&mut self, unix: f64) {
        self.entries.retain(|_, entry| entry.ends().is_none_or(|end| end > unix));
        self.absent.retain(|about| self.entries.contains_key(about));
    }
}

fn same_values(one: &Entry, other: &Entry) -> bool {
    one.order == other.order
        && match (&one.value, &other.value) {
            (None, None) => true,
            (Some(one), Some(other)) => is_same(Some(one), other),
            _ => false,
        }
}

/// Whether two say the same, but for the moment at which clocks were read and the way that they came.
fn is_same(one: Option<&Held<f64>>, other: &Held<f64>) -> bool {
    let near = |one: Option<f64>, other: Option<f64>| match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() < SAME,
        (one, other) => one == other,
    };
    let who = |held: &Held<f64>| held.who.split(" via ").next().unwrap_or_default().to_owned();
    one.is_some_and(|one| {
        one.maintenance == other.maintenance
            && one.reason == other.reason
            && who(one) == who(other)
            && near(one.until, other.until)
    })
}

/// A map as a list of pairs: its keys are no strings.
mod pairs {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::About;

    pub fn serialize<V: Serialize, S: Serializer>(map: &BTreeMap<About, V>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub fn deserialize<'d, V: DeserializeOwned, D: Deserializer<'d>>(from: D) -> Result<BTreeMap<About, V>, D::Error> {
        Ok(Vec::<(About, V)>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
