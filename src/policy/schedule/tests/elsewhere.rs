//! What other instances do on the same servers.

use super::super::elsewhere::{Elsewhere, Lines, Others, OthersOfPair};
use super::*;
use crate::policy::queue::Class;

/// What is heard of others about models on server 0: `loading` are those that they load, `broken` those they failed to.
fn heard(bench: &Bench, loading: &[&str], broken: &[&str], running: &[(&str, u32)]) -> Others {
    let id = |name: &&str| bench.scheduler.known_model(name).unwrap();
    let mut pairs: Vec<OthersOfPair> = Vec::new();
    let mut add = |model, load, broken_until, running| {
        let elsewhere = Elsewhere { running, ..Elsewhere::default() };
        pairs.push(OthersOfPair { server: 0, model, elsewhere, load, broken_until, sent_out: None });
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
    assert_eq!(sum.lines, Lines::default());
    assert_eq!(models.iter().map(|(_, own)| own.lines[Class::Normal as usize].count).sum::<u32>(), 1);
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
fn what_others_run_that_takes_no_card_is_no_work_of_the_server() {
    let mut bench = Bench::new(&[(4, 80)], &[("a", 5)]);
    let active = |bench: &Bench| bench.scheduler.servers[0].active;
    let theirs = heard(&bench, &[], &[], &[("a", 1)]);
    hear(&mut bench, &theirs);
    assert_eq!(active(&bench), 1);
    for (remote, expected) in [(true, 0), (false, 1), (true, 0)] {
        let _ = if remote { bench.remote.insert("a".to_owned()) } else { bench.remote.remove("a") };
        bench.list(0, &[("a", 5)], &[]);
        assert_eq!(active(&bench), expected);
        hear(&mut bench, &theirs);
        assert_eq!(active(&bench), expected);
    }
    let (ticket, arrival) = bench.arrive("a");
    assert_eq!((arrival, active(&bench)), (Arrival::Bound(0), 0));
    let gone = heard(&bench, &[], &[], &[]);
    hear(&mut bench, &gone);
    bench.finish(ticket);
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

/// Two instances before one server of one slot, in virtual time: each hears the other one every [`TICK`].
struct Two {
    instances: [Bench; 2],
    /// Those that wait: where, and since when.
    waiting: HashMap<(usize, Ticket), (Class, f64)>,
    /// Those that run, and until when.
    running: Vec<(usize, Ticket, f64)>,
    /// Those that waited and began: where, of which class, since when each waited, and when it began.
    begun: Vec<(usize, Class, f64, f64)>,
}

const BEGIN: f64 = 2000.0;
const TICK: f64 = 0.015;
/// How long a request runs.
const RUNS: f64 = 0.5;

impl Two {
    fn new() -> Self {
        let instance = || {
            let mut bench = Bench::new(&[(1, 24)], &[("a", 5)]);
            bench.warm(0, &[("a", 5)]);
            bench.now = BEGIN;
            bench
        };
        let mut two = Self {
            instances: [instance(), instance()],
            waiting: HashMap::new(),
            running: Vec::new(),
            begun: Vec::new(),
        };
        two.exchange();
        two
    }

    fn now(&self) -> f64 {
        self.instances[0].now - BEGIN
    }

    fn arrive(&mut self, at: usize, class: Class, flow: u64) {
        let now = self.now();
        let rank = Rank { class, flow, ..Rank::default() };
        match self.instances[at].arrive_with("a", Request { rank, ..Request::default() }) {
            (ticket, Arrival::Bound(_)) => self.running.push((at, ticket, now + RUNS)),
            (ticket, Arrival::Waits) => {
                self.waiting.insert((at, ticket), (class, now));
            }
            other => panic!("{other:?}"),
        }
        self.follow(at);
    }

    /// Those that are bound begin.
    fn follow(&mut self, at: usize) {
        let now = self.now();
        for (ticket, _) in bound(&self.instances[at].scheduler.take_actions()) {
            let (class, since) = self.waiting.remove(&(at, ticket)).expect("it waited");
            self.begun.push((at, class, since, now));
            self.running.push((at, ticket, now + RUNS));
        }
        assert!(self.running.len() <= 2, "{:?}", self.running);
    }

    /// What an instance hears of the other one.
    fn heard(&self, at: usize) -> Others {
        let (own, other) = (&self.instances[at], &self.instances[1 - at]);
        let known = own.scheduler.servers[0].in_flight;
        let told = other.scheduler.own(other.now).pop().map(|(_, own, _)| own).unwrap_or_default();
        let elsewhere = Elsewhere { running: told.running, lines: told.lines, known };
        let pair = OthersOfPair { server: 0, model: 0, elsewhere, load: None, broken_until: 0.0, sent_out: None };
        Others { instances: 2, deaf: false, servers: vec![(0, elsewhere)], pairs: vec![pair] }
    }

    fn exchange(&mut self) {
        let heard = [self.heard(0), self.heard(1)];
        for (at, others) in heard.iter().enumerate() {
            self.instances[at].tell(|scheduler, moment| scheduler.hear(others, moment));
            self.follow(at);
        }
    }

    /// Time passes.
    fn until(&mut self, end: f64) {
        while self.now() < end {
            self.instances.iter_mut().for_each(|bench| bench.now += TICK);
            let now = self.now();
            let over: Vec<_> = self.running.extract_if(.., |(_, _, until)| *until <= now).collect();
            for (at, ticket, _) in over {
                let usage = Usage { good: true, ..Usage::default() };
                self.instances[at].tell(|scheduler, moment| scheduler.finished(ticket, &usage, moment));
                self.follow(at);
            }
            self.exchange();
        }
    }
}

#[test]
fn a_higher_class_goes_first_wherever_it_waits_and_nobody_holds_back_for_a_lower_one() {
    let mut two = Two::new();
    // While one runs others come: one of the lowest class there, then a high one here, then high ones there, more than can run.
    two.arrive(1, Class::High, 0);
    two.until(0.1);
    two.arrive(1, Class::Low, 1);
    two.until(0.2);
    two.arrive(0, Class::High, 2);
    two.until(0.3);
    for turn in 0..60 {
        two.arrive(1, Class::High, 3);
        if turn % 10 == 9 {
            two.arrive(0, Class::High, 2);
        }
        two.until(0.3 + RUNS * f64::from(turn + 1));
    }
    let first = two.begun[0];
    assert_eq!((first.0, first.1), (0, Class::High), "{:?}", &two.begun[..4]);
    let high: Vec<f64> = two.begun.iter().filter(|one| one.1 == Class::High).map(|one| one.2).collect();
    assert!(high.len() > 40 && high.windows(2).all(|pair| pair[0] <= pair[1] + 2.0 * TICK), "{high:?}");
    let low = two.begun.iter().find(|one| one.1 == Class::Low).expect("it is lifted in time");
    assert!((20.0..22.0).contains(&low.3), "{low:?}");
    assert!(two.begun.len() > 52, "the slot is used: {} of 60", two.begun.len());
}

#[test]
fn one_that_has_waited_for_long_behind_its_own_flow_keeps_nobody_elsewhere_waiting() {
    let mut two = Two::new();
    two.arrive(1, Class::Normal, 0);
    two.until(0.1);
    (0..20).for_each(|_| two.arrive(1, Class::Normal, 1));
    two.until(0.2);
    two.arrive(0, Class::Normal, 2);
    two.until(0.3);
    // Of the flood one goes, then one of another flow there that came last: that is later than the one here.
    two.arrive(1, Class::Normal, 3);
    two.until(RUNS * 5.0);
    let order: Vec<(usize, f64)> = two.begun.iter().map(|one| (one.0, one.2)).collect();
    assert_eq!(order.iter().position(|(at, _)| *at == 0), Some(1), "{order:?}");
}

#[test]
fn what_others_sent_out_of_memory_is_not_there_though_the_server_was_not_asked_since() {
    let mut bench = Bench::new(&[(4, 80)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    let mut others = heard(&bench, &[], &[], &[]);
    let model = bench.scheduler.known_model("a").unwrap();
    let out = |sent_out| OthersOfPair {
        server: 0,
        model,
        elsewhere: Elsewhere::default(),
        load: None,
        broken_until: 0.0,
        sent_out: Some(sent_out),
    };
    // That was before it was loaded here.
    others.pairs = vec![out(0.0)];
    hear(&mut bench, &others);
    assert!(matches!(residency(&bench, "a"), Residency::Ready { .. }));
    others.pairs = vec![out(bench.now - 0.1)];
    hear(&mut bench, &others);
    assert_eq!(residency(&bench, "a"), Residency::Cold);
}

#[test]
fn the_others_are_told_what_was_sent_out_of_memory_until_it_is_there_again() {
    let mut bench = Bench::new(&[(4, 10)], &[("a", 6), ("b", 6)]);
    let none = heard(&bench, &[], &[], &[]);
    hear(&mut bench, &none);
    bench.warm(0, &[("a", 6)]);
    bench.arrive("b");
    let told = |bench: &Bench, name| {
        let model = bench.scheduler.known_model(name).unwrap();
        let own = bench.scheduler.own(bench.now);
        own.iter()
            .flat_map(|(_, _, models)| models)
            .find(|(known, _)| *known == model)
            .and_then(|(_, own)| own.sent_out)
    };
    assert_eq!((told(&bench, "a"), told(&bench, "b")), (Some(bench.now), None));
    bench.now += super::super::elsewhere::TOLD_FOR + 1.0;
    assert_eq!(told(&bench, "a"), None, "the server has told that by now");
}

#[test]
fn who_waits_elsewhere_keeps_a_model_in_memory_as_who_waits_here_does() {
    let mut bench = Bench::new(&[(1, 10)], &[("a", 6), ("b", 6)]);
    bench.warm(0, &[("a", 6)]);
    let mut others = heard(&bench, &[], &[], &[("a", 1)]);
    let mut lines = Lines::default();
    lines[1] = super::super::elsewhere::Line { count: 2, since: bench.now - 1.0 };
    others.pairs[0].elsewhere.lines = lines;
    hear(&mut bench, &others);
    bench.arrive("b");
    assert_eq!(loads(&bench.scheduler.take_actions()), Vec::<usize>::new(), "those who wait for a came first");
    let none = heard(&bench, &[], &[], &[]);
    assert_eq!(loads(&hear(&mut bench, &none)), [0], "nobody waits for it any more");
}
