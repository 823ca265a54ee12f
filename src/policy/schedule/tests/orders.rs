//! Loads and unloads that an operator ordered.

use super::super::loads::LoadOutcome;
use super::super::orders::OrderEnd;
use super::super::residency::Residency;
use super::super::rules::{RuleBook, Rules};
use super::super::*;
use super::{Bench, bound, loads, unloads};
use crate::policy::queue::Class;

impl Bench {
    fn order(&mut self, server: ServerId, model: &str, class: Class) -> Result<Option<OrderId>, &'static str> {
        let model = self.scheduler.known_model(model).unwrap();
        self.tell(|scheduler, moment| scheduler.order_load(server, model, class, moment))
    }

    fn unload(&mut self, server: ServerId, model: &str, force: bool) -> Result<(), &'static str> {
        let (model, now) = (self.scheduler.known_model(model).unwrap(), self.now);
        self.scheduler.order_unload(server, model, force, now)
    }

    fn rules(&mut self, model: &'static str, rules: Rules) {
        struct One(&'static str, Rules);
        impl RuleBook for One {
            fn rules(&self, model: &str) -> Rules {
                if model == self.0 { self.1.clone() } else { Rules::default() }
            }
        }
        self.scheduler.set_rules(Box::new(One(model, rules)));
    }
}

fn ends(actions: &[Action]) -> Vec<(OrderId, OrderEnd)> {
    actions
        .iter()
        .filter_map(|action| if let Action::Ended { order, end } = action { Some((*order, *end)) } else { None })
        .collect()
}

fn loaded_models(actions: &[Action]) -> Vec<ModelId> {
    actions
        .iter()
        .filter_map(|action| if let Action::Load { model, .. } = action { Some(*model) } else { None })
        .collect()
}

#[test]
fn an_order_and_a_request_share_one_load() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    let one = bench.order(0, "a", Class::Normal).unwrap().unwrap();
    let two = bench.order(0, "a", Class::Low).unwrap().unwrap();
    let (ticket, arrival) = bench.arrive("a");
    assert_eq!(arrival, Arrival::Waits);
    assert_eq!(loads(&bench.scheduler.take_actions()), [0]);
    let actions = bench.loaded(0, "a", LoadOutcome::Done { seconds: 3.0 });
    assert_eq!(ends(&actions), [(one, OrderEnd::Ready(Some(3.0))), (two, OrderEnd::Ready(Some(3.0)))]);
    assert_eq!(bound(&actions), [(ticket, 0)]);
    assert_eq!(bench.order(0, "a", Class::Normal), Ok(None));
}

#[test]
fn a_load_that_fails_ends_the_order_and_may_be_ordered_again_at_once() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    let order = bench.order(0, "a", Class::Normal).unwrap().unwrap();
    let actions = bench.loaded(0, "a", LoadOutcome::Failed);
    assert_eq!(ends(&actions), [(order, OrderEnd::Failed)]);
    bench.order(0, "a", Class::Normal).unwrap().unwrap();
    assert_eq!(loads(&bench.scheduler.take_actions()), [0]);
}

#[test]
fn the_priority_of_an_order_says_whether_it_goes_before_those_who_wait() {
    for (class, wanted) in [(Class::High, [2, 1]), (Class::Normal, [1, 2]), (Class::Low, [1, 2])] {
        let mut bench = Bench::new(&[(4, 48)], &[("a", 5), ("b", 5), ("c", 5)]);
        bench.order(0, "a", Class::Normal).unwrap();
        bench.arrive("b");
        bench.now += 1.0;
        bench.order(0, "c", class).unwrap();
        bench.scheduler.take_actions();
        let first = loaded_models(&bench.loaded(0, "a", LoadOutcome::Done { seconds: 1.0 }));
        let second = loaded_models(&bench.loaded(0, ["a", "b", "c"][first[0]], LoadOutcome::Done { seconds: 1.0 }));
        assert_eq!([first[0], second[0]], wanted, "{class:?}");
    }
    // A low one waits for somebody who came after it.
    let mut bench = Bench::new(&[(4, 48)], &[("a", 5), ("b", 5), ("c", 5)]);
    bench.order(0, "a", Class::Normal).unwrap();
    bench.order(0, "c", Class::Low).unwrap();
    bench.now += 1.0;
    bench.arrive("b");
    bench.scheduler.take_actions();
    assert_eq!(loaded_models(&bench.loaded(0, "a", LoadOutcome::Done { seconds: 1.0 })), [1]);
}

#[test]
fn an_order_makes_room_but_not_at_the_cost_of_a_pinned_model() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 12), ("b", 12), ("c", 12)]);
    bench.warm(0, &[("a", 12)]);
    bench.order(0, "b", Class::Normal).unwrap().unwrap();
    let actions = bench.scheduler.take_actions();
    assert_eq!((unloads(&actions), loads(&actions)), (vec![0], vec![0]));
    bench.loaded(0, "b", LoadOutcome::Done { seconds: 1.0 });
    bench.now += 1000.0;
    bench.rules("b", Rules { pinned: vec![0], ..Rules::default() });
    assert_eq!(bench.order(0, "c", Class::High), Err("what is pinned there leaves no room"));
}

#[test]
fn an_order_keeps_to_rules_exclusions_and_what_there_is() {
    let mut bench = Bench::new(&[(4, 24), (4, 24)], &[("a", 5)]);
    bench.rules("a", Rules { never: vec![0], max_warm: Some(1), ..Rules::default() });
    assert_eq!(bench.order(0, "a", Class::High), Err("`only` or `never` keeps the model from this server"));
    bench.exclude(1, true);
    assert_eq!(bench.order(1, "a", Class::High), Err("test"));
    bench.excluded.borrow_mut().clear();
    bench.list(1, &[], &[]);
    assert_eq!(bench.order(1, "a", Class::High), Err("the server does not have the model"));
    let mut bench = Bench::new(&[(4, 24), (4, 24)], &[("a", 5)]);
    bench.rules("a", Rules { max_warm: Some(1), ..Rules::default() });
    bench.warm(0, &[("a", 5)]);
    assert_eq!(bench.order(1, "a", Class::High), Err("`max_warm` copies of the model are in memory"));
    let only_there = Settings { loads: false, ..Settings::default() };
    let mut bench = Bench::with(only_there, &[(4, 24)], &[("a", 5)]);
    assert!(bench.order(0, "a", Class::High).is_err());
}

#[test]
fn an_order_that_waits_ends_when_its_server_is_taken_out_and_is_forgotten_when_withdrawn() {
    let mut bench = Bench::new(&[(4, 48)], &[("a", 5), ("b", 5), ("c", 5)]);
    bench.order(0, "a", Class::Normal).unwrap();
    let waits = bench.order(0, "b", Class::Normal).unwrap().unwrap();
    let withdrawn = bench.order(0, "c", Class::High).unwrap().unwrap();
    bench.scheduler.withdraw(withdrawn);
    bench.scheduler.take_actions();
    bench.exclude(0, false);
    bench.tell(Scheduler::tick);
    let ended = ends(&bench.scheduler.take_actions());
    assert!(ended.contains(&(waits, OrderEnd::Refused("test"))), "{ended:?}");
    bench.excluded.borrow_mut().clear();
    assert_eq!(loads(&bench.loaded(0, "a", LoadOutcome::Done { seconds: 1.0 })), Vec::<ServerId>::new());
}

#[test]
fn what_is_ordered_is_loaded_while_the_queue_is_paused() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5), ("b", 5)]);
    bench.scheduler.pause();
    bench.arrive("b");
    assert_eq!(loads(&bench.scheduler.take_actions()), Vec::<ServerId>::new());
    bench.order(0, "a", Class::Low).unwrap();
    assert_eq!(loaded_models(&bench.scheduler.take_actions()), [0]);
}

#[test]
fn an_unload_spares_what_is_pinned_needed_or_used() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5), ("b", 5)]);
    bench.warm(0, &[("a", 5), ("b", 5)]);
    let (ticket, _) = bench.arrive("b");
    assert_eq!(bench.unload(0, "b", false), Err("requests for the model run or wait there"));
    assert_eq!(bench.unload(0, "b", true), Ok(()));
    assert!(matches!(bench.scheduler.residency(0, 1), Residency::Ready { .. }), "requests run for it");
    bench.finish(ticket);
    assert_eq!(bench.unload(0, "b", false), Ok(()));
    assert_eq!(bench.scheduler.residency(0, 1), Residency::Cold);
    bench.rules("a", Rules { min_warm: 1, ..Rules::default() });
    assert_eq!(bench.unload(0, "a", false), Err("`min_warm` copies of the model stay in memory"));
    bench.order(0, "b", Class::Normal).unwrap();
    assert_eq!(bench.unload(0, "b", true), Err("the model is being loaded there"));
}

#[test]
fn a_pinned_model_that_was_forced_out_stays_out_until_it_is_asked_for() {
    let mut bench = Bench::new(&[(4, 24)], &[("a", 5)]);
    bench.warm(0, &[("a", 5)]);
    bench.rules("a", Rules { pinned: vec![0], min_warm: 1, ..Rules::default() });
    assert_eq!(bench.unload(0, "a", false), Err("the model is pinned there"));
    assert_eq!(bench.unload(0, "a", true), Ok(()));
    bench.tell(Scheduler::tick);
    assert_eq!(bench.scheduler.take_actions(), []);
    bench.arrive("a");
    assert_eq!(loads(&bench.scheduler.take_actions()), [0]);
    bench.loaded(0, "a", LoadOutcome::Done { seconds: 1.0 });
    assert_eq!(bench.unload(0, "a", true), Ok(()));
    bench.scheduler.appeared(0);
    bench.tell(Scheduler::tick);
    assert_eq!(loads(&bench.scheduler.take_actions()), [0], "the server came back");
}
