//! What one request carries from hook to hook.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use super::client_stream::Connection;
use super::deadline::Deadline;
use super::replay::Home;
use crate::clock;
use crate::fleet::choose::Chosen;
use crate::fleet::server::Slot;
use crate::fleet::snapshot::{Route, Snapshot};
use crate::ollama::dialect::Dialect;
use crate::ollama::usage::UsageScan;
use crate::policy::circuit::Pass;
use crate::policy::failure::Reason;

/// One request, from its head to its log line.
pub struct RequestContext {
    /// The configuration that it began with, for all its life.
    pub snapshot: Arc<Snapshot>,
    /// When its head was complete.
    pub started: Instant,
    /// Its id.
    pub request_id: Option<HeaderValue>,
    /// The connection that it came on.
    pub connection: Option<Arc<Connection>>,
    /// Its time limit.
    pub deadline: Arc<Deadline>,
    /// Where it goes.
    pub route: Option<Arc<Route>>,
    /// Whose error bodies its client expects.
    pub dialect: Dialect,
    /// The model by its canonical name.
    pub model: Option<String>,
    /// The model as the client wrote it.
    pub written: Option<String>,
    /// Whether doing it twice is as good as once (RFC 9110 9.2.2).
    pub idempotent: bool,
    /// Servers that were tried.
    pub tried: Vec<usize>,
    /// Attempts made, those after a stale connection not counted.
    pub attempts: u32,
    /// Whether it was sent again because of a stale connection.
    pub stale_retried: bool,
    /// The attempt that runs, or the last one.
    pub attempt: Option<Attempt>,
    /// Bytes of the body that the running attempt sent.
    pub body_in: u64,
    /// Whether the running attempt sent the whole body.
    pub sent: bool,
    /// Bytes of the answer's body.
    pub body_out: u64,
    /// Why it ended, once that is known.
    pub reason: Option<Reason>,
    /// What to tell the client, where the reason's own sentence is not enough.
    pub reply: Option<Reply>,
    /// Reads the answer in passing.
    pub usage: Option<UsageScan>,
    /// Where the client's session waits while a replaying one stands in its place.
    pub home: Option<Home>,
    /// Whether it counts among those being served.
    pub counted: bool,
}

/// One try at one server.
pub struct Attempt {
    /// Index of the server in the upstream.
    pub index: usize,
    /// The place on the server.
    pub slot: Slot,
    /// What the server's circuit wants to be told about.
    pub pass: Option<Pass>,
    /// When it began.
    pub started: Instant,
    /// From the start to the first byte of the answer.
    pub first_byte: Option<std::time::Duration>,
    /// Status that the server answered.
    pub status: Option<u16>,
}

impl Attempt {
    /// Begins an attempt at a chosen server.
    pub fn new(chosen: Chosen, now: Instant) -> Self {
        Self { index: chosen.index, slot: chosen.slot, pass: chosen.pass, started: now, first_byte: None, status: None }
    }
}

/// An answer of our own.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Why.
    pub reason: Reason,
    /// Content-Type.
    pub content_type: &'static str,
    /// Body.
    pub body: bytes::Bytes,
    /// More fields.
    pub fields: Vec<(http::HeaderName, HeaderValue)>,
}

impl RequestContext {
    /// Begins a request.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            started: clock::now(),
            request_id: None,
            connection: None,
            deadline: Arc::default(),
            route: None,
            dialect: Dialect::Native,
            model: None,
            written: None,
            idempotent: false,
            tried: Vec::new(),
            attempts: 0,
            stale_retried: false,
            attempt: None,
            body_in: 0,
            sent: false,
            body_out: 0,
            reason: None,
            reply: None,
            usage: None,
            home: None,
            counted: false,
        }
    }
}
