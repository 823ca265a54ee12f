//! Messages on standard error, with a level that can change while the process runs.
//!
//! Pingora logs through the `log` facade and calls a client that hangs up an error; its messages are
//! shown at the level `debug` only, because every request's end is in the access log already.

use super::messages::Remember;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Changes the level of messages.
#[derive(Clone)]
pub struct LogLevel(Option<Handle<EnvFilter, Registry>>);

fn filter(level: &str) -> EnvFilter {
    let directives = if level == "debug" {
        "info,arriero=debug,pingora_core=debug".to_owned()
    } else {
        format!("{level},pingora_core=off,pingora_pool=off,h2=off,hyper=off")
    };
    EnvFilter::new(directives)
}

/// Starts logging. A second call in one process changes nothing, which tests rely on.
pub fn start(level: &str) -> LogLevel {
    let (layer, handle) = Layer::new(filter(level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    match tracing_subscriber::registry().with(layer).with(lines).with(Remember).try_init() {
        Ok(()) => LogLevel(Some(handle)),
        Err(_) => LogLevel(None),
    }
}

impl LogLevel {
    /// Changes the level to `error`, `warn`, `info` or `debug`.
    pub fn set(&self, level: &str) {
        if let Some(handle) = &self.0 {
            // Fails only when the subscriber is gone, and then nobody listens.
            drop(handle.reload(filter(level)));
        }
    }
}
