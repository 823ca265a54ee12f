//! What other instances do on the same servers.

use super::super::elsewhere::{Elsewhere, Others, OthersOfPair};
use super::*;

/// What is heard of others about models on server 0: `loading` are those that they load, `broken` those they failed to.
fn heard(bench: &Bench, loading: &[&str], broken: &[&str], running: &[(&str, u32)]) -> Others {
    let id = |name: &&str| bench.scheduler.known_model(name).unwrap();
    let mut pairs: Vec<OthersOfPair> = Vec::new();
    let mut add = |model, load, broken_until, running| {
        let elsewhere = Elsewhere { running, ..Elsewhere::default() };
        pairs.push(OthersOfPair { server: 0, model, elsewhere, load, broken_until });
    };
    loading.iter().for_each(|name| add(id(name), Some(bench.now), 0.0, 0));
    broken.iter().for_each(|name| add(id(name), None, bench.now + 60.0, 0));
    running.iter().for_each(|(name, count)| add(id(name), None, 0.0, *count));
    let all: u32 = running.iter().map(|(_, count)| count).sum();
    let servers = vec![(0, Elsewhere { running: all, ..Elsewhere::default() })];
    Others { instances: 2, deaf: false, servers, pairs }
}

fn hear(bench: &mut Bench, others: &Others) -> Vec<Action> {
    bench.tell(|scheduler, moment| scheduler.hear(others, moment));
    bench.scheduler.take_actions()
}

fn residency(bench: &Bench, model: &str) -> Residency {
    bench.scheduler.pairs[(0, bench.scheduler.known_model(model).unwrap())].residency
}

#[test]
fn of_two_loads_of_others_each_ends_by_itself() {
    let mut bench = Bench::new(&[(4, 80)], &[("a", 5), ("b", 5)]);
    let both = heard(&bench, &["a", "b"], &[], &[]);
    hear(&mut bench, &both);
    assert!(matches!(residency(&bench, "a"), Residency::Loading { .. }));
    assert!(matches!(residency(&bench, "b"), Residency::Loading { .. }));
    let (waits, arrival) = bench.arrive("a");
    assert_eq!((arrival, loads(&bench.scheduler.take_actions())), (Arrival::Waits, vec![]), "it is loaded elsewhere");
    let one = heard(&bench, &["b"], &[], &[]);
    assert_eq!(bound(&hear(&mut bench, &one)), [(waits, 0)]);
    let none = heard(&bench, &[], &[], &[]);
    hear(&mut bench, &none);
    assert!(matches!(residency(&bench, "b"), Residency::Ready { .. }));
    assert_eq!(bench.scheduler.servers[0].foreign_load, None);
}

#[test]
fn a_load_of_others_that_failed_sends_nobody_there() {
    let mut bench = Bench::new(&[(4, 80), (4, 80)], &[("a", 5)]);
    let one = heard(&bench, &["a"], &[], &[]);
    hear(&mut bench, &one);
    let failed = heard(&bench, &[], &["a"], &[]);
    hear(&mut bench, &failed);
    assert_eq!(residency(&bench, "a"), Residency::Cold);
    bench.arrive("a");
    assert_eq!(loads(&bench.scheduler.take_actions()), [1], "the other server is tried");
}

#[test]
fn who_waits_for_a_model_that_is_not_there_keeps_no_slot() {
    let mut bench = Bench::new(&[(1, 24)], &[("a", 5), ("b", 5)]);
    bench.warm(0, &[("a", 5)]);
    bench.arrive("b");
    let (_, sum, models) = bench.scheduler.own(bench.now).remove(0);
    assert_eq!((sum.waiting, sum.oldest), (0, None));
    assert_eq!(models.iter().map(|(_, own)| own.waiting).sum::<u32>(), 1);
}

#[test]
fn models_in_use_are_counted_once_whoever_uses_them() {
    let mut bench = Bench::new(&[(4, 80)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    let active = |bench: &Bench| bench.scheduler.servers[0].active;
    let theirs = heard(&bench, &[], &[], &[("a", 1)]);
    hear(&mut bench, &theirs);
    assert_eq!(active(&bench), 1);
    let (ticket, _) = bench.arrive("a");
    assert_eq!(active(&bench), 1);
    let gone = heard(&bench, &[], &[], &[]);
    hear(&mut bench, &gone);
    assert_eq!(active(&bench), 1, "ours still runs");
    hear(&mut bench, &theirs);
    bench.finish(ticket);
    assert_eq!(active(&bench), 1, "theirs does");
    hear(&mut bench, &gone);
    assert_eq!(active(&bench), 0);
}

#[test]
fn where_nobody_may_wait_every_free_slot_may_be_taken() {
    let settings = Settings { max_pending: 0, ..Settings::default() };
    let mut bench = Bench::with(settings, &[(4, 80)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    let none = heard(&bench, &[], &[], &[]);
    hear(&mut bench, &none);
    let begun = (0..4).filter(|_| matches!(bench.arrive("a").1, Arrival::Bound(0))).count();
    assert_eq!(begun, 4);
}
