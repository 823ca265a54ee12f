//! The report: for people, and for programs.

use std::fmt::Write;

use serde::Serialize;

use super::facts::Facts;
use super::finding::{Finding, Section, Severity};
use super::sections::Told;

/// The whole report.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing is worse than a note.
    healthy: bool,
    /// How many findings of each severity.
    summary: Summary,
    /// The sections that were looked at.
    sections: Vec<SectionReport>,
    /// All findings, the worst first.
    findings: Vec<Finding>,
    /// A few numbers.
    stats: Stats,
}

#[derive(Default, Serialize)]
struct Summary {
    errors: usize,
    warnings: usize,
    notes: usize,
}

#[derive(Serialize)]
struct SectionReport {
    section: Section,
    healthy: bool,
    lines: Vec<String>,
}

/// A few numbers about the deployment. What is not known is null.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    version: &'static str,
    config: String,
    admin: String,
    running: bool,
    health_score: Option<u8>,
    uptime_seconds: Option<u64>,
    servers: usize,
    servers_answering: usize,
    models: usize,
    in_flight: Option<u64>,
    containers: usize,
}

impl Report {
    /// Out of what each section told.
    pub fn new(facts: &Facts, told: Vec<(Section, Told)>) -> Self {
        let mut findings = Vec::new();
        let mut sections = Vec::new();
        for (section, told) in told {
            let healthy = !told.findings.iter().any(Finding::is_problem);
            sections.push(SectionReport { section, healthy, lines: told.lines });
            findings.extend(told.findings);
        }
        findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.section));
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let summary = Summary {
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
        };
        let running = facts.running.as_ref().ok();
        let models: std::collections::BTreeSet<&String> =
            facts.servers.iter().flat_map(|server| server.models.iter().flatten()).collect();
        let stats = Stats {
            version: crate::version::FULL,
            config: facts.file.display().to_string(),
            admin: facts.admin.clone(),
            running: running.is_some(),
            health_score: running.map(|running| running.health.score),
            uptime_seconds: running.map(|running| running.health.uptime),
            servers: facts.servers.len(),
            servers_answering: facts.servers.iter().filter(|server| server.answer.is_ok()).count(),
            models: models.len(),
            in_flight: running.map(|running| running.health.requests.in_flight),
            containers: facts.engine.containers().len(),
        };
        Self { healthy: summary.errors + summary.warnings == 0, summary, sections, findings, stats }
    }

    /// Whether nothing is worse than a note.
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// For people.
    pub fn text(&self, colour: bool) -> String {
        let paint = Paint(colour);
        let mut out = String::new();
        for part in &self.sections {
            let mark = if part.healthy { paint.good("ok") } else { paint.bad("problems") };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{} [{mark}]", paint.bold(part.section.title()));
            for line in &part.lines {
                let _ = writeln!(out, "  {line}");
            }
            for finding in self.findings.iter().filter(|finding| finding.section == part.section) {
                out.push_str(&indent(&finding_text(finding, &paint)));
            }
            out.push('\n');
        }
        let Summary { errors, warnings, notes } = &self.summary;
        let _ = writeln!(out, "{}", paint.bold("Summary"));
        let verdict = if self.healthy { paint.good("no problems found") } else { paint.bad("problems found") };
        let _ = writeln!(out, "  {verdict}: {errors} errors, {warnings} warnings, {notes} notes\n");
        let stats = &self.stats;
        let score = stats.health_score.map_or_else(|| "unknown".to_owned(), |score| format!("{score}/100"));
        let state = if stats.running { "running" } else { "not running" };
        let _ = writeln!(out, "{}", paint.bold("Quick stats"));
        let _ =
            writeln!(out, "  Arriero {}, {state}, health score {score}, admin listener {}", stats.version, stats.admin);
        let _ = writeln!(
            out,
            "  {} of {} servers answer, {} models, {} requests in flight, {} containers",
            stats.servers_answering,
            stats.servers,
            stats.models,
            stats.in_flight.unwrap_or_default(),
            stats.containers
        );
        out
    }
}

/// A finding with its fix, for people.
pub fn finding_text(finding: &Finding, paint: &Paint) -> String {
    let word = finding.severity.to_string();
    let word = match finding.severity {
        Severity::Error => paint.bad(&word),
        Severity::Warning => paint.odd(&word),
        Severity::Note => word,
    };
    format!("{word}[{}]: {}\n  fix: {}\n", finding.code.word, finding.what, finding.fix)
}

/// Every line two columns further in.
pub fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Colours, where they are wanted.
pub struct Paint(pub bool);

impl Paint {
    fn with(&self, code: u8, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// What stands above.
    pub fn bold(&self, text: &str) -> String {
        self.with(1, text)
    }

    /// What is well.
    pub fn good(&self, text: &str) -> String {
        self.with(32, text)
    }

    /// What is not.
    pub fn bad(&self, text: &str) -> String {
        self.with(31, text)
    }

    /// What may be well.
    pub fn odd(&self, text: &str) -> String {
        self.with(33, text)
    }
}
