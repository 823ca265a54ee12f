//! Bans: servers and models that are kept apart, by an operator or by a rule.
//!
//! # Problem
//!
//! A model that does not fit a server fails there every time, and each failure costs a client minutes. A circuit opens and
//! tries again; a ban stays until it is lifted or its time is over, and says why, who wanted it and since when.
//!
//! # What can be banned
//!
//! A model on a server, a whole server, or a model wherever it is. A table belongs to one upstream; names are those of the
//! configuration and canonical names of models.
//!
//! # Invariants
//!
//! - One ban for each pair of server and model: a second one replaces the first.
//! - At most [`MOST`] bans. When the table is full, the ban that would end first makes room; one without an end never does.

use std::time::{Duration, Instant};

/// Most bans of an upstream.
pub const MOST: usize = 1000;

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The server; `None` for all.
    pub server: Option<String>,
    /// The model by its canonical name; `None` for all.
    pub model: Option<String>,
    /// Why, in the words of whoever wanted it.
    pub reason: String,
    /// Who: an operator, or `rule`.
    pub who: String,
    /// Since when.
    pub since: Instant,
    /// When it ends; `None` when it is lifted.
    pub until: Option<Instant>,
}

impl Ban {
    fn holds(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    fn is_about(&self, server: Option<&str>, model: Option<&str>) -> bool {
        self.server.as_deref() == server && self.model.as_deref() == model
    }
}

/// Bans after failures without any success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanRule {
    /// Counted failures of a model on a server, none of its requests there ever having gone well.
    pub after: u32,
    /// How long the ban lasts.
    pub lasts: Duration,
}

impl BanRule {
    /// The ban that so many failures without any success lead to.
    #[must_use]
    pub fn judge(self, server: &str, model: &str, failures: u32, now: Instant) -> Option<Ban> {
        (failures >= self.after.max(1)).then(|| Ban {
            server: Some(server.to_owned()),
            model: Some(model.to_owned()),
            reason: format!("{failures} failures and not one success"),
            who: "rule".to_owned(),
            since: now,
            until: now.checked_add(self.lasts),
        })
    }
}

/// The bans of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BanTable {
    bans: Vec<Ban>,
}

impl BanTable {
    /// Whether it has none, expired ones not counted out: for a quick look.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// Whether a server may not have a request, or one for this model.
    #[must_use]
    pub fn forbids(&self, server: &str, model: Option<&str>, now: Instant) -> bool {
        self.bans.iter().any(|ban| {
            ban.server.as_deref().is_none_or(|banned| banned == server)
                && ban.model.as_deref().is_none_or(|banned| Some(banned) == model)
                && (ban.server.is_some() || ban.model.is_some())
                && ban.holds(now)
        })
    }

    /// Adds a ban, in the place of another one about the same; `false` when there is no room, or it names nothing.
    pub fn add(&mut self, ban: Ban, now: Instant) -> bool {
        if ban.server.is_none() && ban.model.is_none() {
            return false;
        }
        self.bans.retain(|known| known.holds(now) && !known.is_about(ban.server.as_deref(), ban.model.as_deref()));
        if self.bans.len() >= MOST {
            let ends = self.bans.iter().enumerate().filter_map(|(index, ban)| Some((ban.until?, index)));
            let Some((_, first)) = ends.min() else { return false };
            self.bans.remove(first);
        }
        self.bans.push(ban);
        true
    }

    /// Lifts the ban about exactly this; returns it if it still held.
    pub fn lift(&mut self, server: Option<&str>, model: Option<&str>, now: Instant) -> Option<Ban> {
        let place = self.bans.iter().position(|ban| ban.is_about(server, model))?;
        Some(self.bans.remove(place)).filter(|ban| ban.holds(now))
    }

    /// The bans that hold, the oldest first.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = &Ban> {
        self.bans.iter().filter(move |ban| ban.holds(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn ban(server: Option<&str>, model: Option<&str>, now: Instant, seconds: Option<u64>) -> Ban {
        Ban {
            server: server.map(str::to_owned),
            model: model.map(str::to_owned),
            reason: "too small".to_owned(),
            who: "ana".to_owned(),
            since: now,
            until: seconds.map(|seconds| now + Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn a_pair_a_server_and_a_model_are_banned_each_by_itself() {
        let now = clock::now();
        let cases = [
            (Some("a"), Some("m"), [true, false, false, false]),
            (Some("a"), None, [true, true, true, false]),
            (None, Some("m"), [true, false, false, true]),
        ];
        for (server, model, expected) in cases {
            let mut table = BanTable::default();
            assert!(table.add(ban(server, model, now, None), now));
            let asked = [("a", Some("m")), ("a", Some("n")), ("a", None), ("b", Some("m"))];
            let forbidden = asked.map(|(server, model)| table.forbids(server, model, now));
            assert_eq!(forbidden, expected, "{server:?} {model:?}");
        }
        assert!(!BanTable::default().add(ban(None, None, now, None), now), "all of everything is no ban");
    }

    #[test]
    fn a_ban_ends_when_its_time_is_over_or_it_is_lifted() {
        let (now, mut table) = (clock::now(), BanTable::default());
        table.add(ban(Some("a"), Some("m"), now, Some(60)), now);
        let later = now + Duration::from_secs(60);
        assert!(table.forbids("a", Some("m"), now) && !table.forbids("a", Some("m"), later));
        assert_eq!((table.iter(now).count(), table.iter(later).count()), (1, 0));
        assert_eq!(table.lift(Some("a"), None, now), None, "that is another one");
        assert!(table.lift(Some("a"), Some("m"), now).is_some_and(|ban| ban.who == "ana"));
        assert!(!table.forbids("a", Some("m"), now) && table.is_empty());
    }

    #[test]
    fn a_second_ban_about_the_same_replaces_the_first() {
        let (now, mut table) = (clock::now(), BanTable::default());
        table.add(ban(Some("a"), None, now, Some(1)), now);
        table.add(ban(Some("a"), None, now, None), now);
        assert_eq!(table.iter(now).map(|ban| ban.until).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_full_table_lets_the_one_go_that_would_end_first() {
        let (now, mut table) = (clock::now(), BanTable::default());
        for number in 0..MOST as u64 {
            table.add(ban(Some(&number.to_string()), None, now, (number > 0).then_some(number + 10)), now);
        }
        assert!(table.add(ban(Some("new"), None, now, None), now));
        assert_eq!(table.iter(now).count(), MOST);
        assert!(!table.forbids("1", None, now) && table.forbids("0", None, now) && table.forbids("2", None, now));
        let later = now + Duration::from_secs(5000);
        assert!(table.add(ban(Some("later"), None, later, None), later), "the others are over");
        assert_eq!(table.iter(later).count(), 3);
    }

    #[test]
    fn the_rule_bans_after_so_many_failures() {
        let (now, rule) = (clock::now(), BanRule { after: 3, lasts: Duration::from_hours(1) });
        assert_eq!(rule.judge("a", "m", 2, now), None);
        let ban = rule.judge("a", "m", 3, now).expect("a ban");
        assert_eq!((ban.server.as_deref(), ban.model.as_deref(), ban.who.as_str()), (Some("a"), Some("m"), "rule"));
        assert_eq!(ban.until, Some(now + Duration::from_hours(1)));
    }
}
