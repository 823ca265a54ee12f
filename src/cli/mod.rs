//! The command line: one file a verb.
//!
//! Those that ask the running Arriero share [`admin_client`] (one conversation with the admin listener), [`asking`] (the answer
//! shown, or the refusal), [`output`] and [`table`] (text for people, JSON for scripts) and [`words`]. They make a page out
//! of an answer without I/O. Names in answers are chosen by others: nothing of them reaches a terminal but by
//! [`words::plain`].

mod admin_client;
mod asking;
mod ban;
mod cache;
mod check;
mod circuit;
mod cluster;
mod completion;
mod config;
mod decisions;
mod demo;
mod diagnose;
mod gpu;
mod gpu_agent;
mod health;
mod import;
mod in_flight;
mod init;
mod key;
mod logs;
mod man;
mod model_job;
mod models;
mod operate;
mod output;
mod overview;
mod pull;
mod queue;
mod quota;
mod reload;
mod run;
mod schema;
mod servers;
mod status;
mod table;
mod top;
mod unfiled;
mod unload;
mod upgrade;
mod usage;
mod verify;
mod warm;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::version;

/// Where clients connect when nothing is said.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
/// It failed: the exit code.
const FAILED: u8 = 1;
/// Nobody answers at the admin listener: the exit code.
const UNREACHABLE: u8 = 4;
/// All exit codes.
const EXITS: [(u8, &str); 5] = [
    (0, "good; `status`: all is well"),
    (
        FAILED,
        "the configuration is not valid, the start failed, the running Arriero refused what was asked; `status`: not all is well; `drain --wait`: not empty yet; `health`: not ready; `cluster link`, `cluster drift`: the instances cannot agree, or do not",
    ),
    (2, "wrong usage"),
    (3, "`run`, `demo`: stopped before all requests were finished; `import`: something is unsupported"),
    (UNREACHABLE, "the admin listener of the running Arriero cannot be reached"),
];

fn exits() -> String {
    let lines = EXITS.map(|(code, meaning)| format!("\n  {code}  {meaning}"));
    format!("Exit status:{}", lines.concat())
}

/// A declarative, hot-reloading reverse proxy for fleets of Ollama servers.
#[derive(Parser)]
#[command(name = "arriero", version = version::FULL, arg_required_else_help = true, after_help = exits())]
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
    /// Show how the running Arriero is, on one screen; exit status 1 when not all is well.
    Status(status::Arguments),
    /// Watch the running Arriero live.
    Top(top::Arguments),
    /// Show the servers, or one of them.
    Servers(servers::Arguments),
    /// Show the models and where they are.
    Models(models::Arguments),
    /// Show how the GPUs of the servers are.
    Gpu(gpu::Arguments),
    /// Show the requests that run.
    InFlight(in_flight::Arguments),
    /// Show who waits for a slot; pause and resume that.
    Queue(queue::Arguments),
    /// Show circuits; open, close and reset them.
    Circuit(circuit::Arguments),
    /// Show bans; add and lift them.
    Ban(ban::Arguments),
    /// Show what routes keep of answers; throw it away.
    Cache(cache::Arguments),
    /// Show the instances of the cluster, and whether they agree.
    Cluster(cluster::Arguments),
    /// Show why servers were chosen.
    Decisions(decisions::Arguments),
    /// Show requests that ended, or messages of the process.
    Logs(logs::Arguments),
    /// Show who used how much.
    Usage(usage::Arguments),
    /// Show how much is used of token quotas; begin their windows anew.
    Quota(quota::Arguments),
    /// Show the configuration in force and what was changed at run time.
    Config(config::Arguments),
    /// Put the configuration on disk in force in the running Arriero.
    Reload(reload::Arguments),
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
    Health(health::Arguments),
    /// Print what a shell needs to complete the command line.
    Completion(completion::Arguments),
    /// Write manual pages.
    Man(man::Arguments),
    /// Find out what is wrong with a deployment, and how to mend it.
    Diagnose(diagnose::Arguments),
    /// Check that a deployment is as it was declared.
    Verify(diagnose::Look),
    /// Tell how the GPUs of this host are, for an Arriero elsewhere and for Prometheus.
    GpuAgent(gpu_agent::Arguments),
}

/// How to find the running Arriero.
#[derive(clap::Args)]
struct AdminArguments {
    /// Configuration file that names the admin listener.
    #[arg(short, long, global = true, default_value = run::DEFAULT_FILE, value_name = "FILE")]
    config: PathBuf,
    /// Address of the admin listener, `HOST:PORT`, `http://HOST:PORT` or `unix:/path`; read from the configuration by default.
    #[arg(long, global = true, value_name = "ADDRESS", value_parser = admin_client::address)]
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
        Verb::Status(arguments) => status::run(&arguments),
        Verb::Top(arguments) => top::run(&arguments),
        Verb::Servers(arguments) => servers::run(&arguments),
        Verb::Models(arguments) => models::run(&arguments),
        Verb::Gpu(arguments) => gpu::run(&arguments),
        Verb::InFlight(arguments) => in_flight::run(&arguments),
        Verb::Queue(arguments) => queue::run(&arguments),
        Verb::Circuit(arguments) => circuit::run(&arguments),
        Verb::Ban(arguments) => ban::run(&arguments),
        Verb::Cache(arguments) => cache::run(&arguments),
        Verb::Cluster(arguments) => cluster::run(&arguments),
        Verb::Decisions(arguments) => decisions::run(&arguments),
        Verb::Logs(arguments) => logs::run(&arguments),
        Verb::Usage(arguments) => usage::run(&arguments),
        Verb::Quota(arguments) => quota::run(&arguments),
        Verb::Config(arguments) => config::run(&arguments),
        Verb::Reload(arguments) => reload::run(&arguments),
        Verb::Upgrade(arguments) => upgrade::run(&arguments),
        Verb::Drain(arguments) => operate::drain(&arguments),
        Verb::Undrain(arguments) => operate::undrain(&arguments),
        Verb::Maintenance(arguments) => operate::maintenance(&arguments),
        Verb::Warm(arguments) => warm::run(&arguments),
        Verb::Unload(arguments) => unload::run(&arguments),
        Verb::Pull(arguments) => pull::run(&arguments),
        Verb::Health(arguments) => health::run(&arguments),
        Verb::Completion(arguments) => completion::run(&arguments),
        Verb::Man(arguments) => man::run(&arguments),
        Verb::Diagnose(arguments) => diagnose::run(&arguments),
        Verb::Verify(arguments) => verify::run(&arguments),
        Verb::GpuAgent(arguments) => gpu_agent::run(arguments),
    }
}
