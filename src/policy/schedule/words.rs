//! The words in which the scheduler is told what happens, and answers.

use super::orders::OrderEnd;
use crate::policy::queue::Rank;

/// A server, for as long as the upstream has it.
pub type ServerId = usize;
/// A model, for as long as the process runs.
pub type ModelId = usize;
/// A request that arrived and is not finished.
pub type Ticket = u64;
/// A load that an operator ordered.
pub type OrderId = u64;
/// The numbers of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Most requests that wait for one model.
    pub max_pending: usize,
    /// Seconds of waiting that lift a waiter by one class.
    pub aging: f64,
    /// Seconds after which nobody is kept from a free slot any more, so that all begin before they would be turned away.
    pub patience: f64,
    /// Parallel slots of a model on a server that nothing is known about.
    pub slots: u32,
    /// Whether models come into memory by being asked for (Ollama), or are there or not.
    pub loads: bool,
    /// Whether only models in memory are asked for.
    pub only_loaded: bool,
    /// Whether a placement is learned from the traffic.
    pub plan: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_pending: 100, aging: 10.0, patience: 15.0, slots: 4, loads: true, only_loaded: false, plan: false }
    }
}

/// What the configuration says about a server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerFacts {
    /// Its name.
    pub name: String,
    /// Most requests at a time.
    pub max_in_flight: u32,
    /// Most requests at a time for one model; `None` when that is to be learned.
    pub max_in_flight_per_model: Option<u32>,
    /// Most models in memory at a time.
    pub max_loaded: u32,
    /// Bytes of video memory; `None` when unknown.
    pub memory: Option<u64>,
    /// Its share relative to others.
    pub weight: u32,
}

/// Options that a runner is loaded with: a request with others has Ollama load the model anew (`sched.go`,
/// `needsReload`). `None` is the server's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunnerOptions {
    /// Tokens of context.
    pub num_ctx: Option<u32>,
    /// Layers on the GPU.
    pub num_gpu: Option<u32>,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Its model.
    pub model: ModelId,
    /// Bytes of its body; 0 when unknown.
    pub bytes: u64,
    /// Hash of the beginning of its conversation, the shared system prompt left out.
    pub conversation: Option<u64>,
    /// The options that it wants its model loaded with.
    pub options: RunnerOptions,
    /// Whose it is.
    pub rank: Rank,
    /// Servers that it must not go to again.
    pub tried: Vec<ServerId>,
    /// Whether only a server will do that has its model in memory.
    pub warm: bool,
}

/// A request that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// Its ticket.
    pub ticket: Ticket,
    /// Where it waits.
    pub server: ServerId,
    /// Seconds for which that server reads its prompt.
    pub reading: f64,
    /// What it asks for.
    pub request: Request,
}

/// A request that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Where.
    pub server: ServerId,
    /// What for.
    pub model: ModelId,
    /// Requests of the same model that ran there already.
    pub beside: u32,
    /// Bytes of its body.
    pub bytes: u64,
    /// Tokens of its prompt that the server should know already.
    pub cached: f64,
    /// Seconds for which a server that does nothing else reads its prompt.
    pub reading: f64,
    /// When its prompt should have been read, s.
    pub read_by: f64,
    /// Whether its answer has begun, or should have.
    pub answers: bool,
    /// How many shared the card, itself included, while its prompt was read: the mean of its beginning and its end.
    pub sharing: f64,
    /// The same while it was answered.
    pub sharing_answer: f64,
}

/// What an answer said about itself; seconds and tokens, 0 for what it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Whether the request went well.
    pub good: bool,
    /// From its arrival at the server to its end.
    pub total: f64,
    /// Until its model was in memory.
    pub load: f64,
    /// Tokens of the prompt that were worked on.
    pub prompt_tokens: f64,
    /// Time on the prompt.
    pub prompt: f64,
    /// Tokens of the answer.
    pub output_tokens: f64,
    /// Time on the answer.
    pub output: f64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A waiter goes to this server now.
    Bind {
        /// Who.
        ticket: Ticket,
        /// Where to.
        server: ServerId,
    },
    /// A waiter made room for another one.
    PushedOut {
        /// Who.
        ticket: Ticket,
    },
    /// No server is left for a waiter.
    Nobody {
        /// Who.
        ticket: Ticket,
    },
    /// Bring a model into memory; [`Scheduler::loaded`] is to be told what came of it.
    Load {
        /// Where.
        server: ServerId,
        /// Which.
        model: ModelId,
        /// How.
        options: RunnerOptions,
    },
    /// Take a model out of memory.
    Unload {
        /// Where.
        server: ServerId,
        /// Which.
        model: ModelId,
        /// Why.
        why: Eviction,
    },
    /// A model left the memory of a server by itself; nothing is to be done about it.
    Left {
        /// Where.
        server: ServerId,
    },
    /// A load that an operator ordered is over.
    Ended {
        /// Which order.
        order: OrderId,
        /// What became of it.
        end: OrderEnd,
    },
}

/// Why a model leaves the memory of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// For another one that is loaded there.
    Room,
    /// Nobody used it for as long as `idle_unload` says.
    Idle,
    /// An operator ordered it.
    Operator,
    /// By itself: its time was over, the server made room, or a client asked for it.
    Server,
}

impl Eviction {
    /// The word in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Idle => "idle",
            Self::Operator => "operator",
            Self::Server => "server",
        }
    }
}

/// Why a server may not have a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excluded {
    /// In one word.
    pub why: &'static str,
    /// Whether it may have it all the same when nobody else is left.
    pub soft: bool,
}

/// What the scheduler cannot know itself when something happens.
pub struct Moment<'m> {
    /// The present, s.
    pub now: f64,
    /// Any number; decides among equals.
    pub random: u64,
    /// Why a server may not have a request for a model.
    pub excluded: &'m dyn Fn(ServerId, ModelId) -> Option<Excluded>,
}

/// What became of a request that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It runs.
    Bound(ServerId),
    /// It waits.
    Waits,
    /// As many wait for the model as may.
    Full,
    /// No server may have it.
    Nobody,
    /// No server has it in memory, and only such are asked.
    NotLoaded,
}
