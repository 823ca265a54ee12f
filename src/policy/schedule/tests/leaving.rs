//! What was told to leave memory gets no more requests, though it is still there for those that it answers.

use super::*;

/// A server with room for one model that answers a request for `a`, which has to make room for `b`.
fn leaving() -> (Bench, Ticket) {
    let mut bench = Bench::new(&[(4, 8)], &[("a", 5), ("b", 5)]);
    bench.warm(0, &[("a", 5)]);
    let (answered, arrival) = bench.arrive("a");
    assert_eq!(arrival, Arrival::Bound(0));
    bench.arrive("b");
    let actions = bench.scheduler.take_actions();
    assert_eq!((unloads(&actions), loads(&actions)), (vec![0], vec![0]));
    (bench, answered)
}

#[test]
fn its_last_answers_do_not_bring_it_back() {
    let (mut bench, answered) = leaving();
    bench.tell(|scheduler, moment| scheduler.first_byte(answered, moment));
    assert_eq!(bench.scheduler.residency(0, 0), Residency::Cold);
    assert_eq!(bench.arrive("a").1, Arrival::Waits);
}

#[test]
fn a_list_that_has_it_still_does_not_bring_it_back() {
    let (mut bench, answered) = leaving();
    bench.now += 1.0;
    bench.list(0, &[("a", 5), ("b", 5)], &[("a", 5)]);
    assert_eq!(bench.scheduler.residency(0, 0), Residency::Cold, "while it answers");
    bench.finish(answered);
    bench.now += 1.0;
    bench.list(0, &[("a", 5), ("b", 5)], &[("a", 5)]);
    assert_eq!(bench.scheduler.residency(0, 0), Residency::Cold, "while the load goes on that it made room for");
    bench.loaded(0, "b", LoadOutcome::Done { seconds: 2.0 });
    bench.now += 1.0;
    bench.list(0, &[("a", 5), ("b", 5)], &[("a", 5), ("b", 5)]);
    assert!(matches!(bench.scheduler.residency(0, 0), Residency::Ready { .. }), "then the server is right");
}
