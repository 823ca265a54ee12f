//! Where models are computed: on cards, beside them, or without any.

use super::super::card::CardMemory;
use super::*;

const MODEL: (&str, u64) = ("m", 20);

fn told(total: u64, used: u64) -> Option<CardMemory> {
    Some(CardMemory { total: total * GB, used: used * GB, margin: GB / 2 })
}

fn bound_to(bench: &mut Bench, model: &str) -> ServerId {
    let waiting = |bench: &Bench| bench.scheduler.servers.iter().map(|server| server.waiting).collect::<Vec<_>>();
    let before = waiting(bench);
    match bench.arrive(model).1 {
        Arrival::Bound(server) => server,
        _ => waiting(bench).iter().zip(before).position(|(now, before)| *now > before).expect("it waits somewhere"),
    }
}

#[test]
fn a_model_that_is_partly_beside_the_card_is_asked_where_it_is_on_it() {
    let mut bench = Bench::new(&[(4, 80), (4, 80)], &[MODEL]);
    for server in [0, 1] {
        bench.list(server, &[MODEL], &[MODEL]);
    }
    bench.scheduler.set_spilled(0, &[("m", 0.6)]);
    for number in 0..4 {
        assert_eq!(bound_to(&mut bench, "m"), 1, "request {number}");
    }
    bench.scheduler.set_spilled(0, &[]);
    assert_eq!(bound_to(&mut bench, "m"), 0, "it is there as a whole again, and the other one is busy");
}

#[test]
fn a_model_is_not_loaded_where_it_does_not_fit_while_it_fits_elsewhere() {
    let mut bench = Bench::new(&[(4, 16), (4, 80)], &[MODEL, ("small", 4)]);
    bench.list(1, &[MODEL, ("small", 4)], &[("small", 4)]);
    for _ in 0..4 {
        bench.arrive("small");
    }
    assert_eq!(bound_to(&mut bench, "m"), 1);
    bench.exclude(1, false);
    assert_eq!(bound_to(&mut bench, "m"), 0, "where nothing fits, the rest is computed by the processor");
}

#[test]
fn memory_that_others_use_is_no_room() {
    let mut bench = Bench::new(&[(4, 80), (4, 24)], &[MODEL]);
    assert_eq!(bench.scheduler.room(0), 80.0 * 0.87);
    for _ in 0..6 {
        bench.scheduler.card_memory(0, told(80, 70));
    }
    assert_eq!(bench.scheduler.room(0), 9.5);
    assert_eq!(bound_to(&mut bench, "m"), 1);
    // One look at a lower use is enough: what was in use for a moment is not somebody else's.
    bench.scheduler.card_memory(0, told(80, 1));
    assert_eq!(bench.scheduler.room(0), 78.5);
    bench.scheduler.card_memory(0, None);
    assert_eq!(bench.scheduler.room(0), 80.0 * 0.87, "nobody tells any more");
}

#[test]
fn what_our_own_load_takes_is_not_foreign() {
    let mut bench = Bench::new(&[(4, 80)], &[MODEL]);
    for _ in 0..6 {
        bench.scheduler.card_memory(0, told(80, 0));
    }
    bench.arrive("m");
    assert!(bench.scheduler.take_actions().iter().any(|action| matches!(action, Action::Load { .. })));
    for used in [5, 10, 20, 20, 20, 20, 21] {
        bench.scheduler.card_memory(0, told(80, used));
    }
    assert_eq!(bench.scheduler.room(0), 79.5, "the model that is being loaded is counted");
}

#[test]
fn a_server_without_a_card_comes_last_and_is_used_when_it_is_the_only_one() {
    let mut bench = Bench::new(&[(4, 0), (1, 80)], &[MODEL]);
    for server in [0, 1] {
        bench.list(server, &[MODEL], &[MODEL]);
    }
    assert_eq!(bound_to(&mut bench, "m"), 1);
    assert_eq!(bound_to(&mut bench, "m"), 1, "waiting there is still better");
    bench.exclude(1, false);
    assert_eq!(bound_to(&mut bench, "m"), 0);

    let mut all = Bench::new(&[(4, 0), (4, 0)], &[MODEL]);
    for server in [0, 1] {
        all.list(server, &[MODEL], &[MODEL]);
        all.scheduler.set_without_card(server, true);
    }
    let first = bound_to(&mut all, "m");
    assert_ne!(bound_to(&mut all, "m"), first, "among equals the less busy one");
}

proptest::proptest! {
    #[test]
    fn more_of_a_model_on_the_card_never_makes_its_server_less_suited(one in 0.0..=1.0_f64, other in 0.0..=1.0_f64) {
        let (less, more) = (one.min(other), one.max(other));
        let mut bench = Bench::new(&[(4, 80)], &[MODEL]);
        bench.list(0, &[MODEL], &[MODEL]);
        let mut suits = |share: f64| {
            bench.scheduler.set_spilled(0, &[("m", share)]);
            let suits = bench.scheduler.suits(0, 0);
            assert!((0.04..=1.0).contains(&suits), "{suits}");
            suits
        };
        proptest::prop_assert!(suits(less) <= suits(more));
    }
}
