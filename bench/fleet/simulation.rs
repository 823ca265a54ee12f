//! The scene `simulate`: a row for each policy, medians over the seeds.

use crate::Options;
use crate::figures::{median, short, table};
use crate::setup::Setup;
use crate::simulate::{self, Outcome, Policy, Workload};
use crate::{trace, workload};

const ROWS: [(&str, Policy); 7] = [
    ("round robin", Policy::RoundRobin),
    ("least connections", Policy::LeastConnections),
    ("fastest response", Policy::FastestResponse),
    ("expected_wait", Policy::ExpectedWait { off: 1, plan: false, instances: 1 }),
    ("... estimates off by 2", Policy::ExpectedWait { off: 2, plan: false, instances: 1 }),
    ("... three instances", Policy::ExpectedWait { off: 1, plan: false, instances: 3 }),
    ("... with a learned plan", Policy::ExpectedWait { off: 1, plan: true, instances: 1 }),
];
/// The first of them know no more than balancers and home-made orchestrators do.
const PEERS: usize = 3;
/// And this one knows the mix of the traffic in advance: least connections before the best fixed placement.
const FIXED: &str = "static";
const HEAD: [&str; 7] = ["policy", "p99", "mean", "loads", "p99 / best peer", "its worst seed", "loads / best"];

/// Plays all seeds.
pub fn play(options: &Options) -> Result<bool, String> {
    let setup = Setup::new(options.fleet, options.models, options.parallel);
    let trace = options.trace.as_deref().map_or_else(|| Ok(trace::made_up(1)), trace::read)?;
    let (placement, shares) = simulate::capacity(&setup, &trace);
    let fixed = setup.fixed(&placement.kept);
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); ROWS.len() + 1];
    for seed in &options.seed {
        let requests = workload::requests(&trace, options.n, options.util * placement.rate, &shares, *seed);
        let workload = Workload { setup: &setup, requests: requests.clone() };
        let preloaded = Workload { setup: &fixed, requests };
        let rows = ROWS.iter().map(|(name, policy)| (*name, &workload, *policy));
        let rows = rows.chain([(FIXED, &preloaded, Policy::LeastConnections)]);
        for ((name, workload, policy), outcomes) in rows.zip(&mut outcomes) {
            let outcome = workload.play(policy, *seed);
            if outcome.answered < options.n {
                return Err(format!(
                    "{name}, seed {seed}: {} of {} requests were answered",
                    outcome.answered, options.n
                ));
            }
            outcomes.push(outcome);
        }
    }
    let best = |seed: usize, figure: fn(&Outcome) -> f64| {
        outcomes[..PEERS].iter().map(|of| figure(&of[seed])).fold(f64::INFINITY, f64::min)
    };
    let names = ROWS.iter().map(|(name, _)| *name).chain([FIXED]);
    let rows = names.zip(&outcomes).map(|(name, outcomes)| {
        let all = |figure: fn(&Outcome) -> f64| outcomes.iter().map(figure).collect::<Vec<_>>();
        let ratios = |figure: fn(&Outcome) -> f64| -> Vec<f64> {
            outcomes.iter().enumerate().map(|(seed, outcome)| figure(outcome) / best(seed, figure)).collect()
        };
        let waits = ratios(|outcome| outcome.p99);
        vec![
            name.to_owned(),
            short(median(&all(|outcome| outcome.p99))),
            short(median(&all(|outcome| outcome.mean))),
            short(median(&all(|outcome| outcome.loads as f64))),
            short(median(&waits)),
            short(waits.iter().copied().fold(0.0, f64::max)),
            short(median(&ratios(|outcome| outcome.loads as f64))),
        ]
    });
    table(&HEAD, &rows.collect::<Vec<_>>());
    Ok(true)
}
