//! How well is all of it, in one number from 0 to 100?
//!
//! # Problem
//!
//! A dashboard, an alert and a person in a hurry want one number, and next to it the reasons. So the score is a sum of
//! parts, each with points of its own, and each part says what it is about.
//!
//! | part | points | all of them when |
//! |---|---|---|
//! | `servers` | 40 | each server that no operator took out takes requests |
//! | `errors` | 15 | no request of the last 5 minutes failed; none of them from 20 % on |
//! | `circuits` | 10 | each circuit is closed |
//! | `queue` | 10 | nobody waits; none of them when a queue is full or paused |
//! | `resources` | 10 | memory, disk, processor time and file descriptors are below their thresholds |
//! | `configuration` | 10 | the file on disk is in force |
//! | `certificates` | 5 | none ends within 14 days; none of them when one has ended |
//!
//! Where no server at all takes requests, the sum is 40 at most; where an upstream has none while another has, it is
//! 65 at most: however well the rest is, requests fail.
//!
//! | score | band |
//! |---|---|
//! | 90 to 100 | `excellent`: nothing to do |
//! | 70 to 89 | `good`: something small is wrong, requests are served |
//! | 50 to 69 | `warning`: part of the requests suffers |
//! | 0 to 49 | `critical`: act now |
//!
//! # Invariants
//!
//! - The points of the parts add up to 100.
//! - Something that gets better never lowers the score.

/// Share of failed requests from which on the part `errors` gives no points.
const ALL_IS_LOST: f64 = 0.2;
/// The most where nobody can answer.
const NOBODY: u8 = 40;
/// The most where an upstream has nobody who can answer.
const A_GAP: u8 = 65;

/// The certificate that is worst off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certificate {
    /// None ends soon.
    #[default]
    Good,
    /// It ends within 14 days.
    EndsSoon,
    /// It has ended.
    Ended,
}

/// Days before its end from which on a certificate ends soon. Those that renew by themselves do so before.
pub const SOON_DAYS: i64 = 14;

impl Certificate {
    /// What a certificate is whose last second is `end`; both in seconds since 1970.
    #[must_use]
    pub const fn of(end: i64, now: i64) -> Self {
        if end < now {
            Self::Ended
        } else if end - now < SOON_DAYS * 86_400 {
            Self::EndsSoon
        } else {
            Self::Good
        }
    }
}

/// What the score is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Servers that take requests.
    pub working: usize,
    /// Servers that should and do not: those that an operator took out are not among them.
    pub missing: usize,
    /// Upstreams without a server that takes requests, those emptied by operators included.
    pub empty_upstreams: usize,
    /// Circuits that are closed, those of servers and of models that failed.
    pub closed: usize,
    /// All circuits.
    pub circuits: usize,
    /// How full the fullest queue is, from 0 to 1.
    pub queue: f64,
    /// Somebody paused a queue.
    pub paused: bool,
    /// Requests that ended in the last minutes.
    pub requests: u64,
    /// Those of them that failed though they were right.
    pub failed: u64,
    /// Resources above their threshold, of 4.
    pub exceeded: usize,
    /// The file on disk was refused.
    pub refused: bool,
    /// The certificate that is worst off.
    pub certificate: Certificate,
}

/// A part of the score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is about.
    pub name: &'static str,
    /// Its points.
    pub points: u8,
    /// The most that it can have.
    pub of: u8,
    /// Why it has not all of them; empty when it has.
    pub why: String,
}

/// What the number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Band {
    /// Below 50.
    Critical,
    /// 50 to 69.
    Warning,
    /// 70 to 89.
    Good,
    /// 90 and more.
    Excellent,
}

impl Band {
    /// The band of a score.
    #[must_use]
    pub const fn of(score: u8) -> Self {
        match score {
            90.. => Self::Excellent,
            70..=89 => Self::Good,
            50..=69 => Self::Warning,
            0..=49 => Self::Critical,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Excellent => "excellent",
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The score with its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// From 0 to 100.
    pub value: u8,
    /// What it means.
    pub band: Band,
    /// What it is made of, in the order of the documentation.
    pub parts: Vec<Part>,
}

/// The score.
#[must_use]
pub fn score(facts: &Facts) -> Score {
    let parts = vec![servers(facts), errors(facts), circuits(facts), queue(facts), resources(facts)];
    let parts: Vec<Part> = parts.into_iter().chain([configuration(facts), certificates(facts)]).collect();
    let sum: u8 = parts.iter().map(|part| part.points).sum();
    let value = match (facts.working, facts.missing, facts.empty_upstreams) {
        (0, 0, 0) => sum,
        (0, ..) => sum.min(NOBODY),
        (.., 1..) => sum.min(A_GAP),
        _ => sum,
    };
    Score { value, band: Band::of(value), parts }
}

/// A part of which this share is good.
fn part(name: &'static str, of: u8, share: f64, why: String) -> Part {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and `of`")]
    let mut points = (share.clamp(0.0, 1.0) * f64::from(of)).floor() as u8;
    if share < 1.0 {
        // What is not all right shows, however little it is.
        points = points.min(of.saturating_sub(1));
    }
    Part { name, points, of, why: if points < of { why } else { String::new() } }
}

fn share(good: usize, all: usize) -> f64 {
    let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    if all == 0 { 1.0 } else { count(good) / count(all) }
}

fn servers(facts: &Facts) -> Part {
    let all = facts.working + facts.missing;
    let why = match facts.working {
        0 if all == 0 => "operators took out every server".to_owned(),
        0 => "no server takes requests".to_owned(),
        _ => format!("{} of {all} servers take no requests", facts.missing),
    };
    // Where operators took out all that an upstream has, nobody is missing and still nobody answers.
    let good = if facts.working == 0 && facts.empty_upstreams > 0 { 0.0 } else { share(facts.working, all) };
    part("servers", 40, good, why)
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn errors(facts: &Facts) -> Part {
    let failed = if facts.requests == 0 { 0.0 } else { facts.failed as f64 / facts.requests as f64 };
    let why = format!("{} of {} requests of the last minutes failed", facts.failed, facts.requests);
    part("errors", 15, 1.0 - failed / ALL_IS_LOST, why)
}

fn circuits(facts: &Facts) -> Part {
    let why = format!("{} of {} circuits are not closed", facts.circuits.saturating_sub(facts.closed), facts.circuits);
    part("circuits", 10, share(facts.closed, facts.circuits), why)
}

fn queue(facts: &Facts) -> Part {
    if facts.paused {
        return part("queue", 10, 0.0, "a queue is paused".to_owned());
    }
    let why = format!("a queue is filled to {:.0} %", facts.queue.clamp(0.0, 1.0) * 100.0);
    part("queue", 10, 1.0 - facts.queue, why)
}

fn resources(facts: &Facts) -> Part {
    let why = format!("{} of 4 resources are above their threshold", facts.exceeded);
    // One that runs out is enough to fail.
    let good = match facts.exceeded {
        0 => 1.0,
        1 => 0.3,
        _ => 0.0,
    };
    part("resources", 10, good, why)
}

fn configuration(facts: &Facts) -> Part {
    part("configuration", 10, if facts.refused { 0.0 } else { 1.0 }, "the file on disk was refused".to_owned())
}

fn certificates(facts: &Facts) -> Part {
    let (good, why) = match facts.certificate {
        Certificate::Good => (1.0, ""),
        Certificate::EndsSoon => (0.4, "a certificate ends within 14 days"),
        Certificate::Ended => (0.0, "a certificate has ended"),
    };
    part("certificates", 5, good, why.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn well() -> Facts {
        Facts { working: 4, closed: 4, circuits: 4, ..Facts::default() }
    }

    fn points(score: &Score, name: &str) -> u8 {
        score.parts.iter().find(|part| part.name == name).expect("a part of that name").points
    }

    #[test]
    fn what_is_well_has_all_points_and_no_reasons() {
        for facts in [well(), Facts::default()] {
            let score = score(&facts);
            assert_eq!((score.value, score.band), (100, Band::Excellent), "{score:?}");
            assert_eq!(score.parts.iter().map(|part| u32::from(part.of)).sum::<u32>(), 100);
            assert!(score.parts.iter().all(|part| part.why.is_empty()), "{score:?}");
        }
    }

    #[test]
    fn each_fault_takes_points_from_its_part_and_says_why() {
        let cases: [(&str, Facts, u8); 9] = [
            ("servers", Facts { working: 3, missing: 1, ..well() }, 30),
            ("errors", Facts { requests: 100, failed: 10, ..well() }, 7),
            ("circuits", Facts { closed: 3, ..well() }, 7),
            ("queue", Facts { queue: 0.5, ..well() }, 5),
            ("queue", Facts { paused: true, ..well() }, 0),
            ("resources", Facts { exceeded: 1, ..well() }, 3),
            ("configuration", Facts { refused: true, ..well() }, 0),
            ("certificates", Facts { certificate: Certificate::EndsSoon, ..well() }, 2),
            ("certificates", Facts { certificate: Certificate::Ended, ..well() }, 0),
        ];
        for (name, facts, wanted) in cases {
            let score = score(&facts);
            assert_eq!(points(&score, name), wanted, "{name}");
            let told: Vec<_> = score.parts.iter().filter(|part| !part.why.is_empty()).map(|part| part.name).collect();
            assert_eq!(told, [name]);
        }
        assert_eq!(points(&score(&Facts { requests: 100_000, failed: 1, ..well() }), "errors"), 14);
    }

    #[test]
    fn a_fleet_without_servers_is_critical_however_well_the_rest_is() {
        let nobody = score(&Facts { working: 0, missing: 4, empty_upstreams: 1, ..well() });
        assert_eq!((nobody.value, nobody.band), (40, Band::Critical));
        let taken_out = score(&Facts { working: 0, missing: 0, empty_upstreams: 1, ..well() });
        assert_eq!(taken_out.band, Band::Critical);
        assert_eq!(taken_out.parts[0].why, "operators took out every server");
        let gap = score(&Facts { working: 3, missing: 1, empty_upstreams: 1, ..well() });
        assert_eq!((gap.value, gap.band), (65, Band::Warning));
    }

    #[test]
    fn bands_begin_where_the_documentation_says() {
        let bands: Vec<_> = [100, 90, 89, 70, 69, 50, 49, 0].map(|score| Band::of(score).as_str()).to_vec();
        assert_eq!(bands, ["excellent", "excellent", "good", "good", "warning", "warning", "critical", "critical"]);
    }

    #[test]
    fn certificates_end_soon_before_they_end() {
        let day = 86_400;
        assert_eq!(Certificate::of(14 * day, 0), Certificate::Good);
        assert_eq!(Certificate::of(14 * day - 1, 0), Certificate::EndsSoon);
        assert_eq!(Certificate::of(0, 0), Certificate::EndsSoon);
        assert_eq!(Certificate::of(0, 1), Certificate::Ended);
    }

    proptest! {
        #[test]
        fn nothing_that_gets_better_lowers_the_score(
            (working, missing) in (0_usize..9, 1_usize..9), queue in 0.0_f64..1.0, failed in 1_u64..50, exceeded in 1_usize..5,
        ) {
            let facts = Facts { working, missing, queue, requests: 100, failed, exceeded, ..well() };
            let before = score(&facts).value;
            for better in [
                Facts { working: working + 1, missing: missing - 1, ..facts.clone() },
                Facts { queue: queue / 2.0, ..facts.clone() },
                Facts { failed: failed - 1, ..facts.clone() },
                Facts { exceeded: exceeded - 1, ..facts.clone() },
            ] {
                prop_assert!(score(&better).value >= before, "{better:?}");
            }
        }
    }
}
