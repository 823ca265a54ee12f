//! What holds at a place: its own directives and those of the blocks around it.
//!
//! nginx inherits in two ways. Of most directives the innermost wins. Of those that make a list (`add_header`,
//! `proxy_set_header`, `allow`, `limit_req`, `error_page`), the innermost block that has any wins with all of its own.

use super::tree::Directive;

/// Blocks around a place, the outermost first.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope<'t> {
    levels: Vec<&'t [Directive]>,
}

impl<'t> Scope<'t> {
    /// The scope inside of a block that stands in this one.
    pub(super) fn inside(&self, block: &'t [Directive]) -> Self {
        let mut levels = self.levels.clone();
        levels.push(block);
        Self { levels }
    }

    /// The directive that holds here.
    pub(super) fn last(&self, name: &str) -> Option<&'t Directive> {
        self.levels.iter().rev().find_map(|level| find(level, name))
    }

    /// The directive of this name in the innermost block itself.
    pub(super) fn own(&self, name: &str) -> Option<&'t Directive> {
        find(self.levels.last()?, name)
    }

    /// The directives of a list that hold here, in order.
    pub(super) fn list(&self, names: &[&str]) -> Vec<&'t Directive> {
        let of = |level: &&'t [Directive]| -> Vec<&'t Directive> {
            level.iter().filter(|directive| names.contains(&directive.name.as_str())).collect()
        };
        self.levels.iter().rev().map(of).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// The directives of this name of all blocks, those of outer blocks first.
    pub(super) fn every(&self, name: &str) -> Vec<&'t Directive> {
        self.levels.iter().flat_map(|level| level.iter().filter(move |directive| directive.name == name)).collect()
    }

    /// The innermost block.
    pub(super) fn innermost(&self) -> &'t [Directive] {
        self.levels.last().copied().unwrap_or_default()
    }
}

fn find<'t>(level: &'t [Directive], name: &str) -> Option<&'t Directive> {
    level.iter().rev().find(|directive| directive.name == name)
}
