//! The data path: from an accepted connection to the last byte of an answer.
//!
//! One request passes these files in this order. [`listener`] accepts; [`connection`] reads a head, which [`head`]
//! checks and [`message`] takes apart; [`http2`] does so for the streams of an HTTP/2 connection, whose frames
//! [`http2_guard`] counts. [`service`] is the
//! life of one request: [`request`] finds its route and its model, [`admission`] asks whether it may ([`body_scan`] reads as much of the
//! [`request_body`] as that needs, [`held_body`] keeps what is long), [`attempt`] chooses a server and judges
//! failures ([`again`] asks whether there is another try, [`poison`] keeps requests away that crash runners), [`headers`] writes what the server gets, [`exchange`] moves the bytes both ways, [`response`] watches the
//! answer, [`response_cache`] asks for those only that are not kept and [`embeddings`] for embeddings that are not, [`reply`] answers where no server does, [`ending`] says why a stream broke, [`content`] does what else a route asks for ([`files`], [`compress`],
//! [`decode_body`]), [`queue`] waits for a place, [`waiting_stream`] tells the clients of streams so meanwhile, [`finish`] settles accounts, [`trace`] notes what is
//! told of it as a trace.
//!
//! The two sides are [`client`] and [`server`], each over HTTP/1 or HTTP/2. HTTP/1 is ours ([`input`], [`framing`] with
//! [`chunked`], [`output`]); HTTP/2, connecting and TLS to servers are Pingora's. Its types appear in this folder only.

mod admission;
mod again;
mod attempt;
mod body_scan;
mod chunked;
mod client;
mod compress;
mod conditions;
mod connection;
mod content;
mod context;
mod decode_body;
mod embeddings;
mod ending;
mod exchange;
mod files;
mod finish;
mod framing;
pub mod head;
mod headers;
mod held_body;
mod http2;
mod http2_guard;
mod http2_output;
mod identity;
mod input;
mod listener;
mod message;
mod output;
mod poison;
mod proxy_protocol;
mod queue;
mod quota;
mod reply;
mod request;
mod request_body;
mod response;
mod response_cache;
mod server;
mod service;
mod timer;
mod trace;
mod waiting_stream;

pub use listener::{Data, serve};
