//! The metrics of Arriero's own agent. Its JSON says more, above all when each error of the driver came.

use super::super::reading::{CardFault, RecoveryAction, Throttle, Unread};
use super::dialect::{Rule, Says, number};
use super::field::Field;
use super::table::Key;
use super::text::Sample;

pub(super) const RULES: &[Rule] = &[
    ("arriero_gpu_readable", Says::Readable),
    ("arriero_gpu_driver_info", Says::Driver),
    ("arriero_gpu_fault", Says::Fault),
    ("arriero_gpu_clocks_limited", Says::Reason),
    ("arriero_gpu_recovery_action", Says::Action),
    ("arriero_gpu_memory_total_bytes", Says::Value(Field::MemoryTotal, 1.0)),
    ("arriero_gpu_memory_used_bytes", Says::Value(Field::MemoryUsed, 1.0)),
    ("arriero_gpu_memory_free_bytes", Says::Value(Field::MemoryFree, 1.0)),
    ("arriero_gpu_utilisation_ratio", Says::Value(Field::Utilisation, 100.0)),
    ("arriero_gpu_temperature_celsius", Says::Value(Field::Temperature, 1.0)),
    ("arriero_gpu_temperature_margin_celsius", Says::Value(Field::Margin, 1.0)),
    ("arriero_gpu_memory_temperature_celsius", Says::Value(Field::MemoryTemperature, 1.0)),
    ("arriero_gpu_memory_temperature_margin_celsius", Says::Value(Field::MemoryMargin, 1.0)),
    ("arriero_gpu_power_watts", Says::Value(Field::Power, 1.0)),
    ("arriero_gpu_power_limit_watts", Says::Value(Field::PowerLimit, 1.0)),
    ("arriero_gpu_ecc_uncorrected_errors_total", Says::Value(Field::EccUncorrected, 1.0)),
    ("arriero_gpu_remapped_rows", Says::Value(Field::RemappedRows, 1.0)),
    ("arriero_gpu_remap_pending", Says::Value(Field::RemapPending, 1.0)),
    ("arriero_gpu_remap_failed", Says::Value(Field::RemapFailed, 1.0)),
    ("arriero_gpu_retired_pages", Says::Value(Field::RetiredPages, 1.0)),
    ("arriero_gpu_pcie_replays_total", Says::Value(Field::PcieReplays, 1.0)),
    ("arriero_gpu_pcie_generation", Says::Value(Field::PcieGeneration, 1.0)),
    ("arriero_gpu_pcie_width_lanes", Says::Value(Field::PcieWidth, 1.0)),
    ("arriero_gpu_nvlink_crc_errors_total", Says::Value(Field::NvlinkCrc, 1.0)),
    ("arriero_gpu_nvlink_errors_total", Says::Value(Field::NvlinkErrors, 1.0)),
];

pub(super) fn key<'r>(sample: &'r Sample<'_>) -> Key<'r> {
    Key { uuid: sample.label("uuid"), index: number(sample, "index"), part: None }
}

/// The bit of a reason for low clocks.
pub(super) fn reason(sample: &Sample<'_>) -> Option<u64> {
    Some(match sample.label("reason")? {
        "idle" => Throttle::IDLE,
        "power_cap" => Throttle::POWER_CAP,
        "hw_slowdown" => Throttle::HW_SLOWDOWN,
        "sw_thermal" => Throttle::SW_THERMAL,
        "hw_thermal" => Throttle::HW_THERMAL,
        "power_brake" => Throttle::POWER_BRAKE,
        _ => return None,
    })
}

/// What must be done with a card.
pub(super) fn action(sample: &Sample<'_>) -> Option<RecoveryAction> {
    Some(match sample.label("action")? {
        "none" => RecoveryAction::None,
        "gpu_reset" => RecoveryAction::GpuReset,
        "node_reboot" => RecoveryAction::NodeReboot,
        "drain_p2p" => RecoveryAction::DrainP2p,
        "drain_and_reset" => RecoveryAction::DrainAndReset,
        _ => RecoveryAction::Other,
    })
}

/// Why hardly anything is known about a card.
pub(super) fn fault(sample: &Sample<'_>) -> Option<CardFault> {
    match sample.label("fault")? {
        "lost" => Some(CardFault::Lost),
        "hangs" => Some(CardFault::Hangs),
        "error" => Some(CardFault::Error),
        _ => None,
    }
}

/// Why the agent has no reading.
pub(super) fn unread(sample: &Sample<'_>) -> Unread {
    match sample.label("reason") {
        Some("driver_down") => Unread::DriverDown,
        Some("hangs") => Unread::Hangs,
        _ => Unread::Silent,
    }
}
