//! What an instance saw of a server by its own requests, told to the others as a hint: never as an order.
//!
//! - **A circuit opened.** It judged the way from that instance to the server; the others go on by their own judgement. But the
//!   leader, which makes the recovery tests for all, tests the server as if it were ill itself.
//! - **A model gave a token.** The leader's test proves the same for all, so each does what it would after a test of its own: a
//!   circuit that is open becomes half open before its time, and the next real request decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Around;
use super::decisions::Message;
use super::keys::Topic;
use crate::clock;
use crate::fleet::server::{Identity, ServerState};
use crate::policy::circuit::State;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Time after which an illness that lasts is told again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long an illness that was told counts.
const COUNTS: Duration = Duration::from_secs(12);

/// What an instance saw.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Hint {
    saw: What,
    upstream: String,
    server: String,
    url: String,
    by: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// Its circuit opened by requests.
    CircuitOpen,
    /// A model of it gave a token in a test.
    Token,
}

impl Hint {
    /// Name of the instance that saw it.
    pub fn by(&self) -> &str {
        &self.by
    }
}

/// Follows a hint as far as one is followed.
pub fn take(hint: &Hint, around: &Around) {
    let snapshot = around.store.load();
    let servers = snapshot.upstreams.iter().flat_map(|upstream| &upstream.servers).map(|member| &member.state);
    let identity = (&hint.upstream, &hint.server, &hint.url);
    let is_it = |state: &ServerState| {
        let Identity { upstream, name, url } = &state.identity;
        (upstream, name, url) == identity
    };
    let Some(state) = servers.into_iter().find(|state| is_it(state)) else { return };
    let now = clock::now();
    match hint.saw {
        What::CircuitOpen => {
            state.recovery.with_elsewhere(|until| *until = now.checked_add(COUNTS));
            state.recovery.stir();
        }
        What::Token => {
            if let Some(change) = state.half_open_early(now) {
                let (from, to) = (change.from.as_str(), change.to.as_str());
                let (server, by) = (state.name(), &hint.by);
                let reason = "a model gave a token to another instance";
                tracing::info!(server, upstream = hint.upstream, from, to, by, reason, "circuit changed");
            }
        }
    }
}

/// Tells what this instance sees, for as long as the cluster is configured.
pub async fn watch(around: Around) {
    let mut told: BTreeMap<Identity, Instant> = BTreeMap::new();
    let mut tested: BTreeMap<Identity, Instant> = BTreeMap::new();
    let began = clock::now();
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let snapshot = around.store.pin();
        let now = clock::now();
        let leads = around.state.leads(now);
        snapshot.lasting.dispatchers.lead(leads);
        let mut seen = Vec::new();
        let mut known = BTreeSet::new();
        for state in snapshot.upstreams.iter().flat_map(|upstream| &upstream.servers).map(|member| &member.state) {
            let identity = &state.identity;
            known.insert(identity.clone());
            let open = matches!(state.circuit_state(now), State::Open { .. }) && !state.circuit_is_held(now);
            let due = told.get(identity).is_none_or(|at| now.saturating_duration_since(*at) >= AGAIN);
            if open && !leads && due {
                told.insert(identity.clone(), now);
                seen.push((What::CircuitOpen, identity.clone()));
            } else if !open {
                told.remove(identity);
            }
            let last = tested.get(identity).copied().unwrap_or(began);
            let token = state.recovery.with(|recovery| {
                let last_good =
                    recovery.history().next_back().filter(|test| test.failure.is_none() && test.model.is_some());
                last_good.map(|test| test.at + test.took).filter(|at| *at > last)
            });
            if let Some(at) = token {
                tested.insert(identity.clone(), at);
                seen.push((What::Token, identity.clone()));
            }
        }
        told.retain(|identity, _| known.contains(identity));
        tested.retain(|identity, _| known.contains(identity));
        for (saw, Identity { upstream, name, url }) in seen {
            let by = around.link.plan().instance.clone();
            let hint = Hint { saw, upstream, server: name, url, by };
            let message = serde_json::to_vec(&Message::Saw { hint }).unwrap_or_default();
            // Who does not hear it goes on as before.
            drop(around.link.publish(Topic::Decisions, &message).await);
        }
    }
}
