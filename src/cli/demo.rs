//! `arriero demo`: an embedded fleet of simulated Ollama servers with Arriero in front.

use std::process::ExitCode;

use crate::demo::Fleet;
use crate::fleet::reload::Source;
use crate::lifecycle;

use super::run::{announce, for_servers};

/// Where to serve the demo.
#[derive(clap::Args)]
pub struct Arguments {
    /// Address to listen on.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: String,
}

/// Serves until a signal ends it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    let fleet = match runtime.block_on(Fleet::demo()) {
        Ok(fleet) => fleet,
        Err(error) => {
            eprintln!("error: cannot start the simulated servers: {error}");
            return ExitCode::from(1);
        }
    };
    let servers: Vec<(String, String)> = fleet.hosts.iter().map(|host| (host.name().to_owned(), host.url())).collect();
    for (name, url) in &servers {
        eprintln!("simulated Ollama server {name} at {url}");
    }
    let named = servers.iter().map(|(name, url)| (Some(name.as_str()), url.as_str()));
    lifecycle::run(Source::Text(for_servers(&arguments.listen, named)), announce)
}
