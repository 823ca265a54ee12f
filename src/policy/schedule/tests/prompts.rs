//! How many prompts are read at a time, and that they count by their length.

use super::*;

/// Bytes of a prompt of 10,000 tokens, and of one of ten.
const LONG: u64 = 40_000;
const SHORT: u64 = 40;

/// Servers that have the model in memory and have told that they read a thousand tokens a second.
fn readers(count: usize, settings: Settings) -> Bench {
    let mut bench = Bench::with(settings, &vec![(8, 24); count], &[("a", 5)]);
    (0..count).for_each(|server| bench.warm(server, &[("a", 5)]));
    for server in 0..count {
        only(&bench, count, server);
        let (ticket, arrival) = bench.arrive("a");
        assert_eq!(arrival, Arrival::Bound(server));
        let told = Usage { good: true, total: 1.0, prompt: 1.0, prompt_tokens: 1000.0, ..Usage::default() };
        bench.tell(|scheduler, moment| scheduler.finished(ticket, &told, moment));
    }
    bench.excluded.borrow_mut().clear();
    bench
}

/// Leaves one server open.
fn only(bench: &Bench, count: usize, open: ServerId) {
    bench.excluded.borrow_mut().clear();
    (0..count).filter(|server| *server != open).for_each(|server| bench.exclude(server, false));
}

fn sized(bytes: u64) -> Request {
    Request { bytes, ..Request::default() }
}

fn arrivals(bench: &mut Bench, bytes: u64, count: usize) -> Vec<(Ticket, bool)> {
    let arrive = |_| {
        let (ticket, arrival) = bench.arrive_with("a", sized(bytes));
        (ticket, matches!(arrival, Arrival::Bound(_)))
    };
    (0..count).map(arrive).collect()
}

fn begun(arrivals: &[(Ticket, bool)]) -> usize {
    arrivals.iter().filter(|(_, bound)| *bound).count()
}

#[test]
fn two_long_prompts_are_read_at_a_time() {
    let mut bench = readers(1, Settings::default());
    let came = arrivals(&mut bench, LONG, 4);
    assert_eq!(begun(&came), 2);
    bench.tell(|scheduler, moment| scheduler.first_byte(came[1].0, moment));
    assert_eq!(bound(&bench.scheduler.take_actions()), [(came[2].0, 0)], "an answer begins, and the next prompt");
    let actions = bench.finish(came[0].0);
    assert_eq!(bound(&actions), [(came[3].0, 0)], "it ended without one");
}

#[test]
fn short_prompts_are_read_together() {
    let mut bench = readers(1, Settings::default());
    assert_eq!(begun(&arrivals(&mut bench, SHORT, 8)), 8);
    let mut bench = readers(1, Settings::default());
    assert_eq!(begun(&arrivals(&mut bench, LONG, 1)), 1);
    assert_eq!(begun(&arrivals(&mut bench, SHORT, 3)), 1, "one beside a long one");
}

#[test]
fn an_answer_that_comes_as_a_whole_holds_nobody_back_for_longer_than_its_prompt_takes() {
    let mut bench = readers(1, Settings::default());
    let came = arrivals(&mut bench, LONG, 3);
    bench.now += 5.0;
    bench.tell(Scheduler::tick);
    assert_eq!(bound(&bench.scheduler.take_actions()), []);
    bench.now += 100.0;
    bench.tell(Scheduler::tick);
    assert_eq!(bound(&bench.scheduler.take_actions()), [(came[2].0, 0)]);
    for (ticket, _) in came {
        bench.tell(|scheduler, moment| scheduler.first_byte(ticket, moment));
        bench.finish(ticket);
    }
    let host = &bench.scheduler.servers[0];
    assert_eq!(
        (host.prefilling, host.answering, host.reading, host.unread),
        (0, 0, 0.0, 0.0),
        "nothing is counted twice"
    );
}

#[test]
fn where_speeds_are_unknown_or_nobody_may_wait_nobody_is_held_back() {
    let mut bench = Bench::new(&[(8, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    assert_eq!(begun(&arrivals(&mut bench, LONG, 8)), 8);
    let mut bench = readers(1, Settings { max_pending: 0, ..Settings::default() });
    assert_eq!(begun(&arrivals(&mut bench, LONG, 8)), 8);
}

#[test]
fn prompts_count_by_their_length() {
    let mut bench = readers(2, Settings::default());
    only(&bench, 2, 0);
    assert_eq!(begun(&arrivals(&mut bench, LONG, 2)), 2);
    only(&bench, 2, 1);
    assert_eq!(begun(&arrivals(&mut bench, LONG / 10, 2)), 2);
    bench.excluded.borrow_mut().clear();
    bench.arrive_with("a", sized(LONG / 10));
    let decision = bench.scheduler.decisions().last().unwrap();
    assert_eq!(decision.chosen, Some(1), "as many are before it on each, and shorter ones here: {decision:?}");
}

#[test]
fn a_body_with_pictures_is_no_endless_prompt() {
    let bench = readers(1, Settings::default());
    let tokens = bench.scheduler.prompt_tokens(0, 20_000_000);
    assert!((10_000.0..20_000.0).contains(&tokens), "{tokens}");
}

#[test]
fn nobody_is_held_back_until_it_would_be_turned_away() {
    let mut bench = readers(1, Settings::default());
    let came = arrivals(&mut bench, LONG, 3);
    bench.now += Settings::default().patience;
    // What is being read takes longer than that.
    bench.tell(|scheduler, moment| scheduler.resume(moment));
    assert_eq!(bound(&bench.scheduler.take_actions()), [(came[2].0, 0)]);

    let mut bench = readers(1, Settings { max_pending: 1, ..Settings::default() });
    assert_eq!(begun(&arrivals(&mut bench, LONG, 3)), 2);
    let (_, arrival) = bench.arrive_with("a", sized(LONG));
    assert_eq!(arrival, Arrival::Waits, "slots are free: nobody is turned away");
    assert_eq!(bound(&bench.scheduler.take_actions()).len(), 1, "the one before it begins");
}

#[test]
fn a_place_to_read_is_for_whoever_waits_longest_whatever_the_model() {
    let mut bench = readers(1, Settings::default());
    bench.list(0, &[("a", 5), ("b", 5)], &[("a", 5), ("b", 5)]);
    bench.now += 1.0;
    arrivals(&mut bench, LONG, 3);
    let (other, arrival) = bench.arrive_with("b", sized(LONG));
    assert_eq!(arrival, Arrival::Waits);
    bench.now += 1.0;
    let (late, _) = bench.arrive_with("a", sized(LONG));
    bench.now += 12.0;
    bench.tell(Scheduler::tick);
    let begun: Vec<Ticket> = bound(&bench.scheduler.take_actions()).into_iter().map(|(ticket, _)| ticket).collect();
    assert!(begun.contains(&other) || !begun.contains(&late), "{begun:?}");
}

#[test]
fn a_model_that_runs_elsewhere_takes_nothing_of_a_card() {
    let mut bench = readers(1, Settings::default());
    let speed = bench.scheduler.servers[0].speed.clone();
    bench.remote.insert("b".to_owned());
    bench.list(0, &[("a", 5), ("b", 1)], &[("a", 5)]);
    let remote: Vec<Ticket> = (0..4).map(|_| bench.arrive_with("b", sized(LONG)).0).collect();
    bench.tell(|scheduler, moment| scheduler.first_byte(remote[0], moment));
    let host = &bench.scheduler.servers[0];
    assert_eq!((host.in_flight, host.prefilling, host.answering, host.active), (4, 0, 0, 0));
    assert_eq!(host.resident, [0], "it is in no memory here");
    assert_eq!(begun(&arrivals(&mut bench, LONG, 2)), 2, "prompts that are read elsewhere are in nobody's way");
    let told = Usage { good: true, total: 1.0, prompt: 0.1, prompt_tokens: 9000.0, ..Usage::default() };
    bench.tell(|scheduler, moment| scheduler.finished(remote[0], &told, moment));
    assert_eq!(bench.scheduler.servers[0].speed, speed, "its speed is not the card's");

    bench.remote.clear();
    bench.list(0, &[("a", 5), ("b", 1)], &[("a", 5), ("b", 1)]);
    let host = &bench.scheduler.servers[0];
    assert_eq!((host.in_flight, host.prefilling, host.active), (5, 5, 2), "from now on it does");
}

#[test]
fn no_rule_loads_a_model_that_runs_elsewhere() {
    struct Pinned;
    impl RuleBook for Pinned {
        fn rules(&self, _: &str) -> Rules {
            Rules { pinned: vec![0], min_warm: 1, ..Rules::default() }
        }
    }
    let mut bench = Bench::new(&[(4, 24)], &[]);
    bench.remote.insert("b".to_owned());
    bench.list(0, &[("b", 1)], &[]);
    bench.scheduler.set_rules(Box::new(Pinned));
    bench.tell(Scheduler::tick);
    assert_eq!(bench.scheduler.take_actions(), []);
    bench.remote.clear();
    bench.list(0, &[("b", 1)], &[]);
    bench.tell(Scheduler::tick);
    assert_eq!(loads(&bench.scheduler.take_actions()), [0], "where it runs here they do");
}
