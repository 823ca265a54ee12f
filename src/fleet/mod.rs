//! What runs: the compiled configuration and the state of the servers beside it.
//!
//! # Problem
//! A configuration may change at any moment, under open streams, and must change as a whole; what
//! was learned about a server that stays must survive it.
//!
//! # Shape
//! - [`snapshot::Snapshot`] is one configuration, compiled and immutable. Every request pins the one
//!   that it began with, so nothing changes under it.
//! - [`content`] is what a route does itself: answers, redirects, files, fields.
//! - [`server::ServerState`] is what changes by itself: health, circuit, requests in flight, models,
//!   addresses. It is kept by identity (upstream, name, URL) and shared by successive snapshots.
//! - [`operation`] is what an operator decided about a server, [`running`] which requests run on it, [`recovery`] how it
//!   is tested while it is ill.
//! - [`recovery_action`] is what may make it well again.
//! - [`events`] is where what happens is told, [`notifications`] who is told and what became of it.
//! - [`exclusion`] says why a server may not have a request: [`circuits`] with their [`permit::Permit`]s, [`bans`]; and
//!   [`ejection`] when circuits are not followed.
//! - [`upstream_state::UpstreamState`] is what is known of an upstream as a whole.
//! - [`embeddings_cache::EmbeddingsCache`] is what a route keeps of embeddings, [`digests::Digests`] says for which bytes a
//!   model's name stands.
//! - [`response_cache::ResponseCache`] is what a route keeps of answers; [`kept`] is what the configuration wants of both.
//! - [`shared_answers`] is the way to what instances keep together.
//! - [`allowed`] says what a route allows a request for a model.
//! - [`store::Store`] holds the current snapshot and swaps it in one step.
//! - [`files::FromFiles`] is what is made from files beside the configuration, and follows their changes.
//! - [`limits::RouteLimits`] are the limits of a route; [`limiter::Limiter`], [`concurrency::Concurrency`] and
//!   [`connections::Connections`] hold what they count, and outlive snapshots too.
//! - [`dispatch::Dispatcher`] schedules the requests of an upstream, by [`crate::policy::schedule`]; [`placement`] says what
//!   the configuration wants of it.
//! - [`cluster`] is what is known of the other instances, where there are any.
//! - [`memory`] is what it learned, to be kept; [`explain`] says why it chose.
//! - [`waiting_room::WaitingRoom`] is where requests wait that are not scheduled.
//! - [`jobs::Jobs`] are the orders of operators about models, and how far each server is with them.
//! - [`process::ProcessState`] is what is known of our own process: what it uses, how its requests ended lately.
//! - [`keys::Keys`] are the API keys, from a file of their own that changes without a reload.
//! - [`sockets::Sockets`] are the open sockets of the listeners; they come and go with the configuration.
//! - [`reload::Reloader`] is the one way to a new snapshot, whoever asks for it.

pub mod admin_access;
pub mod allowed;
pub mod bans;
pub mod body_budget;
pub mod certificates;
pub mod choose;
pub mod circuits;
pub mod cluster;
pub mod compile;
pub mod concurrency;
pub mod connections;
pub mod content;
pub mod decisions;
pub mod digests;
pub mod dispatch;
pub mod ejection;
pub mod embeddings_cache;
pub mod events;
pub mod exclusion;
pub mod explain;
pub mod files;
pub mod gpu;
pub mod idle;
pub mod inventory;
pub mod jobs;
pub mod kept;
pub mod keys;
pub mod limiter;
pub mod limits;
pub mod listener_tls;
pub mod memory;
pub mod notifications;
pub mod operation;
pub mod permit;
pub mod placement;
pub mod process;
pub mod quotas;
pub mod recovery;
pub mod recovery_action;
pub mod reload;
pub mod response_cache;
pub mod running;
pub mod server;
pub mod shared_answers;
pub mod snapshot;
pub mod sockets;
pub mod store;
pub mod tracing;
pub mod upstream_state;
pub mod upstream_tls;
pub mod waiting_room;
pub mod watch;
