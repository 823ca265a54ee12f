//! `arriero init`: a configuration to start from.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The small configuration that `conf/arriero.yaml` shows.
const TEMPLATE: &str = include_str!("../../conf/arriero.yaml");

/// Where to write it.
#[derive(clap::Args)]
pub struct Arguments {
    /// File to write; `-` is standard output.
    #[arg(short, long, default_value = super::run::DEFAULT_FILE)]
    output: PathBuf,
}

/// Writes the file; never over one that is there.
pub fn run(arguments: &Arguments) -> ExitCode {
    // The schema beside our own file is not beside the user's.
    let text = TEMPLATE.split_inclusive('\n').filter(|line| !line.contains("$schema=")).collect::<String>();
    if arguments.output.as_os_str() == "-" {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    let written = std::fs::File::create_new(&arguments.output).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => {
            eprintln!("wrote {}; now `arriero run`", arguments.output.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: cannot write `{}`: {error}", arguments.output.display());
            ExitCode::from(1)
        }
    }
}
