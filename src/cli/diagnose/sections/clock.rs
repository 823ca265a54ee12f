//! Clocks that differ: certificates, tokens and logs all depend on them.

use super::super::codes;
use super::super::facts::Facts;
use super::super::finding::Finding;
use super::Lines;

/// Seconds by which clocks may differ.
const MOST: i64 = 5;
/// 2025: this program is younger.
const BEGIN: i64 = 1_735_689_600;

/// Judges them.
pub fn judge(facts: &Facts) -> (Lines, Vec<Finding>) {
    let mut found = Vec::new();
    let with_clock = facts.servers.iter().filter_map(|server| Some((server, server.answer.as_ref().ok()?.clock?)));
    let with_clock: Vec<_> = with_clock.collect();
    if facts.now < BEGIN {
        found.push(Finding::new(
            codes::CLOCK_WRONG,
            "the clock of this machine is years behind: certificates are refused",
            "set it: `timedatectl set-ntp true`",
        ));
    }
    let differ = with_clock.iter().filter(|(_, skew)| skew.abs() > MOST);
    found.extend(differ.map(|(server, skew)| {
        let word = if *skew > 0 { "ahead of" } else { "behind" };
        Finding::new(
            codes::CLOCK_SKEW,
            format!("the clock of the server `{}` is {} s {word} this one", server.id, skew.abs()),
            "let both follow the same time: `timedatectl set-ntp true` on each",
        )
    }));
    let lines = vec![match with_clock.iter().map(|(_, skew)| skew.abs()).max() {
        None => "no server told the time".to_owned(),
        Some(most) => format!("clocks of {} servers compared, at most {most} s apart", with_clock.len()),
    }];
    (lines, found)
}
