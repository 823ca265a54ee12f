//! `arriero check`: is this configuration valid?

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use crate::config::{Diagnostics, Loaded, keys};
use crate::fleet::reload::Source;

/// What to check.
#[derive(clap::Args)]
pub struct Arguments {
    /// Configuration file.
    #[arg(short, long, default_value = super::run::DEFAULT_FILE)]
    config: PathBuf,
    /// How problems are written.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Also fail on warnings.
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// A JSON array, for editors and scripts.
    Json,
}

/// The keys file is needed to run, so it is checked too.
fn with_keys(mut loaded: Loaded) -> Result<Loaded, Diagnostics> {
    if let Some(file) = &loaded.config.auth.keys_file {
        loaded.warnings.extend(keys::check(Path::new(file))?);
    }
    Ok(loaded)
}

/// Checks a file; 0 when it is valid.
pub fn run(arguments: &Arguments) -> ExitCode {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (diagnostics, summary) = match Source::File(arguments.config.clone()).load().and_then(with_keys) {
        Ok(loaded) => {
            let config = &loaded.config;
            let servers: usize = config.upstreams.values().map(|upstream| upstream.servers.len()).sum();
            let summary = format!(
                "configuration OK: {} listeners, {} routes, {} upstreams, {servers} servers",
                config.listeners.len(),
                config.routes.len(),
                config.upstreams.len(),
            );
            let failed = arguments.strict && !loaded.warnings.is_empty();
            (Diagnostics(loaded.warnings), (!failed).then_some(summary))
        }
        Err(diagnostics) => (diagnostics, None),
    };
    match arguments.format {
        Format::Json => println!("{}", diagnostics.to_json()),
        Format::Text => {
            let text = diagnostics.render(colour);
            if !text.is_empty() {
                eprintln!("{text}");
            }
            if let Some(summary) = &summary {
                println!("{summary}");
            }
        }
    }
    if summary.is_some() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
