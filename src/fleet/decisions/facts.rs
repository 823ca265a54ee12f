//! Decisions one by one: what each is about, read off where it holds, and made as an operator makes it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::super::circuits::CircuitOrder;
use super::super::operation::{Decision, Operation};
use super::super::server::ServerState;
use super::super::snapshot::{Snapshot, Upstream};
use super::{Decided, read};
use crate::policy::ban::Ban;
use crate::policy::circuit::{Cause, State};

/// What a decision is about. Servers are meant by name and URL together, but for bans, which know names alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The queues of an upstream.
    Queue {
        /// The upstream.
        upstream: String,
    },
    /// What is kept apart.
    Ban {
        /// The upstream.
        upstream: String,
        /// The server; none for all.
        server: Option<String>,
        /// The model; none for all.
        model: Option<String>,
    },
    /// Whether a server takes work.
    Operation {
        /// The upstream.
        upstream: String,
        /// The server.
        server: String,
        /// Its URL.
        url: String,
    },
    /// A circuit that is held open.
    Circuit {
        /// The upstream.
        upstream: String,
        /// The server.
        server: String,
        /// Its URL.
        url: String,
        /// The model; none for the server's own circuit.
        model: Option<String>,
    },
}

impl About {
    /// The same in one word, for the admin API.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Queue { .. } => "queue",
            Self::Ban { .. } => "ban",
            Self::Operation { .. } => "operation",
            Self::Circuit { .. } => "circuit",
        }
    }

    /// `UPSTREAM`, `UPSTREAM/SERVER` or `UPSTREAM/SERVER MODEL`; `*` for all servers.
    #[must_use]
    pub fn subject(&self) -> String {
        let (upstream, server, model) = match self {
            Self::Queue { upstream } => return upstream.clone(),
            Self::Ban { upstream, server, model } => (upstream, server.as_deref().unwrap_or("*"), model.as_deref()),
            Self::Operation { upstream, server, .. } => (upstream, server.as_str(), None),
            Self::Circuit { upstream, server, model, .. } => (upstream, server.as_str(), model.as_deref()),
        };
        model.map_or_else(|| format!("{upstream}/{server}"), |model| format!("{upstream}/{server} {model}"))
    }

    fn upstream<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Upstream> {
        let (Self::Queue { upstream }
        | Self::Ban { upstream, .. }
        | Self::Operation { upstream, .. }
        | Self::Circuit { upstream, .. }) = self;
        snapshot.upstreams.iter().find(|one| one.name == *upstream).map(AsRef::as_ref)
    }

    fn server<'s>(&self, upstream: &'s Upstream) -> Option<&'s std::sync::Arc<ServerState>> {
        let (Self::Operation { server, url, .. } | Self::Circuit { server, url, .. }) = self else { return None };
        let states = upstream.servers.iter().map(|member| &member.state);
        states.into_iter().find(|state| state.name() == server && state.identity.url == *url)
    }

    /// Whether the configuration has what it is about.
    #[must_use]
    pub fn is_here(&self, snapshot: &Snapshot) -> bool {
        let of_server = matches!(self, Self::Operation { .. } | Self::Circuit { .. });
        self.upstream(snapshot).is_some_and(|upstream| !of_server || self.server(upstream).is_some())
    }
}

/// A decision that holds, with moments of the process or of the wall clock.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Held<T> {
    /// A server is in maintenance, where it would else be draining.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub who: String,
    /// Since when, where that is known.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub since: Option<T>,
    /// When it ends by itself.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub until: Option<T>,
}

const fn none<T>() -> Option<T> {
    None
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { maintenance: false, reason: String::new(), who: String::new(), since: None, until: None }
    }
}

impl<T> Held<T> {
    /// The same with other moments.
    pub fn map<U>(&self, moment: impl Fn(&T) -> U) -> Held<U> {
        Held {
            maintenance: self.maintenance,
            reason: self.reason.clone(),
            who: self.who.clone(),
            since: self.since.as_ref().map(&moment),
            until: self.until.as_ref().map(&moment),
        }
    }
}

/// All that is decided now.
#[must_use]
pub fn all(snapshot: &Snapshot, now: Instant) -> BTreeMap<About, Held<Instant>> {
    let mut all = BTreeMap::new();
    for upstream in &snapshot.upstreams {
        let Decided { paused, bans, servers } = read(upstream, now);
        let name = || upstream.name.clone();
        if paused {
            all.insert(About::Queue { upstream: name() }, Held::default());
        }
        for ban in bans {
            let about = About::Ban { upstream: name(), server: ban.server, model: ban.model };
            let (since, until) = (Some(ban.since), ban.until);
            all.insert(about, Held { maintenance: false, reason: ban.reason, who: ban.who, since, until });
        }
        for (server, kept) in servers {
            let url = || kept.url.clone();
            if let Some(one) = kept.operation.clone() {
                let about = About::Operation { upstream: name(), server: server.clone(), url: url() };
                let (maintenance, since) = (one.maintenance, Some(one.since));
                all.insert(about, Held { maintenance, reason: one.reason, who: one.who, since, until: one.until });
            }
            for (model, until) in &kept.held_open {
                let model = Some(model.clone()).filter(|model| !model.is_empty());
                let about = About::Circuit { upstream: name(), server: server.clone(), url: url(), model };
                all.insert(about, Held { until: Some(*until), ..Held::default() });
            }
        }
    }
    all
}

/// Makes a decision, or ends it for `None`, as an operator's order does; nothing where the configuration lacks what it is
/// about. What is over by then is ended.
pub fn make(about: &About, held: Option<&Held<Instant>>, snapshot: &Snapshot, now: Instant) {
    let Some(upstream) = about.upstream(snapshot) else { return };
    let held = held.filter(|held| held.until.is_none_or(|until| until > now));
    match about {
        About::Queue { upstream: name } => {
            if upstream.dispatcher.is_paused() == held.is_some() {
                return;
            }
            tracing::info!(upstream = name, paused = held.is_some(), "queue ordered in the cluster");
            if held.is_some() {
                upstream.dispatcher.pause();
            } else {
                upstream.dispatcher.resume();
            }
        }
        About::Ban { server, model, .. } => match held {
            None => drop(upstream.state.bans.lift(server.as_deref(), model.as_deref(), now)),
            Some(held) => {
                let ban = Ban {
                    server: server.clone(),
                    model: model.clone(),
                    reason: held.reason.clone(),
                    who: held.who.clone(),
                    since: held.since.unwrap_or(now),
                    until: held.until,
                };
                if !upstream.state.bans.ban(ban, now) {
                    tracing::warn!(upstream = upstream.name, server, model, "no room for a ban of the cluster");
                }
            }
        },
        About::Operation { .. } => {
            let Some(state) = about.server(upstream) else { return };
            operate(upstream, state, held, now);
        }
        About::Circuit { model, .. } => {
            let Some(state) = about.server(upstream) else { return };
            let model = model.as_deref();
            match held.and_then(|held| held.until) {
                Some(until) => drop(state.force_circuit(CircuitOrder::Open { until }, model, now)),
                None if is_held(state, model, now) => drop(state.force_circuit(CircuitOrder::Close, model, now)),
                None => {}
            }
        }
    }
}

fn operate(upstream: &Upstream, state: &std::sync::Arc<ServerState>, held: Option<&Held<Instant>>, now: Instant) {
    let next = held.map_or(Operation::Active, |held| {
        let since = held.since.unwrap_or(now);
        let decision = Decision { reason: held.reason.clone(), who: held.who.clone(), since };
        if held.maintenance { Operation::Maintenance(decision, held.until) } else { Operation::Draining(decision) }
    });
    let to = next.standing();
    let before = state.operate(next, now);
    if before.standing() != to {
        tracing::info!(
            server = state.name(),
            upstream = upstream.name,
            from = before.standing().as_str(),
            to = to.as_str(),
            reason = held.map(|held| &held.reason),
            who = held.map(|held| &held.who),
            in_flight = state.in_flight(),
            "operation changed"
        );
    }
    if to.takes_work() && !before.standing().takes_work() {
        upstream.dispatcher.appeared(state);
    }
}

fn is_held(state: &ServerState, model: Option<&str>, now: Instant) -> bool {
    let held = |one: &super::super::circuits::CircuitView| {
        one.model.as_deref() == model && one.cause == Some(Cause::Order) && matches!(one.state, State::Open { .. })
    };
    state.circuit_views(now).iter().any(held)
}

/// Does to a circuit what was ordered elsewhere a moment ago.
pub fn order(about: &About, order: CircuitOrder, snapshot: &Snapshot, now: Instant) {
    if let About::Circuit { model, .. } = about
        && let Some(state) = about.upstream(snapshot).and_then(|upstream| about.server(upstream))
    {
        state.force_circuit(order, model.as_deref(), now);
    }
}
