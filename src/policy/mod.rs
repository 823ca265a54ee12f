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
//! | [`ejection`] | how many servers may be left alone because of that? |
//! | [`ban`] | who decided that this server does not get this model? |
//! | [`quarantine`] | did this request make a runner crash? |
//! | [`health`] | do the background checks say that this server is up? |
//! | [`gpu`] | is a server's GPU well enough for requests? |
//! | [`recovery`] | when is a server that is ill tested again, and what do its tests add up to? |
//! | [`recovery_action`] | when is what may make it well again run, and when is that given up? |
//! | [`notification`] | what are people told, how often, and how do they know who tells it? |
//! | [`retry`] | may this failed attempt be made again? |
//! | [`retry_budget`] | are there too many such attempts already? |
//! | [`caps`] | may a request ask for this much? |
//! | [`http_cache`] | may an answer be kept, and a request be answered from it? |
//! | [`failure`] | in one word, why did the request end as it did? |
//! | [`rate_limit`] | may this request pass now, later, or not at all? |
//! | [`quota`] | may this request use tokens, and how many are left in the window? |
//! | [`network`] | which addresses are one client? |
//! | [`descriptors`] | may another connection be accepted? |
//! | [`upload_rate`] | does the request body come fast enough? |
//! | [`client_address`] | whose request is it, when proxies stand in front? |
//! | [`cidr`] | is this address in one of these networks, and may it use the route? |
//! | [`cors`] | what may web pages of other origins do? |
//! | [`auth`] | which key does the request have, and is that enough? |
//! | [`admin_access`] | what does a call of the admin API need? |
//! | [`reach`] | where may a server be that is added at run time? |
//! | [`api_key`] | how is a key written, and what is kept of it? |
//! | [`resources`] | does the process come close to what the system gives it? |
//! | [`recent`] | what happened in the last minutes? |
//! | [`health_score`] | how well is all of it, in one number? |
//!
//! # Invariants
//!
//! - No I/O, no clock, no randomness of its own, no lock, no log line.
//! - A new configuration replaces the numbers of a policy and keeps what it has learned.
//! - No input, however odd, makes a policy panic or overflow.

pub mod admin_access;
pub mod api_key;
pub mod auth;
pub mod balance;
pub mod ban;
pub mod caps;
pub mod cidr;
pub mod circuit;
pub mod client_address;
pub mod cors;
pub mod descriptors;
pub mod ejection;
pub mod failure;
pub mod gpu;
pub mod health;
pub mod health_score;
pub mod http_cache;
pub mod network;
pub mod notification;
pub mod quarantine;
pub mod queue;
pub mod quota;
pub mod rate_limit;
pub mod reach;
pub mod recent;
pub mod recovery;
pub mod recovery_action;
pub mod resources;
pub mod retry;
pub mod retry_budget;
pub mod schedule;
pub mod trace;
pub mod upload_rate;
