//! `arriero unload`: take a model out of memory.

use std::process::ExitCode;

use serde_json::json;

use super::model_job::{self, Order};

/// Which model, and whether that is meant.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    order: Order,
    /// Also where it is pinned or used; requests that run finish first.
    #[arg(long)]
    force: bool,
}

/// Orders the unload, wherever the model is in memory by default, and waits for it.
pub fn run(arguments: &Arguments) -> ExitCode {
    model_job::order(&arguments.order, "unload", json!({ "force": arguments.force }), true)
}
