//! What the judge says: a state, and why.

use serde::{Deserialize, Serialize};

/// How well the GPU of a server is, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing speaks against it.
    #[default]
    Healthy,
    /// It works, worse than it should.
    Degraded,
    /// It should get nothing new.
    Draining,
    /// It cannot work.
    Failed,
}

impl State {
    /// All of them, best first.
    pub const ALL: [Self; 4] = [Self::Healthy, Self::Degraded, Self::Draining, Self::Failed];

    /// The word in metrics, logs and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

/// What speaks against a card, a server, or a model on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// The driver says that the card must be reset or the host booted, or that it must be kept from what uses several cards.
    RecoveryAction,
    /// An error of the driver.
    Xid,
    /// Errors of the memory that could not be corrected.
    Ecc,
    /// Rows of the memory that cannot be replaced, or too many that were.
    RowRemap,
    /// Too many pages of the memory were taken out of use.
    RetiredPages,
    /// The hardware slows the clocks down.
    HwSlowdown,
    /// The driver slows the clocks down because of heat, and answers are slow.
    SwThermal,
    /// As hot as the card or its memory may be.
    Temperature,
    /// More PCIe transfers are repeated than should be.
    PcieReplays,
    /// Errors of NVLink.
    Nvlink,
    /// There are fewer cards than there were.
    CardLost,
    /// The driver cannot be used.
    DriverDown,
    /// The driver does not answer.
    Hangs,
    /// Memory is in use that belongs to no model.
    MemoryLeak,
    /// Part of a model is in the host's memory.
    CpuSpill,
    /// A model that was on the card is computed by the processor.
    OnCpu,
    /// Answers are written more slowly than usual.
    SlowDecode,
    /// Answers begin later than usual.
    SlowFirstToken,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::RecoveryAction,
        Self::Xid,
        Self::Ecc,
        Self::RowRemap,
        Self::RetiredPages,
        Self::HwSlowdown,
        Self::SwThermal,
        Self::Temperature,
        Self::PcieReplays,
        Self::Nvlink,
        Self::CardLost,
        Self::DriverDown,
        Self::Hangs,
        Self::MemoryLeak,
        Self::CpuSpill,
        Self::OnCpu,
        Self::SlowDecode,
        Self::SlowFirstToken,
    ];

    /// The word in metrics, logs and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RecoveryAction => "recovery_action",
            Self::Xid => "xid",
            Self::Ecc => "ecc",
            Self::RowRemap => "row_remap",
            Self::RetiredPages => "retired_pages",
            Self::HwSlowdown => "hw_slowdown",
            Self::SwThermal => "sw_thermal",
            Self::Temperature => "temperature",
            Self::PcieReplays => "pcie_replays",
            Self::Nvlink => "nvlink",
            Self::CardLost => "card_lost",
            Self::DriverDown => "driver_down",
            Self::Hangs => "hangs",
            Self::MemoryLeak => "memory_leak",
            Self::CpuSpill => "cpu_spill",
            Self::OnCpu => "on_cpu",
            Self::SlowDecode => "slow_decode",
            Self::SlowFirstToken => "slow_first_token",
        }
    }
}

/// One thing that speaks against a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// What it is.
    pub signal: Signal,
    /// The state that it asks for.
    pub state: State,
    /// The card that it is about, by its uuid or, where it has none, its number.
    pub card: Option<String>,
    /// The model that it is about: then only this model is judged by it.
    pub model: Option<String>,
    /// One sentence with the numbers, for people.
    pub detail: String,
}

/// How a model is on a server, where that differs from the server itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelVerdict {
    /// The model, by its canonical name.
    pub model: String,
    /// Its state there.
    pub state: State,
    /// Share of the model that is on the card, 0 to 1: `size_vram / size`. On a server none of whose models ever was on a
    /// card it is 1: its processor is all it has, and no illness.
    pub on_card: f64,
    /// What its weight there is multiplied with, above 0 to 1. All that is due to the model's own state is in it: the square of
    /// its share of the card (0.01 below one half), and a quarter where anything else degrades it.
    pub weight: f64,
}

/// How a server is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Its state.
    pub state: State,
    /// Everything that speaks against it or a model on it, worst first.
    pub reasons: Vec<Reason>,
    /// Models that are worse off there than the server itself.
    pub models: Vec<ModelVerdict>,
    /// What is worth knowing and changes nothing, such as a remapped row.
    pub notes: Vec<String>,
}
