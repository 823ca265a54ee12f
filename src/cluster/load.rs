//! Requests that run and wait: told to the others whenever they change, and heard from them.
//!
//! Each message is all of it, so none depends on another, and a lost one is mended by the next. It is published at most
//! each 15 ms, rarer where it is large, and again from time to time without a change: whoever comes late hears it, and who
//! falls silent is noticed. Redis passes messages of one channel on in one order, so an instance that hears itself knows that
//! the others have heard it too, or are about to. What was heard outlives the connection, as the requests of the others do.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::MissedTickBehavior;

use super::Around;
use super::keys::Topic;
use super::link::Event;
use crate::clock;
use crate::fleet::cluster::DEAD_AFTER;
use crate::fleet::dispatch::{Dispatcher, Heard, UpstreamLoad};

/// Least time between two messages.
const TICK: Duration = Duration::from_millis(15);
/// Time between two messages that say the same, while there is anything to say.
const AGAIN: Duration = Duration::from_millis(250);
/// The same while there is nothing.
const AGAIN_IDLE: Duration = Duration::from_secs(2);
/// How long those that wait elsewhere are believed to wait without being told again.
const FRESH: Duration = Duration::from_secs(1);
/// Bytes of a message for each of which one tick passes before the next.
const BYTES: usize = 8 << 10;

#[derive(Debug, Deserialize, Serialize)]
struct Message {
    /// Who says it.
    i: String,
    /// By upstream.
    u: BTreeMap<String, UpstreamLoad>,
}

/// What an instance said last.
pub struct Peer {
    at: Instant,
    upstreams: BTreeMap<String, UpstreamLoad>,
}

/// What others said last, by name.
pub type Peers = Arc<Mutex<HashMap<String, Peer>>>;

/// Tells and hears.
pub struct Loads {
    around: Around,
    own: String,
    /// What the others know of us.
    known: BTreeMap<String, UpstreamLoad>,
    said: BTreeMap<String, UpstreamLoad>,
    said_at: Instant,
    /// Whether nothing was said over this connection: the others may have forgotten what was said over another one.
    silent: bool,
    pause: u32,
}

impl Loads {
    /// Nothing was told yet; what was heard over another connection counts until it is too old.
    pub fn new(around: Around, own: &str) -> Self {
        Self {
            around,
            own: own.to_owned(),
            known: BTreeMap::new(),
            said: BTreeMap::new(),
            said_at: clock::now(),
            silent: true,
            pause: 0,
        }
    }

    /// Tells and hears for as long as the cluster is configured.
    pub async fn run(mut self, mut events: Receiver<Event>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = clock::now();
        self.apply();
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(mut heard) = self.take(event) else { return };
                    loop {
                        match events.try_recv() {
                            Ok(event) => heard |= self.take(Ok(event)).unwrap_or(false),
                            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                            Err(TryRecvError::Lagged(_)) => {}
                        }
                    }
                    if heard {
                        self.apply();
                    }
                }
                _ = ticks.tick() => {
                    self.tell().await;
                    if clock::now() - look >= AGAIN {
                        look = clock::now();
                        self.forget();
                        self.apply();
                    }
                }
            }
        }
    }

    /// Takes what happened; whether that says anything, and nothing when nothing can happen any more.
    fn take(&mut self, event: Result<Event, RecvError>) -> Option<bool> {
        match event {
            Ok(Event::Told(Topic::Load, message)) => self.hear(&message),
            Ok(Event::Up) => (self.pause, self.silent) = (0, true),
            // What is known of us may be less than there is by now, for all that is known.
            Ok(Event::Down) => self.known.clear(),
            Ok(Event::Told(..)) | Err(RecvError::Lagged(_)) => return Some(false),
            Err(RecvError::Closed) => return None,
        }
        Some(true)
    }

    fn hear(&mut self, message: &Bytes) {
        let Ok(Message { i, u }) = serde_json::from_slice(message) else { return };
        let now = clock::now();
        if i == self.own {
            self.known = u;
        } else {
            self.around.state.heard(&i, now);
            self.around.peers.lock().insert(i, Peer { at: now, upstreams: u });
        }
    }

    /// Forgets whoever is dead.
    fn forget(&mut self) {
        let now = clock::now();
        let view = self.around.state.view();
        let alive = |id: &str| view.members.iter().any(|member| member.id == id);
        // One that was heard before it was seen is alive too.
        self.around.peers.lock().retain(|id, peer| {
            let silent = now.saturating_duration_since(peer.at);
            silent < AGAIN_IDLE || silent < DEAD_AFTER && alive(id)
        });
    }

    fn dispatchers(&self) -> Vec<(String, Arc<Dispatcher>)> {
        let snapshot = self.around.store.load();
        let scheduled = snapshot.upstreams.iter().filter(|upstream| upstream.has_models());
        scheduled.map(|upstream| (upstream.name.clone(), Arc::clone(&upstream.dispatcher))).collect()
    }

    fn apply(&self) {
        let now = clock::now();
        // One that was heard before its sign of life was seen is there too.
        let peers = self.around.peers.lock();
        let heard = peers.values().filter(|peer| now.saturating_duration_since(peer.at) < FRESH).count();
        let instances = self.around.state.instances().max(u32::try_from(heard + 1).unwrap_or(u32::MAX));
        let deaf = !self.around.link.is_up();
        let nothing = UpstreamLoad::default();
        for (name, dispatcher) in self.dispatchers() {
            let heard: Vec<Heard<'_>> = peers
                .values()
                .filter_map(|peer| {
                    let fresh = now.saturating_duration_since(peer.at) < FRESH;
                    Some(Heard { load: peer.upstreams.get(&name)?, at: peer.at, fresh })
                })
                .collect();
            dispatcher.hear(&heard, Some(self.known.get(&name).unwrap_or(&nothing)), instances, deaf);
        }
    }

    async fn tell(&mut self) {
        if !self.around.link.is_up() {
            return;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        let now = clock::now();
        let again = if self.said.is_empty() { AGAIN_IDLE } else { AGAIN };
        let due = self.silent || now - self.said_at >= again;
        let dispatchers = self.dispatchers();
        let mut changed = false;
        for (_, dispatcher) in &dispatchers {
            changed |= dispatcher.take_untold();
        }
        if !changed && !due {
            return;
        }
        let all: BTreeMap<String, UpstreamLoad> = dispatchers
            .iter()
            .map(|(name, dispatcher)| (name.clone(), dispatcher.own_load()))
            .filter(|(_, load)| !load.0.is_empty())
            .collect();
        let same = all.len() == self.said.len()
            && all
                .iter()
                .zip(&self.said)
                .all(|(one, said)| one.0 == said.0 && one.1.is_same(said.1, now - self.said_at));
        if same && !due {
            return;
        }
        let message = Message { i: self.own.clone(), u: all };
        let Ok(text) = serde_json::to_vec(&message) else { return };
        self.pause = u32::try_from(text.len() / BYTES).unwrap_or(u32::MAX);
        if self.around.link.publish(Topic::Load, &text).await.is_ok() {
            self.silent = false;
            self.said = message.u;
            self.said_at = now;
        }
    }
}
