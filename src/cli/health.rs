//! `arriero health`: for container health checks, which have no curl.

use std::process::ExitCode;

use http::Method;

use super::admin_client::{self, Problem, Question};
use super::asking::Asking;
use super::{FAILED, output};

/// Where to ask.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// 0 when the running Arriero is ready.
pub fn run(arguments: &Arguments) -> ExitCode {
    let answer = match admin_client::ask(&arguments.asking.admin, Question::new(Method::GET, "/health/ready")) {
        Ok(answer) => answer,
        Err(problem) => return problem.report(),
    };
    if arguments.asking.json
        && let Err(error) = output::print(&output::json(&answer.body))
    {
        return Problem::Here(error).report();
    }
    if answer.status == 200 {
        return ExitCode::SUCCESS;
    }
    if !arguments.asking.json {
        eprintln!("{}", String::from_utf8_lossy(&answer.body));
    }
    ExitCode::from(FAILED)
}
