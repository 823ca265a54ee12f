//! Ejection: how many servers may be left alone at a time because of what their circuits say.
//!
//! # Problem
//!
//! A circuit judges its own server. When all of them fail, because of a bad prompt, a bad model file or a full disk, all
//! circuits open, and a fleet that answers every third request becomes one that answers none.
//!
//! # Rule
//!
//! Of the servers that could have a request at most so many hundredths are left alone, and never the last one. If
//! more circuits are open than that, the least bad of their servers are used all the same. A server that cannot be reached
//! may be left alone beyond that share: a request sent there is lost. But when nobody else is left, it is tried.

use std::time::Instant;

use super::circuit::Cause;

/// How bad a server is whose circuit lets nothing pass. The least is used first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Badness {
    /// Why; `None` when it is half open and its trial is out.
    pub cause: Option<Cause>,
    /// How often it opened lately.
    pub openings: u32,
    /// When it will be tried.
    pub until: Option<Instant>,
    /// Its place in the upstream, so that two are never equal.
    pub index: usize,
}

/// How many of `ejected` are to be used all the same; they are then its first ones. `candidates` is how many servers could
/// have the request, `left` how many of those neither are ejected nor out of the question for another reason.
pub fn readmit(ejected: &mut [Badness], candidates: usize, left: usize, most_percent: u8) -> usize {
    let most = candidates.saturating_mul(usize::from(most_percent.min(100))) / 100;
    let soft = ejected.iter().filter(|bad| bad.cause != Some(Cause::Unreachable)).count();
    let too_many = soft.saturating_sub(most);
    let needed = usize::from(left == 0 && !ejected.is_empty()).max(too_many);
    if needed > 0 {
        ejected.sort_unstable_by_key(|bad| (bad.cause == Some(Cause::Unreachable), *bad));
    }
    needed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn bad(index: usize, cause: Option<Cause>, openings: u32) -> Badness {
        Badness { cause, openings, until: Some(clock::now() + Duration::from_secs(30)), index }
    }

    fn used(ejected: &mut [Badness], candidates: usize, left: usize) -> Vec<usize> {
        let count = readmit(ejected, candidates, left, 50);
        ejected[..count].iter().map(|bad| bad.index).collect()
    }

    #[test]
    fn half_may_be_ejected_and_the_least_bad_of_the_others_are_used() {
        let failing = |index, openings| bad(index, Some(Cause::Failures), openings);
        assert_eq!(used(&mut [failing(0, 1)], 2, 1), [0; 0]);
        assert_eq!(used(&mut [failing(0, 1)], 3, 2), [0; 0]);
        assert_eq!(used(&mut [failing(0, 3), failing(1, 1)], 3, 1), [1]);
        assert_eq!(used(&mut [failing(0, 3), failing(1, 1), failing(2, 2), failing(3, 4)], 4, 0), [1, 2]);
        assert_eq!(used(&mut [failing(0, 3), bad(1, None, 5)], 2, 0), [1], "one that is on trial is less bad");
    }

    #[test]
    fn the_last_one_is_never_ejected() {
        assert_eq!(used(&mut [bad(0, Some(Cause::Failures), 9)], 1, 0), [0]);
        assert_eq!(used(&mut [bad(0, Some(Cause::Unreachable), 9)], 1, 0), [0]);
        assert_eq!(readmit(&mut [bad(0, Some(Cause::Failures), 9)], 4, 0, 100), 1, "the three others are down");
    }

    #[test]
    fn those_that_cannot_be_reached_may_be_more_than_half() {
        let mut ejected: Vec<_> = (0..8).map(|index| bad(index, Some(Cause::Unreachable), 1)).collect();
        assert_eq!(used(&mut ejected, 10, 2), [0; 0]);
        ejected.push(bad(8, Some(Cause::Failures), 9));
        ejected.push(bad(9, Some(Cause::Order), 1));
        assert_eq!(used(&mut ejected, 10, 0), [8], "one that failed is better than one that is not there");
    }

    proptest! {
        #[test]
        fn never_more_than_the_share_and_never_the_last(
            ejected in prop::collection::vec((any::<bool>(), 0..5_u32), 0..20),
            left in 0..20_usize,
            percent in 0..=100_u8,
        ) {
            let cause = |unreachable| Some(if unreachable { Cause::Unreachable } else { Cause::Failures });
            let mut ejected: Vec<_> = ejected
                .iter()
                .enumerate()
                .map(|(index, (unreachable, openings))| bad(index, cause(*unreachable), *openings))
                .collect();
            let candidates = ejected.len() + left;
            let count = readmit(&mut ejected, candidates, left, percent);
            prop_assert!(count <= ejected.len());
            prop_assert!(candidates == 0 || left + count > 0);
            let soft = ejected[count..].iter().filter(|bad| bad.cause == Some(Cause::Failures)).count();
            prop_assert!(soft * 100 <= candidates * usize::from(percent));
            // Nobody is left out for one who is worse.
            let worst_used = ejected[..count].iter().max();
            prop_assert!(count == 0 || ejected[count..].iter().all(|bad| Some(bad) > worst_used));
        }
    }
}
