//! What runs: the compiled configuration and the state of the servers beside it.
//!
//! # Problem
//! A configuration may change at any moment, under open streams, and must change as a whole; what
//! was learned about a server that stays must survive it.
//!
//! # Shape
//! - [`snapshot::Snapshot`] is one configuration, compiled and immutable. Every request pins the one
//!   that it began with, so nothing changes under it.
//! - [`server::ServerState`] is what changes by itself: health, circuit, requests in flight, models,
//!   addresses. It is kept by identity (upstream, name, URL) and shared by successive snapshots.
//! - [`allowed`] says what a route allows a request for a model.
//! - [`store::Store`] holds the current snapshot and swaps it in one step.
//! - [`reload::Reloader`] is the one way to a new snapshot, whoever asks for it.

pub mod allowed;
pub mod body_budget;
pub mod choose;
pub mod compile;
pub mod inventory;
pub mod reload;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod watch;
