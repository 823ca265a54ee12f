//! Round robin: in turn, by weight.
//!
//! # How
//!
//! The weights, divided by their greatest common divisor, are laid out as slots on a line; `total` of them. A
//! cycle of `total` turns visits each slot exactly once, so the shares are exact. The order of the visits keeps
//! the turns of a heavy server apart: it is that of Nginx's smooth weighted round robin, worked out beforehand.
//! With more slots than are worth a list, turn `t` takes slot `t * step mod total`, where `step` is near the
//! golden section of `total` and has no common divisor with it. The slot's server is found by binary search.
//!
//! If that server is excluded, its turns are counted on their own and dealt to the others by weight. So the
//! share of an excluded server goes to all others alike and not to its neighbour alone.

use super::greatest_common_divisor;

/// The order of the turns of a set of servers.
#[derive(Clone, Debug)]
pub struct RoundRobin {
    /// For each server, the first slot that is not its own any more.
    ends: Box<[u64]>,
    total: u64,
    order: Order,
}

/// In which order a cycle visits the slots.
#[derive(Clone, Debug)]
enum Order {
    /// This one.
    Listed(Box<[u16]>),
    /// Each time so many slots further.
    Step(u64),
}

/// Most slots whose order is listed.
const LONGEST_LIST: u64 = 4096;

impl RoundRobin {
    /// Lays out the turns of servers with these weights.
    #[must_use]
    pub fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |divisor, weight| greatest_common_divisor(divisor, u64::from(*weight)));
        let mut total = 0;
        let ends: Box<[u64]> = weights
            .iter()
            .map(|weight| {
                total += u64::from(*weight) / divisor.max(1);
                total
            })
            .collect();
        let mut rule = Self { ends, total, order: Order::Step(1) };
        let all_alike = rule.ends.iter().zip(1..).all(|(end, number)| *end == number);
        if !all_alike {
            rule.order =
                if total <= LONGEST_LIST { Order::Listed(rule.smooth_order()) } else { Order::Step(step(total)) };
        }
        rule
    }

    /// Picks the server whose turn it is; if it is not usable, another one of `candidates` (all that may be) that is.
    #[must_use]
    pub fn pick(
        &self,
        turn: u64,
        candidates: impl Iterator<Item = usize> + Clone,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.total == 0 {
            return None;
        }
        let (cycle, in_cycle) = (turn / self.total, turn % self.total);
        let slot = self.slot(in_cycle);
        let index = self.ends.partition_point(|end| *end <= slot);
        if usable(index) {
            return Some(index);
        }
        self.deal(cycle.wrapping_mul(self.weight(index)).wrapping_add(slot), candidates, usable)
    }

    /// Deals a turn of an excluded server to the others. If some that were usable when they were counted are not
    /// any more, the last one that still is gets the turns of the missing.
    fn deal(
        &self,
        turn: u64,
        candidates: impl Iterator<Item = usize> + Clone,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let weight = |index: usize| if usable(index) { self.weight(index) } else { 0 };
        let total: u64 = candidates.clone().map(weight).sum();
        if total == 0 {
            return None;
        }
        let mut slot = turn % total;
        let mut last_usable = None;
        for index in candidates {
            let weight = weight(index);
            if weight == 0 {
                continue;
            }
            last_usable = Some(index);
            if slot < weight {
                break;
            }
            slot -= weight;
        }
        last_usable
    }

    fn slot(&self, in_cycle: u64) -> u64 {
        match &self.order {
            Order::Listed(slots) => {
                let place = usize::try_from(in_cycle).unwrap_or(usize::MAX);
                slots.get(place).copied().map_or(0, u64::from)
            }
            Order::Step(1) => in_cycle,
            Order::Step(step) => multiply_modulo(in_cycle, *step, self.total),
        }
    }

    /// Nginx's rule: each turn every server gains its weight, the richest is chosen and pays `total`.
    fn smooth_order(&self) -> Box<[u16]> {
        let mut servers: Vec<(i64, u64)> = (0..self.ends.len()).map(|index| (0, self.first_slot(index))).collect();
        let turns = 0..self.total;
        let order = turns.map(|_| {
            let mut richest = 0;
            for index in 0..servers.len() {
                servers[index].0 = servers[index].0.saturating_add_unsigned(self.weight(index));
                if servers[index].0 > servers[richest].0 {
                    richest = index;
                }
            }
            let (wealth, next_slot) = &mut servers[richest];
            *wealth = wealth.saturating_sub_unsigned(self.total);
            let slot = *next_slot;
            *next_slot += 1;
            u16::try_from(slot).unwrap_or(0)
        });
        order.collect()
    }

    fn first_slot(&self, index: usize) -> u64 {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn weight(&self, index: usize) -> u64 {
        self.ends[index] - self.first_slot(index)
    }
}

/// The number nearest below the golden section of `total` that has no common divisor with it.
fn step(total: u64) -> u64 {
    // 2^32 / 1.618..., so that the product fits whatever `total` is.
    let golden = u64::try_from((u128::from(total) * 0x9e37_79b9) >> 32).unwrap_or(1);
    (1..=golden).rev().find(|step| greatest_common_divisor(*step, total) == 1).unwrap_or(1)
}

fn multiply_modulo(a: u64, b: u64, modulus: u64) -> u64 {
    match a.checked_mul(b) {
        Some(product) => product % modulus,
        None => u64::try_from(u128::from(a) * u128::from(b) % u128::from(modulus)).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pick(rule: &RoundRobin, turn: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        rule.pick(turn, 0..rule.ends.len(), usable)
    }

    fn order(weights: &[u32], turns: u64) -> Vec<usize> {
        let rule = RoundRobin::new(weights);
        (0..turns).filter_map(|turn| pick(&rule, turn, |_| true)).collect()
    }

    #[test]
    fn servers_of_equal_weight_take_turns_in_order() {
        assert_eq!(order(&[7, 7, 7], 7), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_heavy_server_does_not_get_its_turns_in_a_row() {
        assert_eq!(order(&[3, 1, 2], 6), [0, 2, 0, 1, 2, 0]);
        assert_eq!(order(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        for heavy in [1999, 19_999] {
            let order = order(&[heavy, heavy - 1], 1000);
            assert!(order.windows(3).all(|turns| turns[0] != turns[1] || turns[1] != turns[2]), "{heavy}");
        }
    }

    #[test]
    fn too_many_slots_for_a_list_are_shared_exactly_too() {
        let weights = [1000, 999, 998, 997, 996];
        let rule = RoundRobin::new(&weights);
        assert!(matches!(rule.order, Order::Step(_)));
        let mut counts = [0; 5];
        for turn in 0..weights.iter().sum() {
            counts[pick(&rule, u64::from(turn), |_| true).expect("picked")] += 1;
        }
        assert_eq!(counts, weights);
    }

    #[test]
    fn without_a_usable_server_nobody_is_picked() {
        assert_eq!(pick(&RoundRobin::new(&[]), 1, |_| true), None);
        assert_eq!(pick(&RoundRobin::new(&[0, 0]), 1, |_| true), None);
        assert_eq!(pick(&RoundRobin::new(&[1, 2]), 1, |_| false), None);
    }

    #[test]
    fn the_turns_of_an_excluded_server_go_to_all_others_alike() {
        let rule = RoundRobin::new(&[1, 1, 1, 1]);
        let mut counts = [0; 4];
        for turn in 0..1200 {
            counts[pick(&rule, turn, |index| index != 1).expect("picked")] += 1;
        }
        assert_eq!(counts, [400, 0, 400, 400]);
    }

    proptest! {
        #[test]
        fn over_a_full_cycle_the_shares_are_exact(
            weights in prop::collection::vec(0..50_u32, 1..20),
            start in any::<u32>(),
        ) {
            let rule = RoundRobin::new(&weights);
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut counts = vec![0_u32; weights.len()];
            for turn in 0..total {
                counts[pick(&rule, u64::from(start) + turn, |_| true).expect("picked")] += 1;
            }
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn an_excluded_server_is_never_picked_and_the_others_get_their_share(
            servers in prop::collection::vec((1..6_u32, any::<bool>()), 1..8),
        ) {
            let weights: Vec<u32> = servers.iter().map(|server| server.0).collect();
            let rule = RoundRobin::new(&weights);
            let all: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let usable: u64 = servers.iter().filter(|server| server.1).map(|server| u64::from(server.0)).sum();
            let mut counts = vec![0_u64; servers.len()];
            // After this many turns each server's turns have been dealt a whole number of times.
            for turn in 0..all * usable {
                let index = pick(&rule, turn, |index| servers[index].1).expect("picked");
                prop_assert!(servers[index].1);
                counts[index] += 1;
            }
            for (index, (weight, is_usable)) in servers.iter().enumerate() {
                let expected = if *is_usable { all * u64::from(*weight) } else { 0 };
                prop_assert_eq!(counts[index], expected);
            }
            if usable == 0 {
                prop_assert_eq!(pick(&rule, 0, |index| servers[index].1), None);
            }
        }

        #[test]
        fn no_number_makes_it_panic(
            weights in prop::collection::vec(any::<u32>(), 1..9),
            turn in any::<u64>(),
            mask in any::<u8>(),
        ) {
            let usable = |index: usize| mask >> index & 1 == 1;
            let picked = pick(&RoundRobin::new(&weights), turn, usable);
            let possible = (0..weights.len()).any(|index| usable(index) && weights[index] > 0);
            prop_assert_eq!(picked.is_some(), possible);
            prop_assert!(picked.is_none_or(|index| usable(index) && weights[index] > 0));
        }
    }
}
