//! Events in any order, and what must hold after each.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::super::loads::LoadOutcome;
use super::super::residency::Residency;
use super::super::*;
use super::Bench;
use crate::policy::queue::{Class, Rank};

/// What each answer says: a thousand tokens a second.
const TOLD: Usage =
    Usage { good: true, total: 1.0, load: 0.0, prompt_tokens: 1000.0, prompt: 1.0, output_tokens: 0.0, output: 0.0 };

#[derive(Clone, Debug)]
enum Event {
    Arrive { model: usize, flow: u64, class: Class, bytes: u64 },
    Leave(prop::sample::Index),
    Finish(prop::sample::Index),
    FirstByte(prop::sample::Index),
    Loaded { good: bool },
    Exclude { server: ServerId, soft: bool },
    Include(ServerId),
    Forget(ServerId),
    RunsElsewhere { model: usize, remote: bool },
    Tick(f64),
    Pause,
    Resume,
    Order { server: ServerId, model: usize, class: Class },
    Withdraw(prop::sample::Index),
    Unload { server: ServerId, model: usize, force: bool },
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..3_usize, 0..3_u64, prop::sample::select(Class::ALL.to_vec()), prop::sample::select(vec![0, 40, 40_000]))
            .prop_map(|(model, flow, class, bytes)| Event::Arrive { model, flow, class, bytes }),
        1 => index().prop_map(Event::Leave),
        4 => index().prop_map(Event::Finish),
        1 => index().prop_map(Event::FirstByte),
        3 => prop::bool::weighted(0.9).prop_map(|good| Event::Loaded { good }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(server, soft)| Event::Exclude { server, soft }),
        1 => (0..3_usize).prop_map(Event::Include),
        1 => (0..3_usize).prop_map(Event::Forget),
        1 => (0..3_usize, any::<bool>()).prop_map(|(model, remote)| Event::RunsElsewhere { model, remote }),
        3 => (0.0..60.0).prop_map(Event::Tick),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        2 => (0..3_usize, 0..3_usize, prop::sample::select(Class::ALL.to_vec()))
            .prop_map(|(server, model, class)| Event::Order { server, model, class }),
        1 => index().prop_map(Event::Withdraw),
        1 => (0..3_usize, 0..3_usize, any::<bool>())
            .prop_map(|(server, model, force)| Event::Unload { server, model, force }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens in whatever order: counts are right, limits hold, nobody goes to a server that is excluded, each
    /// request is bound once, one load at a time on a server, each order ends once, and in the end everybody has been served.
    #[test]
    fn counts_limits_and_exclusions_hold_and_nobody_is_forgotten(events in prop::collection::vec(event(), 1..150)) {
        const MODELS: [(&str, u64); 3] = [("a", 5), ("b", 8), ("c", 12)];
        let mut bench = Bench::new(&[(2, 24), (1, 16), (4, 48)], &MODELS);
        let mut waiting: HashSet<Ticket> = HashSet::new();
        let mut running: HashMap<Ticket, ServerId> = HashMap::new();
        let mut pending_loads: Vec<(ServerId, ModelId)> = Vec::new();
        let mut ordered: HashSet<OrderId> = HashSet::new();
        let mut arrived = 0_u32;
        let mut ended = 0_u32;
        let mut drained = false;
        let mut events: Vec<Event> = events;
        events.push(Event::Resume);
        let mut steps = events.into_iter().map(Some).collect::<Vec<_>>();
        steps.extend((0..400).map(|_| None));
        for step in steps {
            let sorted = |all: Vec<Ticket>| { let mut all = all; all.sort_unstable(); all };
            match step {
                Some(Event::Arrive { model, flow, class, bytes }) => {
                    let rank = Rank { flow, weight: 1, class };
                    let (ticket, arrival) = bench.arrive_with(MODELS[model].0, Request { rank, bytes, ..Request::default() });
                    match arrival {
                        Arrival::Bound(server) => { arrived += 1; prop_assert!(running.insert(ticket, server).is_none()); }
                        Arrival::Waits => { arrived += 1; waiting.insert(ticket); }
                        Arrival::Full | Arrival::Nobody | Arrival::NotLoaded => {}
                    }
                }
                Some(Event::Leave(index)) if !waiting.is_empty() => {
                    let ticket = *index.get(&sorted(waiting.iter().copied().collect()));
                    waiting.remove(&ticket);
                    ended += 1;
                    bench.scheduler.leave(ticket);
                }
                Some(Event::Finish(index)) if !running.is_empty() => {
                    let ticket = *index.get(&sorted(running.keys().copied().collect()));
                    running.remove(&ticket);
                    ended += 1;
                    bench.tell(|scheduler, moment| scheduler.finished(ticket, &TOLD, moment));
                }
                Some(Event::FirstByte(index)) if !running.is_empty() => {
                    let ticket = *index.get(&sorted(running.keys().copied().collect()));
                    bench.tell(|scheduler, moment| scheduler.first_byte(ticket, moment));
                }
                Some(Event::Loaded { good }) if !pending_loads.is_empty() => {
                    let (server, model) = pending_loads.remove(0);
                    let outcome = if good { LoadOutcome::Done { seconds: 2.0 } } else { LoadOutcome::Failed };
                    bench.tell(|scheduler, moment| scheduler.loaded(server, model, outcome, moment));
                }
                Some(Event::Exclude { server, soft }) => bench.exclude(server, soft),
                Some(Event::Include(server)) => { bench.excluded.borrow_mut().remove(&server); }
                Some(Event::Forget(server)) => bench.list(server, &MODELS, &[]),
                Some(Event::RunsElsewhere { model, remote }) => {
                    let name = MODELS[model].0;
                    let _ = if remote { bench.remote.insert(name.to_owned()) } else { bench.remote.remove(name) };
                    bench.list(model, &MODELS, &[]);
                }
                Some(Event::Tick(seconds)) => { bench.now += seconds; bench.tell(Scheduler::tick); }
                Some(Event::Pause) => bench.scheduler.pause(),
                Some(Event::Resume) => bench.tell(Scheduler::resume),
                Some(Event::Order { server, model, class }) => {
                    let known = bench.scheduler.known_model(MODELS[model].0).unwrap();
                    let order = bench.tell(|scheduler, moment| scheduler.order_load(server, known, class, moment));
                    if bench.excluded.borrow().contains_key(&server) {
                        prop_assert!(order.is_err());
                    }
                    ordered.extend(order.ok().flatten());
                }
                Some(Event::Withdraw(index)) if !ordered.is_empty() => {
                    let order = *index.get(&sorted(ordered.iter().copied().collect()));
                    ordered.remove(&order);
                    bench.scheduler.withdraw(order);
                }
                Some(Event::Unload { server, model, force }) => {
                    let known = bench.scheduler.known_model(MODELS[model].0).unwrap();
                    // Refused is as good.
                    let _ = bench.scheduler.order_unload(server, known, force, bench.now);
                }
                Some(_) => {}
                // In the end everything works again: loads succeed, requests finish, time goes by.
                None => {
                    bench.excluded.borrow_mut().clear();
                    bench.now += 5.0;
                    if let Some((server, model)) = pending_loads.pop() {
                        bench.tell(|scheduler, moment| {
                            scheduler.loaded(server, model, LoadOutcome::Done { seconds: 2.0 }, moment);
                        });
                    }
                    if let Some(ticket) = running.keys().copied().min() {
                        running.remove(&ticket);
                        ended += 1;
                        bench.tell(|scheduler, moment| scheduler.finished(ticket, &TOLD, moment));
                    }
                    bench.tell(Scheduler::tick);
                }
            }
            let excluded = bench.excluded.borrow().clone();
            for action in bench.scheduler.take_actions() {
                match action {
                    Action::Bind { ticket, server } => {
                        prop_assert!(waiting.remove(&ticket), "bound without waiting");
                        prop_assert!(running.insert(ticket, server).is_none());
                        prop_assert!(excluded.get(&server).is_none_or(|excluded| excluded.soft));
                    }
                    Action::PushedOut { ticket } | Action::Nobody { ticket } => {
                        prop_assert!(waiting.remove(&ticket));
                        ended += 1;
                    }
                    Action::Load { server, model, .. } => {
                        prop_assert!(pending_loads.iter().all(|(other, _)| *other != server), "two loads on a server");
                        pending_loads.push((server, model));
                    }
                    Action::Unload { .. } | Action::Left { .. } => {}
                    Action::Ended { order, .. } => prop_assert!(ordered.remove(&order), "ended twice"),
                }
            }
            prop_assert_eq!(bench.scheduler.all_pending(), waiting.len());
            prop_assert_eq!(bench.scheduler.all_running(), running.len());
            for (number, server) in bench.scheduler.servers.iter().enumerate() {
                let pairs = || bench.scheduler.pairs.of_server(number);
                let on_card = |model| bench.scheduler.takes_a_card(model);
                let here = running.values().filter(|at| **at == number).count();
                prop_assert_eq!(server.in_flight as usize, here);
                prop_assert!(server.in_flight <= server.facts.max_in_flight);
                prop_assert_eq!(server.in_flight, pairs().map(|(_, pair)| pair.in_flight).sum::<u32>());
                prop_assert_eq!(server.waiting, pairs().map(|(_, pair)| pair.waiting).sum::<u32>());
                let at = || bench.scheduler.running.values().filter(|ran| ran.server == number);
                let read = || at().filter(|ran| !ran.answers && on_card(ran.model));
                prop_assert_eq!(server.prefilling as usize, read().count());
                prop_assert!((server.reading - read().map(|ran| ran.reading).sum::<f64>()).abs() < 1e-6);
                let worked_for = || pairs().filter(|(model, _)| on_card(*model));
                prop_assert_eq!(server.answering as usize, worked_for().filter(|(_, pair)| pair.answering() > 0).count());
                let unread = bench.scheduler.models.iter().flat_map(|model| model.queue.iter());
                let unread = unread.filter(|(_, _, waiter)| waiter.server == number).map(|(_, _, waiter)| waiter.reading);
                prop_assert!((server.unread - unread.sum::<f64>()).abs() < 1e-6);
                prop_assert!((server.unread - pairs().map(|(_, pair)| pair.unread).sum::<f64>()).abs() < 1e-6);
                prop_assert_eq!(server.active as usize, worked_for().filter(|(_, pair)| pair.in_flight > 0).count());
                for (model, pair) in pairs() {
                    prop_assert_eq!(server.awaited.contains(&model), pair.waiting > 0);
                    let warm = pair.residency != Residency::Cold;
                    prop_assert_eq!(server.resident.contains(&model), warm);
                    prop_assert_eq!(bench.scheduler.models[model].copies.contains(&number), warm);
                    let holders = &bench.scheduler.models[model].holders;
                    prop_assert_eq!(server.on_disk.contains(&model), holders.binary_search(&number).is_ok());
                    prop_assert_eq!(server.on_disk.contains(&model), pair.on_disk);
                }
            }
            drained = waiting.is_empty() && running.is_empty();
        }
        prop_assert!(drained, "{} wait and {} run for ever", waiting.len(), running.len());
        prop_assert_eq!(arrived, ended);
        prop_assert!(ordered.is_empty(), "{ordered:?} never end");
    }
}
