//! `arriero upgrade`: let a new process of the program take over, without refusing anybody.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration as StdDuration;

use http::Method;

use serde::Deserialize;

use super::admin_client::{Problem, Question};
use super::asking::Asking;
use super::output::Page;
use crate::units::Duration;

/// How long the running Arriero may take to answer beyond the time that the new one has.
const MARGIN: StdDuration = StdDuration::from_secs(10);

/// Which program is to take over.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// The new program; by default the file that the running one was started from. Needs `admin.token_file` or an admin
    /// listener on a unix socket.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// How long it may take until it serves.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Duration,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    pid: u32,
}

/// Asks the running Arriero to make room; waits until the new one serves.
pub fn run(arguments: &Arguments) -> ExitCode {
    // Relative to here, not to where the other one was started.
    let binary = match arguments.binary.as_deref().map(std::path::absolute).transpose() {
        Ok(binary) => binary,
        Err(error) => return Problem::Here(error.to_string()).report(),
    };
    let wanted = serde_json::json!({ "binary": binary, "timeout": arguments.timeout });
    let question = Question::order(Method::POST, "upgrade", &wanted).within(arguments.timeout.0 + MARGIN);
    arguments.asking.tell(question, |outcome: &Outcome, _| Page::of(format!("upgraded: process {}\n", outcome.pid)))
}
