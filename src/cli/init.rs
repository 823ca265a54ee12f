//! `arriero init`: a configuration to start from.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::unfiled::{self, Said};

/// The small configuration that `conf/arriero.yaml` shows.
const TEMPLATE: &str = include_str!("../../conf/arriero.yaml");

/// Where to write it.
#[derive(clap::Args)]
pub struct Arguments {
    /// File to write; `-` is standard output.
    #[arg(short, long, default_value = super::run::DEFAULT_FILE)]
    output: PathBuf,
    /// Write what OLLAMA_HOSTS or OLLAMA_HOST, OLLAMA_LOAD_BALANCER and PORT say: what `arriero run` would run with without a
    /// file.
    #[arg(long)]
    from_env: bool,
}

/// Writes the file; never over one that is there.
pub fn run(arguments: &Arguments) -> ExitCode {
    let text = if arguments.from_env { from_env() } else { Ok(template()) };
    let text = match text {
        Ok(text) => text,
        Err(problem) => {
            eprintln!("error: {problem}");
            return ExitCode::from(1);
        }
    };
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

fn template() -> String {
    // The schema beside our own file is not beside the user's.
    TEMPLATE.split_inclusive('\n').filter(|line| !line.contains("$schema=")).collect()
}

fn from_env() -> Result<String, String> {
    unfiled::text(Said::default(), &|name| std::env::var(name).ok())?.ok_or_else(|| {
        "OLLAMA_HOSTS and OLLAMA_HOST are not set, so no server is known\n\
         hint: `OLLAMA_HOSTS=10.0.0.1,10.0.0.2 arriero init --from-env`"
            .to_owned()
    })
}
