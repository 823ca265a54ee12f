//! One file a section: what was seen goes in, findings come out. Nothing is asked here.

mod clock;
mod configuration;
pub mod containers;
mod deployment;
mod limits;
mod logs;
mod resources;
mod servers;
mod tls;

#[cfg(test)]
mod tests;

use super::facts::Facts;
use super::finding::{Finding, Section};

/// What stands in the report beside the findings: what was looked at, and how it is.
pub type Lines = Vec<String>;

/// What a section says.
pub struct Told {
    /// What was looked at.
    pub lines: Lines,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Judges a section. `own` names Arriero's container.
pub fn judge(section: Section, facts: &Facts, own: Option<&str>) -> Told {
    let (lines, findings) = match section {
        Section::Deployment => deployment::judge(facts),
        Section::Containers => containers::judge(facts, own),
        Section::Resources => resources::judge(facts),
        Section::Servers => servers::judge(facts),
        Section::Tls => tls::judge(facts),
        Section::Clock => clock::judge(facts),
        Section::Logs => logs::judge(facts, own),
        Section::Configuration => configuration::judge(facts),
        Section::Limits => limits::judge(facts, own),
    };
    Told { lines, findings }
}

/// Bytes as people read them: `1.5 GiB`.
fn bytes(number: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| number >= *size) {
        #[expect(clippy::cast_precision_loss, reason = "one digit after the point is told")]
        Some((unit, size)) => format!("{:.1} {unit}", number as f64 / *size as f64),
        None => format!("{number} B"),
    }
}

/// A number and a word, in the plural where it is not one.
fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}
