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
const BALANCERS: usize = 2;
const HEAD: [&str; 7] = ["policy", "p99", "mean", "loads", "p99 / best balancer", "its worst seed", "loads / best"];

/// Plays all seeds.
pub fn play(options: &Options) -> Result<bool, String> {
    let setup = Setup::new(options.fleet, options.models, options.parallel);
    let trace = options.trace.as_deref().map_or_else(|| Ok(trace::made_up(1)), trace::read)?;
    let (full, shares) = simulate::capacity(&setup, &trace);
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); ROWS.len()];
    for seed in &options.seed {
        let requests = workload::requests(&trace, options.n, options.util * full, &shares, *seed);
        let workload = Workload { setup: &setup, requests };
        for ((name, policy), outcomes) in ROWS.iter().zip(&mut outcomes) {
            let outcome = workload.play(*policy, *seed);
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
        outcomes[..BALANCERS].iter().map(|of| figure(&of[seed])).fold(f64::INFINITY, f64::min)
    };
    let rows = ROWS.iter().zip(&outcomes).map(|((name, _), outcomes)| {
        let all = |figure: fn(&Outcome) -> f64| outcomes.iter().map(figure).collect::<Vec<_>>();
        let ratios = |figure: fn(&Outcome) -> f64| -> Vec<f64> {
            outcomes.iter().enumerate().map(|(seed, outcome)| figure(outcome) / best(seed, figure)).collect()
        };
        let waits = ratios(|outcome| outcome.p99);
        vec![
            (*name).to_owned(),
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
