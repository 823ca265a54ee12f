//! What `arriero gpu-agent` serves on a host with GPUs: how its cards are, for Arriero elsewhere and for Prometheus.
//!
//! # Problem
//!
//! The driver can only be asked on its own host, and an Ollama server does not tell how its cards are. Something small must run
//! beside it that costs nothing, is no risk to the host, and answers also when the driver does not.
//!
//! # Shape
//!
//! - One thread asks the driver ([`crate::nvml::Watcher`]); one thread serves, in a runtime without a pool.
//! - [`server`] takes connections within limits, [`answer`] is what each path says, [`page`] the metrics, [`token`] the
//!   right to ask.
//!
//! # Invariants
//!
//! - Only GET: nothing that is asked changes anything.
//! - An answer never waits for the driver.
//! - Without a token it listens on loopback only.

mod answer;
mod page;
mod server;
mod token;

use std::future::Future;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use rustix::system::uname;

use crate::clock;
use crate::nvml::{Absent, Look, Settings, Watcher};
use crate::policy::gpu::report::Report;
use crate::version;

pub use token::{Token, TokenError};

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is none.
    #[error("`{address}` is no address to listen on: {error}")]
    Address {
        /// As it was written.
        address: String,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// Everybody could ask.
    #[error(
        "`{0}` can be reached from other hosts: a token is needed, by `--token-file FILE` or by {variable}",
        variable = Token::VARIABLE
    )]
    NoToken(SocketAddr),
    /// The system does not let it.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// An agent that listens and does not answer yet.
pub struct Agent {
    listener: TcpListener,
    token: Option<Token>,
    watcher: Watcher,
}

impl Agent {
    /// Listens on `HOST:PORT` and begins to ask the driver.
    ///
    /// # Errors
    /// When it cannot listen there, or may not without a token.
    pub fn start(address: &str, token: Option<Token>, settings: Settings) -> Result<Self, StartError> {
        let wrong = |error| StartError::Address { address: address.to_owned(), error };
        let places: Vec<SocketAddr> = address.to_socket_addrs().map_err(wrong)?.collect();
        let open = places.iter().find(|place| !place.ip().to_canonical().is_loopback());
        if let (Some(place), None) = (open, &token) {
            return Err(StartError::NoToken(*place));
        }
        let listener = TcpListener::bind(places.as_slice()).map_err(wrong)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, token, watcher: Watcher::start(settings)? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `end`; what is being answered then is finished. Must run in a runtime.
    ///
    /// # Errors
    /// When the runtime cannot have the listener.
    pub async fn serve(self, end: impl Future<Output = ()>) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        server::serve(listener, Arc::new(answer::Answers::new(self.token, self.watcher)), end).await;
        Ok(())
    }
}

/// Asks the driver once, without events.
///
/// # Errors
/// When the driver cannot be asked.
pub fn once(settings: &Settings) -> Result<Report, Absent> {
    let mut nvml = settings.open()?;
    let at = u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX);
    let reading = nvml.read();
    let unread = reading.as_ref().err().copied();
    Ok(Report { unread, reading: reading.unwrap_or_default(), ..report(at) })
}

fn report(at: u64) -> Report {
    let hostname = uname().nodename().to_string_lossy().into_owned();
    Report { at, version: version::VERSION.to_owned(), hostname, ..Report::default() }
}

/// What is known, as it is answered.
fn report_of(look: &Look) -> Report {
    match &look.reading {
        Ok(reading) => Report { reading: (**reading).clone(), ..report(look.at) },
        Err(unread) => {
            let detail = look.detail.as_deref().map(str::to_owned);
            Report { unread: Some(*unread), detail, ..report(look.at) }
        }
    }
}
