//! `arriero warm`: bring a model into memory.

use std::process::ExitCode;

use serde_json::json;

use super::model_job::{self, Order};

/// Which model, and how urgently.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    order: Order,
    /// Who goes first when requests wait for loads too.
    #[arg(long, value_parser = ["low", "normal", "high"], default_value = "normal")]
    priority: String,
    /// Wait until it is in memory; exit status 1 where it does not get there.
    #[arg(long)]
    wait: bool,
}

/// Orders the warmup, on every server that has the model by default.
pub fn run(arguments: &Arguments) -> ExitCode {
    model_job::order(&arguments.order, "warmup", json!({ "priority": arguments.priority }), arguments.wait)
}
