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
const SEEDS: u64 = 15;
/// Where two of ours are compared, which differ by less.
const MORE_SEEDS: u64 = 40;
const RIGHT: Policy = Policy::ExpectedWait { off: 1, plan: false, instances: 1 };

/// Workloads of all seeds at a share of what the best fixed placement can do, each with that placement preloaded too.
fn workloads<'s>(
    setup: &'s Setup,
    fixed: &'s mut Setup,
    util: f64,
    seeds: u64,
) -> impl Iterator<Item = (u64, Workload<'s>, Workload<'s>)> {
    let trace = trace::made_up(1);
    let (placement, shares) = simulate::capacity(setup, &trace);
    *fixed = setup.fixed(&placement.kept);
    let fixed = &*fixed;
    (1..=seeds).map(move |seed| {
        let requests = workload::requests(&trace, REQUESTS, util * placement.rate, &shares, seed);
        let preloaded = Workload { setup: fixed, requests: requests.clone() };
        (seed, Workload { setup, requests }, preloaded)
    })
}

/// Ratios of the scheduler's figures to others', in the median over the seeds.
#[derive(Debug)]
struct Ratios {
    /// p99, to the best of the balancers and of the formula of home-made orchestrators.
    wait: f64,
    /// Loads, to the better balancer's.
    loads: f64,
    /// p99, to a placement that knows the mix of the traffic and was loaded in advance.
    fixed: f64,
}

fn against_peers(kind: Kind, util: f64) -> Ratios {
    let setup = Setup::new(kind, 8, 4);
    let mut fixed = setup.clone();
    let (mut waits, mut loads, mut to_fixed) = (Vec::new(), Vec::new(), Vec::new());
    for (seed, workload, preloaded) in workloads(&setup, &mut fixed, util, SEEDS) {
        let ours = all_answered(workload.play(RIGHT, seed));
        let play = |peer| all_answered(workload.play(peer, seed));
        let balancers = [Policy::RoundRobin, Policy::LeastConnections].map(play);
        let best = |figure: fn(&Outcome) -> f64| balancers.iter().map(figure).fold(f64::INFINITY, f64::min);
        waits.push(ours.p99 / best(|peer| peer.p99).min(play(Policy::FastestResponse).p99));
        loads.push(ours.loads as f64 / best(|peer| peer.loads as f64));
        to_fixed.push(ours.p99 / all_answered(preloaded.play(Policy::LeastConnections, seed)).p99);
    }
    Ratios { wait: median(&waits), loads: median(&loads), fixed: median(&to_fixed) }
}

fn all_answered(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.answered, REQUESTS, "nobody is forgotten");
    outcome
}

#[test]
fn the_first_token_comes_sooner_than_with_any_peer_and_as_soon_as_with_a_placement_that_knows_the_mix() {
    for (kind, util, most) in [
        (Kind::Hetero, 0.7, 0.35),
        (Kind::Hetero, 0.95, 0.5),
        (Kind::Homog, 0.7, 0.35),
        (Kind::Homog, 0.95, 0.5),
        (Kind::Subset, 0.7, 0.35),
        (Kind::Subset, 0.95, 0.5),
    ] {
        let ratios = against_peers(kind, util);
        println!("{kind:?} at {util}: {ratios:.2?}");
        assert!(ratios.wait <= most, "{kind:?} at {util}: {ratios:.2?}");
        assert!(ratios.loads <= 0.3, "{kind:?} at {util}: {ratios:.2?}");
        assert!(ratios.fixed <= 1.2, "{kind:?} at {util}: {ratios:.2?}");
    }
}

#[test]
fn estimates_that_are_off_by_two_cost_less_than_half_again() {
    let setup = Setup::new(Kind::Hetero, 8, 4);
    let mut fixed = setup.clone();
    let ratios = workloads(&setup, &mut fixed, 0.7, MORE_SEEDS).map(|(seed, workload, _)| {
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
        let mut fixed = setup.clone();
        let logarithms = workloads(&setup, &mut fixed, 0.7, MORE_SEEDS).map(|(seed, workload, _)| {
            let three = Policy::ExpectedWait { off: 1, plan: false, instances: 3 };
            let [one, three] = [RIGHT, three].map(|policy| all_answered(workload.play(policy, seed)).p99);
            (three / one).ln()
        });
        let ratio = (logarithms.sum::<f64>() / MORE_SEEDS as f64).exp();
        println!("{kind:?}: {ratio:.2}");
        assert!(ratio <= 1.15, "{kind:?}: {ratio:.2} of the p99 of one, in the geometric mean");
    }
}
