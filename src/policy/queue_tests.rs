use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn rank(flow: u64) -> Rank {
    Rank { flow, weight: 1, class: Class::Normal }
}

fn pop(queue: &mut FairQueue<u64>, now: f64) -> Option<u64> {
    let (place, _) = queue.first(now, 10.0, |_| true)?;
    queue.pop(place)
}

#[test]
fn a_flood_does_not_keep_others_waiting() {
    let mut queue = FairQueue::default();
    for _ in 0..1000 {
        queue.push(1, rank(1), 0.0);
    }
    assert_eq!(pop(&mut queue, 0.0), Some(1));
    queue.push(2, rank(2), 0.0);
    let order: Vec<_> = (0..2).filter_map(|_| pop(&mut queue, 0.0)).collect();
    assert!(order.contains(&2), "{order:?}");
}

#[test]
fn weights_are_shares() {
    let mut queue = FairQueue::default();
    for _ in 0..100 {
        queue.push(1, Rank { weight: 3, ..rank(1) }, 0.0);
        queue.push(2, rank(2), 0.0);
    }
    let first: Vec<_> = (0..40).filter_map(|_| pop(&mut queue, 0.0)).collect();
    let heavy = first.iter().filter(|flow| **flow == 1).count();
    assert!((29..=31).contains(&heavy), "{heavy}");
}

#[test]
fn a_silent_flow_saves_nothing_up() {
    let mut queue = FairQueue::default();
    for _ in 0..10 {
        queue.push(1, rank(1), 0.0);
    }
    for _ in 0..5 {
        pop(&mut queue, 0.0);
    }
    for _ in 0..10 {
        queue.push(2, rank(2), 0.0);
    }
    let next: Vec<_> = (0..6).filter_map(|_| pop(&mut queue, 0.0)).collect();
    assert_eq!(next.iter().filter(|flow| **flow == 1).count(), 3, "{next:?}");
}

#[test]
fn a_higher_class_goes_first_and_age_lifts_a_lower_one() {
    let mut queue = FairQueue::default();
    queue.push(1, Rank { class: Class::Low, ..rank(1) }, 0.0);
    queue.push(2, Rank { class: Class::High, ..rank(2) }, 19.0);
    assert_eq!(queue.first(19.0, 10.0, |_| true).map(|(_, item)| *item), Some(2));
    queue.push(3, Rank { class: Class::High, ..rank(3) }, 31.0);
    assert_eq!(pop(&mut queue, 19.0), Some(2));
    assert_eq!(pop(&mut queue, 31.0), Some(1), "lifted as high as the other, and older");
}

#[test]
fn when_it_is_full_the_flow_that_fills_it_makes_room() {
    let mut queue = FairQueue::default();
    for _ in 0..10 {
        queue.push(1, rank(1), 0.0);
    }
    let place = queue.makes_room_for(rank(2)).expect("the last of the flood");
    assert_eq!(queue.remove(place), Some(1));
    queue.push(2, rank(2), 0.0);
    assert_eq!(queue.makes_room_for(rank(1)), None, "the flood's own next one is the last to go");
    let low = Rank { class: Class::Low, ..rank(3) };
    assert_eq!(queue.makes_room_for(low), None);
    assert!(queue.makes_room_for(Rank { class: Class::High, ..rank(1) }).is_some());
}

#[test]
fn places_lead_back_to_their_waiters() {
    let mut queue = FairQueue::default();
    let one = queue.push(1, rank(1), 0.0);
    let two = queue.push(2, rank(1), 0.0);
    assert_eq!(queue.get(one), Some(&1));
    *queue.get_mut(two).unwrap() = 5;
    assert_eq!(queue.remove(one), Some(1));
    assert_eq!(queue.remove(one), None);
    assert_eq!(queue.iter().map(|(_, _, item)| *item).collect::<Vec<_>>(), [5]);
    assert_eq!(pop(&mut queue, 0.0), Some(5));
    assert!(queue.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Push(Rank),
    Pop,
    Remove(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop::sample::select(Class::ALL.to_vec());
    prop_oneof![
        (0..4_u64, 0..5_u32, class).prop_map(|(flow, weight, class)| Step::Push(Rank { flow, weight, class })),
        Just(Step::Pop),
        any::<prop::sample::Index>().prop_map(Step::Remove),
    ]
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_once_and_flows_keep_their_order(steps in prop::collection::vec(step(), 0..200)) {
        let mut queue = FairQueue::default();
        let mut places: Vec<(Place, u64)> = Vec::new();
        let mut last: HashMap<(u64, Class), u64> = HashMap::new();
        let mut ranks: Vec<Rank> = Vec::new();
        let mut inside = 0_usize;
        for (time, step) in steps.into_iter().enumerate() {
            let now = time as f64;
            match step {
                Step::Push(rank) => {
                    let number = ranks.len() as u64;
                    ranks.push(rank);
                    places.push((queue.push(number, rank, now), number));
                    inside += 1;
                }
                Step::Pop => {
                    if let Some(number) = pop(&mut queue, now) {
                        inside -= 1;
                        let rank = ranks[number as usize];
                        let before = last.insert((rank.flow, rank.class), number);
                        prop_assert!(before.is_none_or(|before| before < number));
                    } else {
                        prop_assert_eq!(inside, 0);
                    }
                }
                Step::Remove(index) if !places.is_empty() => {
                    let (place, number) = *index.get(&places);
                    if let Some(item) = queue.remove(place) {
                        prop_assert_eq!(item, number);
                        inside -= 1;
                    }
                }
                Step::Remove(_) => {}
            }
            prop_assert_eq!(queue.len(), inside);
        }
    }

    /// However many of the highest class keep coming, one of the lowest goes within a bounded time.
    #[test]
    fn nobody_starves(flood in 1..20_u64) {
        let mut queue = FairQueue::default();
        queue.push(u64::MAX, Rank { flow: 99, weight: 1, class: Class::Low }, 0.0);
        let mut served = None;
        for second in 0..100_u32 {
            for number in 0..flood {
                queue.push(number, Rank { flow: number, weight: 8, class: Class::High }, f64::from(second));
            }
            if pop(&mut queue, f64::from(second)) == Some(u64::MAX) {
                served = Some(second);
                break;
            }
        }
        prop_assert!(served.is_some_and(|second| second <= 21), "{served:?}");
    }
}
