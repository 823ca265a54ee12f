//! Which models the servers have, and the answers about models that come from the whole fleet.
//!
//! Probes write one [`Inventory`] a server; whenever one changes, the upstream's [`ModelIndex`] is
//! made anew and swapped in. A request reads the index: one load, one look-up.

use std::collections::HashMap;

use bytes::Bytes;
use fnv::FnvBuildHasher;

use super::snapshot::Member;
use crate::ollama::name::ModelName;
use crate::ollama::wire::{self, Available, Loaded, OpenaiListed};

/// The models of one server, as it last told them.
#[derive(Debug, Default)]
pub struct Inventory {
    /// On disk (/api/tags); `None` when it never told.
    pub available: Option<Vec<Available>>,
    /// In memory (/api/ps).
    pub loaded: Vec<Loaded>,
    /// As OpenAI's API lists them.
    pub openai: Vec<OpenaiListed>,
    /// Its version.
    pub version: Option<String>,
}

impl Inventory {
    /// Whether the server has this model, by its canonical name.
    pub fn has(&self, model: &str) -> bool {
        self.available.iter().flatten().any(|row| row.name.as_str() == model)
            || self.openai.iter().any(|row| row.name.as_str() == model)
    }

    /// For which bytes a model's name stands there, by the model's canonical name.
    pub fn digest(&self, model: &str) -> Option<&str> {
        let row = self.available.iter().flatten().find(|row| row.name.as_str() == model)?;
        row.digest.as_deref().filter(|_| row.remote_host.is_none())
    }

    /// Whether the server has told its models.
    pub fn is_known(&self) -> bool {
        self.available.is_some() || !self.openai.is_empty()
    }

    /// How many models it has, and how many of them in memory; `None` when it never told.
    pub fn counts(&self) -> Option<(usize, usize)> {
        match &self.available {
            Some(available) => Some((available.len(), self.loaded.len())),
            None => self.is_known().then_some((self.openai.len(), self.openai.len())),
        }
    }
}

/// A set of an upstream's members, by their index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSet {
    words: Vec<u64>,
}

impl ServerSet {
    /// Adds a member.
    pub fn insert(&mut self, index: usize) {
        let word = index / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (index % 64);
    }

    /// Whether a member is in it.
    pub fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Its members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + Clone {
        self.words.iter().enumerate().flat_map(|(place, word)| {
            let bits = std::iter::successors(Some(*word), |left| Some(left & left.wrapping_sub(1)));
            bits.take_while(|left| *left != 0).map(move |left| place * 64 + left.trailing_zeros() as usize)
        })
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

/// The servers that have a model.
#[derive(Debug, Default)]
pub struct Holders {
    /// Those that have it in memory.
    pub loaded: ServerSet,
    /// Those that have it at all.
    pub available: ServerSet,
    /// For which bytes its name stands.
    pub digest: Digest,
}

/// For which bytes a model's name stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    /// No server has told.
    #[default]
    Unknown,
    /// All that have it tell the same.
    One(String),
    /// They differ, or one of them does not tell, or it runs elsewhere.
    Unclear,
}

impl Digest {
    /// What one more server tells.
    fn add(&mut self, row: &Available) {
        let told = row.digest.as_deref().filter(|digest| !digest.is_empty() && row.remote_host.is_none());
        *self = match (std::mem::take(self), told) {
            (Self::Unknown, Some(digest)) => Self::One(digest.to_owned()),
            (Self::One(known), Some(digest)) if known == digest => Self::One(known),
            _ => Self::Unclear,
        };
    }

    /// The digest, if all agree.
    #[must_use]
    pub fn agreed(&self) -> Option<&str> {
        if let Self::One(digest) = self { Some(digest) } else { None }
    }
}

/// A list of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `/api/tags`.
    Tags,
    /// `/api/ps`.
    Ps,
    /// `/v1/models`.
    Openai,
}

/// Which server has which model, and the fleet's merged lists.
#[derive(Default)]
pub struct ModelIndex {
    models: HashMap<ModelName, Holders, FnvBuildHasher>,
    /// Servers that have not told their models yet.
    pub unknown: ServerSet,
    /// The fleet's /api/tags.
    pub tags: Bytes,
    /// The fleet's /api/ps.
    pub ps: Bytes,
    /// The fleet's /v1/models.
    pub openai: Bytes,
    /// The fleet's lowest version.
    pub version: Option<String>,
}

impl ModelIndex {
    /// The index of these servers' models.
    pub fn of(servers: &[Member]) -> Self {
        let inventories: Vec<_> = servers.iter().map(|member| member.state.inventory()).collect();
        let mut index = Self::default();
        for (number, inventory) in inventories.iter().enumerate() {
            if !inventory.is_known() {
                index.unknown.insert(number);
                continue;
            }
            for row in inventory.available.iter().flatten() {
                let holders = index.models.entry(row.name.clone()).or_default();
                holders.available.insert(number);
                holders.digest.add(row);
            }
            if inventory.available.is_none() {
                // Servers with OpenAI's API alone serve what they have in memory.
                for row in &inventory.openai {
                    let holders = index.models.entry(row.name.clone()).or_default();
                    holders.available.insert(number);
                    holders.loaded.insert(number);
                }
            }
            for row in &inventory.loaded {
                let holders = index.models.entry(row.name.clone()).or_default();
                holders.available.insert(number);
                holders.loaded.insert(number);
            }
        }
        // A server that is down keeps its models in the index (its holders are down: 503, not 404),
        // and its lists too: they say what the fleet has, not what answers this second.
        index.tags = wire::merge_tags(inventories.iter().filter_map(|one| one.available.as_deref())).into();
        index.ps = wire::merge_ps(
            servers.iter().zip(&inventories).filter(|(member, _)| member.state.is_up()).map(|(_, one)| &one.loaded[..]),
        )
        .into();
        index.openai = wire::merge_openai_models(inventories.iter().map(|one| &one.openai[..])).into();
        index.version =
            wire::lowest_version(inventories.iter().filter_map(|one| one.version.as_deref())).map(str::to_owned);
        index
    }

    /// The fleet's answer to a question for a list.
    pub fn list(&self, list: List) -> &Bytes {
        match list {
            List::Tags => &self.tags,
            List::Ps => &self.ps,
            List::Openai => &self.openai,
        }
    }

    /// The same with those models only, by their canonical names, that `allows` lets pass.
    pub fn list_of(&self, list: List, allows: impl Fn(&str) -> bool) -> Bytes {
        // What was merged here reads back; if it did not, an empty list would tell nobody too much.
        let bytes = match list {
            List::Tags => {
                let rows = wire::parse_tags(&self.tags).unwrap_or_default();
                wire::merge_tags([&rows.into_iter().filter(|row| allows(row.name.as_str())).collect::<Vec<_>>()[..]])
            }
            List::Ps => {
                let rows = wire::parse_ps(&self.ps).unwrap_or_default();
                wire::merge_ps([&rows.into_iter().filter(|row| allows(row.name.as_str())).collect::<Vec<_>>()[..]])
            }
            List::Openai => {
                let rows = wire::parse_openai_models(&self.openai).unwrap_or_default();
                let rows: Vec<_> = rows.into_iter().filter(|row| allows(row.name.as_str())).collect();
                wire::merge_openai_models([&rows[..]])
            }
        };
        bytes.into()
    }

    /// The servers that have a model, by its canonical name.
    pub fn holders(&self, model: &str) -> Option<&Holders> {
        self.models.get(model)
    }

    /// The digest of a model on which all servers that have it agree, by its canonical name.
    pub fn digest(&self, model: &str) -> Option<&str> {
        self.holders(model)?.digest.agreed()
    }

    /// Some model of the fleet, always the same one for the same models.
    pub fn first(&self) -> Option<&str> {
        self.models.keys().map(ModelName::as_str).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_inserted_and_nothing_else() {
        let mut set = ServerSet::default();
        assert!(set.is_empty());
        for index in [0, 63, 64, 199] {
            set.insert(index);
        }
        let members: Vec<usize> = (0..300).filter(|index| set.contains(*index)).collect();
        assert_eq!(members, [0, 63, 64, 199]);
    }
}
