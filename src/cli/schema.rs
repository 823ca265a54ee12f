//! `arriero schema`: the JSON schema of the configuration, for editors.

use std::process::ExitCode;

/// Prints the schema.
pub fn run() -> ExitCode {
    println!("{:#}", crate::config::schema());
    ExitCode::SUCCESS
}
