//! Which servers are used although their circuits say no; the rule is [`crate::policy::ejection`].

use std::time::Instant;

use super::inventory::ServerSet;
use super::snapshot::Upstream;
use crate::policy::ejection::{Badness, readmit};

/// Of the servers that could have a request, those that are used although their circuits say no. `tried` ones are of no
/// use to this request any more. While no circuit says no, this is a glance at each server.
pub fn readmitted(
    upstream: &Upstream,
    candidates: impl Iterator<Item = usize>,
    model: Option<&str>,
    tried: &[usize],
    now: Instant,
) -> ServerSet {
    let (mut all, mut left, mut ejected) = (0, 0, Vec::<Badness>::new());
    for index in candidates {
        let Some(member) = upstream.servers.get(index) else { continue };
        all += 1;
        if tried.contains(&index) {
            continue;
        }
        match member.state.exclusion(model, now) {
            None => left += 1,
            Some(exclusion) if exclusion.is_soft() => match member.state.badness(model, now, index) {
                Some(bad) => ejected.push(bad),
                // It changed its mind meanwhile.
                None => left += 1,
            },
            Some(_) => {}
        }
    }
    let mut set = ServerSet::default();
    if !ejected.is_empty() {
        let count = readmit(&mut ejected, all, left, upstream.max_ejected);
        ejected[..count].iter().for_each(|bad| set.insert(bad.index));
    }
    set
}
