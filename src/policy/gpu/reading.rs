//! What a source says about the cards of a host, in one form whatever the source: the driver itself (NVML), an agent on
//! the host, an exporter.
//!
//! Everything is optional, because every source leaves something out: what is absent is not known, and is never taken for
//! zero. Sources turn their sentinels ("not supported", NaN, a blank value) into absence.

use serde::{Deserialize, Serialize};

/// What was seen of one host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Reading {
    /// Its cards, in the order of the source. When there is none, and neither [`Self::boot_id`] nor [`Self::driver`] either,
    /// the source tells nothing at all, and that is taken for silence; otherwise it says that the host has no card.
    pub cards: Vec<Card>,
    /// What changes whenever the host boots: Linux's `boot_id`.
    pub boot_id: Option<String>,
    /// Version of the driver.
    pub driver: Option<String>,
}

/// What was seen of one card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Card {
    /// Its identity, in the form of [`uuid`].
    pub uuid: Option<String>,
    /// Its number on the host. It may change when the host boots.
    pub index: Option<u32>,
    /// Its model, as the maker calls it.
    pub name: Option<String>,
    /// Bytes of its memory.
    pub memory_total: Option<u64>,
    /// Bytes in use, by whomever.
    pub memory_used: Option<u64>,
    /// Bytes that are free.
    pub memory_free: Option<u64>,
    /// Share of the time that something ran on it, in percent, 0 to 100.
    pub utilisation: Option<f64>,
    /// °C.
    pub temperature: Option<f64>,
    /// °C left until its clocks are slowed down; below zero when it is hotter than that.
    pub margin: Option<f64>,
    /// °C of its memory.
    pub memory_temperature: Option<f64>,
    /// °C left until its memory is hotter than it may be.
    pub memory_margin: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
    /// Watts that it may take.
    pub power_limit: Option<f64>,
    /// Why its clocks are lower than they could be.
    pub throttle: Option<Throttle>,
    /// Errors of its memory since the last reset that could not be corrected (ECC, volatile).
    pub ecc_uncorrected: Option<u64>,
    /// Rows of its memory that were replaced because of errors that could not be corrected.
    pub remapped_rows: Option<u64>,
    /// Whether rows will be replaced at the next reset.
    pub remap_pending: Option<bool>,
    /// Whether a row could not be replaced.
    pub remap_failed: Option<bool>,
    /// Pages of its memory that were taken out of use (cards before Ampere).
    pub retired_pages: Option<u64>,
    /// What the driver says must be done with it.
    pub recovery_action: Option<RecoveryAction>,
    /// Errors that the driver told as they came (NVML's events).
    pub xids: Vec<Xid>,
    /// The last error, where that is all that a source tells; it stays until another one comes, or the driver starts anew,
    /// which makes it 0.
    pub last_xid: Option<u32>,
    /// Transfers over PCIe that were repeated, counted since the driver was loaded.
    pub pcie_replays: Option<u64>,
    /// Generation of its PCIe link.
    pub pcie_generation: Option<u32>,
    /// Lanes of its PCIe link.
    pub pcie_width: Option<u32>,
    /// Checksum errors of NVLink, counted since the driver was loaded.
    pub nvlink_crc: Option<u64>,
    /// All other errors of NVLink, counted since the driver was loaded.
    pub nvlink_errors: Option<u64>,
    /// Who computes on it.
    pub processes: Vec<Process>,
    /// Whether it is one part of a card (MIG): it has no health of its own beside memory.
    pub partition: bool,
    /// Why hardly anything is known about it.
    pub fault: Option<CardFault>,
}

/// Why a card could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardFault {
    /// The driver says that it is gone.
    Lost,
    /// The driver did not answer within 5 s.
    Hangs,
    /// The driver answered with another error.
    Error,
}

/// A process on a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number on the host.
    pub pid: u32,
    /// Its name, where it can be seen.
    #[serde(default)]
    pub name: Option<String>,
    /// Bytes of the card's memory that it has.
    #[serde(default)]
    pub memory: Option<u64>,
}

/// An error of NVIDIA's driver, by the numbers of its catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Xid {
    /// Which one.
    pub code: u32,
    /// When it came, in milliseconds since 1970.
    pub at: u64,
}

/// What NVIDIA's driver says must be done with a card (`nvmlDeviceGpuRecoveryAction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryAction {
    /// Nothing.
    None,
    /// Reset the card.
    GpuReset,
    /// Boot the host.
    NodeReboot,
    /// Keep away from what uses several cards.
    DrainP2p,
    /// Let it finish, then reset it.
    DrainAndReset,
    /// A word that is not known here.
    Other,
}

impl RecoveryAction {
    /// By the driver's number for it.
    #[must_use]
    pub const fn of(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::GpuReset,
            2 => Self::NodeReboot,
            3 => Self::DrainP2p,
            4 => Self::DrainAndReset,
            _ => Self::Other,
        }
    }
}

/// Why a card's clocks are lower than they could be: NVML's `nvmlClocksEventReasons` as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Throttle(pub u64);

impl Throttle {
    /// Nothing runs.
    pub const IDLE: u64 = 0x1;
    /// The limit of power is reached, as under every full load.
    pub const POWER_CAP: u64 = 0x4;
    /// The hardware halves the clocks, or worse.
    pub const HW_SLOWDOWN: u64 = 0x8;
    /// The driver lowers the clocks because of heat.
    pub const SW_THERMAL: u64 = 0x20;
    /// The hardware halves the clocks because of heat, or worse.
    pub const HW_THERMAL: u64 = 0x40;
    /// Something outside, as the power supply, asked the hardware to.
    pub const POWER_BRAKE: u64 = 0x80;

    /// Whether one of these is among the reasons.
    #[must_use]
    pub const fn any(self, reasons: u64) -> bool {
        self.0 & reasons != 0
    }
}

/// Why there is no reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unread {
    /// The source does not answer, or not with what it should: nothing is known.
    Silent,
    /// The source is there and says that the driver cannot be used.
    DriverDown,
    /// The driver did not answer within 5 s.
    Hangs,
}

/// Which of a host's cards a server uses; all of them when nothing is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CardChoice {
    /// By their identity, in the form of [`uuid`].
    pub uuids: Vec<String>,
    /// By their number on the host.
    pub indices: Vec<u32>,
}

impl CardChoice {
    /// Whether the server uses the card with this identity and number.
    #[must_use]
    pub fn has(&self, uuid: Option<&str>, index: Option<u32>) -> bool {
        (self.uuids.is_empty() && self.indices.is_empty())
            || uuid.is_some_and(|uuid| self.uuids.iter().any(|named| named == uuid))
            || index.is_some_and(|index| self.indices.contains(&index))
    }
}

/// A card's identity in one form: lower case, without `GPU-` in front. Sources write it with and without.
#[must_use]
pub fn uuid(text: &str) -> String {
    let text = text.trim();
    let bare = match text.get(..4) {
        Some(prefix) if prefix.eq_ignore_ascii_case("gpu-") => &text[4..],
        _ => text,
    };
    bare.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_an_identity_are_one() {
        for text in ["GPU-DF6E7A7C-7314-46F8-ABC4-B88B36DCF3AA", " df6e7a7c-7314-46f8-abc4-b88b36dcf3aa\n"] {
            assert_eq!(uuid(text), "df6e7a7c-7314-46f8-abc4-b88b36dcf3aa");
        }
        assert_eq!(uuid("MIG-1-2"), "mig-1-2");
        assert_eq!(uuid("é"), "é");
    }

    #[test]
    fn actions_that_are_not_known_are_not_taken_for_none() {
        assert_eq!(RecoveryAction::of(0), RecoveryAction::None);
        assert_eq!(RecoveryAction::of(4), RecoveryAction::DrainAndReset);
        assert_eq!(RecoveryAction::of(9), RecoveryAction::Other);
    }

    #[test]
    fn a_reading_goes_through_json_and_back() {
        let card = Card {
            uuid: Some("a".into()),
            memory_total: Some(24 << 30),
            throttle: Some(Throttle(Throttle::HW_THERMAL)),
            recovery_action: Some(RecoveryAction::DrainP2p),
            xids: vec![Xid { code: 79, at: 1 }],
            fault: Some(CardFault::Lost),
            ..Card::default()
        };
        let reading = Reading { cards: vec![card], boot_id: Some("b".into()), driver: None };
        let json = serde_json::to_string(&reading).expect("JSON");
        assert_eq!(serde_json::from_str::<Reading>(&json).expect("the same"), reading);
        assert_eq!(serde_json::from_str::<Reading>("{}").expect("nothing"), Reading::default());
    }
}
