//! NVIDIA's `dcgm-exporter`.
//!
//! Memory is in MiB, and its total is not told by default. Fields that a card does not support are written as large numbers
//! instead of left out. `DCGM_FI_DEV_XID_ERRORS` is the number of the last error, and stays there until another one comes.
//! Parts of a card (MIG) are rows with `GPU_I_ID`, which repeat what is about the card; with `pod` labels the same row comes
//! once for each pod.

use super::dialect::{Rule, Says, number};
use super::field::Field;
use super::table::Key;
use super::text::Sample;

const MIB: f64 = 1_048_576.0;

pub(super) const RULES: &[Rule] = &[
    ("DCGM_FI_DEV_FB_TOTAL", Says::Value(Field::MemoryTotal, MIB)),
    ("DCGM_FI_DEV_FB_USED", Says::Value(Field::MemoryUsed, MIB)),
    ("DCGM_FI_DEV_FB_FREE", Says::Value(Field::MemoryFree, MIB)),
    ("DCGM_FI_DEV_FB_RESERVED", Says::Value(Field::MemoryReserved, MIB)),
    ("DCGM_FI_DEV_GPU_UTIL", Says::Value(Field::Utilisation, 1.0)),
    ("DCGM_FI_DEV_GPU_TEMP", Says::Value(Field::Temperature, 1.0)),
    ("DCGM_FI_DEV_SLOWDOWN_TEMP", Says::Value(Field::TemperatureLimit, 1.0)),
    ("DCGM_FI_DEV_GPU_TEMP_LIMIT", Says::Value(Field::Margin, 1.0)),
    ("DCGM_FI_DEV_MEMORY_TEMP", Says::Value(Field::MemoryTemperature, 1.0)),
    ("DCGM_FI_DEV_MEM_MAX_OP_TEMP", Says::Value(Field::MemoryTemperatureLimit, 1.0)),
    ("DCGM_FI_DEV_POWER_USAGE", Says::Value(Field::Power, 1.0)),
    ("DCGM_FI_DEV_POWER_MGMT_LIMIT", Says::Value(Field::PowerLimit, 1.0)),
    ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", Says::Value(Field::PowerLimit, 1.0)),
    ("DCGM_FI_DEV_XID_ERRORS", Says::Value(Field::LastXid, 1.0)),
    ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", Says::Value(Field::Throttle, 1.0)),
    ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", Says::Value(Field::Throttle, 1.0)),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", Says::Value(Field::EccUncorrected, 1.0)),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", Says::Value(Field::RemappedRows, 1.0)),
    ("DCGM_FI_DEV_ROW_REMAP_PENDING", Says::Value(Field::RemapPending, 1.0)),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", Says::Value(Field::RemapFailed, 1.0)),
    ("DCGM_FI_DEV_RETIRED_DBE", Says::Value(Field::RetiredPages, 1.0)),
    ("DCGM_FI_DEV_RETIRED_SBE", Says::Value(Field::RetiredPages, 1.0)),
    ("DCGM_FI_DEV_GPU_RECOVERY_ACTION", Says::Value(Field::RecoveryAction, 1.0)),
    ("DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION", Says::Value(Field::RecoveryAction, 1.0)),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", Says::Value(Field::PcieReplays, 1.0)),
    ("DCGM_FI_DEV_PCIE_LINK_GEN", Says::Value(Field::PcieGeneration, 1.0)),
    ("DCGM_FI_DEV_PCIE_LINK_WIDTH", Says::Value(Field::PcieWidth, 1.0)),
    ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", Says::Value(Field::NvlinkCrc, 1.0)),
    ("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", Says::Value(Field::NvlinkCrc, 1.0)),
    ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", Says::Value(Field::NvlinkErrors, 1.0)),
    ("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", Says::Value(Field::NvlinkErrors, 1.0)),
];

/// `DCGM_INT32_BLANK`: it and the fifteen numbers behind it say why there is no value.
const BLANK_32: f64 = 2_147_483_632.0;
/// `DCGM_FP64_BLANK`, likewise.
const BLANK_REAL: f64 = 140_737_488_355_328.0;
/// `DCGM_INT64_BLANK`: as an `f64` it and its kin are all 2^63.
const BLANK_64: f64 = 9_223_372_036_854_775_808.0;

/// Whether a value says that there is none.
pub(super) fn is_blank(value: f64) -> bool {
    let kin = |blank: f64| (blank..blank + 16.0).contains(&value);
    kin(BLANK_32) || kin(BLANK_REAL) || value >= BLANK_64
}

pub(super) fn key<'r>(sample: &'r Sample<'_>) -> Key<'r> {
    // The exporter of old writes `uuid`.
    let uuid = sample.label("UUID").or_else(|| sample.label("uuid"));
    Key { uuid, index: number(sample, "gpu"), part: sample.label("GPU_I_ID") }
}
