//! Keys of the scheduler, in a configuration whose upstream is scheduled.

use serde_json::{Value, json};

use super::looks::{fleet, text};
use super::{Row, base, each_changes_what_runs, set};
use arriero::fleet::placement::Placement;
use arriero::fleet::snapshot::Snapshot;

/// The keys, values for them, and what is then seen.
pub const SCHEDULED: &[Row] = &[
    ("upstreams.*.servers[].max_in_flight_per_model", "3", "Some(3)", |s| {
        text(fleet(s).servers[0].max_in_flight_per_model)
    }),
    ("upstreams.*.servers[].max_loaded", "7", "7", |s| text(fleet(s).servers[0].max_loaded)),
    ("upstreams.*.servers[].gpu.memory", "\"16KiB\"", "Some(16384)", |s| text(fleet(s).servers[0].memory)),
    ("upstreams.*.balance.plan", "\"learned\"", "true", |s| text(fleet(s).schedule.plan)),
    ("upstreams.*.queue.max_pending", "7", "7", |s| text(fleet(s).schedule.max_pending)),
    ("upstreams.*.queue.timeout", "\"7s\"", "7s", |s| text(fleet(s).queue_timeout)),
    ("upstreams.*.queue.aging", "\"7s\"", "7.0", |s| text(fleet(s).schedule.aging)),
    ("upstreams.*.queue.keepalive", "\"7s\"", "Some(7s)", |s| text(fleet(s).queue_keepalive)),
    ("upstreams.*.models[].match", "\"mistral*\"", "true", |s| text(rule(s).models.matches("mistral:7b"))),
    ("upstreams.*.models[].pin", "[\"two\"]", "[1]", |s| text(&rule(s).pinned)),
    ("upstreams.*.models[].only", "[\"two\"]", "Some([1])", |s| text(&rule(s).only)),
    ("upstreams.*.models[].never", "[\"two\"]", "[1]", |s| text(&rule(s).never)),
    ("upstreams.*.models[].min_warm", "1", "Some(1)", |s| text(rule(s).min_warm)),
    ("upstreams.*.models[].max_warm", "7", "Some(7)", |s| text(rule(s).max_warm)),
    ("upstreams.*.models[].min_residency", "\"7s\"", "Some(7.0)", |s| text(rule(s).min_residency)),
    ("upstreams.*.models[].idle_unload", "\"7s\"", "Some(7.0)", |s| text(rule(s).idle_unload)),
    ("upstreams.*.models[].priority", "\"high\"", "Some(High)", |s| text(rule(s).priority)),
    ("upstreams.*.warm", "[\"llava@two\"]", "[1]", |s| {
        text(fleet(s).placements.iter().flat_map(|placement| placement.warm.clone()).collect::<Vec<_>>())
    }),
    ("routes[].priority", "\"low\"", "Low", |s| text(s.routes[0].priority)),
    ("routes[].priority_header", "\"allow\"", "true", |s| text(s.routes[0].priority_header)),
    ("routes[].explain", "\"allow\"", "true", |s| text(s.routes[0].explain)),
];

fn rule(snapshot: &Snapshot) -> &Placement {
    &fleet(snapshot).placements[0]
}

fn scheduled() -> Value {
    let mut config = base("http://127.0.0.1:9");
    let upstream = &mut config["upstreams"]["fleet"];
    upstream["balance"] = json!({ "policy": "expected_wait" });
    upstream["models"] = json!([{ "match": "llava*" }]);
    upstream["servers"] =
        json!([{ "name": "one", "url": "http://127.0.0.1:9" }, { "name": "two", "url": "http://127.0.0.1:8" }]);
    config
}

#[test]
fn each_key_of_the_scheduler_changes_what_runs() {
    each_changes_what_runs(SCHEDULED, scheduled);
}

#[test]
fn keys_of_the_scheduler_are_refused_where_nothing_is_scheduled() {
    for (key, value, ..) in SCHEDULED {
        let everywhere = ["queue.", "priority"].iter().any(|part| key.contains(part)) && !key.contains("models");
        let mut config = scheduled();
        config["upstreams"]["fleet"]["balance"] = json!({ "policy": "least_requests" });
        config["upstreams"]["fleet"].as_object_mut().expect("an upstream").remove("models");
        if key.contains("models[]") {
            config["upstreams"]["fleet"]["models"] = json!([{ "match": "llava*" }]);
        }
        set(&mut config, key, serde_json::from_str(value).expect("JSON"));
        let found = arriero::config::parse("keys", &config.to_string(), &|_| None);
        match found {
            Ok(_) => assert!(everywhere, "{key} was taken"),
            Err(found) => {
                let text = found.render(false);
                assert!(!everywhere && (text.contains("E036") || text.contains("E038")), "{key}: {text}");
            }
        }
    }
}
