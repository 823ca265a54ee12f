//! The block `gpu` of a server: its cards, and who tells how they are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OneOrMany, Switch, secs};
use crate::units::{ByteSize, Duration};

/// The cards of a server, and at most one source that tells how they are: `nvml`, `agent` or `exporter`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// Its memory, of all cards together, as the maker states it. What models fit side by side follows from it, where no
    /// source tells it. `0B` says that the server has no card: models that fit elsewhere go elsewhere
    /// (`policy: expected_wait`).
    pub memory: Option<ByteSize>,
    /// Ask NVIDIA's driver on this machine.
    pub nvml: Switch,
    /// URL of an `arriero gpu-agent` on the server's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// File with the agent's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// URL of the metrics of an exporter on the server's host: dcgm-exporter, nvidia_gpu_exporter, AMD's
    /// device-metrics-exporter, or any other one with `metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exporter: Option<String>,
    /// With `exporter`: where its metrics have which value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<GpuMetrics>,
    /// The server's cards on its host, by their uuid, with or without `GPU-` in front. By default all.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub uuid: OneOrMany<String>,
    /// The same by their numbers.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub index: OneOrMany<u32>,
    /// Time between two looks at the source.
    pub interval: Duration,
    /// Memory that stays free beside the models (`policy: expected_wait`).
    pub margin: ByteSize,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            memory: None,
            nvml: Switch::Off,
            agent: None,
            token_file: None,
            exporter: None,
            metrics: None,
            uuid: OneOrMany::default(),
            index: OneOrMany::default(),
            interval: secs(10),
            margin: ByteSize(512 << 20),
        }
    }
}

impl Gpu {
    /// Whether a source tells how the cards are.
    #[must_use]
    pub fn has_source(&self) -> bool {
        self.nvml == Switch::On || self.agent.is_some() || self.exporter.is_some()
    }
}

/// Where the metrics of an exporter have which value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuMetrics {
    /// The label that tells cards apart.
    pub card_label: String,
    /// A value of a card, such as `memory_used` or `temperature`, and the metric that has it.
    pub fields: BTreeMap<String, GpuMetric>,
}

/// A metric with a value of a card.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuMetric {
    /// Its name.
    pub metric: String,
    /// What it is multiplied with to have bytes, percent, degrees Celsius or watts: `1048576` for a metric in MiB.
    #[serde(default = "one")]
    pub factor: u64,
}

const fn one() -> u64 {
    1
}
