//! What the choice of servers is worth, in virtual time: the scheduler against balancers that do not know models, over
//! seeded workloads on simulated fleets. The figures are the marks that the product is held to; `bench/fleet` shows the same
//! through real sockets.

#[path = "../bench/fleet/capacity.rs"]
#[allow(dead_code)]
mod capacity;
#[path = "../bench/fleet/figures.rs"]
#[allow(dead_code)]
mod figures;
#[path = "../bench/fleet/random.rs"]
#[allow(dead_code)]
mod random;
#[path = "../bench/fleet/setup.rs"]
#[allow(dead_code)]
mod setup;
#[path = "../bench/fleet/simulate.rs"]
#[allow(dead_code)]
mod simulate;
#[path = "../bench/fleet/trace.rs"]
#[allow(dead_code)]
mod trace;
#[path = "../bench/fleet/virtual_fleet.rs"]
#[allow(dead_code)]
mod virtual_fleet;
#[path = "../bench/fleet/workload.rs"]
#[allow(dead_code)]
mod workload;

use figures::median;
use setup::{Kind, Setup};
use simulate::{Outcome, Policy, Workload};

const REQUESTS: usize = 300;
const SEEDS: std::ops::RangeInclusive<u64> = 1..=15;
const RIGHT: Policy = Policy::ExpectedWait { off: 1, plan: false, instances: 1 };

/// Workloads of all seeds at a share of what the best fixed placement can do.
fn workloads(setup: &Setup, util: f64) -> impl Iterator<Item = (u64, Workload<'_>)> {
    let trace = trace::made_up(1);
    let (full, shares) = simulate::capacity(setup, &trace);
    SEEDS.map(move |seed| {
        (seed, Workload { setup, requests: workload::requests(&trace, REQUESTS, util * full, &shares, seed) })
    })
}

/// Ratios of the scheduler's p99 and loads to the better balancer's, in the median over the seeds.
fn against_balancers(kind: Kind, util: f64) -> (f64, f64) {
    let setup = Setup::new(kind, 8, 4);
    let (mut waits, mut loads) = (Vec::new(), Vec::new());
    for (seed, workload) in workloads(&setup, util) {
        let ours = all_answered(workload.play(RIGHT, seed));
        let peers = [Policy::RoundRobin, Policy::LeastConnections].map(|peer| all_answered(workload.play(peer, seed)));
        let best = |figure: fn(&Outcome) -> f64| peers.iter().map(figure).fold(f64::INFINITY, f64::min);
        waits.push(ours.p99 / best(|peer| peer.p99));
        loads.push(ours.loads as f64 / best(|peer| peer.loads as f64));
    }
    (median(&waits), median(&loads))
}

fn all_answered(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.answered, REQUESTS, "nobody is forgotten");
    outcome
}

#[test]
fn the_first_token_comes_sooner_than_behind_a_balancer_with_a_third_of_the_loads() {
    for (kind, util, most) in [
        (Kind::Hetero, 0.7, 0.35),
        (Kind::Hetero, 0.95, 0.5),
        (Kind::Homog, 0.7, 0.35),
        (Kind::Homog, 0.95, 0.5),
        (Kind::Subset, 0.7, 0.35),
        (Kind::Subset, 0.95, 0.5),
    ] {
        let (wait, loads) = against_balancers(kind, util);
        println!("{kind:?} at {util}: p99 {wait:.2}, loads {loads:.2}");
        assert!(wait <= most, "{kind:?} at {util}: {wait:.2} of the best balancer's p99");
        assert!(loads <= 0.3, "{kind:?} at {util}: {loads:.2} of its loads");
    }
}

#[test]
fn estimates_that_are_off_by_two_cost_less_than_half_again() {
    let setup = Setup::new(Kind::Hetero, 8, 4);
    let ratios = workloads(&setup, 0.7).map(|(seed, workload)| {
        let wrong = workload.play(Policy::ExpectedWait { off: 2, plan: false, instances: 1 }, seed);
        wrong.p99 / workload.play(RIGHT, seed).p99
    });
    let ratio = median(&ratios.collect::<Vec<_>>());
    assert!(ratio <= 1.5, "{ratio:.2}");
}

#[test]
fn three_instances_are_about_as_good_as_one() {
    for kind in [Kind::Homog, Kind::Hetero, Kind::Subset] {
        let setup = Setup::new(kind, 8, 4);
        let (mut one, mut three) = (Vec::new(), Vec::new());
        for (seed, workload) in workloads(&setup, 0.7) {
            one.push(all_answered(workload.play(RIGHT, seed)).p99);
            three.push(
                all_answered(workload.play(Policy::ExpectedWait { off: 1, plan: false, instances: 3 }, seed)).p99,
            );
        }
        let ratio = median(&three) / median(&one);
        println!("{kind:?}: {ratio:.2}");
        assert!(ratio <= 1.15, "{kind:?}: {ratio:.2} of the p99 of one");
    }
}
