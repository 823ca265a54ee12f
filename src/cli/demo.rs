//! `arriero demo`: an embedded fleet of simulated Ollama servers with Arriero in front.

use std::process::ExitCode;

use crate::demo::Fleet;
use crate::fleet::reload::Source;
use crate::lifecycle;

use super::DEFAULT_LISTEN;
use super::run::announce;
use super::unfiled;

/// Where to serve the demo.
#[derive(clap::Args)]
pub struct Arguments {
    /// Address to listen on.
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_LISTEN)]
    listen: String,
    /// Address of the admin listener, `HOST:PORT` or `unix:/path`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5100")]
    admin: String,
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
    lifecycle::run(Source::Text(unfiled::for_demo(&arguments.listen, &arguments.admin, &servers)), announce)
}
