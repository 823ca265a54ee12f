//! Least requests: the fewest requests in flight for its weight.
//!
//! Requests to models last from a tenth of a second to minutes, so equal numbers of requests are not equal
//! load; the number in flight is what shows it. A server with weight 3 may have three times as many as one
//! with weight 1. Among servers that are equal in this, turns are taken by weight, so that an idle fleet is
//! used evenly and one quick request after another does not always meet the first server.

/// Picks a server with the least `in_flight / weight` among `candidates`, which are in ascending order. `in_flight` answers
/// `None` for a server that is excluded. `turn` decides among equals; see [the turns](super#turns).
///
/// Each closure is called at most twice for each server. If the numbers change meanwhile, the choice is as good
/// as the numbers were.
#[must_use]
pub fn pick(
    candidates: impl Iterator<Item = usize> + Clone,
    in_flight: impl Fn(usize) -> Option<u32>,
    weight: impl Fn(usize) -> u32,
    turn: u64,
) -> Option<usize> {
    let load = |index: usize| {
        let load = Load { in_flight: in_flight(index)?, weight: weight(index) };
        (load.weight > 0).then_some(load)
    };
    let mut best: Option<(usize, Load)> = None;
    let mut weight_of_equals = 0;
    for index in candidates.clone() {
        let Some(load) = load(index) else { continue };
        match best {
            Some((_, least)) if least.is_less_than(load) => {}
            Some((_, least)) if !load.is_less_than(least) => weight_of_equals += u64::from(load.weight),
            _ => {
                best = Some((index, load));
                weight_of_equals = u64::from(load.weight);
            }
        }
    }
    let (first, least) = best?;
    if weight_of_equals == u64::from(least.weight) {
        return Some(first);
    }
    let mut slot = turn % weight_of_equals;
    for index in candidates.skip_while(|index| *index < first) {
        let Some(load) = load(index) else { continue };
        if least.is_less_than(load) {
            continue;
        }
        if slot < u64::from(load.weight) {
            return Some(index);
        }
        slot -= u64::from(load.weight);
    }
    Some(first)
}

#[derive(Clone, Copy)]
struct Load {
    in_flight: u32,
    weight: u32,
}

impl Load {
    fn is_less_than(self, other: Self) -> bool {
        u64::from(self.in_flight) * u64::from(other.weight) < u64::from(other.in_flight) * u64::from(self.weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pick_from(servers: &[(Option<u32>, u32)], turn: u64) -> Option<usize> {
        pick(0..servers.len(), |index| servers[index].0, |index| servers[index].1, turn)
    }

    #[test]
    fn the_fewest_requests_in_flight_win() {
        assert_eq!(pick_from(&[(Some(3), 1), (Some(1), 1), (Some(2), 1)], 0), Some(1));
    }

    #[test]
    fn a_heavier_server_may_have_more() {
        assert_eq!(pick_from(&[(Some(2), 1), (Some(5), 3)], 0), Some(1));
        assert_eq!(pick_from(&[(Some(1), 1), (Some(4), 3)], 0), Some(0));
    }

    #[test]
    fn equals_take_turns_by_weight() {
        let idle = [(Some(0), 2), (None, 1), (Some(0), 1), (Some(0), 1)];
        let order: Vec<_> = (0..8).filter_map(|turn| pick_from(&idle, turn)).collect();
        assert_eq!(order, [0, 0, 2, 3, 0, 0, 2, 3]);
    }

    #[test]
    fn without_a_candidate_nobody_is_picked() {
        assert_eq!(pick_from(&[], 0), None);
        assert_eq!(pick_from(&[(None, 1), (Some(0), 0)], 0), None);
    }

    #[test]
    fn a_load_that_changes_between_the_looks_still_gives_a_candidate() {
        let looks = std::cell::Cell::new(0);
        let in_flight = |_| {
            looks.set(looks.get() + 1);
            Some(if looks.get() <= 3 { 0 } else { 9 })
        };
        assert!(pick(0..3, in_flight, |_| 1, 2).is_some());
    }

    proptest! {
        #[test]
        fn no_candidate_is_strictly_better_than_the_one_picked(
            servers in prop::collection::vec((prop::option::of(any::<u32>()), any::<u32>()), 0..20),
            turn in any::<u64>(),
        ) {
            match pick_from(&servers, turn) {
                None => {
                    prop_assert!(servers.iter().all(|(in_flight, weight)| in_flight.is_none() || *weight == 0));
                }
                Some(index) => {
                    let (in_flight, weight) = servers[index];
                    prop_assert!(in_flight.is_some() && weight > 0);
                    let load = u128::from(in_flight.unwrap_or(0));
                    for (other_in_flight, other_weight) in &servers {
                        let Some(other) = other_in_flight else { continue };
                        if *other_weight > 0 {
                            prop_assert!(load * u128::from(*other_weight) <= u128::from(*other) * u128::from(weight));
                        }
                    }
                }
            }
        }

        #[test]
        fn equals_get_exact_shares_by_weight(weights in prop::collection::vec(1..9_u32, 1..10), start in any::<u32>()) {
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut counts = vec![0_u32; weights.len()];
            for turn in 0..total {
                let picked = pick(0..weights.len(), |_| Some(0), |index| weights[index], u64::from(start) + turn);
                counts[picked.expect("picked")] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }
}
