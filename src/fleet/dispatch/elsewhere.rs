//! What instances of a cluster tell each other of an upstream, in words that survive a journey: URLs of servers, names of
//! models, ages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::server::ServerState;
use super::Dispatcher;
use crate::clock;
use crate::policy::schedule::elsewhere::{self, Elsewhere, Others, OthersOfPair, Own};
use crate::policy::schedule::{ModelId, Scheduler, ServerId};

/// Most requests that another instance is believed to have anywhere.
const MOST: u32 = 1 << 20;
/// Two ages of one who waits may differ by so many milliseconds.
const NEAR: u128 = 5;
/// Longest time that another instance is believed not to try a load again, in milliseconds.
const LONGEST: u64 = 3_600_000;

/// What runs and waits in an upstream at one instance, by the URL of the server: by that, since the same server may have
/// another name there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct UpstreamLoad(pub BTreeMap<String, ServerLoad>);

/// The same of a server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ServerLoad {
    /// All of it.
    #[serde(rename = "a")]
    pub all: Amount,
    /// By model.
    #[serde(rename = "m")]
    pub models: BTreeMap<String, Amount>,
}

/// How many of a class wait, and how long the one has been waiting that goes first; none where there is nobody.
type Line = Option<(u32, u64)>;

/// How much runs and waits. Ages are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Amount {
    /// Requests that run.
    #[serde(rename = "r", default, skip_serializing_if = "is_zero")]
    pub running: u32,
    /// Requests that wait, by class.
    #[serde(rename = "q", default, skip_serializing_if = "is_nobody")]
    pub lines: [Line; 3],
    /// How long ago a load began.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub loading: Option<u64>,
    /// How long a load that failed is not tried again.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<u64>,
    /// How long ago the model was sent out of memory.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub sent_out: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_nobody(lines: &[Line; 3]) -> bool {
    lines.iter().all(Option::is_none)
}

impl Amount {
    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.lines.iter().flatten().fold(0, |all, (count, _)| count.saturating_add(all))
    }

    fn add(&mut self, more: &Self) {
        self.running += more.running;
        for (line, more) in self.lines.iter_mut().zip(more.lines) {
            let both = line.zip(more).map(|((one, age), (other, older))| (one + other, age.max(older)));
            *line = both.or(*line).or(more);
        }
        self.loading = self.loading.max(more.loading);
        self.broken = self.broken.max(more.broken);
        self.sent_out = [self.sent_out, more.sent_out].into_iter().flatten().min();
    }
}

impl UpstreamLoad {
    /// Whether it says the same as what was said so long ago; ages grow by themselves.
    #[must_use]
    pub fn is_same(&self, before: &Self, passed: Duration) -> bool {
        // Another one may go first by now though there are as many as before.
        let near = |age: u64, before: u64| (u128::from(before) + passed.as_millis()).abs_diff(age.into()) <= NEAR;
        let same_line = |(one, other): (Line, Line)| match (one, other) {
            (Some(one), Some(other)) => one.0 == other.0 && near(one.1, other.1),
            (one, other) => one == other,
        };
        let same = |one: &Amount, other: &Amount| {
            (one.running, one.loading.is_some(), one.broken.is_some(), one.sent_out.is_some())
                == (other.running, other.loading.is_some(), other.broken.is_some(), other.sent_out.is_some())
                && one.lines.into_iter().zip(other.lines).all(same_line)
        };
        let models = |one: &ServerLoad, other: &ServerLoad| {
            one.models.len() == other.models.len()
                && one.models.iter().zip(&other.models).all(|(one, other)| one.0 == other.0 && same(one.1, other.1))
        };
        self.0.len() == before.0.len()
            && self.0.iter().zip(&before.0).all(|(one, other)| one.0 == other.0 && models(one.1, other.1))
    }
}

/// What an instance said, and when that was heard.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'h> {
    /// What it said.
    pub load: &'h UpstreamLoad,
    /// When.
    pub at: Instant,
    /// Whether those who wait there still do, as far as is known: it said so a moment ago.
    pub fresh: bool,
}

impl Dispatcher {
    /// Whether anything may have changed since this was asked last.
    pub fn take_untold(&self) -> bool {
        self.untold.swap(false, Ordering::Relaxed)
    }

    /// What the others are to know.
    pub fn own_load(&self) -> UpstreamLoad {
        let now = (clock::now() - self.epoch).as_secs_f64();
        let inner = self.inner.lock();
        let millis = |seconds: f64| {
            let millis = Duration::from_secs_f64(seconds.clamp(0.0, 1e9)).as_millis();
            u64::try_from(millis).unwrap_or(u64::MAX)
        };
        let amount = |own: Own| Amount {
            running: own.running,
            lines: own.lines.map(|line| (line.count > 0).then(|| (line.count, millis(now - line.since)))),
            loading: own.loading.map(|since| millis(now - since)),
            broken: own.broken_until.map(|until| millis(until - now)),
            sent_out: own.sent_out.map(|at| millis(now - at)),
        };
        let mut servers: BTreeMap<String, ServerLoad> = BTreeMap::new();
        for (server, all, models) in inner.scheduler.own(now) {
            let Some(state) = inner.servers.get(server) else { continue };
            // A server that was called otherwise before has two ids for as long as requests of then run.
            let load = servers.entry(state.identity.url.clone()).or_default();
            load.all.add(&amount(all));
            for (model, own) in models {
                load.models.entry(inner.scheduler.model_name(model).to_owned()).or_default().add(&amount(own));
            }
        }
        UpstreamLoad(servers)
    }

    /// Takes what all others said last, and of what they know of ours. `deaf` when they cannot be heard.
    pub fn hear(self: &Arc<Self>, others: &[Heard<'_>], known: Option<&UpstreamLoad>, instances: u32, deaf: bool) {
        let epoch = self.epoch;
        self.event_with(|reach, moment| {
            let by_url: BTreeMap<&str, ServerId> = present(reach.servers, reach.scheduler)
                .map(|(id, server)| (server.identity.url.as_str(), id))
                .collect();
            let mut sums = Sums::default();
            for heard in others {
                let at = heard.at.saturating_duration_since(epoch).as_secs_f64();
                for (url, load) in &heard.load.0 {
                    if let Some(server) = by_url.get(url.as_str()) {
                        sums.add(*server, load, at, heard.fresh, reach.scheduler);
                    }
                }
            }
            for (url, load) in known.iter().flat_map(|known| &known.0) {
                if let Some(server) = by_url.get(url.as_str()) {
                    sums.know(*server, load, reach.scheduler);
                }
            }
            reach.scheduler.hear(&sums.into_others(instances, deaf), moment);
        });
    }
}

fn present<'s>(
    servers: &'s [Arc<ServerState>],
    scheduler: &'s Scheduler,
) -> impl Iterator<Item = (ServerId, &'s Arc<ServerState>)> {
    servers.iter().enumerate().filter(|(id, _)| scheduler.is_present(*id))
}

/// What several instances have together.
#[derive(Default)]
struct Sums {
    servers: BTreeMap<ServerId, Elsewhere>,
    pairs: BTreeMap<(ServerId, ModelId), Pair>,
}

#[derive(Default)]
struct Pair {
    elsewhere: Elsewhere,
    load: Option<f64>,
    broken_until: f64,
    sent_out: Option<f64>,
}

impl Sums {
    fn add(&mut self, server: ServerId, load: &ServerLoad, at: f64, fresh: bool, scheduler: &Scheduler) {
        let since = |age: u64| at - age as f64 / 1000.0;
        let add = |sum: &mut Elsewhere, amount: &Amount| {
            sum.running = (sum.running + amount.running.min(MOST)).min(MOST);
            if fresh {
                for (line, told) in sum.lines.iter_mut().zip(amount.lines) {
                    let told = told.map(|(count, age)| elsewhere::Line { count: count.min(MOST), since: since(age) });
                    line.add(&told.unwrap_or_default());
                }
            }
        };
        add(self.servers.entry(server).or_default(), &load.all);
        for (name, amount) in &load.models {
            // A model that nobody here has asked for, and no server told of, is of no interest.
            let Some(model) = scheduler.known_model(name) else { continue };
            let pair = self.pairs.entry((server, model)).or_default();
            add(&mut pair.elsewhere, amount);
            if let Some(age) = amount.loading {
                pair.load = Some(pair.load.unwrap_or(f64::INFINITY).min(since(age)));
            }
            if let Some(age) = amount.sent_out {
                pair.sent_out = [pair.sent_out, Some(since(age))].into_iter().flatten().max_by(f64::total_cmp);
            }
            if let Some(left) = amount.broken {
                pair.broken_until = pair.broken_until.max(at + left.min(LONGEST) as f64 / 1000.0);
            }
        }
    }

    fn know(&mut self, server: ServerId, load: &ServerLoad, scheduler: &Scheduler) {
        self.servers.entry(server).or_default().known = load.all.running;
        for (name, amount) in &load.models {
            if let Some(model) = scheduler.known_model(name) {
                self.pairs.entry((server, model)).or_default().elsewhere.known = amount.running;
            }
        }
    }

    fn into_others(self, instances: u32, deaf: bool) -> Others {
        Others {
            instances,
            deaf,
            servers: self.servers.into_iter().collect(),
            pairs: self
                .pairs
                .into_iter()
                .map(|((server, model), Pair { elsewhere, load, broken_until, sent_out })| OthersOfPair {
                    server,
                    model,
                    elsewhere,
                    load,
                    broken_until,
                    sent_out,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(lines: [Line; 3]) -> UpstreamLoad {
        let amount = Amount { running: 1, lines, ..Amount::default() };
        let server = ServerLoad { all: amount, models: [("m".to_owned(), amount)].into() };
        UpstreamLoad([("http://s".to_owned(), server)].into())
    }

    #[test]
    fn what_is_told_is_read_again_and_what_is_left_out_is_nothing() {
        let told = load([None, Some((4, 1200)), Some((1, 90_000))]);
        let text = serde_json::to_string(&told).expect("written");
        assert!(text.contains(r#"{"r":1,"q":[null,[4,1200],[1,90000]]}"#), "{text}");
        assert_eq!(serde_json::from_str::<UpstreamLoad>(&text).expect("read"), told);
        let none: Amount = serde_json::from_str(r#"{"r":1}"#).expect("read");
        assert_eq!((none, none.waiting()), (Amount { running: 1, ..Amount::default() }, 0));
        assert_eq!(serde_json::to_string(&none).expect("written"), r#"{"r":1}"#);
    }

    #[test]
    fn it_says_something_else_once_another_one_goes_first() {
        let (before, passed) = (load([None, Some((2, 1000)), None]), Duration::from_millis(300));
        assert!(load([None, Some((2, 1301)), None]).is_same(&before, passed));
        assert!(!load([None, Some((2, 20)), None]).is_same(&before, passed), "one went and one came");
        assert!(!load([None, Some((3, 1300)), None]).is_same(&before, passed));
        assert!(!load([Some((2, 1300)), None, None]).is_same(&before, passed));
    }

    #[test]
    fn what_several_have_is_one_line_for_each_class() {
        let mut sum = Amount { lines: [None, Some((2, 10)), None], ..Amount::default() };
        sum.add(&Amount { lines: [Some((1, 5)), Some((3, 70)), None], ..Amount::default() });
        assert_eq!(sum.lines, [Some((1, 5)), Some((5, 70)), None]);
        assert_eq!(sum.waiting(), 6);
    }
}
