//! An in-process fleet of simulated Ollama hosts, for `arriero demo`, the tests and the benches.
//!
//! **The problem.** A proxy is judged by what the servers behind it saw and by what happens when
//! they misbehave. A real Ollama needs a GPU, minutes and luck to show a reset after the third
//! token; these hosts do it on request, over real sockets, in Ollama's own words and framing.
//!
//! **What is simulated.** One [`Host`] is one `ollama serve`: models on disk, memory with eviction,
//! one load at a time, parallel slots per model in order of arrival, a bounded pending queue, the
//! native, OpenAI and Anthropic dialects, and checks of `Host` and `Origin`. Texts, header order
//! and chunking follow Ollama 0.33 (one JSON object and a newline per chunk, flushed at once).
//!
//! **What takes time.** By default nothing does. A host with a [`Card`] computes as a GPU server does: prompts
//! and answers share the card, slots remember conversations, loads and unloads take their time. A [`Plan`]
//! tells the hosts, and not the proxy, how long each answer will be.
//!
//! **What is recorded.** Every request a host begins is in its [`Ledger`], whatever became of it,
//! so a request sent twice cannot hide. Tests wait for a condition on the ledger, never for time.
//!
//! **What can break.** [`Faults`] hold rules that can be changed while requests run;
//! [`Host::kill`] and [`Host::stop_listening`] break the host as a whole; gates hold loads and
//! tokens back for as long as a test wants. [`RawUpstream`] is a bare TCP server for tests that
//! care about each byte on the wire.
//!
//! **Invariants.** A request is in the ledger before its body is read. A client that goes away
//! stops its generation and frees its slot at once: everything a request holds is owned by the
//! future or the body that hyper drops with the connection. Bodies of any size are hashed as they
//! stream; long strings (images) are never kept.
//!
//! This module imports nothing of the proxy but the clock, so that it is an independent witness.

mod access;
mod body;
mod card;
mod connection;
mod dialect;
mod embedding;
mod faults;
mod fields;
mod fleet;
mod gate;
mod generation;
mod gpu;
mod host;
mod inference;
mod intake;
mod keep_alive;
mod ledger;
mod library;
mod lifecycle;
mod model;
mod plan;
mod prefix_cache;
mod pulls;
mod raw;
mod reply;
mod router;
mod runner;
mod scheduler;
mod settings;
mod sharing;
mod times;
mod wire;

#[cfg(test)]
mod tests;

pub use card::Card;
pub use faults::{Fault, FaultRule, Faults, RuleId};
pub use fleet::Fleet;
pub use gate::Gate;
pub use host::Host;
pub use ledger::{Counts, Entry, Finished, Framing, Ledger, Outcome, WaitTimeout};
pub use model::{DemoModel, canonical_name};
pub use plan::{Observed, Plan, Planned};
pub use raw::{RawUpstream, Script, Step};
pub use settings::HostConfig;
