//! `arriero verify`: is the deployment as it was declared?
//!
//! A list of questions, each answered with yes, no, or that it could not be asked. Unlike `arriero diagnose` it does not
//! look at the servers: it is for the end of a deployment.

use std::process::ExitCode;

use serde::Serialize;

use super::diagnose::docker::Engine;
use super::diagnose::finding::{Code, Finding, Section};
use super::diagnose::gather::{self, How};
use super::diagnose::report::{Paint, finding_text, indent};
use super::diagnose::sections::{self, containers};
use super::diagnose::{Look, codes, has_colour};

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It is as it should be.
    Passed,
    /// It is not.
    Failed,
    /// It could not be asked.
    Skipped,
}

/// A question.
#[derive(Serialize)]
struct Check {
    check: &'static str,
    outcome: Outcome,
    /// What is wrong, or worth knowing.
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Document {
    verified: bool,
    checks: Vec<Check>,
}

impl Check {
    fn new(check: &'static str, findings: Vec<Finding>) -> Self {
        let outcome = if findings.iter().any(Finding::is_problem) { Outcome::Failed } else { Outcome::Passed };
        Self { check, outcome, findings }
    }

    fn skipped(check: &'static str) -> Self {
        Self { check, outcome: Outcome::Skipped, findings: Vec::new() }
    }

    fn text(&self, paint: &Paint) -> String {
        let mark = match self.outcome {
            Outcome::Passed => paint.good("yes"),
            Outcome::Failed => paint.bad("NO"),
            Outcome::Skipped => paint.odd("not asked"),
        };
        let findings: String = self.findings.iter().map(|finding| indent(&finding_text(finding, paint))).collect();
        format!("{}: {mark}\n{findings}", self.check)
    }
}

/// Asks; 0 when nothing is wrong, 1 otherwise.
pub fn run(look: &Look) -> ExitCode {
    let how =
        How { admin: &look.admin, docker_socket: look.docker_socket.as_deref(), servers: false, limit: look.timeout.0 };
    let facts = match gather::gather(&how) {
        Ok(facts) => facts,
        Err(error) => {
            eprintln!("error: cannot look: {error}");
            return ExitCode::from(1);
        }
    };
    let own = look.container.as_deref();
    let told = |section| sections::judge(section, &facts, own).findings;
    let deployment = told(Section::Deployment);
    let of = |wanted: &[Code]| {
        let wanted = deployment.iter().filter(|finding| wanted.contains(&finding.code));
        wanted.cloned().collect::<Vec<_>>()
    };
    let mut checks = vec![Check::new("configuration valid", told(Section::Configuration))];
    checks.push(Check::new("process running", of(&[codes::NOT_RUNNING])));
    if facts.running.is_ok() {
        checks.push(Check::new("ready for requests", of(&[codes::NOT_READY])));
        checks.push(Check::new("configuration in force", of(&[codes::CONFIG_REFUSED, codes::CONFIG_NOT_IN_FORCE])));
        checks.push(Check::new("listeners open", of(&[codes::LISTENER_UNREACHABLE])));
    } else {
        checks.extend(["ready for requests", "configuration in force", "listeners open"].map(Check::skipped));
    }
    checks.push(Check::new("admin listener closed to others", of(&[codes::ADMIN_OPEN, codes::ADMIN_EXPOSED])));
    match (&facts.engine, facts.engine.own(own)) {
        (Engine::Failed(_), _) => checks.push(Check::new("Docker's engine answers", told(Section::Containers))),
        (_, Some(container)) => {
            let state: Vec<Finding> = containers::state_of(container, facts.now);
            checks.push(Check::new("container running and healthy", state));
            let config = facts.config.good().map(|good| &good.config);
            checks.extend(
                containers::declared(container, config).into_iter().map(|(check, found)| Check::new(check, found)),
            );
        }
        (_, None) => checks.push(Check::skipped("container of Arriero")),
    }
    let verified = !checks.iter().any(|check| check.outcome == Outcome::Failed);
    let document = Document { verified, checks };
    if look.json {
        println!("{}", serde_json::to_string_pretty(&document).unwrap_or_default());
    } else {
        let paint = Paint(has_colour());
        document.checks.iter().for_each(|check| print!("{}", check.text(&paint)));
        let verdict = if verified { paint.good("as declared") } else { paint.bad("not as declared") };
        println!("\nthe deployment is {verdict}");
    }
    if verified { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
