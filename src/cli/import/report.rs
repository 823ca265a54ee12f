//! What became of each directive.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::tree::Directive;

/// What became of a directive, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The result does the same.
    Converted,
    /// It has no meaning here, or is always so.
    Ignored,
    /// The result does nearly the same; the reason says what differs.
    Approximated,
    /// The result does not do it.
    Unsupported,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Converted, Self::Approximated, Self::Ignored, Self::Unsupported];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Converted => "converted",
            Self::Ignored => "ignored",
            Self::Approximated => "approximated",
            Self::Unsupported => "unsupported",
        }
    }
}

/// What became of one directive.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Note {
    pub(super) file: String,
    /// Line, from 1.
    pub(super) line: usize,
    pub(super) directive: String,
    pub(super) outcome: Outcome,
    /// The key that it became, why it was left out, or what differs.
    #[serde(rename = "reason", serialize_with = "joined")]
    pub(super) reasons: Vec<String>,
}

#[expect(clippy::ptr_arg, reason = "serde's signature")]
fn joined<S: serde::Serializer>(reasons: &Vec<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&reasons.join("; "))
}

/// All notes, one for each directive.
#[derive(Debug, Default)]
pub(super) struct Report {
    notes: BTreeMap<usize, Note>,
}

impl Report {
    /// Notes what became of a directive. One that is looked at from several places keeps its worst outcome, and the
    /// reasons that go with it.
    pub(super) fn note(&mut self, directive: &Directive, outcome: Outcome, reason: impl Into<String>) {
        let reason = reason.into();
        let args: Vec<&str> = directive.args.iter().map(String::as_str).filter(|arg| !arg.starts_with('\0')).collect();
        let shown = format!("{} {}", directive.name, args.join(" "));
        let shown: String = shown.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect();
        let note = self.notes.entry(directive.id).or_insert_with(|| Note {
            file: directive.file.to_string(),
            line: directive.line,
            directive: shown,
            outcome,
            reasons: Vec::new(),
        });
        if outcome > note.outcome {
            note.outcome = outcome;
            note.reasons = vec![reason];
        } else if outcome == note.outcome && !note.reasons.contains(&reason) {
            note.reasons.push(reason);
        }
    }

    /// Whether something was noted about a directive.
    pub(super) fn knows(&self, directive: &Directive) -> bool {
        self.notes.contains_key(&directive.id)
    }

    /// How many directives came to this.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.notes.values().filter(|note| note.outcome == outcome).count()
    }

    fn sorted(&self) -> Vec<&Note> {
        self.notes.values().collect()
    }

    /// For people: what differs first, then what was left out, then what is the same.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for outcome in [Outcome::Unsupported, Outcome::Approximated, Outcome::Ignored, Outcome::Converted] {
            for note in self.sorted().into_iter().filter(|note| note.outcome == outcome) {
                let Note { file, line, directive, reasons, .. } = note;
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{file}:{line}: {}: {directive}: {}", outcome.as_str(), reasons.join("; "));
            }
        }
        let counts: Vec<String> =
            Outcome::ALL.iter().map(|outcome| format!("{} {}", self.count(*outcome), outcome.as_str())).collect();
        let _ = writeln!(text, "{}", counts.join(", "));
        text
    }

    /// For programs: an array in the order of the configuration.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(&self.sorted()).unwrap_or_else(|_| "[]".to_owned())
    }
}
