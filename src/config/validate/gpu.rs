//! Rules about the cards of a server and who tells how they are.

use super::Rules;
use super::notifications::secret;
use crate::config::tree::Path;
use crate::config::types::{Gpu, GpuMetrics, Switch};
use crate::config::{ServerUrl, WebhookUrl, codes};
use crate::policy::gpu::source::Field;
use crate::units::Duration;

/// Sources take seconds to answer; asking them more often than that helps nobody.
const SHORTEST: std::time::Duration = std::time::Duration::from_secs(1);

pub(super) fn check(path: &Path<'_>, gpu: &Gpu, rules: &mut Rules<'_, '_, '_>) {
    let sources =
        [("nvml", gpu.nvml == Switch::On), ("agent", gpu.agent.is_some()), ("exporter", gpu.exporter.is_some())];
    let mut given = sources.iter().filter(|(_, given)| *given).map(|(key, _)| *key);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        let message = format!("`{first}` and `{second}` both tell how the cards are");
        rules.key(codes::CONTRADICTION, &path.key(second), message, "keep one of them");
    }
    for (key, url) in [("agent", &gpu.agent), ("exporter", &gpu.exporter)] {
        if let Some(url) = url {
            source_url(&path.key(key), key, url, rules);
        }
    }
    if let Some(file) = &gpu.token_file {
        secret(&path.key("token_file"), file, rules);
    }
    for (key, needs, there) in [
        ("token_file", "agent", gpu.agent.is_some()),
        ("metrics", "exporter", gpu.exporter.is_some()),
        ("uuid", "a source", gpu.has_source()),
        ("index", "a source", gpu.has_source()),
        ("interval", "a source", gpu.has_source()),
    ] {
        let path = path.key(key);
        if !there && rules.given(&path) {
            let message = match needs {
                "a source" => format!("`{key}` has an effect only with `nvml`, `agent` or `exporter`"),
                needs => format!("`{key}` has an effect only with `{needs}`"),
            };
            rules.key(codes::NOT_HERE, &path, message, "remove it, or say who tells how the cards are");
        }
    }
    interval(&path.key("interval"), gpu.interval, rules);
    for (number, uuid) in gpu.uuid.as_slice().iter().enumerate() {
        if crate::policy::gpu::reading::uuid(uuid).is_empty() {
            let path = path.key("uuid");
            let of_list = path.index(number);
            let path = if gpu.uuid.as_slice().len() > 1 { &of_list } else { &path };
            rules.value(codes::INVALID_VALUE, path, "the uuid of a card is empty", "`nvidia-smi -L` lists them");
        }
    }
    if let Some(metrics) = &gpu.metrics {
        fields(&path.key("metrics"), metrics, rules);
    }
}

fn source_url(path: &Path<'_>, key: &str, url: &str, rules: &mut Rules<'_, '_, '_>) {
    let parsed = match key {
        "agent" => ServerUrl::parse(url).map(drop),
        _ => WebhookUrl::parse(url).map(drop),
    };
    if let Err(why) = parsed {
        let hint = match key {
            "agent" => "write it like `http://10.0.0.11:9845`",
            _ => "write it like `http://10.0.0.11:9400/metrics`",
        };
        let message = format!("{} is no URL: {}", rules.shown(path, url), rules.why(path, why, "its form is wrong"));
        rules.value(codes::GPU_SOURCE, path, message, hint);
    }
}

fn interval(path: &Path<'_>, interval: Duration, rules: &mut Rules<'_, '_, '_>) {
    if interval.0 < SHORTEST {
        rules.value(codes::INVALID_VALUE, path, "sources are asked once a second at most", "write `1s` or more");
    }
}

fn fields(path: &Path<'_>, metrics: &GpuMetrics, rules: &mut Rules<'_, '_, '_>) {
    if metrics.card_label.is_empty() {
        let hint = "write the label that differs from card to card, such as `gpu`";
        rules.value(codes::INVALID_VALUE, &path.key("card_label"), "the name of the label is empty", hint);
    }
    let fields = path.key("fields");
    if metrics.fields.is_empty() {
        let hint = "name at least one, such as `memory_used: { metric: NAME }`";
        rules.value(codes::INVALID_VALUE, &fields, "no value is read from the exporter", hint);
    }
    for (name, metric) in &metrics.fields {
        let path = fields.key(name);
        if name.parse::<Field>().is_err() {
            let known: Vec<&str> = Field::ALL.iter().map(|(_, word)| *word).collect();
            let message = format!("a card has no value `{name}`");
            rules.key(codes::INVALID_VALUE, &path, message, format!("one of {}", known.join(", ")));
        }
        if metric.metric.is_empty() {
            let hint = "write the metric as the exporter names it";
            rules.value(codes::INVALID_VALUE, &path.key("metric"), "the name of the metric is empty", hint);
        }
        if metric.factor == 0 {
            rules.value(codes::ZERO, &path.key("factor"), "a factor of zero leaves nothing", "leave it out for 1");
        }
    }
}
