//! `arriero pull`: have servers fetch a model.

use std::process::ExitCode;

use serde_json::json;

use super::model_job::{self, Order};

/// Which model, and how many servers at a time.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    order: Order,
    /// Most servers that pull at a time; 2 by default.
    #[arg(long, value_name = "NUMBER")]
    parallel: Option<u32>,
    /// Take a model that runs elsewhere, or one from a registry that is not Ollama's own.
    #[arg(long)]
    allow_remote: bool,
    /// Do not wait for the end.
    #[arg(long)]
    detach: bool,
}

/// Orders the pull, on every server by default, and shows how far it is. It goes on when this program ends.
pub fn run(arguments: &Arguments) -> ExitCode {
    let wanted = json!({ "parallel": arguments.parallel, "allowRemote": arguments.allow_remote });
    model_job::order(&arguments.order, "pull", wanted, !arguments.detach)
}
