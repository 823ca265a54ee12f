//! `arriero completion`: what a shell completes.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::admin_client::Problem;
use super::output;

/// For which shell.
#[derive(clap::Args)]
pub struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut script = Vec::new();
    let mut command = super::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "arriero", &mut script);
    match output::print(&String::from_utf8_lossy(&script)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => Problem::Here(error).report(),
    }
}
