//! What was changed at run time, apart from the file.
//!
//! # Problem
//! An operator raises a limit or adds a server at night, over the admin API. That must hold at once and after a
//! restart, must not be lost when somebody edits the file, must be seen as what it is, and must find its way into the
//! file without destroying the comments that people wrote there.
//!
//! # Shape
//! An [`Overlay`] is a list of [`Edit`]s: a [`Place`] in the file, and the value that stands there now, or none. It is
//! laid over the file's tree before variables are replaced and types are read ([`apply`]), so that a value has to pass the
//! same rules wherever it comes from. [`difference`] finds the edits that lead from one text to another, [`save`] writes
//! them into the file's text.
//!
//! # Invariants
//! - The members of a list are named, not counted: an edit about the server `a100-1` is about it wherever it stands.
//! - An edit whose place is gone from the file has no effect, and that is told.
//! - At most one edit concerns a value: a later one replaces those at its place and below.
//! - [`save`] gives a text only if reading it gives exactly what the overlay said.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::tree;
use super::types::Config;

mod apply;
mod difference;
mod json;
mod save;
mod text;

pub use difference::difference;
use json::is_masked;
pub use json::{has_mask, masked};
pub use save::{NotSaved, save};

pub(super) use apply::apply;
pub(super) use json::to_json;

/// One step down the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// The member of a list with this name: what its `name` says, else its `url`, else its `address`.
    Item(String),
}

/// Where in the file; printed like `upstreams.fleet.servers[a100-1].weight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Place(pub Vec<Step>);

impl Place {
    /// The place of a list of keys.
    pub fn of_keys<'k>(keys: impl IntoIterator<Item = &'k str>) -> Self {
        Self(keys.into_iter().map(|key| Step::Key(key.to_owned())).collect())
    }

    /// The value of a key of the mapping here.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    /// A member of the list here.
    #[must_use]
    pub fn item(&self, name: &str) -> Self {
        self.then(Step::Item(name.to_owned()))
    }

    /// What stands here.
    #[must_use]
    pub fn find<'j>(&self, written: &'j Json) -> Option<&'j Json> {
        self.0.iter().try_fold(written, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Item(name) => value.as_array()?.iter().find(|item| name_of(item) == Some(name)),
        })
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Whether `other` is this place or lies below it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(name) => write!(formatter, "[{name}]")?,
                Step::Key(key) if tree::is_simple(key) => {
                    write!(formatter, "{}{key}", if index > 0 { "." } else { "" })?;
                }
                Step::Key(key) => write!(formatter, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// A value that was set, or taken away.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Edit {
    /// Where.
    pub place: Place,
    /// What stands there now, as it would be typed; `None` for nothing, which is not the same as `null`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    pub value: Option<Json>,
}

fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

impl Edit {
    /// Whether `written` says already what this edit wants.
    #[must_use]
    pub fn is_in(&self, written: &Json) -> bool {
        self.place.find(written) == self.value.as_ref()
    }
}

/// What was changed at run time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay(Vec<Edit>);

impl Overlay {
    /// The edits, the oldest first.
    pub fn edits(&self) -> &[Edit] {
        &self.0
    }

    /// Whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an edit; those about the same value, or about what is in it, are gone.
    pub fn push(&mut self, edit: Edit) {
        self.0.retain(|known| !edit.place.holds(&known.place));
        self.0.push(edit);
    }

    /// Drops the edits that `keep` does not want.
    pub fn retain(&mut self, keep: impl FnMut(&Edit) -> bool) {
        self.0.retain(keep);
    }
}

impl FromIterator<Edit> for Overlay {
    fn from_iter<I: IntoIterator<Item = Edit>>(edits: I) -> Self {
        let mut overlay = Self::default();
        edits.into_iter().for_each(|edit| overlay.push(edit));
        overlay
    }
}

/// Marks the servers whose URL does not stand in the file.
pub(super) fn mark_servers(config: &mut Config, file: &Json, written: &Json) {
    for (name, upstream) in &mut config.upstreams {
        let urls = |written: &Json| -> Vec<Option<String>> {
            let servers = written["upstreams"][name]["servers"].as_array();
            let url = |server: &Json| server["url"].as_str().map(str::to_owned);
            servers.into_iter().flatten().map(url).collect()
        };
        let known = urls(file);
        for (entry, url) in upstream.servers.iter_mut().zip(urls(written)) {
            entry.at_run_time = !known.contains(&url);
        }
    }
}

/// The name of a member of a list.
#[must_use]
pub fn name_of(member: &Json) -> Option<&str> {
    ["name", "url", "address"].into_iter().find_map(|key| member.get(key)?.as_str())
}

/// The names of the members of a list; `None` unless each has one of its own.
fn names_of(list: &[Json]) -> Option<Vec<&str>> {
    let names: Option<Vec<&str>> = list.iter().map(name_of).collect();
    let names = names?;
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    (sorted.len() == names.len()).then_some(names)
}

#[cfg(test)]
mod tests;
