//! `arriero import nginx`: a configuration out of that of nginx.
//!
//! The configuration goes to standard output, a report to standard error: what became of every directive, with its line.
//! Exit codes: 0 when everything was converted, at least nearly; 3 when something is unsupported (the configuration is
//! written all the same); 1 when the file cannot be read.

mod convert;
mod fields;
mod leftovers;
mod listeners;
mod patterns;
mod policies;
mod report;
mod routes;
mod scope;
mod sites;
mod tokens;
mod tree;
mod upstreams;
mod values;
mod yaml;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use self::report::Outcome;

/// From which program.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// A configuration of nginx.
    Nginx(Nginx),
}

#[derive(clap::Args)]
struct Nginx {
    /// The main file, such as /etc/nginx/nginx.conf; what it includes is looked for beside it too.
    file: PathBuf,
    /// Write the report as a JSON array.
    #[arg(long)]
    json: bool,
}

/// Converts a configuration; 3 when not all of it could be.
pub fn run(arguments: &Arguments) -> ExitCode {
    let From::Nginx(nginx) = &arguments.from;
    let tree = match tree::read(&nginx.file) {
        Ok(tree) => tree,
        Err(unreadable) => {
            eprintln!("error: {unreadable}");
            return ExitCode::from(1);
        }
    };
    let (config, report) = convert::convert(&tree);
    let name = nginx.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    print!("# Imported from {}. Check it with: arriero check -c FILE\n{}", name.escape_debug(), yaml::write(&config));
    if nginx.json {
        eprintln!("{}", report.json());
    } else {
        eprint!("{}", report.text());
    }
    if report.count(Outcome::Unsupported) == 0 { ExitCode::SUCCESS } else { ExitCode::from(3) }
}
