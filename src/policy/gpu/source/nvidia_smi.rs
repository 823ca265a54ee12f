//! `nvidia_gpu_exporter` by utkuozdemir: what `nvidia-smi` says, under Windows too.
//!
//! Memory is in bytes although its help says MiB, shares are 0 to 1, identities are without `GPU-`. Each reason for low clocks
//! is a metric of its own. Where it asks NVML itself it also tells errors with the time at which each came last. When it
//! could not ask, it says so, beside what it knew before.

use super::super::reading::Throttle;
use super::dialect::{Rule, Says, number};
use super::field::Field;
use super::table::Key;
use super::text::Sample;

const PERCENT: f64 = 100.0;

pub(super) const RULES: &[Rule] = &[
    ("nvidia_smi_gpu_info", Says::Card),
    ("nvidia_smi_last_collect_success", Says::Success),
    ("nvidia_smi_command_exit_code", Says::ExitCode),
    ("nvidia_smi_nvml_return_code", Says::ExitCode),
    ("nvidia_smi_memory_total_bytes", Says::Value(Field::MemoryTotal, 1.0)),
    ("nvidia_smi_memory_used_bytes", Says::Value(Field::MemoryUsed, 1.0)),
    ("nvidia_smi_memory_free_bytes", Says::Value(Field::MemoryFree, 1.0)),
    ("nvidia_smi_memory_reserved_bytes", Says::Value(Field::MemoryReserved, 1.0)),
    ("nvidia_smi_mig_memory_total_bytes", Says::Value(Field::MemoryTotal, 1.0)),
    ("nvidia_smi_mig_memory_used_bytes", Says::Value(Field::MemoryUsed, 1.0)),
    ("nvidia_smi_mig_memory_free_bytes", Says::Value(Field::MemoryFree, 1.0)),
    ("nvidia_smi_mig_memory_reserved_bytes", Says::Value(Field::MemoryReserved, 1.0)),
    ("nvidia_smi_mig_graphics_activity_ratio", Says::Value(Field::Utilisation, PERCENT)),
    ("nvidia_smi_utilization_gpu_ratio", Says::Value(Field::Utilisation, PERCENT)),
    ("nvidia_smi_temperature_gpu", Says::Value(Field::Temperature, 1.0)),
    ("nvidia_smi_temperature_gpu_tlimit", Says::Value(Field::Margin, 1.0)),
    ("nvidia_smi_temperature_memory", Says::Value(Field::MemoryTemperature, 1.0)),
    ("nvidia_smi_power_draw_watts", Says::Value(Field::Power, 1.0)),
    ("nvidia_smi_power_limit_watts", Says::Value(Field::PowerLimit, 1.0)),
    ("nvidia_smi_enforced_power_limit_watts", Says::Value(Field::PowerLimit, 1.0)),
    ("nvidia_smi_clocks_event_reasons_gpu_idle", flag(Throttle::IDLE)),
    ("nvidia_smi_clocks_event_reasons_sw_power_cap", flag(Throttle::POWER_CAP)),
    ("nvidia_smi_clocks_event_reasons_hw_slowdown", flag(Throttle::HW_SLOWDOWN)),
    ("nvidia_smi_clocks_event_reasons_sw_thermal_slowdown", flag(Throttle::SW_THERMAL)),
    ("nvidia_smi_clocks_event_reasons_hw_thermal_slowdown", flag(Throttle::HW_THERMAL)),
    ("nvidia_smi_clocks_event_reasons_hw_power_brake_slowdown", flag(Throttle::POWER_BRAKE)),
    ("nvidia_smi_clocks_throttle_reasons_gpu_idle", flag(Throttle::IDLE)),
    ("nvidia_smi_clocks_throttle_reasons_sw_power_cap", flag(Throttle::POWER_CAP)),
    ("nvidia_smi_clocks_throttle_reasons_hw_slowdown", flag(Throttle::HW_SLOWDOWN)),
    ("nvidia_smi_clocks_throttle_reasons_sw_thermal_slowdown", flag(Throttle::SW_THERMAL)),
    ("nvidia_smi_clocks_throttle_reasons_hw_thermal_slowdown", flag(Throttle::HW_THERMAL)),
    ("nvidia_smi_clocks_throttle_reasons_hw_power_brake_slowdown", flag(Throttle::POWER_BRAKE)),
    ("nvidia_smi_ecc_errors_uncorrected_volatile_total", Says::Value(Field::EccUncorrected, 1.0)),
    ("nvidia_smi_remapped_rows_uncorrectable", Says::Value(Field::RemappedRows, 1.0)),
    ("nvidia_smi_remapped_rows_pending", Says::Value(Field::RemapPending, 1.0)),
    ("nvidia_smi_remapped_rows_failure", Says::Value(Field::RemapFailed, 1.0)),
    ("nvidia_smi_retired_pages_single_bit_ecc_count", Says::Value(Field::RetiredPages, 1.0)),
    ("nvidia_smi_retired_pages_double_bit_count", Says::Value(Field::RetiredPages, 1.0)),
    ("nvidia_smi_gpu_recovery_action", Says::Value(Field::RecoveryAction, 1.0)),
    ("nvidia_smi_pcie_link_gen_current", Says::Value(Field::PcieGeneration, 1.0)),
    ("nvidia_smi_pcie_link_width_current", Says::Value(Field::PcieWidth, 1.0)),
    ("nvidia_smi_xid_last_timestamp_seconds", Says::XidTime),
    ("nvidia_smi_compute_app_used_memory_bytes", Says::Process),
];

/// A metric that is 1 while this is a reason for low clocks.
#[expect(clippy::cast_precision_loss, reason = "a reason is one bit")]
const fn flag(reason: u64) -> Says {
    Says::Value(Field::Throttle, reason as f64)
}

pub(super) fn key<'r>(sample: &'r Sample<'_>) -> Key<'r> {
    let part = sample.label("gpu_instance_id").filter(|_| sample.name.starts_with("nvidia_smi_mig_"));
    Key { uuid: sample.label("uuid"), index: number(sample, "index"), part }
}
