//! Consistent hash: the same key goes to the same server as long as it is there.
//!
//! # Problem
//!
//! A client, a conversation or a model should meet the same server again: its caches are warm there. When a
//! server comes or goes, only the keys that must move may move, and all instances of a cluster must agree
//! without talking to each other.
//!
//! # How
//!
//! Rendezvous hashing: each server scores each key from a hash of the two, and the highest score among the
//! usable servers wins. A server's scores do not depend on the others. So when it goes, only its own keys move,
//! to all others alike; when one comes, it takes its share from all and nothing else moves. A ring needs some
//! hundred points a server to come near this and still spreads less evenly; here the price is one hash for each
//! server, a few nanoseconds.
//!
//! With unequal weights the score is `weight / -ln(hash)`, hash taken as between 0 and 1: the shares are then in
//! the ratio of the weights, and a change of one weight moves only keys from or to that server.
//!
//! # Invariants
//!
//! - The choice depends on the servers' names and weights and on nothing else: not on their order, the time or the
//!   process.

use std::hash::Hasher;

use fnv::FnvHasher;

use super::scramble;

/// A set of servers among which keys are spread.
#[derive(Clone, Debug)]
pub struct ConsistentHash {
    servers: Box<[Member]>,
    weighted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    seed: u64,
    weight: u32,
}

/// Hashes a key, such as a client's address or a model's name, for [`ConsistentHash::pick`].
#[must_use]
pub fn hash_key(key: &[u8]) -> u64 {
    let mut hasher = FnvHasher::default();
    hasher.write(key);
    scramble(hasher.finish())
}

impl ConsistentHash {
    /// Takes the servers' lasting names and their weights.
    pub fn new<'a>(servers: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let servers: Box<[Member]> =
            servers.into_iter().map(|(name, weight)| Member { seed: hash_key(name.as_bytes()), weight }).collect();
        let mut weights = servers.iter().map(|server| server.weight).filter(|weight| *weight > 0);
        let first = weights.next();
        let weighted = weights.any(|weight| Some(weight) != first);
        Self { servers, weighted }
    }

    /// Picks the usable server to which the key belongs.
    #[must_use]
    pub fn pick(&self, key_hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(f64, u64, usize)> = None;
        for (index, server) in self.servers.iter().enumerate() {
            if server.weight == 0 || !usable(index) {
                continue;
            }
            let hash = scramble(key_hash ^ server.seed);
            let score = if self.weighted { weighted_score(hash, server.weight) } else { 0.0 };
            if best.is_none_or(|(best_score, best_hash, _)| (score, hash) > (best_score, best_hash)) {
                best = Some((score, hash, index));
            }
        }
        best.map(|(_, _, index)| index)
    }
}

#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn weighted_score(hash: u64, weight: u32) -> f64 {
    // Strictly between 0 and 1, so that the logarithm is finite and below 0.
    let unit = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -f64::from(weight) / unit.ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u64 = 5000;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("10.0.0.{number}:11434")).collect()
    }

    fn alike(names: &[String]) -> ConsistentHash {
        ConsistentHash::new(names.iter().map(|name| (name.as_str(), 1)))
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..KEYS).map(|number| hash_key(format!("client-{number}").as_bytes()))
    }

    #[test]
    fn the_choice_is_the_same_in_every_process_for_ever() {
        let rule = alike(&names(10));
        let picks: Vec<_> = keys().take(8).filter_map(|key| rule.pick(key, |_| true)).collect();
        assert_eq!(picks, [9, 2, 5, 6, 1, 4, 2, 6]);
        assert_eq!(hash_key(b"llava:latest"), 16_699_162_989_306_017_061);
    }

    #[test]
    fn the_order_of_the_servers_does_not_matter() {
        let names = names(7);
        let mut reversed = names.clone();
        reversed.reverse();
        let (rule, other) = (alike(&names), alike(&reversed));
        for key in keys() {
            assert_eq!(rule.pick(key, |_| true), other.pick(key, |_| true).map(|index| 6 - index));
        }
    }

    #[test]
    fn shares_are_in_the_ratio_of_the_weights() {
        let names = names(3);
        let rule = ConsistentHash::new(names.iter().map(String::as_str).zip([1, 2, 5]));
        let mut counts = [0_u64; 3];
        for key in keys() {
            counts[rule.pick(key, |_| true).expect("picked")] += 1;
        }
        for (count, weight) in counts.iter().zip([1, 2, 5]) {
            let expected = KEYS * weight / 8;
            assert!(count.abs_diff(expected) < expected / 5, "{counts:?}");
        }
    }

    #[test]
    fn without_a_usable_server_nobody_is_picked() {
        assert_eq!(alike(&[]).pick(1, |_| true), None);
        assert_eq!(alike(&names(3)).pick(1, |_| false), None);
        assert_eq!(ConsistentHash::new([("a", 0)]).pick(1, |_| true), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn when_a_server_goes_only_its_keys_move_and_they_are_few(
            count in 2..40_usize,
            gone in any::<prop::sample::Index>(),
            weighted in any::<bool>(),
        ) {
            let names = names(count);
            let gone = gone.index(count);
            let weight = |index: usize| if weighted && index != gone { 1 + u32::from(index.is_multiple_of(2)) * 2 } else { 1 };
            let member = |index: usize| (names[index].as_str(), weight(index));
            let before = ConsistentHash::new((0..count).map(member));
            let after = ConsistentHash::new((0..count).filter(|index| *index != gone).map(member));
            let mut moved = 0;
            for key in keys() {
                let old = before.pick(key, |_| true).expect("picked");
                let new = after.pick(key, |_| true).expect("picked");
                let new = if new >= gone { new + 1 } else { new };
                if old == gone {
                    moved += 1;
                } else {
                    prop_assert_eq!(old, new);
                }
                // One that is excluded for a while is passed over just as if it had gone.
                prop_assert_eq!(before.pick(key, |index| index != gone), Some(new));
            }
            prop_assert!(moved <= 2 * KEYS / count as u64, "{} of {} moved", moved, KEYS);
        }

        #[test]
        fn an_excluded_server_is_never_picked(mask in any::<u8>(), key in any::<u64>(), weighted in any::<bool>()) {
            let names = names(8);
            let rule = ConsistentHash::new(
                names.iter().zip(0..).map(|(name, number)| (name.as_str(), if weighted { number } else { 1 })),
            );
            let usable = |index: usize| mask >> index & 1 == 1 && (index > 0 || !weighted);
            let picked = rule.pick(key, usable);
            prop_assert_eq!(picked.is_some(), (0..8).any(usable));
            prop_assert!(picked.is_none_or(usable));
        }
    }
}
