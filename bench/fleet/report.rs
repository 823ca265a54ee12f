//! The table of a replay: a row for each policy, medians over the seeds, and the ratio to the best peer.

use std::collections::BTreeMap;

use crate::figures::{median, short, table};
use crate::replay::Figures;

/// Proxies that know nothing of models; the best of them, seed by seed, is what others are compared with.
pub const PEERS: [&str; 3] = ["nginx_rr", "nginx_lc", "haproxy_lc"];

/// When requests are sent later than this (milliseconds of the wall), the machine was too busy for a verdict.
const TOO_LATE: f64 = 50.0;

const HEAD: [&str; 17] = [
    "policy",
    "p50",
    "p95",
    "p99",
    "mean",
    "wait",
    "wait p99",
    "served/s",
    "errors",
    "loads",
    "evicted",
    "twice",
    "cancelled",
    "broken off",
    "Jain",
    "late ms",
    "p99 / best peer",
];

/// Prints the table.
pub fn print(runs: &[Figures]) {
    let mut policies: Vec<&str> = Vec::new();
    for run in runs {
        if !policies.contains(&run.policy.as_str()) {
            policies.push(&run.policy);
        }
    }
    let rows: Vec<Vec<String>> = policies.iter().map(|policy| row(policy, runs)).collect();
    table(&HEAD, &rows);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, count) in runs.iter().flat_map(|run| &run.errors) {
        *kinds.entry(kind).or_default() += count;
    }
    if !kinds.is_empty() {
        println!(
            "\nerrors: {}",
            kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
        );
    }
    warn(runs);
}

/// Warns of runs whose figures say more about the machine than about the policy.
fn warn(runs: &[Figures]) {
    let busy = runs.iter().filter(|run| run.late_ms > TOO_LATE).count();
    if busy > 0 {
        println!("\n{busy} of {} runs sent their requests more than {TOO_LATE} ms late: repeat them.", runs.len());
    }
}

fn row(policy: &str, runs: &[Figures]) -> Vec<String> {
    let own: Vec<&Figures> = runs.iter().filter(|run| run.policy == policy).collect();
    let middle = |figure: fn(&Figures) -> f64| short(median(&own.iter().map(|run| figure(run)).collect::<Vec<_>>()));
    let sum = |figure: fn(&Figures) -> usize| own.iter().map(|run| figure(run)).sum::<usize>().to_string();
    let count =
        |figure: fn(&Figures) -> f64| format!("{:.0}", median(&own.iter().map(|run| figure(run)).collect::<Vec<_>>()));
    vec![
        policy.to_owned(),
        middle(|run| run.p50),
        middle(|run| run.p95),
        middle(|run| run.p99),
        middle(|run| run.mean),
        middle(|run| run.wait),
        middle(|run| run.wait_p99),
        middle(|run| run.throughput),
        sum(|run| run.errors.values().sum()),
        count(|run| run.loads as f64),
        count(|run| run.evictions as f64),
        sum(|run| run.duplicates),
        sum(|run| run.cancelled_loads),
        sum(|run| run.abandoned),
        middle(|run| run.jain),
        middle(|run| run.late_ms),
        ratios(&own, runs),
    ]
}

/// Median and worst ratio of the 99th percentile to that of the best peer with the same seed.
fn ratios(own: &[&Figures], runs: &[Figures]) -> String {
    let ratio = |run: &&Figures| {
        let peers = runs.iter().filter(|peer| peer.seed == run.seed && PEERS.contains(&peer.policy.as_str()));
        Some(run.p99 / peers.map(|peer| peer.p99).min_by(f64::total_cmp)?)
    };
    let ratios: Vec<f64> = own.iter().filter_map(ratio).collect();
    if ratios.is_empty() {
        return "-".to_owned();
    }
    let worst = ratios.iter().copied().fold(f64::MIN, f64::max);
    format!("{} (worst {})", short(median(&ratios)), short(worst))
}
