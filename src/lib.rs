//! Arriero: a declarative, hot-reloading reverse proxy for fleets of Ollama servers.
//!
//! Layers, lowest first; a module imports only from lower ones (`tests/architecture.rs` checks it):
//!
//! 0. [`clock`], [`threads`], [`units`], [`version`]
//! 1. [`policy`], [`routing`], [`ollama`], [`telemetry`]
//! 2. [`config`]
//! 3. [`fleet`], [`history`], [`nvml`] (none knows another)
//! 4. [`probe`], [`proxy`], [`admin`], [`agent`], [`demo`] (never each other)
//! 5. [`lifecycle`]
//! 6. [`cli`]

#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod fleet;
pub mod history;
pub mod lifecycle;
pub mod nvml;
pub mod ollama;
pub mod policy;
pub mod probe;
pub mod proxy;
pub mod routing;
pub mod telemetry;
pub mod threads;
pub mod units;
pub mod version;
