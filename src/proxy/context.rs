//! What one request carries from its head to its log line.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, request};

use super::again::Again;
use super::client::Client;
use super::compress::Encoder;
use super::message::AnswerHead;
use super::quota::Quotas;
use super::request_body::RequestBody;
use super::response_cache::Keeping;
use super::service::Service;
use super::timer::LazyTimer;
use super::trace::Trace;
use super::waiting_stream::Comments;
use crate::clock;
use crate::fleet::body_budget;
use crate::fleet::choose::Chosen;
use crate::fleet::connections::Phase;
use crate::fleet::digests::Changing;
use crate::fleet::dispatch::Place;
use crate::fleet::embeddings_cache::Flight;
use crate::fleet::keys::Key;
use crate::fleet::limits::Admitted;
use crate::fleet::permit::Permit;
use crate::fleet::running::{self, Entry};
use crate::fleet::server::{ServerState, Slot};
use crate::fleet::snapshot::{ListenerSettings, Route, Snapshot, Upstream};
use crate::ollama::complaint::Complaint;
use crate::ollama::dialect::Dialect;
use crate::ollama::usage::UsageScan;
use crate::policy::failure::Reason;
use crate::routing::host::KeptName;
use crate::telemetry::cache_metrics::Bypass;

/// What a request may know of the connection that it came on.
#[derive(Debug)]
pub struct Connection {
    /// The other end, as the PROXY protocol tells it where that is spoken.
    pub peer: IpAddr,
    /// The same as a header value.
    pub peer_text: HeaderValue,
    /// Whether it is encrypted.
    pub tls: bool,
    /// The listener that it came to, as it was then.
    pub listener: Arc<ListenerSettings>,
}

impl Connection {
    /// The facts of a new connection.
    pub fn new(peer: IpAddr, tls: bool, listener: Arc<ListenerSettings>) -> Self {
        let peer = peer.to_canonical();
        let peer_text = HeaderValue::try_from(peer.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { peer, peer_text, tls, listener }
    }

    /// Whether no other request is to follow on it.
    pub fn is_ending(&self) -> bool {
        self.listener.connections.phase() != Phase::Open
    }
}

/// A request that is being served: who asked, what came, what is known.
pub struct Exchange<'c> {
    /// What all requests share.
    pub service: &'c Service,
    /// Who asked.
    pub client: Client<'c>,
    /// The head of the request.
    pub head: request::Parts,
    /// Its body.
    pub body: RequestBody,
    /// The timer of the connection.
    pub timer: &'c mut LazyTimer,
    /// The limits of the listener that it came to.
    pub listener: Arc<ListenerSettings>,
    /// What is known.
    pub ctx: RequestContext,
}

impl Exchange<'_> {
    /// Path and query as the server gets them.
    pub fn target(&self) -> &str {
        let target = self.ctx.target.as_ref().or(self.head.uri.path_and_query());
        target.map_or("/", PathAndQuery::as_str)
    }

    /// The path as the server gets it.
    pub fn path(&self) -> &str {
        self.ctx.target.as_ref().map_or(self.head.uri.path(), PathAndQuery::path)
    }
}

/// What is known about a request.
pub struct RequestContext {
    /// The configuration that it began with, for all its life.
    pub snapshot: Arc<Snapshot>,
    /// The connection that it came on.
    pub connection: Arc<Connection>,
    /// The client's address.
    pub client: IpAddr,
    /// The same as a header value.
    pub client_ip: HeaderValue,
    /// Whether the client itself spoke TLS.
    pub client_tls: bool,
    /// The way from the client to us, where trusted proxies stand on it.
    pub forwarded_for: Option<HeaderValue>,
    /// The key that it came with.
    pub key: Option<Arc<Key>>,
    /// What the limits of its route gave it.
    pub admitted: Admitted,
    /// The token quotas that it is charged to.
    pub quotas: Option<Box<Quotas>>,
    /// What web pages of other origins are told.
    pub cors: Option<Vec<(HeaderName, HeaderValue)>>,
    /// When its head was complete.
    pub started: Instant,
    /// Its id.
    pub request_id: Option<HeaderValue>,
    /// The host that the client named.
    pub host: Option<HeaderValue>,
    /// Its canonical name, once it has been judged.
    pub host_name: KeptName,
    /// Where it goes.
    pub route: Option<Arc<Route>>,
    /// The upstream that answers, if one does.
    pub upstream: Option<Arc<Upstream>>,
    /// Path and query for the server, where they are not those of the client.
    pub target: Option<PathAndQuery>,
    /// Compresses the answer.
    pub encoder: Option<Encoder>,
    /// The answer that stands in the place of the server's.
    pub instead: Option<Reply>,
    /// The cookie by which the client will be known.
    pub set_cookie: Option<HeaderValue>,
    /// Whose error bodies its client expects.
    pub dialect: Dialect,
    /// The model by its canonical name.
    pub model: Option<String>,
    /// The model as the client wrote it.
    pub written: Option<String>,
    /// Whether it asks for another protocol.
    pub wants_upgrade: bool,
    /// Whether doing it twice is as good as once (RFC 9110 9.2.2).
    pub idempotent: bool,
    /// Whether it runs a model.
    pub inference: bool,
    /// Whether the first server that is up will do, whatever models it has.
    pub first_server: bool,
    /// Whether it takes a slot of a server.
    pub takes_slot: bool,
    /// Servers that were tried, by their index.
    pub tried: Vec<usize>,
    /// The same servers.
    pub tried_servers: Vec<Arc<ServerState>>,
    /// Time spent in queues.
    pub queued: Duration,
    /// Why its server was chosen, for a client that asked.
    pub decision: Option<HeaderValue>,
    /// When it may be worth asking again, where that is known.
    pub retry_after: Option<Duration>,
    /// Attempts made, those after a stale connection not counted.
    pub attempts: u32,
    /// Whether it was sent again because of a stale connection.
    pub stale_retried: bool,
    /// What it carries for further attempts.
    pub again: Again,
    /// The attempt that runs, or the last one.
    pub attempt: Option<Attempt>,
    /// Status that the client was answered.
    pub status: Option<u16>,
    /// What its client is told while it waits.
    pub comments: Comments,
    /// Bytes of the body that the running attempt sent.
    pub body_in: u64,
    /// Bytes of the answer's body.
    pub body_out: u64,
    /// Why it ended, once that is known.
    pub reason: Option<Reason>,
    /// Reads the answer in passing.
    pub usage: Option<UsageScan>,
    /// From the start to the first token of a stream.
    pub first_token: Option<Duration>,
    /// When the last one came.
    pub last_token: Option<Instant>,
    /// The server's answer is wanted whole.
    pub whole: Option<Box<Whole>>,
    /// The server's answer is to be kept, or is about what is.
    pub keeping: Option<Box<Keeping>>,
    /// What the cache of its route had to do with it.
    pub cache: CacheTold,
    /// A call of it that may change a model; it is over when the client has got its answer.
    pub changing: Option<Changing>,
    /// Whether it counts among those being served.
    pub counted: bool,
    /// Its place in a trace.
    pub trace: Option<Box<Trace>>,
}

/// One try at one server.
pub struct Attempt {
    /// Index of the server in the upstream.
    pub index: usize,
    /// The server.
    pub server: Arc<ServerState>,
    /// What it has of the server, until it is over.
    pub held: Option<Held>,
    /// What the server's circuits want to be told about, until they are.
    pub permit: Option<Permit>,
    /// When it began.
    pub started: Instant,
    /// Requests that had begun on the server then, this one included, where no other one ran there.
    pub alone_at: Option<u32>,
    /// From the start to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Status that the server answered.
    pub status: Option<u16>,
    /// What the text of its error means, where it was looked at.
    pub complaint: Option<Complaint>,
}

/// What an attempt has of its server; given back in this order when it is dropped.
pub struct Held {
    /// Its place in the register; given up before the slot, so that an empty server lists nothing.
    pub entry: Entry,
    /// The slot; nobody else has it.
    pub _slot: Slot,
    /// The same for the scheduler, where there is one.
    pub place: Option<Place>,
}

impl Attempt {
    /// Begins an attempt at a chosen server.
    pub fn new(chosen: Chosen, place: Option<Place>, ctx: &RequestContext, now: Instant) -> Self {
        let Chosen { index, slot, permit } = chosen;
        let request = running::Request::new(ctx.request_id.clone(), ctx.model.clone(), now);
        let server = Arc::clone(slot.server());
        let alone_at = (server.in_flight() <= 1).then(|| server.begun());
        let entry = Entry::new(&server, request);
        Self {
            index,
            server,
            held: Some(Held { entry, _slot: slot, place }),
            permit: Some(permit),
            started: now,
            alone_at,
            first_byte: None,
            status: None,
            complaint: None,
        }
    }

    /// The place that the scheduler gave it, while it has it.
    pub fn place(&self) -> Option<&Place> {
        self.held.as_ref()?.place.as_ref()
    }

    /// Notes how far it has come.
    pub fn reached(&self, phase: running::Phase) {
        self.held.iter().for_each(|held| held.entry.reached(phase));
    }
}

/// An answer that is wanted whole, and then the answer.
pub struct Whole {
    /// Most bytes of its body.
    pub most: usize,
    /// Whether it answers a part of the request only: then it is never passed on, unless it is an error.
    pub is_part: bool,
    /// Those who wait for it. It ends as soon as the answer is passed on: there is nothing to wait for then.
    pub flight: Flight,
    /// The answer to a part came well, but is of no use.
    pub unfit: Option<Bypass>,
    /// Head and body, once they are there, and what they hold of the budget.
    pub answer: Option<(AnswerHead, Bytes, body_budget::Held)>,
}

/// What is told of a cache.
#[derive(Default)]
pub struct CacheTold {
    /// To the client.
    pub status: Option<HeaderValue>,
    /// In the log.
    pub word: &'static str,
    /// Tokens that earlier attempts of the same request computed.
    pub tokens: u64,
}

/// An answer of our own.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Why.
    pub reason: Reason,
    /// Content-Type, unless it stands among the fields.
    pub content_type: Option<HeaderValue>,
    /// Body.
    pub body: bytes::Bytes,
    /// More fields.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request goes no further.
pub enum Stop {
    /// It is answered here.
    Answer(Reply),
    /// The client is gone or cannot be answered.
    Broken(Reason),
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        Self::Answer(reply)
    }
}

impl RequestContext {
    /// Begins a request.
    pub fn new(snapshot: Arc<Snapshot>, connection: Arc<Connection>) -> Self {
        Self {
            snapshot,
            client: connection.peer,
            client_ip: connection.peer_text.clone(),
            client_tls: connection.tls,
            connection,
            forwarded_for: None,
            key: None,
            admitted: Admitted::default(),
            quotas: None,
            cors: None,
            started: clock::now(),
            request_id: None,
            host: None,
            host_name: KeptName::default(),
            route: None,
            upstream: None,
            target: None,
            encoder: None,
            instead: None,
            set_cookie: None,
            dialect: Dialect::Native,
            model: None,
            written: None,
            wants_upgrade: false,
            idempotent: false,
            inference: false,
            first_server: false,
            takes_slot: true,
            tried: Vec::new(),
            tried_servers: Vec::new(),
            queued: Duration::ZERO,
            decision: None,
            retry_after: None,
            attempts: 0,
            stale_retried: false,
            again: Again::default(),
            attempt: None,
            status: None,
            comments: Comments::default(),
            body_in: 0,
            body_out: 0,
            reason: None,
            usage: None,
            first_token: None,
            last_token: None,
            whole: None,
            keeping: None,
            cache: CacheTold::default(),
            changing: None,
            counted: false,
            trace: None,
        }
    }

    /// The canonical name of the host that the client named; empty where there is none.
    pub fn host_name(&self) -> &str {
        self.host_name.of(self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default())
    }

    /// Whether the client has been answered more than that it waits.
    pub fn is_answered(&self) -> bool {
        self.status.is_some() && !self.comments.is_open()
    }

    /// When the whole request must be over.
    pub fn end(&self) -> Option<Instant> {
        let limit = self.route.as_ref()?.timeouts.request?;
        Some(self.started + limit)
    }
}
