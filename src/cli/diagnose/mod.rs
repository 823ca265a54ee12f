//! `arriero diagnose`: what is wrong with a deployment, and how to mend it.
//!
//! # Problem
//!
//! Something does not work, and it may be anything: a server, a name, a certificate, a container, two limits that
//! contradict each other. Whoever looks for it has a shell and little time.
//!
//! # Shape
//!
//! [`gather`] looks at everything and judges nothing; what it saw are the [`facts`]. Each file of [`sections`] judges a
//! part of them, without I/O, into [`finding`]s with a code of [`codes`], a sentence and a fix. [`report`] tells them.
//! `arriero verify` asks the same questions about how a deployment is declared.
//!
//! # Invariants
//!
//! - Nothing is changed anywhere: only GET requests are sent, and none that makes a server load a model.
//! - Every question has a time limit, and a question without an answer hinders no other one.
//! - Secrets are not told: of the environment of containers only numbers of Ollama's settings.

pub mod codes;
pub mod docker;
pub mod facts;
pub mod finding;
pub mod gather;
pub mod report;
pub mod sections;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use super::AdminArguments;
use crate::units::Duration;
use finding::Section;
use gather::How;
use report::Report;

/// How to look at the deployment.
#[derive(clap::Args)]
pub struct Look {
    #[command(flatten)]
    pub admin: AdminArguments,
    /// Docker's socket; that of `DOCKER_HOST`, or `/var/run/docker.sock`, by default.
    #[arg(long, value_name = "PATH")]
    pub docker_socket: Option<PathBuf>,
    /// Name or id of Arriero's own container; found by itself by default.
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,
    /// How long each server may take for each step.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub timeout: Duration,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What to look at.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    look: Look,
    /// Look at this section only; may be given several times.
    #[arg(long, value_name = "NAME", value_enum)]
    section: Vec<Section>,
}

/// Looks, and tells; 0 when nothing is worse than a note, 1 otherwise.
pub fn run(arguments: &Arguments) -> ExitCode {
    let look = &arguments.look;
    let how =
        How { admin: &look.admin, docker_socket: look.docker_socket.as_deref(), servers: true, limit: look.timeout.0 };
    let facts = match gather::gather(&how) {
        Ok(facts) => facts,
        Err(error) => {
            eprintln!("error: cannot look: {error}");
            return ExitCode::from(1);
        }
    };
    let wanted = |section: &Section| arguments.section.is_empty() || arguments.section.contains(section);
    let own = look.container.as_deref();
    let told = Section::ALL.into_iter().filter(wanted).map(|section| (section, sections::judge(section, &facts, own)));
    let report = Report::new(&facts, told.collect());
    if look.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text(has_colour()));
    }
    if report.is_healthy() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Whether the output is for eyes.
pub fn has_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
