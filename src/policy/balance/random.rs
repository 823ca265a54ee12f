//! By lot: one server by weight, or the better of two.
//!
//! `weighted` draws one server, each as often as its weight says. It knows nothing of load and needs nothing of it.
//!
//! `random_two` draws two and takes the one with fewer requests in flight for its weight (the power of two choices:
//! Mitzenmacher, 2001). The loads are nearly as even as with a look at all servers, and several proxies that see the same
//! numbers do not all choose the same server.

use super::scramble;

/// Draws one of the candidates by weight. `weight` answers `None` for a server that is excluded.
#[must_use]
pub fn weighted(
    candidates: impl Iterator<Item = usize> + Clone,
    weight: impl Fn(usize) -> Option<u32>,
    random: u64,
) -> Option<usize> {
    let all: u64 = candidates.clone().filter_map(&weight).map(u64::from).sum();
    let mut lot = scramble(random).checked_rem(all)?;
    candidates.clone().find(|index| match weight(*index).map(u64::from) {
        Some(weight) if lot < weight => true,
        Some(weight) => {
            lot -= weight;
            false
        }
        None => false,
    })
}

/// Draws two of the candidates by weight and takes the one with less `in_flight / weight`; `None` is an excluded one.
#[must_use]
pub fn of_two(
    candidates: impl Iterator<Item = usize> + Clone,
    load: impl Fn(usize) -> Option<(u32, u32)>,
    random: u64,
) -> Option<usize> {
    let weight = |index: usize| load(index).map(|(_, weight)| weight);
    let one = weighted(candidates.clone(), weight, random)?;
    let others = |index: usize| if index == one { None } else { weight(index) };
    let Some(other) = weighted(candidates, others, scramble(random ^ 0x2c)) else { return Some(one) };
    // Crosswise, so that nothing is rounded: a / wa <= b / wb.
    let ((a, wa), (b, wb)) = (load(one)?, load(other)?);
    let is_less = u64::from(a) * u64::from(wb) <= u64::from(b) * u64::from(wa);
    Some(if is_less { one } else { other })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_are_shares() {
        let weights = [3, 0, 1];
        let mut counts = [0; 3];
        for random in 0..4000 {
            counts[weighted(0..3, |index| Some(weights[index]), random).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2800..3200).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn the_busiest_server_gets_nothing_unless_it_is_alone() {
        let load = [5, 1, 1];
        let picked = |random| of_two(0..3, |index| Some((load[index], 1)), random).unwrap();
        assert!((0..500).all(|random| picked(random) != 0));
        assert_eq!(of_two(0..3, |index| (index == 0).then_some((5, 1)), 7), Some(0));
    }

    proptest! {
        #[test]
        fn only_candidates_are_picked_and_one_is_if_there_is_one(
            servers in prop::collection::vec((any::<bool>(), 0..5_u32, 0..9_u32), 1..8), random in any::<u64>(),
        ) {
            let weight = |index: usize| { let (usable, weight, _) = servers[index]; usable.then_some(weight) };
            let load = |index: usize| weight(index).map(|weight| (servers[index].2, weight));
            let any = (0..servers.len()).any(|index| weight(index).is_some_and(|weight| weight > 0));
            for picked in [weighted(0..servers.len(), weight, random), of_two(0..servers.len(), load, random)] {
                prop_assert_eq!(picked.is_some(), any);
                prop_assert!(picked.is_none_or(|index| weight(index).is_some_and(|weight| weight > 0)));
            }
        }
    }
}
