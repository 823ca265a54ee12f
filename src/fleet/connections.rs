//! The connections of clients: how many there are, and whether there may be one more.
//!
//! # Problem
//! A thousand idle connections cost little, a million cost the process. They must be counted where they are
//! accepted, before a byte is read: over all listeners for the file descriptors, for each listener, and for
//! each client, so that one cannot take all. HTTP/2 puts many requests on one connection, so these have a
//! limit of their own.
//!
//! # Invariants
//! - Everything counted is held by a guard and freed when that is dropped.
//! - What is refused is not counted anywhere.
//! - A connection stands for the descriptors that it may need (`policy::descriptors`): fewer between two requests.
//! - New limits hold for what comes next; what is open stays open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::policy::descriptors::{BUSY, Descriptors, IDLE};
use crate::policy::network::network_of;

#[cfg(test)]
mod tests;

/// Limits of a listener; `u32::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections.
    pub connections: u32,
    /// Open connections of one client: an IPv4 address or an IPv6 /64.
    pub connections_per_ip: u32,
    /// Requests being served.
    pub requests: u32,
}

/// How far a listener is on its way out. There is no way back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Clients are welcome.
    #[default]
    Open,
    /// Clients are served as ever, and each is told that its connection ends with the answer.
    Leaving,
    /// Nobody is accepted; what has begun is finished.
    Closed,
}

/// Why a connection was refused. It is closed without a word: an answer would cost more than it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// The listener has its most.
    OfListener,
    /// The client has its most at this listener.
    OfClient,
}

/// The open connections of all listeners, as the descriptors that they may need.
#[derive(Debug, Default)]
pub struct AllConnections {
    needed: AtomicU64,
    /// Accept loops that wait for fewer.
    waiting: AtomicUsize,
    freed: Notify,
}

impl AllConnections {
    /// How many descriptors they may need.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.needed.load(Ordering::SeqCst)
    }

    /// Waits until they need no more than `room`: for an accept loop that has no descriptor left.
    pub async fn wait_for(&self, room: u64) {
        if self.needed() <= room {
            return;
        }
        let _waits = Waits::new(&self.waiting);
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on a connection that closes is not missed.
            freed.as_mut().enable();
            if self.needed() <= room {
                return;
            }
            freed.await;
        }
    }

    fn need(&self, more: u64) -> u64 {
        self.needed.fetch_add(more, Ordering::SeqCst) + more
    }

    fn free(&self, fewer: u64) {
        self.needed.fetch_sub(fewer, Ordering::SeqCst);
        // Requests come and go much more often than somebody waits.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }
}

/// Counts somebody who waits.
struct Waits<'w>(&'w AtomicUsize);

impl<'w> Waits<'w> {
    fn new(waiting: &'w AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The connections and requests of one listener. It outlives snapshots, as long as there is such a listener.
#[derive(Debug)]
pub struct Connections {
    all: Arc<AllConnections>,
    open: AtomicU32,
    requests: AtomicU32,
    clients: Mutex<HashMap<IpAddr, u32>>,
    most_open: AtomicU32,
    most_of_client: AtomicU32,
    most_requests: AtomicU32,
    phase: watch::Sender<Phase>,
}

impl Connections {
    /// A listener without connections.
    #[must_use]
    pub fn new(all: Arc<AllConnections>, limits: ConnectionLimits) -> Self {
        Self {
            all,
            open: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            clients: Mutex::default(),
            most_open: AtomicU32::new(limits.connections),
            most_of_client: AtomicU32::new(limits.connections_per_ip),
            most_requests: AtomicU32::new(limits.requests),
            phase: watch::Sender::default(),
        }
    }

    /// How far it is on its way out.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a phase, unless it is there or further.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let is_later = phase > *current;
            *current = phase.max(*current);
            is_later
        });
    }

    /// Waits until it is in a phase or further.
    pub async fn reaches(&self, phase: Phase) {
        // It cannot end: the other end is our own.
        drop(self.phase.subscribe().wait_for(|current| *current >= phase).await);
    }

    /// Limits for what comes next.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.most_open.store(limits.connections, Ordering::Relaxed);
        self.most_of_client.store(limits.connections_per_ip, Ordering::Relaxed);
        self.most_requests.store(limits.requests, Ordering::Relaxed);
    }

    /// Counts a connection that was accepted. `client` is its address; `None` when that is one of a trusted
    /// proxy, which speaks for many clients ([`OpenConnection::belongs_to`] tells later whose it is).
    ///
    /// # Errors
    /// Which limit it would exceed; it is to be closed.
    pub fn try_open(self: &Arc<Self>, client: Option<IpAddr>) -> Result<OpenConnection, TooMany> {
        if !take_one(&self.open, &self.most_open) {
            return Err(TooMany::OfListener);
        }
        self.all.need(BUSY);
        let mut open = OpenConnection { listener: Arc::clone(self), client: None, needs: BUSY };
        match client {
            Some(client) if !open.belongs_to(client) => Err(TooMany::OfClient),
            _ => Ok(open),
        }
    }

    /// Counts a request; `None` when the listener has its most, and the request is to be answered with
    /// `Reason::Overloaded`.
    #[must_use]
    pub fn try_request(self: &Arc<Self>) -> Option<RunningRequest> {
        take_one(&self.requests, &self.most_requests).then(|| RunningRequest { listener: Arc::clone(self) })
    }

    /// Open connections.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Requests being served.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many clients have a connection.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.lock().len()
    }

    fn join(&self, client: IpAddr) -> bool {
        let most = self.most_of_client.load(Ordering::Relaxed);
        let mut clients = self.clients.lock();
        let open = clients.get(&client).copied().unwrap_or(0);
        if open >= most {
            return false;
        }
        clients.insert(client, open + 1);
        true
    }

    fn leave(&self, client: IpAddr) {
        if let Entry::Occupied(mut open) = self.clients.lock().entry(client) {
            *open.get_mut() = open.get().saturating_sub(1);
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// Adds one, unless there are `most`.
fn take_one(number: &AtomicU32, most: &AtomicU32) -> bool {
    let most = most.load(Ordering::Relaxed);
    let one_more = |number: u32| number.checked_add(1).filter(|sum| *sum <= most);
    number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
}

/// A connection that is open; it counts until this is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    listener: Arc<Connections>,
    client: Option<IpAddr>,
    /// Descriptors.
    needs: u64,
}

impl OpenConnection {
    /// Tells whose connection it is, such as a trusted proxy's PROXY header says. False when that client has its
    /// most: the connection is to be closed, and until then counts only for the listener.
    #[must_use]
    pub fn belongs_to(&mut self, client: IpAddr) -> bool {
        let client = network_of(client);
        if self.client == Some(client) {
            return true;
        }
        if let Some(before) = self.client.take() {
            self.listener.leave(before);
        }
        let joined = self.listener.join(client);
        self.client = joined.then_some(client);
        joined
    }

    /// It waits for another request, without a connection to a server.
    pub fn rests(&mut self) {
        self.listener.all.free(self.needs - IDLE);
        self.needs = IDLE;
    }

    /// A request has come. False when no descriptor is left for its server: it is to be answered with
    /// `Reason::Overloaded`, and its connection to be closed.
    #[must_use]
    pub fn works(&mut self, descriptors: Descriptors) -> bool {
        if self.needs == BUSY {
            return true;
        }
        let finds_one = descriptors.holds(self.listener.all.need(BUSY - IDLE));
        if finds_one {
            self.needs = BUSY;
        } else {
            self.listener.all.free(BUSY - IDLE);
        }
        finds_one
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.listener.leave(client);
        }
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
        self.listener.all.free(self.needs);
    }
}

/// A request being served; it counts until this is dropped.
#[derive(Debug)]
pub struct RunningRequest {
    listener: Arc<Connections>,
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.listener.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
