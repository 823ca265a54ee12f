use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::clock;

const MINUTE: Duration = Duration::from_secs(60);

/// Keys of a small table, and those that a flood brings.
const SMALL: usize = 6400;
const FLOOD: u64 = 5 * SMALL as u64;

/// A limiter with a clock of its own.
struct Table {
    limiter: Limiter,
    gauge: Gauge,
    now: Instant,
}

impl Table {
    fn new() -> Self {
        let (gauge, now) = (Gauge::default(), clock::now());
        Self { limiter: Limiter::new(gauge.clone(), now), gauge, now }
    }

    /// One that is full sooner, for floods that take less time.
    fn small() -> Self {
        let (gauge, now) = (Gauge::default(), clock::now());
        Self { limiter: Limiter::with_most(SMALL, gauge.clone(), now), gauge, now }
    }

    fn key(&self, identity: u64, key: u64) -> u64 {
        self.limiter.hash(&(identity, key))
    }

    /// Whether a request passes all limits, each given with its identity and key.
    fn passes(&self, limits: &[(&RateLimit, u64, u64)]) -> bool {
        self.take(limits).is_some()
    }

    fn take(&self, limits: &[(&RateLimit, u64, u64)]) -> Option<Vec<Taken>> {
        let asks: Vec<Ask<'_>> = limits
            .iter()
            .map(|(limit, identity, key)| Ask { limit, identity: *identity, key: self.key(*identity, *key) })
            .collect();
        let mut taken = Vec::new();
        matches!(self.limiter.ask(&asks, self.now, &mut taken, |_| [0; 16]), Answer::Granted { .. }).then_some(taken)
    }
}

#[test]
fn each_key_has_its_own_limit() {
    let (table, limit) = (Table::new(), RateLimit::new(100, MINUTE, 20, 0));
    for key in 0..5 {
        assert_eq!((0..30).filter(|_| table.passes(&[(&limit, 1, key)])).count(), 21);
    }
    assert_eq!((0..30).filter(|_| table.passes(&[(&limit, 2, 0)])).count(), 21, "another limit");
    assert_eq!(table.limiter.len(), 6);
}

#[test]
fn a_request_that_one_limit_refuses_counts_at_none() {
    let table = Table::new();
    let (wide, narrow) = (RateLimit::new(1, MINUTE, 9, 0), RateLimit::new(1, MINUTE, 1, 0));
    let both = [(&wide, 1, 7), (&narrow, 2, 7)];
    assert_eq!((0..50).filter(|_| table.passes(&both)).count(), 2);
    assert_eq!((0..50).filter(|_| table.passes(&[both[0]])).count(), 8, "two of ten are taken");
}

#[test]
fn requests_that_reach_the_lock_in_another_order_than_the_clock_are_not_early() {
    let table = Table::new();
    let limit = RateLimit::new(4, Duration::from_secs(1), 2, 2);
    let ask = [Ask { limit: &limit, identity: 1, key: table.key(1, 1) }];
    let waits = [2, 1, 0].map(|micros| {
        let now = table.now + Duration::from_micros(micros);
        match table.limiter.ask(&ask, now, &mut Vec::new(), |_| [0; 16]) {
            Answer::Granted { wait, .. } => wait,
            refused @ Answer::Refused { .. } => panic!("{refused:?}"),
        }
    });
    assert_eq!(waits, [0, 250, 500].map(Duration::from_millis));
}

#[test]
fn all_limits_are_told_together() {
    let table = Table::new();
    let (few, many) = (RateLimit::new(1, MINUTE, 4, 4), RateLimit::new(1, Duration::from_secs(1), 9, 9));
    let asks =
        [(&few, 1), (&many, 2)].map(|(limit, identity)| Ask { limit, identity, key: table.key(identity, identity) });
    let ask = || table.limiter.ask(&asks, table.now, &mut Vec::new(), |_| [0; 16]);
    let Answer::Granted { wait, quota: Some(quota) } = ask() else { panic!("the first passes") };
    assert_eq!((wait, quota.limit, quota.remaining), (Duration::ZERO, 5, 4));
    let Answer::Granted { wait, quota: Some(quota) } = ask() else { panic!("the second is delayed") };
    assert_eq!((wait, quota.remaining), (MINUTE, 3));
    for _ in 0..3 {
        assert!(matches!(ask(), Answer::Granted { .. }));
    }
    let Answer::Refused { retry_after, quota } = ask() else { panic!("the sixth is refused") };
    assert_eq!((retry_after, quota.limit, quota.remaining), (MINUTE, 5, 0));
    let none = table.limiter.ask(&[], table.now, &mut Vec::new(), |_| [0; 16]);
    assert_eq!(none, Answer::Granted { wait: Duration::ZERO, quota: None });
}

#[test]
fn what_was_taken_is_given_back_unless_others_came_in_between() {
    let (table, limit) = (Table::new(), RateLimit::new(1, MINUTE, 2, 0));
    let ask = [(&limit, 1, 1)];
    let first = table.take(&ask).unwrap();
    table.limiter.give_back(&first);
    table.limiter.give_back(&first);
    let second = table.take(&ask).unwrap();
    assert!(table.passes(&ask) && table.passes(&ask) && !table.passes(&ask), "three in all, not four");
    table.limiter.give_back(&second);
    assert!(!table.passes(&ask));
}

#[test]
fn a_million_keys_take_no_more_memory_than_the_most() {
    let (mut table, limit) = (Table::new(), RateLimit::new(5, Duration::from_hours(1), 0, 0));
    for key in 0..1_000_000 {
        table.passes(&[(&limit, key % 7, key)]);
        table.now += Duration::from_micros(10);
    }
    let (keys, shards) = (table.limiter.len(), &table.limiter.shards);
    assert!(keys <= MOST_KEYS && keys > MOST_KEYS * 9 / 10, "{keys}");
    assert_eq!(table.gauge.get(), i64::try_from(keys).unwrap());
    let most = MOST_KEYS / SHARDS;
    for shard in shards {
        let shard = shard.lock();
        assert_eq!(shard.index.len(), shard.slots.len());
        assert!(shard.slots.capacity() <= 2 * most && shard.index.capacity() <= 4 * most);
        let shares: u32 = shard.shares.values().map(|share| share.keys).sum();
        assert_eq!(shares as usize, shard.slots.len());
        assert!(shard.shares.len() <= 7);
        assert!(shard.slots.iter().enumerate().all(|(place, slot)| shard.index[&slot.key] as usize == place));
    }
    drop(table.limiter);
    assert_eq!(table.gauge.get(), 0);
}

#[test]
fn keys_whose_time_has_passed_make_room_before_the_table_grows() {
    let (mut table, limit) = (Table::new(), RateLimit::new(1, Duration::from_secs(1), 0, 0));
    for key in 0..20_000 {
        assert!(table.passes(&[(&limit, 1, key)]));
        table.now += Duration::from_millis(1);
    }
    // A thousand are within their second at any moment.
    assert!(table.limiter.len() < 5_000, "{}", table.limiter.len());
}

/// Fills the table with `keys` new keys at `limit`, `each` requests of each, and asks for `victim` every `every` keys.
/// Returns how often the victim passed.
fn flood(
    table: &mut Table,
    limit: (&RateLimit, u64),
    each: u32,
    keys: u64,
    victim: (&RateLimit, u64),
    every: u64,
) -> u32 {
    let mut passed = 0;
    for key in 0..keys {
        for _ in 0..each {
            table.passes(&[(limit.0, limit.1, 1000 + key)]);
        }
        if key % every == 0 {
            passed += u32::from(table.passes(&[(victim.0, victim.1, 1)]));
        }
        table.now += Duration::from_micros(1);
    }
    passed
}

#[test]
fn a_flood_of_new_keys_does_not_give_back_a_used_up_limit() {
    // The flood takes so little time that not even one request of the limit is earned.
    let (mut table, limit) = (Table::small(), RateLimit::new(100, MINUTE, 20, 0));
    while table.passes(&[(&limit, 1, 1)]) {}
    assert_eq!(flood(&mut table, (&limit, 1), 1, FLOOD, (&limit, 1), u64::MAX), 0);
    assert!(!table.passes(&[(&limit, 1, 1)]), "it did not even come in between");
}

#[test]
fn who_keeps_coming_stays_known_also_where_one_request_is_all() {
    let (mut table, limit) = (Table::small(), RateLimit::new(5, Duration::from_hours(1), 0, 0));
    assert!(table.passes(&[(&limit, 1, 1)]));
    assert_eq!(flood(&mut table, (&limit, 1), 1, FLOOD, (&limit, 1), SMALL as u64 / 100), 0);
}

#[test]
fn a_flood_at_one_limit_does_not_push_out_the_keys_of_another() {
    let mut table = Table::small();
    // What floods is far from having passed, and the victim near.
    let (slow, quick) = (RateLimit::new(5, Duration::from_hours(24), 0, 0), RateLimit::new(1, MINUTE, 1, 0));
    while table.passes(&[(&quick, 2, 1)]) {}
    assert_eq!(flood(&mut table, (&slow, 1), 2, FLOOD, (&quick, 2), u64::MAX), 0);
    assert!(!table.passes(&[(&quick, 2, 1)]));
}

#[test]
fn many_threads_pass_exactly_what_is_allowed() {
    let table = Arc::new(Table::new());
    let (wide, narrow) = (RateLimit::new(1, MINUTE, 499, 0), RateLimit::new(1, MINUTE, 99, 0));
    let passed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (table, passed, wide, narrow) = (Arc::clone(&table), &passed, &wide, &narrow);
            scope.spawn(move || {
                for number in 0..1000 {
                    // Two orders of the same limits: locks are taken in one order all the same.
                    let mut limits = [(wide, 1, 1), (narrow, 2, number % 2)];
                    if thread % 2 == 0 {
                        limits.reverse();
                    }
                    passed.fetch_add(u32::from(table.passes(&limits)), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(passed.into_inner(), 200, "a hundred for each narrow key");
    assert_eq!((0..500).filter(|_| table.passes(&[(&wide, 1, 1)])).count(), 300);
}

#[test]
fn a_key_is_as_new_when_its_time_has_passed() {
    let (mut table, limit) = (Table::new(), RateLimit::new(10, Duration::from_secs(1), 20, 0));
    assert_eq!((0..50).filter(|_| table.passes(&[(&limit, 1, 1)])).count(), 21);
    table.now += Duration::from_millis(2100);
    assert_eq!((0..50).filter(|_| table.passes(&[(&limit, 1, 1)])).count(), 21);
}

#[test]
fn a_shared_key_gives_its_share_until_it_is_settled() {
    let (table, limit) = (Table::new(), RateLimit::new(100, MINUTE, 20, 0));
    let passes = || (0..30).filter(|_| table.passes(&[(&limit, 1, 1)])).count();
    table.limiter.share_among(3);
    assert_eq!(passes(), 7);
    let claims = table.limiter.owed(10, table.now);
    assert_eq!(claims.iter().map(|claim| claim.owed.taken).collect::<Vec<_>>(), [7]);
    assert!(!table.limiter.has_news());
    // Nobody answers: it is told again.
    table.limiter.tell_again(&claims);
    let claims = table.limiter.owed(10, table.now);
    assert_eq!(claims[0].owed.taken, 7);
    // Others took two, and do not come any more.
    let nine = i64::try_from(9 * limit.interval()).unwrap();
    table.limiter.settle(&claims, &[Settled { ahead: nine, among: Some(1) }], table.now);
    assert_eq!(passes(), 12);
    // What is given back is told to nobody.
    let taken = table.take(&[(&limit, 1, 2)]).unwrap();
    table.limiter.give_back(&taken);
    let told: Vec<u32> = table.limiter.owed(10, table.now).iter().map(|claim| claim.owed.taken).collect();
    assert_eq!(told, [12]);
    // Alone again.
    table.limiter.share_among(0);
    assert_eq!((0..30).filter(|_| table.passes(&[(&limit, 1, 3)])).count(), 21);
    assert!(table.limiter.owed(10, table.now).is_empty());
}

#[test]
fn shared_keys_are_bounded_and_forgotten_when_their_time_has_passed() {
    let (table, limit) = (Table::small(), RateLimit::new(100, MINUTE, 20, 0));
    table.limiter.share_among(2);
    for key in 0..FLOOD {
        table.passes(&[(&limit, 1, key)]);
    }
    let shared = table.limiter.forget_shared(table.now);
    assert!((SMALL / 2..=SMALL).contains(&shared), "{shared}");
    assert_eq!(table.limiter.forget_shared(table.now + MINUTE), 0);
    assert!(table.limiter.owed(SMALL, table.now + MINUTE).is_empty(), "nor do they wait");
}
