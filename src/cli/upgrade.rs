//! `arriero upgrade`: let a new process of the program take over, without refusing anybody.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration as StdDuration;

use http::Method;

use super::{AdminArguments, admin_client};
use crate::units::Duration;

/// How long the running Arriero may take to answer beyond the time that the new one has.
const MARGIN: StdDuration = StdDuration::from_secs(10);

/// Which program is to take over.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// The new program; by default the file that the running one was started from. Needs `admin.token_file` or an admin
    /// listener on a unix socket.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// How long it may take until it serves.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Duration,
}

/// Asks the running Arriero to make room; waits until the new one serves.
pub fn run(arguments: &Arguments) -> ExitCode {
    // Relative to here, not to where the other one was started.
    let binary = match arguments.binary.as_deref().map(std::path::absolute).transpose() {
        Ok(binary) => binary,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(1);
        }
    };
    let wanted = serde_json::json!({ "binary": binary, "timeout": arguments.timeout });
    let question = admin_client::Question {
        method: Method::POST,
        path: "/api/orchestrator/upgrade".to_owned(),
        body: wanted.to_string().into(),
        timeout: arguments.timeout.0 + MARGIN,
    };
    let answer = match admin_client::ask(&arguments.admin, question) {
        Ok(answer) => answer,
        Err(problem) => return problem.report(),
    };
    let outcome: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status == 200 {
        println!("upgraded: process {}", outcome["pid"]);
        return ExitCode::SUCCESS;
    }
    let text = String::from_utf8_lossy(&answer.body);
    eprintln!("error: {}", outcome["detail"].as_str().unwrap_or(&text));
    ExitCode::from(1)
}
