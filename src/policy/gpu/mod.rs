//! Is a server's GPU well enough for requests?
//!
//! # Problem
//!
//! A card that is hot, lost or broken answers: slowly, wrongly, or once in a while not at all. Health checks do not see it.
//! The driver knows, Ollama's own answers show it, and exporters repeat what the driver says; each of them leaves things
//! out, repeats old news, or falls silent.
//!
//! # Shape
//!
//! [`reading`] is what a source says, in one form. The judge takes readings, what Ollama lists, and how its answers went, and
//! says ([`verdict`]) in which of four states the server is:
//!
//! | state | what becomes of requests |
//! |---|---|
//! | `healthy` | as always |
//! | `degraded` | a quarter of its weight, and used after the others |
//! | `draining` | no new ones, those that run finish; not followed where it would take more than half of a model's servers |
//! | `failed` | no new ones |
//!
//! The worst signal of any card that the server's models use decides, and each state names its signals.
//!
//! # Invariants
//!
//! - What is not known never makes a server worse.
//! - A state is held for 60 s at least before it becomes better, and before it becomes worse unless by a signal that needs one
//!   sample alone.
//! - All times are given from outside.

pub mod reading;
pub mod source;
pub mod verdict;
