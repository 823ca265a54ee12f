//! `arriero health`: for container health checks, which have no curl.

use std::process::ExitCode;

use http::Method;

use super::{AdminArguments, admin_client};

/// 0 when the running Arriero is ready.
pub fn run(arguments: &AdminArguments) -> ExitCode {
    match admin_client::ask(arguments, admin_client::Question::new(Method::GET, "/health/ready")) {
        Ok(answer) if answer.status == 200 => ExitCode::SUCCESS,
        Ok(answer) => {
            eprintln!("{}", String::from_utf8_lossy(&answer.body));
            ExitCode::from(1)
        }
        Err(problem) => problem.report(),
    }
}
