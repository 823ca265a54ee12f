//! Keys of a server's cards.

use serde_json::json;

use super::looks::{fleet, text};
use super::{Row, base, each_changes_what_runs};
use arriero::fleet::gpu::{GpuPlan, GpuSource};
use arriero::fleet::snapshot::Snapshot;

const MAPPED: &str = "exporter http://a.test:80/… /metrics, Some(Mapping { card_label: \"gpu\", \
     fields: [(MemoryUsed, \"m\", 7.0)] })";

/// The keys, values for them, and what is then seen.
pub const GPU: &[Row] = &[
    ("upstreams.*.servers[].gpu.margin", "\"7KiB\"", "Some(7168)", |s| text(plan(s).map(|plan| plan.margin))),
    ("upstreams.*.servers[].gpu.nvml", "\"on\"", "nvml", source),
    ("upstreams.*.servers[].gpu.agent", "\"http://a.test:9845\"", "agent a.test:9845, None", source),
    (
        "upstreams.*.servers[].gpu.token_file",
        "\"conf/arriero.yaml\"",
        "agent a.test:80, Some(\"conf/arriero.yaml\")",
        source,
    ),
    (
        "upstreams.*.servers[].gpu.exporter",
        "\"http://a.test:9400/metrics\"",
        "exporter http://a.test:9400/… /metrics, None",
        source,
    ),
    ("upstreams.*.servers[].gpu.metrics.card_label", "\"gpu\"", MAPPED, source),
    ("upstreams.*.servers[].gpu.metrics.fields.*.metric", "\"m\"", MAPPED, source),
    ("upstreams.*.servers[].gpu.metrics.fields.*.factor", "7", MAPPED, source),
    ("upstreams.*.servers[].gpu.uuid", "\"GPU-AB\"", "Some([\"ab\"])", |s| text(plan(s).map(|plan| &plan.cards.uuids))),
    ("upstreams.*.servers[].gpu.index", "[1, 7]", "Some([1, 7])", |s| text(plan(s).map(|plan| &plan.cards.indices))),
    ("upstreams.*.servers[].gpu.interval", "\"7s\"", "Some(7s)", |s| text(plan(s).map(|plan| plan.interval))),
];

fn plan(snapshot: &Snapshot) -> Option<&GpuPlan> {
    fleet(snapshot).servers[0].gpu.as_ref()
}

fn source(snapshot: &Snapshot) -> String {
    match plan(snapshot).and_then(|plan| plan.source.as_ref()) {
        None => "none".to_owned(),
        Some(GpuSource::Nvml) => "nvml".to_owned(),
        Some(GpuSource::Agent { url, token_file }) => format!("agent {}, {token_file:?}", url.address),
        Some(GpuSource::Exporter { url, mapping }) => {
            format!("exporter {} {}, {mapping:?}", url.shown(), url.target)
        }
    }
}

#[test]
fn each_key_of_the_cards_changes_what_runs() {
    let scheduled = || {
        let mut config = base("http://127.0.0.1:9");
        config["upstreams"]["fleet"]["balance"] = json!({ "policy": "expected_wait" });
        config
    };
    each_changes_what_runs(GPU, scheduled);
}

#[test]
fn what_makes_no_sense_about_cards_is_refused_with_a_way_out() {
    for (gpu, code, says) in [
        (json!({ "nvml": "on", "agent": "http://a" }), "E038", "keep one of them"),
        (json!({ "agent": "a.test" }), "E098", "http://10.0.0.11:9845"),
        (json!({ "exporter": "http://u:p@a/metrics" }), "E098", "http://10.0.0.11:9400/metrics"),
        (json!({ "agent": "http://a", "token_file": "/nowhere/token" }), "E096", "cannot be read"),
        (json!({ "token_file": "conf/arriero.yaml" }), "E036", "only with `agent`"),
        (json!({ "index": 0 }), "E036", "only with `nvml`, `agent` or `exporter`"),
        (json!({ "interval": "2s" }), "E036", "only with `nvml`, `agent` or `exporter`"),
        (json!({ "nvml": "on", "interval": "10ms" }), "E013", "`1s` or more"),
        (json!({ "nvml": "on", "uuid": ["GPU-"] }), "E013", "nvidia-smi -L"),
        (
            json!({ "exporter": "http://a", "metrics": { "card_label": "", "fields": { "power": { "metric": "p" } } } }),
            "E013",
            "`gpu`",
        ),
        (
            json!({ "exporter": "http://a", "metrics": { "card_label": "g", "fields": {} } }),
            "E013",
            "name at least one",
        ),
        (
            json!({ "exporter": "http://a", "metrics": { "card_label": "g", "fields": { "speed": { "metric": "p" } } } }),
            "E013",
            "memory_used",
        ),
        (
            json!({ "exporter": "http://a", "metrics": { "card_label": "g", "fields": { "power": { "metric": "p", "factor": 0 } } } }),
            "E035",
            "leave it out",
        ),
    ] {
        let mut config = base("http://127.0.0.1:9");
        config["upstreams"]["fleet"]["servers"][0]["gpu"] = gpu.clone();
        let found = arriero::config::parse("keys", &config.to_string(), &|_| None);
        let text = found.err().unwrap_or_else(|| panic!("{gpu} was taken")).render(false);
        assert!(text.contains(code) && text.contains(says), "{gpu}: wanted {code} and {says}: {text}");
    }
}
