//! AMD's `device-metrics-exporter`.
//!
//! Its help says MB for memory and means MiB: it passes on what AMD's library divided by 1024 twice, and the 192 GiB of an
//! MI300X are 196 592 there. Identities are not on all rows, numbers are. Cards of one generation have a junction's temperature,
//! those of another an edge's; the hotter one counts where both are told. Used and free memory are absent on a hypervisor.

use super::dialect::{Rule, Says, number};
use super::field::Field;
use super::table::Key;
use super::text::Sample;

const MIB: f64 = 1_048_576.0;

pub(super) const RULES: &[Rule] = &[
    ("gpu_total_vram", Says::Value(Field::MemoryTotal, MIB)),
    ("gpu_used_vram", Says::Value(Field::MemoryUsed, MIB)),
    ("gpu_free_vram", Says::Value(Field::MemoryFree, MIB)),
    ("gpu_gfx_activity", Says::Value(Field::Utilisation, 1.0)),
    ("gpu_junction_temperature", Says::Value(Field::Temperature, 1.0)),
    ("gpu_edge_temperature", Says::Value(Field::Temperature, 1.0)),
    ("gpu_memory_temperature", Says::Value(Field::MemoryTemperature, 1.0)),
    ("gpu_package_power", Says::Value(Field::Power, 1.0)),
    ("gpu_average_package_power", Says::Value(Field::Power, 1.0)),
    ("gpu_power_usage", Says::Value(Field::Power, 1.0)),
    ("gpu_ecc_uncorrect_total", Says::Value(Field::EccUncorrected, 1.0)),
    ("pcie_replay_count", Says::Value(Field::PcieReplays, 1.0)),
];

pub(super) fn key<'r>(sample: &'r Sample<'_>) -> Key<'r> {
    let part = sample.label("gpu_partition_id").filter(|part| *part != "0");
    Key { uuid: sample.label("gpu_uuid"), index: number(sample, "gpu_id"), part }
}

/// What the card is called.
pub(super) fn model<'r>(sample: &'r Sample<'_>) -> Option<&'r str> {
    sample.label("card_series").or_else(|| sample.label("card_model"))
}
