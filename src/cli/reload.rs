//! `arriero reload`: put the file in force, and say whether that worked.

use std::process::ExitCode;

use http::Method;

use super::{AdminArguments, admin_client};

/// Asks the running Arriero to reload; waits for the outcome.
pub fn run(arguments: &AdminArguments) -> ExitCode {
    let answer = match admin_client::ask(
        arguments,
        admin_client::Question::new(Method::POST, "/api/orchestrator/config/reload"),
    ) {
        Ok(answer) => answer,
        Err(problem) => return problem.report(),
    };
    let outcome: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| outcome.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    if answer.status == 200 {
        println!("{}: {}", text("result"), text("hash"));
        return ExitCode::SUCCESS;
    }
    let error = text("detail");
    eprintln!("{}", if error.is_empty() { String::from_utf8_lossy(&answer.body).into_owned() } else { error });
    ExitCode::from(1)
}
