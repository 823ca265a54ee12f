//! The cluster that this instance belongs to: what is configured of it, and what is known of the others.
//!
//! # Problem
//! Several instances in front of the same servers must not each believe that the servers are theirs alone. What they know of
//! each other passes through Redis, which may be slow, wrong or gone at any moment, and no request may feel that.
//!
//! # Shape
//! Here is only what is known, in memory: who else is alive, whether Redis answers, who leads. `cluster` beside the probes
//! talks to Redis and writes it here; requests read it and never wait.
//!
//! # Invariants
//! - Without a cluster there is one instance, it is not linked, and it leads.
//! - An instance that was not heard of for [`DEAD_AFTER`] counts as dead: what it held is free again.
//! - Without Redis for that long an instance leads itself: work that one alone should do is done twice rather than never.
//! - Whoever leads knows it from an answer to a sign of life that is younger than its lease: after a pause of the process or of
//!   its host another one may lead, and what was known before the pause says nothing.
//! - Another connection to the same cluster changes nothing of what is known of the others.

pub mod asking;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::asking::Asking;
use super::upstream_tls::UpstreamTls;
use crate::clock;
use crate::config::{HostPort, types};

/// Time between two signs of life in Redis.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long after its last sign of life an instance counts as dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(12);
/// How long before the end of its lease a leader acts no more.
const MARGIN: Duration = Duration::from_secs(2);

/// The block `cluster`, compiled.
#[derive(Debug)]
pub struct ClusterPlan {
    /// As it was typed; what is equal needs no new connection.
    pub typed: types::Cluster,
    /// Where Redis, its sentinels or its nodes are.
    pub addresses: Vec<HostPort>,
    /// Number of the database.
    pub database: u16,
    /// TLS, where the URLs say so.
    pub tls: Option<UpstreamTls>,
    /// What this instance wants to be called.
    pub instance: String,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// An instance of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub id: String,
    /// Another one for each process of this name.
    pub run: String,
    /// Version of Arriero.
    pub version: String,
    /// Hash of its configuration, as far as instances should have it in common.
    pub config: String,
    /// When it started, seconds since 1970.
    pub started: f64,
    /// Whether it stops.
    pub stopping: bool,
    /// When a sign of life came.
    pub heard: Instant,
}

/// Who does what one alone should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Name of the instance.
    pub id: String,
    /// Grows with each change of hands.
    pub token: u64,
    /// When the sign of life was given that was answered so, by [`clock::since_boot`]: the lease lasts from then on at least.
    pub asked: Duration,
}

/// What is known of the cluster at a moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The name under which this instance is known; empty before it joined.
    pub own: String,
    /// All instances that are alive by name, this one among them.
    pub members: Vec<Member>,
    /// Who leads, as Redis said last.
    pub leader: Option<Leader>,
    /// What answers: `redis 7.0.15 at 10.0.0.5:6379`.
    pub redis: Option<String>,
    /// What went wrong last, while Redis cannot be used.
    pub fault: Option<String>,
}

/// What is known of the cluster.
pub struct ClusterState {
    view: ArcSwap<View>,
    changing: Mutex<()>,
    linked: AtomicBool,
    instances: AtomicU32,
    /// When Redis could be used last, or since when there is a cluster.
    used: Mutex<Instant>,
    configured: AtomicBool,
    /// The cluster that the members are of.
    cluster: Mutex<Option<String>>,
    /// How often Redis could be used again.
    links: AtomicU32,
    /// Who wants something of the tasks that talk to Redis.
    pub asking: Asking,
}

impl ClusterState {
    /// No cluster.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            view: ArcSwap::default(),
            changing: Mutex::default(),
            linked: AtomicBool::new(false),
            instances: AtomicU32::new(1),
            used: Mutex::new(now),
            configured: AtomicBool::new(false),
            cluster: Mutex::default(),
            links: AtomicU32::new(0),
            asking: Asking::default(),
        }
    }

    /// Begins anew, in the cluster of this name or without one. Whether what is known of others is none of its business any more,
    /// since they are in another cluster. Where it is the same one, they are there still, whether Redis can be used or not.
    pub fn begin(&self, cluster: Option<&str>, now: Instant) -> bool {
        let before = std::mem::replace(&mut *self.cluster.lock(), cluster.map(str::to_owned));
        let same = before.as_deref() == cluster;
        self.configured.store(cluster.is_some(), Ordering::Relaxed);
        if self.linked.swap(false, Ordering::Relaxed) || !same {
            *self.used.lock() = now;
        }
        self.change(|view| {
            let View { own, members, .. } = std::mem::take(view);
            if same {
                (view.own, view.members) = (own, members);
            }
        });
        before.is_some() && !same
    }

    /// Whether there is a cluster.
    pub fn is_configured(&self) -> bool {
        self.configured.load(Ordering::Relaxed)
    }

    /// Whether Redis can be used.
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Relaxed)
    }

    /// Notes whether Redis can be used; `fault` says why not.
    pub fn set_linked(&self, linked: bool, fault: Option<String>, now: Instant) {
        if linked || self.linked.load(Ordering::Relaxed) {
            *self.used.lock() = now;
        }
        self.linked.store(linked, Ordering::Relaxed);
        self.links.fetch_add(u32::from(linked), Ordering::Relaxed);
        self.change(|view| view.fault = fault);
    }

    /// How often Redis could be used again: another number is another connection.
    pub fn links(&self) -> u32 {
        self.links.load(Ordering::Relaxed)
    }

    /// How many instances share what there is, this one among them: at least 1. While Redis is gone, those that were there
    /// last, so that no share grows by an outage; until they count as dead.
    pub fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed)
    }

    /// How many other instances there are of which nothing can be heard now.
    pub fn unheard(&self) -> u32 {
        if self.is_configured() && !self.is_linked() { self.instances() - 1 } else { 0 }
    }

    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Whether this instance does what one alone should do.
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_at(now, clock::since_boot())
    }

    fn leads_at(&self, now: Instant, since_boot: Duration) -> bool {
        if !self.is_configured() {
            return true;
        }
        if !self.is_linked() {
            return now.saturating_duration_since(*self.used.lock()) >= DEAD_AFTER;
        }
        let view = self.view.load();
        let holds = |leader: &Leader| since_boot.saturating_sub(leader.asked) < DEAD_AFTER.saturating_sub(MARGIN);
        view.leader.as_ref().is_some_and(|leader| leader.id == view.own && holds(leader))
    }

    /// Changes what is known.
    pub fn change(&self, change: impl FnOnce(&mut View)) {
        let changing = self.changing.lock();
        let mut view = View::clone(&self.view.load());
        change(&mut view);
        let instances = u32::try_from(view.members.len()).unwrap_or(u32::MAX).max(1);
        self.instances.store(instances, Ordering::Relaxed);
        self.view.store(Arc::new(view));
        drop(changing);
    }

    /// An instance gave a sign of life.
    pub fn heard(&self, id: &str, now: Instant) {
        let known = |member: &Member| member.id == id && now.saturating_duration_since(member.heard) > HEARTBEAT / 5;
        if self.view.load().members.iter().any(known) {
            self.change(|view| {
                view.members.iter_mut().filter(|member| member.id == id).for_each(|member| member.heard = now);
            });
        }
    }

    /// Forgets who was not heard of for too long; tells who that was.
    pub fn bury(&self, now: Instant) -> Vec<Member> {
        let dead =
            |own: &str, member: &Member| member.id != own && now.saturating_duration_since(member.heard) > DEAD_AFTER;
        let view = self.view.load();
        if !view.members.iter().any(|member| dead(&view.own, member)) {
            return Vec::new();
        }
        let mut buried = Vec::new();
        self.change(|view| {
            let own = view.own.clone();
            buried = view.members.extract_if(.., |member| dead(&own, member)).collect();
        });
        buried
    }
}

impl std::fmt::Debug for ClusterState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ClusterState({})", self.instances())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the lease was asked for.
    const ASKED: Duration = Duration::from_secs(1000);

    fn member(id: &str, heard: Instant) -> Member {
        let text = String::new;
        Member { id: id.to_owned(), run: text(), version: text(), config: text(), started: 0.0, stopping: false, heard }
    }

    fn state(now: Instant) -> ClusterState {
        let state = ClusterState::new(now);
        state.begin(Some("front"), now);
        state.set_linked(true, None, now);
        state.change(|view| {
            "a".clone_into(&mut view.own);
            view.members = vec![member("a", now), member("b", now)];
            view.leader = Some(Leader { id: "b".to_owned(), token: 1, asked: ASKED });
        });
        state
    }

    #[test]
    fn an_instance_alone_leads_and_has_all_to_itself() {
        let now = clock::now();
        let state = ClusterState::new(now);
        assert!(state.leads(now) && !state.is_linked());
        assert_eq!(state.instances(), 1);
    }

    #[test]
    fn who_is_not_heard_of_is_dead_but_this_instance_never_is() {
        let now = clock::now();
        let state = state(now);
        assert_eq!(state.instances(), 2);
        state.heard("b", now + DEAD_AFTER);
        assert!(state.bury(now + DEAD_AFTER * 2).is_empty());
        let buried = state.bury(now + DEAD_AFTER * 2 + HEARTBEAT);
        assert_eq!(buried.iter().map(|member| member.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(state.instances(), 1);
    }

    #[test]
    fn without_redis_an_instance_leads_itself_once_the_others_may_be_dead() {
        let now = clock::now();
        let state = state(now);
        assert!(!state.leads(now));
        state.set_linked(false, Some("refused".to_owned()), now);
        assert!(!state.leads(now + DEAD_AFTER / 2));
        // A try that fails again is not a use.
        state.set_linked(false, Some("refused".to_owned()), now + DEAD_AFTER / 2);
        assert!(state.leads(now + DEAD_AFTER));
        assert_eq!(state.view().fault.as_deref(), Some("refused"));
    }

    #[test]
    fn a_leader_whose_lease_may_be_over_leads_no_more() {
        let now = clock::now();
        let state = state(now);
        state.change(|view| view.leader = Some(Leader { id: "a".to_owned(), token: 2, asked: ASKED }));
        assert!(state.leads_at(now, ASKED) && state.leads_at(now, ASKED + HEARTBEAT * 3 / 2));
        // The process stood still, or its host was suspended, which the other clock does not count.
        assert!(!state.leads_at(now, ASKED + DEAD_AFTER - MARGIN) && !state.leads_at(now, ASKED + DEAD_AFTER * 3));
        let asked = ASKED + DEAD_AFTER * 3;
        state.change(|view| view.leader = Some(Leader { id: "a".to_owned(), token: 4, asked }));
        assert!(state.leads_at(now, asked), "it was asked again");
    }

    #[test]
    fn another_connection_to_the_same_cluster_leaves_the_others_there() {
        let now = clock::now();
        let state = state(now);
        assert!(!state.begin(Some("front"), now + HEARTBEAT));
        assert_eq!((state.instances(), state.unheard()), (2, 1));
        assert!(!state.is_linked() && state.view().leader.is_none());
        assert!(!state.leads(now + DEAD_AFTER) && state.leads(now + HEARTBEAT + DEAD_AFTER));
        // It was gone before, too.
        assert!(!state.begin(Some("front"), now + DEAD_AFTER));
        assert!(state.leads(now + HEARTBEAT + DEAD_AFTER));
        assert!(state.begin(Some("back"), now) && state.instances() == 1);
        assert!(state.begin(None, now) && !state.is_configured());
        assert!(!state.begin(None, now) && !state.begin(Some("front"), now));
        assert_eq!(state.instances(), 1);
    }
}
