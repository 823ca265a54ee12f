use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const START: u64 = 3_600_000 * MS;

/// Where all instances settle: what `rates.lua` does, in nanoseconds.
#[derive(Default)]
struct Book {
    due: u64,
    born: Option<u64>,
    seen: Vec<(usize, u64)>,
}

impl Book {
    fn settle(&mut self, limit: &RateLimit, who: usize, owed: Owed, now: u64) -> (i64, Option<u32>) {
        if self.seen.iter().all(|(_, at)| now - at > 500 * MS) {
            self.born = Some(now);
        }
        let born = self.born.unwrap_or(now);
        self.seen.retain(|(other, at)| *other != who && now - at < 1000 * MS);
        let among = u32::try_from(self.seen.len()).unwrap() + 1;
        self.seen.push((who, now));
        let most = now + 2 * u64::from(limit.burst() + 1) * limit.interval();
        self.due = self.due.min(most) + u64::from(owed.taken) * limit.interval();
        self.due = self.due.max(now.saturating_add_signed(owed.ahead));
        (signed(self.due) - signed(now), (now - born >= 50 * MS).then_some(among))
    }
}

/// Instances, and what passed.
struct Cluster {
    limit: RateLimit,
    held: Vec<Held>,
    book: Book,
    now: u64,
    passed: Vec<u64>,
    /// Whether anybody answers.
    up: bool,
}

impl Cluster {
    fn new(instances: usize, count: u32, burst: u32) -> Self {
        let limit = RateLimit::new(count, Duration::from_secs(1), burst, 0);
        let held = vec![Held::of(Due::default()); instances];
        Self { limit, held, book: Book::default(), now: START, passed: Vec::new(), up: true }
    }

    fn instances(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap()
    }

    fn request(&mut self, who: usize) -> bool {
        let (decision, next) = self.held[who].decide(&self.limit, self.now, self.instances());
        let passes = !matches!(decision, Decision::Reject { .. });
        if passes {
            self.held[who].take(next, self.now);
            self.passed.push(self.now);
        }
        passes
    }

    fn settle(&mut self, who: usize) {
        let instances = self.instances();
        let Some(owed) = self.held[who].send(&self.limit, self.now, instances) else { return };
        if self.up {
            let (ahead, among) = self.book.settle(&self.limit, who, owed, self.now);
            self.held[who].told(&self.limit, self.now, ahead, among, instances);
        } else {
            self.held[who].failed();
        }
    }

    /// Requests of these come each millisecond, `each` at a time, and are settled each 20.
    fn rush(&mut self, millis: u64, whose: &[usize], each: usize) -> usize {
        let before = self.passed.len();
        for milli in 0..millis {
            for _ in 0..each {
                for who in whose {
                    self.request(*who);
                }
            }
            if milli % 20 == 0 {
                (0..self.held.len()).for_each(|who| self.settle(who));
            }
            self.now += MS;
        }
        self.passed.len() - before
    }

    /// How many more passed in any stretch of time than `1 + burst` and the rate allow.
    fn excess(&self) -> i64 {
        let interval = self.limit.interval();
        let allowed = |from: usize, to: usize| {
            u64::from(self.limit.burst()) + 1 + (self.passed[to] - self.passed[from]) / interval
        };
        let spans = (0..self.passed.len()).flat_map(|from| (from..self.passed.len()).map(move |to| (from, to)));
        spans.map(|(from, to)| (to - from + 1) as i64 - signed(allowed(from, to))).max().unwrap_or(0)
    }
}

#[test]
fn a_burst_is_shared_before_anybody_hears_of_the_others() {
    let mut cluster = Cluster::new(3, 10, 20);
    for _ in 0..30 {
        for who in 0..3 {
            cluster.request(who);
        }
    }
    assert_eq!(cluster.passed.len(), 21);
    (0..3).for_each(|who| cluster.settle(who));
    (0..3).for_each(|who| assert!(!cluster.request(who)));
}

#[test]
fn where_all_requests_come_to_one_it_gets_what_is_left() {
    let mut cluster = Cluster::new(3, 10, 20);
    let mut each = Vec::new();
    while cluster.passed.len() < 21 {
        each.push((0..30).filter(|_| cluster.request(0)).count());
        assert!(each.len() < 60, "{each:?}");
        cluster.settle(0);
        cluster.now += MS;
    }
    // The others could have begun with it, for as long as 50 ms.
    let some: Vec<usize> = each.into_iter().filter(|some| *some > 0).collect();
    assert_eq!(some, [7, 14]);
}

#[test]
fn a_share_that_is_used_up_is_hungry_and_a_limit_that_is_reached_is_not() {
    let mut cluster = Cluster::new(3, 10, 20);
    let mut hungry = Vec::new();
    for _ in 0..7 {
        let (_, next) = cluster.held[0].decide(&cluster.limit, cluster.now, 3);
        hungry.push(next.hungry);
        cluster.held[0].take(next, cluster.now);
    }
    assert_eq!(hungry, [false, false, false, false, false, false, true]);
    let cluster = Cluster::new(3, 10, 0);
    assert!(!cluster.held[0].decide(&cluster.limit, cluster.now, 3).1.hungry);
}

#[test]
fn calm_is_exact_wherever_the_requests_come() {
    for (count, burst) in [(100, 20), (50, 0), (1000, 50), (5, 3)] {
        for whose in [&[0, 1, 2][..], &[0], &[1, 2]] {
            let mut cluster = Cluster::new(3, count, burst);
            let passed = cluster.rush(10_000, whose, 2) as f64;
            let wanted = f64::from(count * 10 + burst + 1);
            // Two each: what was taken just before the end and is not paid back yet.
            assert!((passed - wanted).abs() <= wanted * 0.02 + 2.0, "{count} {burst} {whose:?}: {passed} of {wanted}");
        }
    }
}

#[test]
fn without_answers_each_has_its_share_and_all_together_the_limit() {
    for calm in [0, 2000] {
        let mut cluster = Cluster::new(3, 90, 20);
        let calm_passed = cluster.rush(calm, &[0, 1, 2], 1) as f64;
        cluster.up = false;
        let passed = cluster.rush(10_000, &[0, 1, 2], 1) as f64;
        let wanted = 900.0 + if calm == 0 { 21.0 } else { 0.0 };
        assert!((passed - wanted).abs() <= wanted * 0.02 + 3.0, "after {calm_passed}: {passed} of {wanted}");
        assert!(cluster.excess() <= 4, "{}", cluster.excess());
        cluster.up = true;
        let again = cluster.rush(5000, &[0, 1, 2], 1) as f64;
        assert!((again - 450.0).abs() <= 12.0, "{again}");
        // One alone has a third only.
        cluster.up = false;
        cluster.rush(1000, &[0], 1);
        let alone = cluster.rush(3000, &[0], 1);
        assert!((88..=92).contains(&alone), "{alone}");
    }
}

#[test]
fn an_engine_that_lost_all_learns_it_again() {
    let mut cluster = Cluster::new(3, 100, 50);
    for _ in 0..20 {
        cluster.rush(300, &[0, 1, 2], 1);
        cluster.book = Book::default();
    }
    // Each loss may cost what the others took in the 20 ms before it.
    let wanted = 600 + 51;
    assert!(cluster.passed.len().abs_diff(wanted) <= 20, "{}", cluster.passed.len());
}

#[test]
fn a_time_that_makes_no_sense_ends_by_itself() {
    let mut cluster = Cluster::new(2, 100, 20);
    cluster.rush(500, &[0, 1], 1);
    cluster.book.due = u64::MAX;
    cluster.rush(600, &[0, 1], 1);
    assert!(cluster.rush(1000, &[0, 1], 1) >= 95);
}

#[test]
fn what_is_given_back_is_told_to_nobody() {
    let mut cluster = Cluster::new(3, 100, 20);
    let before = cluster.held[0];
    cluster.request(0);
    let after = cluster.held[0].guess();
    assert!(cluster.held[0].give_back(&before, after));
    assert_eq!(cluster.held[0].send(&cluster.limit, cluster.now, 3), None);
    cluster.request(0);
    let after = cluster.held[0].guess();
    cluster.settle(0);
    assert!(!cluster.held[0].give_back(&before, after), "the others know");
}

proptest! {
    /// Whatever comes where and is settled when: never much more than the limit, and always what it allows in the long run.
    #[test]
    fn any_order_of_requests_and_settlements_keeps_the_limit(
        instances in 1_usize..5,
        burst in 0_u32..12,
        steps in proptest::collection::vec((0_u64..12, 0_usize..4, 0_u8..6, any::<bool>()), 1..300),
    ) {
        let mut cluster = Cluster::new(instances, 100, burst);
        let (mut tried, mut heard, mut longest) = (vec![START; instances], vec![START; instances], 0);
        for (wait, who, what, up) in steps {
            cluster.now += wait * MS;
            cluster.up = up || what != 5;
            let who = who % instances;
            if what >= 4 {
                cluster.settle(who);
                tried[who] = cluster.now;
                if cluster.up {
                    heard[who] = cluster.now;
                }
            } else {
                cluster.request(who);
            }
            cluster.up = true;
            for other in 0..instances {
                longest = longest.max(cluster.now - heard[other]);
                if cluster.now - tried[other] > 30 * MS {
                    cluster.settle(other);
                    (tried[other], heard[other]) = (cluster.now, cluster.now);
                }
            }
        }
        // Those who did not hear of a key yet take their share of its burst once more; and what comes free while one hears
        // nothing may be taken by each, rounded up.
        let share = i64::from((burst + 1).div_ceil(cluster.instances()));
        let free = signed(longest.div_ceil(cluster.limit.interval())) + 1;
        let others = cluster.instances() as i64 - 1;
        prop_assert!(cluster.excess() <= others * (share + free), "{} over, {free}", cluster.excess());
        let told: u32 = cluster.held.iter().map(|held| held.unsent).sum();
        prop_assert!(told <= 40, "settled within their time");
    }
}
