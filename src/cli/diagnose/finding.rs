//! What a look at a deployment finds: one fault, and how to mend it.

use std::fmt;

use serde::{Serialize, Serializer};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; nothing has to be done.
    Note,
    /// It works, and it will not for long, or not for everybody.
    Warning,
    /// It does not work.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A topic of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Section {
    /// Whether Arriero runs, and with which configuration.
    Deployment,
    /// Docker containers: state, health, restarts, how they are declared.
    Containers,
    /// Memory, processors, disks, file descriptors.
    Resources,
    /// Each server: name, connection, latency, models, circuits, queues.
    Servers,
    /// Certificates of listeners and of servers.
    Tls,
    /// Clocks that differ.
    Clock,
    /// Errors of the last minutes, grouped.
    Logs,
    /// What the configuration says.
    Configuration,
    /// Limits that contradict each other.
    Limits,
}

impl Section {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Deployment,
        Self::Containers,
        Self::Resources,
        Self::Servers,
        Self::Tls,
        Self::Clock,
        Self::Logs,
        Self::Configuration,
        Self::Limits,
    ];

    /// What stands above it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::Containers => "Containers",
            Self::Resources => "Resources",
            Self::Servers => "Servers",
            Self::Tls => "TLS",
            Self::Clock => "Clock",
            Self::Logs => "Recent errors",
            Self::Configuration => "Configuration",
            Self::Limits => "Limits",
        }
    }
}

/// A kind of finding. Its word never changes its meaning once released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The word.
    pub word: &'static str,
    /// Where it is told.
    pub section: Section,
    /// How bad it is.
    pub severity: Severity,
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word)
    }
}

/// One fault, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of fault it is.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is told.
    pub section: Section,
    /// What is wrong, in one sentence without a final period.
    pub what: String,
    /// How to mend it.
    pub fix: String,
}

impl Finding {
    /// A finding, as bad as its kind is.
    pub fn new(code: Code, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, severity: code.severity, section: code.section, what: what.into(), fix: fix.into() }
    }

    /// The same, as something that is worth knowing and no more.
    pub fn noted(self) -> Self {
        Self { severity: Severity::Note, ..self }
    }

    /// Whether somebody has to do something.
    pub fn is_problem(&self) -> bool {
        self.severity > Severity::Note
    }
}
