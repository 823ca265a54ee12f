//! Decisions, and nothing but decisions.
//!
//! # Problem
//!
//! A proxy in front of expensive servers must answer a few questions thousands of times a second and
//! never contradict itself: which server, is that server well, may this failed attempt be made again,
//! and what do we tell the client if not. Answers that are mixed with sockets, locks and log lines can
//! be tested only by waiting.
//!
//! # Shape
//!
//! Each policy is a plain value with methods `(input, now, random) -> decision`. Its caller holds the
//! lock (one per server, never a global one), reads the clock, draws the random number, acts on the
//! decision, counts it and logs it.
//!
//! | module | question |
//! |---|---|
//! | [`balance`] | which of the candidates? |
//! | [`circuit`] | may this server have a request after it failed several? |
//! | [`health`] | do the background checks say that this server is up? |
//! | [`retry`] | may this failed attempt be made again? |
//! | [`caps`] | may a request ask for this much? |
//! | [`failure`] | in one word, why did the request end as it did? |
//!
//! # Invariants
//!
//! - No I/O, no clock, no randomness of its own, no lock, no log line.
//! - A new configuration replaces the numbers of a policy and keeps what it has learned.
//! - No input, however odd, makes a policy panic or overflow.

pub mod balance;
pub mod caps;
pub mod circuit;
pub mod failure;
pub mod health;
pub mod retry;
