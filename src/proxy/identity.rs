//! Numbers that tell one thing from all others of its kind: ids of requests, traces and spans.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::balance::scramble;

/// A number that no other call in this process gives, and hardly one in another process; it looks random, and is not zero.
pub fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut number = NEXT.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        // Whoever else comes in this moment begins near zero: unique in this process still.
        number = random() >> 1;
        NEXT.fetch_add(number, Ordering::Relaxed);
    }
    // It is zero for one number only, and then the next one will do.
    match scramble(number) {
        0 => unique(),
        scrambled => scrambled,
    }
}

/// Sixteen bytes of that kind.
pub fn unique_wide() -> u128 {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    u128::from(*PROCESS.get_or_init(random)) << 64 | u128::from(unique())
}

/// Without randomness in the system, zero.
fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_or(0, |()| u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_number_comes_twice() {
        let numbers: HashSet<u64> = (0..10_000).map(|_| unique()).collect();
        assert_eq!(numbers.len(), 10_000);
        assert!(!numbers.contains(&0));
        let wide: HashSet<u128> = (0..1000).map(|_| unique_wide()).collect();
        assert_eq!(wide.len(), 1000);
        assert!(wide.iter().all(|number| *number >> 64 == *wide.iter().next().unwrap() >> 64), "one process");
    }
}
