//! `arriero cluster`: the instances that act as one, and whether they agree.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;

use super::admin_client::Question;
use super::asking::Asking;
use super::output::{Look, Page};
use super::table::{Cell, Table, Tone};
use super::words;

/// Where the calls about the cluster are.
const API: &str = "/api/multihost/";

/// What to do; shows the instances by default.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Clone, Copy, Subcommand)]
enum Verb {
    /// Show the instances that are alive.
    Instances,
    /// Show who does what one alone should do.
    Leader,
    /// Show how this instance is linked with the others; exit status 1 while Redis cannot be used.
    Link,
    /// Compare what this instance knows, what Redis has and what the others run; mend what can be mended; exit status 1 when
    /// something is left.
    Drift,
    /// Open another connection to Redis.
    Reconnect,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instances {
    enabled: bool,
    data: Vec<Instance>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Instance {
    id: String,
    current: bool,
    leader: bool,
    status: String,
    version: String,
    config_hash: String,
    same_config: bool,
    uptime_seconds: u64,
    last_seen_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Whole<T> {
    data: T,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Coordination {
    enabled: bool,
    cluster: Option<String>,
    instance: String,
    linked: bool,
    redis: Option<String>,
    fault: Option<String>,
    instances: u64,
    configurations: u64,
    leader: Option<String>,
    leads: bool,
    decisions: Decisions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Decisions {
    version: u64,
    in_force: u64,
    untold: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Consistency {
    consistent: bool,
    enabled: bool,
    issues: Vec<Issue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Issue {
    kind: String,
    severity: String,
    subject: String,
    message: String,
    repaired: bool,
}

#[derive(Debug, Deserialize)]
struct Reconnected {
    message: String,
    linked: bool,
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let asking = &arguments.asking;
    let get = |path: &str| Question::new(Method::GET, &format!("{API}{path}"));
    match arguments.verb.unwrap_or(Verb::Instances) {
        Verb::Instances => asking.tell(get("instances"), instances),
        Verb::Leader => asking.tell(get("coordination/health"), leader),
        Verb::Link => asking.tell(get("coordination/health"), link),
        Verb::Drift => asking.tell(get("monitoring/consistency"), drift),
        Verb::Reconnect => {
            let path = format!("{API}monitoring/restart/coordination");
            asking.tell(Question::new(Method::POST, &path), reconnected)
        }
    }
}

fn instances(answer: &Instances, look: &Look) -> Page {
    let mut table = Table::new(["INSTANCE", "STATUS", "LEADS", "VERSION", "CONFIGURATION", "UP FOR", "LAST SEEN"]);
    for one in &answer.data {
        let config = Cell::text(&one.config_hash);
        table.row([
            Cell::text(if one.current { format!("{} (this one)", one.id) } else { one.id.clone() }),
            Cell::state(&one.status),
            Cell::maybe(one.leader.then_some("yes")),
            Cell::text(&one.version),
            if one.same_config { config } else { config.toned(Tone::Bad) },
            Cell::text(words::span(std::time::Duration::from_secs(one.uptime_seconds))),
            Cell::milliseconds((!one.current).then_some(one.last_seen_ms)),
        ]);
    }
    let more = if answer.enabled { "" } else { "no cluster: the configuration has no block `cluster`\n" };
    Page::of(table.render(look, "no instances") + more)
}

fn leader(answer: &Whole<Coordination>, _: &Look) -> Page {
    let known = &answer.data;
    let leader = match (&known.leader, known.leads) {
        (_, true) => &known.instance,
        (Some(leader), false) => leader,
        (None, false) => return Page::of("nobody leads now\n"),
    };
    Page::of(format!("{}\n", words::plain(leader)))
}

fn link(answer: &Whole<Coordination>, _: &Look) -> Page {
    let known = &answer.data;
    if !known.enabled {
        return Page::of("no cluster: the configuration has no block `cluster`\n");
    }
    let plain = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| words::plain(text));
    let decisions = &known.decisions;
    let mut text = format!(
        "cluster         {}\ninstance        {}\nredis           {}\nleader          {}\ninstances       {}\n\
         configurations  {}\ndecisions       {} in force, version {}\n",
        plain(known.cluster.as_ref()),
        words::plain(&known.instance),
        plain(known.redis.as_ref()),
        plain(known.leader.as_ref()),
        known.instances,
        known.configurations,
        decisions.in_force,
        decisions.version,
    );
    if decisions.untold > 0 {
        text += &format!("not told yet    {}\n", words::count(decisions.untold, "decision", "decisions"));
    }
    let wrong = (!known.linked).then(|| format!("Redis cannot be used: {}", plain(known.fault.as_ref())));
    Page { wrong, ..Page::of(text) }
}

fn drift(answer: &Whole<Consistency>, look: &Look) -> Page {
    let found = &answer.data;
    let mut table = Table::new(["SEVERITY", "KIND", "ABOUT", "MENDED", "WHAT"]);
    for one in &found.issues {
        let tone = match one.severity.as_str() {
            _ if one.repaired => Tone::Plain,
            "critical" | "high" => Tone::Bad,
            _ => Tone::Warning,
        };
        table.row([
            Cell::text(&one.severity).toned(tone),
            Cell::text(&one.kind),
            Cell::text(&one.subject),
            Cell::maybe(one.repaired.then_some("yes")),
            Cell::text(&one.message),
        ]);
    }
    let all_well =
        if found.enabled { "everything is the same everywhere" } else { "no cluster: there is nothing to compare" };
    Page { is_bad: !found.consistent, ..Page::of(table.render(look, all_well)) }
}

fn reconnected(answer: &Reconnected, _: &Look) -> Page {
    let message = words::plain(&answer.message);
    if answer.linked { Page::of(format!("{message}\n")) } else { Page { wrong: Some(message), ..Page::of("") } }
}
