//! Schedule: which server begins which request when, so that the first token comes soonest.
//!
//! # Problem
//!
//! A server with the model in memory answers in milliseconds, one that must load it first in seconds or minutes, and the
//! load may throw out a model that others are waiting for. Counting requests or connections does not see that: a fleet
//! balanced so spends its time loading. What is best depends on all servers at once, so one value holds what is
//! known of all servers of an upstream, and every decision is made by it.
//!
//! # Shape
//!
//! [`Scheduler`] is a pure state machine: it is told what happens (a request came, a slot is free, a load is done, a
//! server listed its models) and answers with [`Action`]s. It does no I/O and has no clock: `now` is in seconds since any
//! fixed moment.
//!
//! - [`learned`]: speeds, load times, lengths and slots, from what answers say about themselves; each has a prior.
//! - [`score`]: what a request would wait on each server, term by term, and what it would cost the others.
//! - [`place`]: a request comes, gets a slot, which may be stolen from another server, runs, ends.
//! - `prompts`: how long prompts are read, and how many at a time.
//! - [`card`]: what the cards leave for models, and what a model loses that is not on them.
//! - `choice`: the server that it should wait for.
//! - `waiters`: those that wait, and when they go elsewhere.
//! - [`loads`]: which model is loaded next on which server, and which one makes room.
//! - [`residency`]: what is in memory where, from what servers list and from our own loads.
//! - [`elsewhere`]: what runs and waits at other instances before the same servers.
//! - [`rules`]: what an operator laid down: pins, places, copies, residency.
//! - [`plan`]: a placement for the traffic that was seen lately; evicting against it costs more.
//! - `figures`: what metrics show of it.
//! - `pairs`: what holds for each model on each server.
//! - [`memory`]: what was learned, for the next process.
//! - [`decision`]: the last choices with their terms, for whoever asks why.
//!
//! # The life of a request
//!
//! ```text
//!  arrive ──▶ scored on every holder ──▶ waits for (server, model) ──▶ bound to a slot ──▶ finished
//!                                          │  ▲      ▲                       │
//!                      model is cold: load ▼  │      └── freed slot ─────────┘
//!                                   our own load      takes its own head, else another's
//! ```
//!
//! A request waits here and not on the server (late binding), so that it can still go elsewhere, and so that a client
//! that leaves ends no load: loads are requests of our own.
//!
//! # Time scale
//!
//! Fleets differ: a load takes 3 s or 3 min. What has no natural length of its own (how long popularity is remembered, how
//! long prompts may be read together, the price of waiting for a load) is a multiple of the typical load time that was
//! observed ([`Scheduler::typical_load`]).
//!
//! # Invariants
//!
//! - A request is bound at most once for each time it arrives, and never to a server that was excluded.
//! - One load of ours at a time on a server, and one for each (server, model).
//! - A pinned model, one that is loading, and one younger than its residency make no room by our choice.
//! - Whoever waits has a server that could serve it, or is told that there is none.

pub mod card;
mod choice;
pub mod decision;
pub mod elsewhere;
mod figures;
pub mod learned;
pub mod loads;
pub mod memory;
pub mod orders;
mod pairs;
pub mod place;
pub mod plan;
mod prompts;
pub mod residency;
pub mod rules;
pub mod score;
mod state;
mod waiters;
mod words;

#[cfg(test)]
mod tests;

pub use state::Scheduler;
pub use words::{
    Action, Arrival, Eviction, Excluded, ModelId, Moment, OrderId, Request, RunnerOptions, Running, ServerFacts,
    ServerId, Settings, Ticket, Usage, Waiter,
};
