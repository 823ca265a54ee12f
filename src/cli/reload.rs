//! `arriero reload`: put the file in force, and say whether that worked.

use std::process::ExitCode;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::Question;
use super::asking::Asking;
use super::output::Page;
use super::words::plain;

/// Where to ask.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    result: String,
    hash: String,
}

/// Asks the running Arriero to reload; waits for the outcome.
pub fn run(arguments: &Arguments) -> ExitCode {
    let question = Question::order(Method::POST, "config/reload", &json!({}));
    arguments.asking.tell(question, |outcome: &Outcome, _| {
        Page::of(format!("{}: {}\n", plain(&outcome.result), plain(&outcome.hash)))
    })
}
