//! The data path: Pingora's engine with our hooks, behind an accept loop of our own.
//!
//! One request passes these files in this order: [`listener`] accepts, [`connection`] reads and
//! [`head`] checks its head, [`request`] finds its route and its model ([`body_scan`] reads as much of
//! the body as that needs, [`held_body`] keeps it, [`replay`] gives it back), [`attempt`] chooses a
//! server and judges failures, [`headers`] writes what the server gets, [`response`] watches the
//! answer, [`finish`] settles accounts, [`watchdog`] ends a wait that nobody else would. [`service`] is the list of hooks that Pingora calls.
//!
//! Pingora's types appear in this folder and in `lifecycle` only.

mod attempt;
mod body_scan;
mod chunked;
mod classify;
mod client_stream;
pub mod compress;
mod connection;
mod context;
mod deadline;
pub mod decode_body;
pub mod files;
mod finish;
pub mod head;
mod headers;
mod held_body;
mod listener;
mod replay;
mod reply;
mod request;
mod response;
mod service;
mod watchdog;

pub use listener::{BoundListener, Data, bind, serve};
