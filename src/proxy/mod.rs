//! The data path: from an accepted connection to the last byte of an answer.
//!
//! One request passes these files in this order. [`listener`] accepts; [`connection`] reads a head, which [`head`]
//! checks and [`message`] takes apart; [`http2`] does so for the streams of an HTTP/2 connection, whose frames
//! [`http2_guard`] counts. [`service`] is the
//! life of one request: [`request`] finds its route and its model, [`admission`] asks whether it may ([`body_scan`] reads as much of the
//! [`request_body`] as that needs, [`held_body`] keeps what is long), [`attempt`] chooses a server and judges
//! failures ([`again`] asks whether there is another try, [`poison`] keeps requests away that crash runners), [`headers`] writes what the server gets, [`exchange`] moves the bytes both ways, [`response`] watches the
//! answer, [`reply`] answers where no server does, [`ending`] says why a stream broke, [`content`] does what else a route asks for ([`files`], [`compress`],
//! [`decode_body`]), [`queue`] waits for a place, [`waiting_stream`] tells the clients of streams so meanwhile, [`finish`] settles accounts.
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
mod connection;
mod content;
mod context;
mod decode_body;
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
mod input;
mod listener;
mod message;
mod output;
mod poison;
mod proxy_protocol;
mod queue;
mod reply;
mod request;
mod request_body;
mod response;
mod server;
mod service;
mod timer;
mod waiting_stream;

pub use listener::{Data, serve};
