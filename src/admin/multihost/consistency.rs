//! Whether what this instance knows, what Redis has and what the other instances do is the same, and what mends it.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Shared, compare, reconnect, views};
use crate::admin::State;
use crate::admin::openapi::{Done, about};
use crate::admin::time::{milliseconds, wall};
use crate::clock;
use crate::fleet::cluster::asking::Comparison;

/// Most differences that are named one by one.
const NAMED: usize = 100;

pub(super) fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route(
            "/monitoring/consistency",
            get_with(check, about("checkConsistency", "Compare this instance, Redis and the other instances")),
        )
        .api_route(
            "/monitoring/recovery",
            post_with(recover, about("recoverCluster", "Mend what can be mended, and compare again")),
        )
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Issue {
    /// `redis`, `decisions`, `members`, `leader`, `config` or `version`.
    kind: &'static str,
    /// `critical`, `high`, `medium` or `low`.
    severity: &'static str,
    /// What it is about.
    subject: String,
    /// What is wrong, and what mends it.
    message: String,
    /// It was mended as it was found.
    repaired: bool,
}

/// How many issues there are of each severity.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Severities {
    critical: usize,
    high: usize,
    medium: usize,
    low: usize,
}

impl Severities {
    /// Of those that were not mended.
    fn of(issues: &[Issue]) -> Self {
        let count = |severity: &str| issues.iter().filter(|one| !one.repaired && one.severity == severity).count();
        Self { critical: count("critical"), high: count("high"), medium: count("medium"), low: count("low") }
    }

    fn all(&self) -> usize {
        self.critical + self.high + self.medium + self.low
    }
}

/// What was found.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Consistency {
    /// Nothing is wrong that was not mended.
    consistent: bool,
    /// There is a cluster to compare with.
    enabled: bool,
    /// When it was compared.
    checked_at: String,
    /// Milliseconds that Redis took to tell; null where it was not asked or did not tell.
    took_ms: Option<f64>,
    /// What was compared.
    compared: Compared,
    /// How many issues there are.
    by_severity: Severities,
    /// The first hundred of them.
    issues: Vec<Issue>,
    /// How many were mended as they were found.
    #[serde(skip)]
    repaired: usize,
}

/// What was compared: here, in Redis, and among the instances.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Compared {
    /// Highest version of decisions that this instance has seen.
    version_here: u64,
    /// The same in Redis.
    version_in_redis: u64,
    /// Decisions that this instance knows.
    decisions_here: usize,
    /// Decisions that Redis has.
    decisions_in_redis: usize,
    /// Instances that this one knows.
    instances_here: usize,
    /// Instances that Redis has.
    instances_in_redis: usize,
    /// Different configurations among them.
    configurations: usize,
    /// Different versions of Arriero among them.
    versions: usize,
}

/// What was found, as an answer.
#[derive(Serialize, JsonSchema)]
struct ConsistencyAnswer {
    data: Consistency,
}

async fn check(Extract(state): Shared) -> Done<ConsistencyAnswer> {
    Done(ConsistencyAnswer { data: look(&state).await })
}

async fn look(state: &State) -> Consistency {
    let known = state.store.load().lasting.cluster.asking.known();
    let found = compare(state).await;
    let instances = views::instances(state);
    let mut issues: Vec<Issue> = Vec::new();
    let enabled = found.is_some();
    let found = found.unwrap_or_default();
    if let Some(fault) = &found.fault {
        let message =
            format!("Redis cannot be used: {fault}; each instance goes on by itself, and what differs is mended later");
        issues.push(issue("redis", "high", "redis", message, false));
    } else if enabled {
        of_redis(&found, &instances, &mut issues);
    }
    if enabled && known.untold > 0 {
        let left = state.store.load().lasting.cluster.asking.known().untold;
        let message = format!("{} decisions of this instance were not told to the others", known.untold);
        issues.push(issue("decisions", "medium", "this instance", message, left == 0));
    }
    let distinct = |of: fn(&views::InstanceView) -> &str| {
        let mut all: Vec<&str> = instances.iter().map(of).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    for other in instances.iter().filter(|one| !one.same_config) {
        let message = "its configuration is another one than that of the instance that answers: compare the files";
        issues.push(issue("config", "high", &other.id, message.to_owned(), false));
    }
    let versions = distinct(|one| &one.version);
    if versions > 1 {
        let message = format!("the instances run {versions} versions of Arriero");
        issues.push(issue("version", "low", "instances", message, false));
    }
    let (by_severity, repaired, issues) = counted(issues);
    Consistency {
        consistent: by_severity.all() == 0,
        enabled,
        checked_at: wall(clock::unix_time()),
        took_ms: (enabled && found.fault.is_none()).then(|| milliseconds(found.took)),
        compared: Compared {
            version_here: known.version,
            version_in_redis: found.version,
            decisions_here: known.decisions,
            decisions_in_redis: found.decisions,
            instances_here: instances.len(),
            instances_in_redis: found.members.len(),
            configurations: distinct(|one| &one.config_hash),
            versions,
        },
        by_severity,
        issues,
        repaired,
    }
}

/// How many issues are left by their severity, how many were mended, and those of all of them that are named.
fn counted(mut issues: Vec<Issue>) -> (Severities, usize, Vec<Issue>) {
    let by_severity = Severities::of(&issues);
    let repaired = issues.iter().filter(|one| one.repaired).count();
    issues.truncate(NAMED);
    (by_severity, repaired, issues)
}

fn issue(kind: &'static str, severity: &'static str, subject: &str, message: String, repaired: bool) -> Issue {
    Issue { kind, severity, subject: subject.to_owned(), message, repaired }
}

/// What Redis has and this instance does not, and the other way round.
fn of_redis(found: &Comparison, instances: &[views::InstanceView], issues: &mut Vec<Issue>) {
    for one in &found.differences {
        let message = match (one.here, one.there) {
            (here, 0) => format!("Redis lacked version {here} and got it back"),
            (0, there) => format!("this instance lacked version {there} and followed it"),
            (here, there) if here == there => {
                format!("another decision had version {here} in Redis: the later of the two holds")
            }
            (here, there) if here > there => format!("Redis had version {there} and got version {here}"),
            (here, there) => format!("this instance had version {here} and followed version {there}"),
        };
        issues.push(issue("decisions", "medium", &format!("{} {}", one.kind, one.subject), message, true));
    }
    let here = |id: &str| instances.iter().any(|one| one.id == id);
    for id in found.members.iter().filter(|id| !here(id)) {
        let message = "Redis has it and this instance does not know it yet: it is known at the next sign of life";
        issues.push(issue("members", "medium", id, message.to_owned(), false));
    }
    for one in instances.iter().filter(|one| !found.members.contains(&one.id)) {
        let message = "Redis has lost it: it is written again with its next sign of life, or counts as dead";
        issues.push(issue("members", "medium", &one.id, message.to_owned(), false));
    }
    match &found.leader {
        None => {
            let message = "nobody leads: the next sign of life chooses somebody";
            issues.push(issue("leader", "medium", "leader", message.to_owned(), false));
        }
        Some(leader) if !instances.iter().any(|one| one.leader && one.id == *leader) => {
            let message = "it leads by what Redis has, and not by what this instance knows";
            issues.push(issue("leader", "medium", leader, message.to_owned(), false));
        }
        Some(_) => {}
    }
}

/// What was mended.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RecoveryView {
    message: String,
    /// What was done.
    actions: Vec<&'static str>,
    /// How many issues were mended.
    repaired: usize,
    /// How it is afterwards.
    data: Consistency,
}

async fn recover(Extract(state): Shared) -> Done<RecoveryView> {
    let mut actions = Vec::new();
    let cluster = Arc::clone(&state.store.load().lasting.cluster);
    if cluster.is_configured() && !cluster.is_linked() {
        // A connection is tried again anyhow; now it is tried at once.
        reconnect(&state).await;
        actions.push("connected to Redis again");
    }
    let before = look(&state).await;
    let repaired = before.repaired;
    if repaired > 0 {
        actions.push("compared decisions, and gave each side what it lacked");
    }
    // Models, addresses and what is warm are looked at anew, too.
    for member in state.store.load().upstreams.iter().flat_map(|upstream| &upstream.servers) {
        member.state.want_inventory();
    }
    actions.push("looked at the models of all servers anew");
    let after = look(&state).await;
    let left = after.by_severity.all();
    let message = if left == 0 {
        "Nothing is left to mend".to_owned()
    } else {
        format!("{left} issues are left, which do not mend that way")
    };
    Done(RecoveryView { message, actions, repaired, data: after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_issues_are_counted_though_not_all_are_named() {
        let found = |severity, repaired| issue("decisions", severity, "x", String::new(), repaired);
        let mut issues: Vec<Issue> = (0..NAMED + 50).map(|_| found("medium", true)).collect();
        issues.extend((0..NAMED).map(|_| found("medium", false)));
        issues.extend([found("high", false), found("low", false)]);
        let (by_severity, repaired, named) = counted(issues);
        assert_eq!((by_severity.high, by_severity.medium, by_severity.low), (1, NAMED, 1));
        assert_eq!((by_severity.all(), repaired, named.len()), (NAMED + 2, NAMED + 50, NAMED));
    }
}
