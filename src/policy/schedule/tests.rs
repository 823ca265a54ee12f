//! The scheduler as a whole: single rules by example, and what must hold whatever happens.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::loads::LoadOutcome;
use super::residency::{Listed, Residency};
use super::rules::{RuleBook, Rules};
use super::*;
use crate::policy::queue::Rank;

const GB: u64 = 1_000_000_000;

/// A fleet with a clock and exclusions that the test sets.
struct Bench {
    scheduler: Scheduler,
    now: f64,
    excluded: RefCell<HashMap<ServerId, Excluded>>,
    /// Models that lists say of that they run elsewhere.
    remote: HashSet<String>,
}

impl Bench {
    fn new(servers: &[(u32, u64)], models: &[(&str, u64)]) -> Self {
        Self::with(Settings::default(), servers, models)
    }

    /// Servers by their slots and memory in GB, models by their size in GB; every server has every model on disk.
    fn with(settings: Settings, servers: &[(u32, u64)], models: &[(&str, u64)]) -> Self {
        let mut scheduler = Scheduler::new(settings);
        let facts = servers.iter().enumerate().map(|(number, (slots, memory))| ServerFacts {
            name: format!("s{number}"),
            max_in_flight: *slots,
            max_in_flight_per_model: None,
            max_loaded: 3,
            memory: Some(memory * GB),
            weight: 1,
        });
        scheduler.set_servers(&facts.collect::<Vec<_>>());
        let mut bench = Self { scheduler, now: 100.0, excluded: RefCell::default(), remote: HashSet::new() };
        for server in 0..servers.len() {
            bench.list(server, models, &[]);
        }
        bench
    }

    fn list(&mut self, server: ServerId, on_disk: &[(&str, u64)], in_memory: &[(&str, u64)]) {
        let rows = |models: &[(&'static str, u64)]| -> Vec<Listed<'static>> {
            let row = |(name, size): &(&'static str, u64)| {
                let remote = self.remote.contains(*name);
                Listed { name, size: size * GB, digest: None, remote }
            };
            models.iter().map(row).collect()
        };
        let leak = |models: &[(&str, u64)]| -> Vec<(&'static str, u64)> {
            models.iter().map(|(name, size)| (&*name.to_string().leak(), *size)).collect()
        };
        let (disk, memory) = (rows(&leak(on_disk)), rows(&leak(in_memory)));
        self.tell(|scheduler, moment| scheduler.listed(server, &disk, &memory, moment.now, moment));
    }

    fn tell<T>(&mut self, tell: impl FnOnce(&mut Scheduler, &Moment<'_>) -> T) -> T {
        let excluded = |server: ServerId, _| self.excluded.borrow().get(&server).copied();
        tell(&mut self.scheduler, &Moment { now: self.now, random: 0, excluded: &excluded })
    }

    fn exclude(&self, server: ServerId, soft: bool) {
        self.excluded.borrow_mut().insert(server, Excluded { why: "test", soft });
    }

    fn arrive(&mut self, model: &str) -> (Ticket, Arrival) {
        self.arrive_with(model, Request::default())
    }

    fn arrive_with(&mut self, model: &str, request: Request) -> (Ticket, Arrival) {
        let model = self.scheduler.known_model(model).unwrap();
        self.tell(|scheduler, moment| scheduler.arrive(Request { model, ..request }, moment))
    }

    fn finish(&mut self, ticket: Ticket) -> Vec<Action> {
        self.tell(|scheduler, moment| scheduler.finished(ticket, &Usage { good: true, ..Usage::default() }, moment));
        self.scheduler.take_actions()
    }

    fn loaded(&mut self, server: ServerId, model: &str, outcome: LoadOutcome) -> Vec<Action> {
        let model = self.scheduler.known_model(model).unwrap();
        self.tell(|scheduler, moment| scheduler.loaded(server, model, outcome, moment));
        self.scheduler.take_actions()
    }

    /// Makes the model ready there, as if loaded long ago.
    fn warm(&mut self, server: ServerId, models: &[(&str, u64)]) {
        let disk: Vec<_> = self.scheduler.models.iter().map(|model| (model.name.clone(), model.size as u64)).collect();
        let disk: Vec<_> = disk.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        self.list(server, &disk, models);
        self.now += 1000.0;
    }
}

fn bound(actions: &[Action]) -> Vec<(Ticket, ServerId)> {
    actions
        .iter()
        .filter_map(|action| if let Action::Bind { ticket, server } = action { Some((*ticket, *server)) } else { None })
        .collect()
}

fn loads(actions: &[Action]) -> Vec<ServerId> {
    actions
        .iter()
        .filter_map(|action| if let Action::Load { server, .. } = action { Some(*server) } else { None })
        .collect()
}

fn unloads(actions: &[Action]) -> Vec<ModelId> {
    actions
        .iter()
        .filter_map(|action| if let Action::Unload { model, .. } = action { Some(*model) } else { None })
        .collect()
}

#[test]
fn a_request_goes_where_its_model_is_in_memory() {
    let mut bench = Bench::new(&[(4, 24), (4, 24)], &[("a", 5), ("b", 5)]);
    bench.warm(1, &[("a", 5)]);
    assert_eq!(bench.arrive("a").1, Arrival::Bound(1));
    assert_eq!(bench.scheduler.take_actions(), []);
}

#[test]
fn requests_for_a_cold_model_share_one_load() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    let (one, arrival) = bench.arrive("a");
    assert_eq!(arrival, Arrival::Waits);
    let (two, _) = bench.arrive("a");
    assert_eq!(loads(&bench.scheduler.take_actions()), [0]);
    let actions = bench.loaded(0, "a", LoadOutcome::Done { seconds: 3.0 });
    assert_eq!(bound(&actions), [(one, 0), (two, 0)]);
}

#[test]
fn a_client_that_leaves_ends_no_load() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    let (one, _) = bench.arrive("a");
    bench.scheduler.take_actions();
    bench.scheduler.leave(one);
    assert_eq!(bench.scheduler.take_actions(), []);
    assert!(matches!(bench.scheduler.residency(0, 0), Residency::Loading { .. }));
    assert_eq!(bench.loaded(0, "a", LoadOutcome::Done { seconds: 3.0 }), []);
    assert_eq!(bench.arrive("a").1, Arrival::Bound(0));
}

#[test]
fn a_freed_slot_takes_who_waits_here_and_then_who_waits_elsewhere() {
    let mut bench = Bench::new(&[(1, 24), (1, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    bench.warm(1, &[("a", 5)]);
    let running: Vec<_> = (0..2).map(|_| bench.arrive("a")).collect();
    assert!(running.iter().all(|(_, arrival)| matches!(arrival, Arrival::Bound(_))), "{running:?}");
    let waiting: Vec<_> = (0..3).map(|_| bench.arrive("a").0).collect();
    let at = |arrival: &Arrival| if let Arrival::Bound(server) = arrival { *server } else { 9 };
    // The same server frees its slot three times: it serves its own and steals the others'.
    let mut ticket = running[0].0;
    let mut served = Vec::new();
    for _ in 0..3 {
        let actions = bench.finish(ticket);
        let (next, server) = bound(&actions)[0];
        assert_eq!(server, at(&running[0].1));
        served.push(next);
        ticket = next;
    }
    served.sort_unstable();
    assert_eq!(served, waiting);
}

#[test]
fn the_cheapest_victim_makes_room_and_never_a_pinned_one() {
    struct Pinned;
    impl RuleBook for Pinned {
        fn rules(&self, model: &str) -> Rules {
            Rules { pinned: if model == "cheap" { vec![0] } else { vec![] }, ..Rules::default() }
        }
    }
    let models = [("cheap", 8), ("dear", 8), ("new", 8)];
    let mut bench = Bench::new(&[(4, 20)], &models);
    bench.warm(0, &[("cheap", 8), ("dear", 8)]);
    for _ in 0..5 {
        let (ticket, _) = bench.arrive("dear");
        bench.finish(ticket);
    }
    bench.now += 30.0;
    bench.arrive("new");
    let name = |bench: &Bench, actions: &[Action]| -> Vec<String> {
        unloads(actions).iter().map(|model| bench.scheduler.model_name(*model).to_owned()).collect()
    };
    let actions = bench.scheduler.take_actions();
    assert_eq!(name(&bench, &actions), ["cheap"]);

    let mut bench = Bench::new(&[(4, 20)], &models);
    bench.scheduler.set_rules(Box::new(Pinned));
    bench.warm(0, &[("cheap", 8), ("dear", 8)]);
    for _ in 0..5 {
        let (ticket, _) = bench.arrive("dear");
        bench.finish(ticket);
    }
    bench.now += 30.0;
    bench.arrive("new");
    let actions = bench.scheduler.take_actions();
    assert_eq!(name(&bench, &actions), ["dear"]);
}

#[test]
fn nobody_makes_room_in_vain() {
    let mut bench = Bench::new(&[(4, 30)], &[("small", 4), ("large", 20), ("new", 18)]);
    bench.warm(0, &[("small", 4), ("large", 20)]);
    // The small one is the cheaper of the two, and would not be enough.
    let (ticket, _) = bench.arrive("large");
    bench.finish(ticket);
    bench.now += 1.0;
    bench.arrive("new");
    assert_eq!(unloads(&bench.scheduler.take_actions()), [1]);
}

#[test]
fn a_model_that_was_just_loaded_is_left_in_peace() {
    let mut bench = Bench::new(&[(4, 10)], &[("a", 5), ("b", 5)]);
    bench.arrive("a");
    bench.scheduler.take_actions();
    let ticket = bound(&bench.loaded(0, "a", LoadOutcome::Done { seconds: 10.0 }))[0].0;
    bench.finish(ticket);
    bench.arrive("b");
    assert_eq!(bench.scheduler.take_actions(), [], "not yet");
    bench.now += 100.0;
    bench.tell(Scheduler::tick);
    let actions = bench.scheduler.take_actions();
    assert_eq!((unloads(&actions), loads(&actions)), (vec![0], vec![0]));
}

#[test]
fn pins_and_warm_models_are_loaded_without_a_request() {
    struct Book;
    impl RuleBook for Book {
        fn rules(&self, model: &str) -> Rules {
            match model {
                "a" => Rules { pinned: vec![1], ..Rules::default() },
                "b" => Rules { min_warm: 1, ..Rules::default() },
                _ => Rules { warm: vec![0], ..Rules::default() },
            }
        }
    }
    let mut bench = Bench::new(&[(4, 24), (4, 24)], &[("a", 5), ("b", 5), ("c", 5)]);
    bench.scheduler.set_rules(Box::new(Book));
    let mut wanted = HashSet::from([("a".to_owned(), 1), ("c".to_owned(), 0)]);
    let mut copies_of_b = 0;
    for _ in 0..6 {
        bench.tell(Scheduler::tick);
        for action in bench.scheduler.take_actions() {
            let Action::Load { server, model, .. } = action else { panic!("{action:?}") };
            let name = bench.scheduler.model_name(model).to_owned();
            copies_of_b += u32::from(name == "b");
            wanted.remove(&(name.clone(), server));
            bench.loaded(server, &name, LoadOutcome::Done { seconds: 2.0 });
        }
    }
    assert_eq!((wanted, copies_of_b), (HashSet::new(), 1));
}

#[test]
fn other_options_wait_until_the_runner_is_not_used() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    let (first, _) = bench.arrive("a");
    let options = RunnerOptions { num_ctx: Some(8192), num_gpu: None };
    let (second, arrival) = bench.arrive_with("a", Request { options, ..Request::default() });
    assert_eq!(arrival, Arrival::Waits);
    assert_eq!(bound(&bench.finish(first)), [(second, 0)]);
    assert!(matches!(bench.scheduler.residency(0, 0), Residency::Loading { .. }), "it is loaded anew");
    let (third, arrival) = bench.arrive_with("a", Request { options, ..Request::default() });
    assert_eq!(arrival, Arrival::Waits);
    bench.tell(|scheduler, moment| scheduler.first_byte(second, moment));
    assert_eq!(bound(&bench.scheduler.take_actions()), [(third, 0)]);
}

#[test]
fn when_a_load_fails_the_request_asks_itself() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    let (ticket, _) = bench.arrive("a");
    bench.scheduler.take_actions();
    let actions = bench.loaded(0, "a", LoadOutcome::Failed);
    assert_eq!(bound(&actions), [(ticket, 0)]);
}

#[test]
fn a_full_queue_turns_away_and_says_for_how_long() {
    let settings = Settings { max_pending: 2, ..Settings::default() };
    let mut bench = Bench::with(settings, &[(1, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    let arrivals: Vec<_> = (0..4).map(|_| bench.arrive("a").1).collect();
    assert_eq!(arrivals, [Arrival::Bound(0), Arrival::Waits, Arrival::Waits, Arrival::Full]);
    let wait = bench.tell(|scheduler, moment| scheduler.expected_wait(0, moment)).unwrap();
    assert!(wait > 1.0, "{wait}");
    let other = Request { rank: Rank { flow: 7, ..Rank::default() }, ..Request::default() };
    assert_eq!(bench.arrive_with("a", other).1, Arrival::Waits, "the flood makes room for another client");
    assert!(bench.scheduler.take_actions().iter().any(|action| matches!(action, Action::PushedOut { .. })));
}

#[test]
fn where_nobody_may_wait_requests_load_their_models_themselves() {
    let settings = Settings { max_pending: 0, ..Settings::default() };
    let mut bench = Bench::with(settings, &[(2, 24)], &[("a", 5)]);
    let arrivals: Vec<_> = (0..3).map(|_| bench.arrive("a").1).collect();
    assert_eq!(arrivals, [Arrival::Bound(0), Arrival::Bound(0), Arrival::Full]);
    assert_eq!(bench.scheduler.take_actions(), []);
}

#[test]
fn a_pause_lets_nobody_begin() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    bench.scheduler.pause();
    let (ticket, arrival) = bench.arrive("a");
    assert_eq!(arrival, Arrival::Waits);
    bench.tell(Scheduler::tick);
    assert_eq!(bench.scheduler.take_actions(), []);
    bench.tell(Scheduler::resume);
    assert_eq!(bound(&bench.scheduler.take_actions()), [(ticket, 0)]);
}

#[test]
fn whoever_waits_for_a_server_that_goes_down_goes_elsewhere() {
    let mut bench = Bench::new(&[(1, 24), (1, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    let (_, arrival) = bench.arrive("a");
    assert_eq!(arrival, Arrival::Bound(0));
    let (ticket, _) = bench.arrive("a");
    bench.scheduler.take_actions();
    bench.exclude(0, false);
    bench.now += 1.0;
    bench.tell(Scheduler::tick);
    let actions = bench.scheduler.take_actions();
    assert_eq!(loads(&actions), [1]);
    assert_eq!(bound(&bench.loaded(1, "a", LoadOutcome::Done { seconds: 1.0 })), [(ticket, 1)]);
    bench.exclude(1, false);
    assert_eq!(bench.arrive("a").1, Arrival::Nobody);
}

#[test]
fn a_soft_exclusion_gives_way_when_nobody_else_is_left() {
    let mut bench = Bench::new(&[(4, 24), (4, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    bench.warm(1, &[("a", 5)]);
    bench.exclude(0, true);
    assert!((0..4).all(|_| bench.arrive("a").1 == Arrival::Bound(1)));
    bench.exclude(1, true);
    assert!(matches!(bench.arrive("a").1, Arrival::Bound(_)));
}

#[test]
fn the_turn_of_a_conversation_goes_where_the_last_one_was() {
    let mut bench = Bench::new(&[(4, 24), (4, 24), (4, 24)], &[("a", 5)]);
    (0..3).for_each(|server| bench.warm(server, &[("a", 5)]));
    let request = || Request { conversation: Some(42), bytes: 40_000, ..Request::default() };
    let (ticket, Arrival::Bound(first)) = bench.arrive_with("a", request()) else { panic!() };
    bench.finish(ticket);
    for random in 0..10 {
        let model = 0;
        let excluded = |_, _| None;
        let moment = Moment { now: bench.now, random, excluded: &excluded };
        let (ticket, arrival) = bench.scheduler.arrive(Request { model, ..request() }, &moment);
        assert_eq!(arrival, Arrival::Bound(first));
        bench.finish(ticket);
    }
}

#[test]
fn slots_are_learned_from_requests_that_waited_on_the_server() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    let tickets: Vec<_> = (0..4).map(|_| bench.arrive("a").0).collect();
    let waited = Usage {
        good: true,
        total: 9.0,
        prompt: 1.0,
        prompt_tokens: 100.0,
        output: 2.0,
        output_tokens: 20.0,
        load: 0.0,
    };
    bench.tell(|scheduler, moment| scheduler.finished(tickets[2], &waited, moment));
    assert_eq!(bench.scheduler.slots(0, 0), 2, "two ran beside it, and it waited");
}

#[test]
fn decisions_tell_their_terms() {
    let mut bench = Bench::new(&[(4, 24), (4, 24), (4, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    bench.warm(1, &[("a", 5)]);
    bench.exclude(0, false);
    bench.arrive("a");
    let decision = bench.scheduler.decisions().last().unwrap();
    assert_eq!(decision.chosen, Some(1));
    assert_eq!(decision.candidates[0].excluded, Some("test"));
    assert!(decision.candidates[1].terms.unwrap().prefill > 0.0);
    assert_eq!((decision.candidates.len(), decision.passed_over), (2, Some("load_takes_longer")));
}

mod cards;
mod elsewhere;
mod leaving;
mod orders;
mod prompts;
mod whatever_happens;
