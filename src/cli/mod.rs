//! The command line: one file a verb.
//!
//! Exit codes: 0 good, 1 invalid configuration or failed start, 2 wrong usage, 3 stopped before all
//! requests were finished (`import`: something is unsupported), 4 the admin listener cannot be reached.

mod admin_client;
mod check;
mod demo;
mod health;
mod import;
mod init;
mod key;
mod model_job;
mod operate;
mod pull;
mod reload;
mod run;
mod schema;
mod unload;
mod upgrade;
mod warm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A declarative, hot-reloading reverse proxy for fleets of Ollama servers.
#[derive(Parser)]
#[command(name = "arriero", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve requests until a signal ends it.
    Run(run::Arguments),
    /// Serve an embedded fleet of simulated Ollama servers, to try things out.
    Demo(demo::Arguments),
    /// Check a configuration without running it.
    #[command(visible_alias = "validate")]
    Check(check::Arguments),
    /// Write a small configuration to start from.
    Init(init::Arguments),
    /// Make, list and revoke API keys.
    Key(key::Arguments),
    /// Make a configuration out of that of another program.
    Import(import::Arguments),
    /// Print the JSON schema of the configuration.
    Schema,
    /// Put the configuration on disk in force in the running Arriero.
    Reload(AdminArguments),
    /// Let a new process of the program take over, without refusing anybody.
    Upgrade(upgrade::Arguments),
    /// Give a server no new requests; those that run there finish.
    Drain(operate::Drain),
    /// Give a server new requests again, after a drain or maintenance.
    Undrain(operate::Server),
    /// Give a server no new requests until further notice, or for some time.
    Maintenance(operate::Maintenance),
    /// Bring a model into memory.
    Warm(warm::Arguments),
    /// Take a model out of memory.
    Unload(unload::Arguments),
    /// Have servers fetch a model.
    Pull(pull::Arguments),
    /// Exit with 0 when the running Arriero is ready.
    Health(AdminArguments),
}

/// How to find the running Arriero.
#[derive(clap::Args)]
struct AdminArguments {
    /// Configuration file that names the admin listener.
    #[arg(short, long, default_value = run::DEFAULT_FILE)]
    config: PathBuf,
    /// Address of the admin listener, `HOST:PORT` or `unix:/path`; read from the configuration by default.
    #[arg(long)]
    admin: Option<String>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Run(arguments) => run::run(arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Init(arguments) => init::run(&arguments),
        Verb::Key(arguments) => key::run(&arguments),
        Verb::Import(arguments) => import::run(&arguments),
        Verb::Schema => schema::run(),
        Verb::Reload(arguments) => reload::run(&arguments),
        Verb::Upgrade(arguments) => upgrade::run(&arguments),
        Verb::Drain(arguments) => operate::drain(&arguments),
        Verb::Undrain(arguments) => operate::undrain(&arguments),
        Verb::Maintenance(arguments) => operate::maintenance(&arguments),
        Verb::Warm(arguments) => warm::run(&arguments),
        Verb::Unload(arguments) => unload::run(&arguments),
        Verb::Pull(arguments) => pull::run(&arguments),
        Verb::Health(arguments) => health::run(&arguments),
    }
}
