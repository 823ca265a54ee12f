//! What can be told about a card in a number: its word, its range, and which of two values counts.

use super::super::reading::{Card, RecoveryAction, Throttle};

/// The most bytes of memory that a card is believed to have: 1 PiB.
const MOST_MEMORY: f64 = 1_125_899_906_842_624.0;
/// The largest count: beyond it an `f64` skips numbers, so it is none of a counter.
const MOST_COUNTED: f64 = 9_007_199_254_740_992.0;
/// What 32-bit counters say where they are not supported.
const NO_COUNT: f64 = 4_294_967_295.0;

/// A number about a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// [`Card::memory_total`], bytes.
    MemoryTotal,
    /// [`Card::memory_used`], bytes.
    MemoryUsed,
    /// [`Card::memory_free`], bytes.
    MemoryFree,
    /// Bytes that are neither used nor free: the driver's own. Part of the total where that is not told.
    MemoryReserved,
    /// [`Card::utilisation`], percent.
    Utilisation,
    /// [`Card::temperature`], °C.
    Temperature,
    /// °C at which its clocks are slowed down. It makes the margin where that is not told.
    TemperatureLimit,
    /// [`Card::margin`], °C.
    Margin,
    /// [`Card::memory_temperature`], °C.
    MemoryTemperature,
    /// °C that its memory may have. It makes the memory's margin where that is not told.
    MemoryTemperatureLimit,
    /// [`Card::memory_margin`], °C.
    MemoryMargin,
    /// [`Card::power`], watts.
    Power,
    /// [`Card::power_limit`], watts.
    PowerLimit,
    /// [`Card::throttle`], bits of NVML. Several metrics of one bit each add up.
    Throttle,
    /// [`Card::ecc_uncorrected`].
    EccUncorrected,
    /// [`Card::remapped_rows`].
    RemappedRows,
    /// [`Card::remap_pending`], zero or not.
    RemapPending,
    /// [`Card::remap_failed`], zero or not.
    RemapFailed,
    /// [`Card::retired_pages`].
    RetiredPages,
    /// [`Card::recovery_action`], NVML's number.
    RecoveryAction,
    /// [`Card::last_xid`]; 0 says that there was none, which is another thing than not to say it.
    LastXid,
    /// [`Card::pcie_replays`].
    PcieReplays,
    /// [`Card::pcie_generation`].
    PcieGeneration,
    /// [`Card::pcie_width`].
    PcieWidth,
    /// [`Card::nvlink_crc`].
    NvlinkCrc,
    /// [`Card::nvlink_errors`].
    NvlinkErrors,
}

/// How values become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merge {
    /// The larger one is the worse one.
    Most,
    /// The smaller one is the worse one.
    Least,
    /// Bits of both.
    Bits,
    /// Two rows of one metric say the same twice; two metrics add up.
    Sum,
}

impl Field {
    /// All of them, with the word that each has in the configuration.
    pub const ALL: [(Self, &'static str); 26] = [
        (Self::MemoryTotal, "memory_total"),
        (Self::MemoryUsed, "memory_used"),
        (Self::MemoryFree, "memory_free"),
        (Self::MemoryReserved, "memory_reserved"),
        (Self::Utilisation, "utilisation"),
        (Self::Temperature, "temperature"),
        (Self::TemperatureLimit, "temperature_limit"),
        (Self::Margin, "margin"),
        (Self::MemoryTemperature, "memory_temperature"),
        (Self::MemoryTemperatureLimit, "memory_temperature_limit"),
        (Self::MemoryMargin, "memory_margin"),
        (Self::Power, "power"),
        (Self::PowerLimit, "power_limit"),
        (Self::Throttle, "throttle"),
        (Self::EccUncorrected, "ecc_uncorrected"),
        (Self::RemappedRows, "remapped_rows"),
        (Self::RemapPending, "remap_pending"),
        (Self::RemapFailed, "remap_failed"),
        (Self::RetiredPages, "retired_pages"),
        (Self::RecoveryAction, "recovery_action"),
        (Self::LastXid, "last_xid"),
        (Self::PcieReplays, "pcie_replays"),
        (Self::PcieGeneration, "pcie_generation"),
        (Self::PcieWidth, "pcie_width"),
        (Self::NvlinkCrc, "nvlink_crc"),
        (Self::NvlinkErrors, "nvlink_errors"),
    ];

    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(field, _)| *field == self).map_or("", |(_, word)| word)
    }

    /// Whether it is about a part of a card (MIG) where a row names one; everything else is about the whole card.
    pub(super) const fn is_of_the_part(self) -> bool {
        matches!(
            self,
            Self::MemoryTotal | Self::MemoryUsed | Self::MemoryFree | Self::MemoryReserved | Self::Utilisation
        )
    }

    /// The value if it can be true; what lies outside is a sentinel or a mistake, and not known.
    pub(super) fn believed(self, value: f64) -> Option<f64> {
        let counted = (0.0..MOST_COUNTED).contains(&value) && (value - NO_COUNT).abs() > 0.5;
        let good = match self {
            Self::MemoryTotal | Self::MemoryUsed | Self::MemoryFree | Self::MemoryReserved => {
                (0.0..=MOST_MEMORY).contains(&value)
            }
            Self::Utilisation => (0.0..=100.0).contains(&value),
            Self::Temperature | Self::TemperatureLimit | Self::MemoryTemperature | Self::MemoryTemperatureLimit => {
                (-50.0..=250.0).contains(&value)
            }
            Self::Margin | Self::MemoryMargin => (-200.0..=250.0).contains(&value),
            Self::Power | Self::PowerLimit => (0.0..=100_000.0).contains(&value),
            Self::LastXid | Self::RecoveryAction => (0.0..10_000.0).contains(&value),
            Self::PcieGeneration | Self::PcieWidth => (1.0..=64.0).contains(&value),
            Self::RemapPending
            | Self::RemapFailed
            | Self::Throttle
            | Self::EccUncorrected
            | Self::RemappedRows
            | Self::RetiredPages
            | Self::PcieReplays
            | Self::NvlinkCrc
            | Self::NvlinkErrors => counted,
        };
        good.then_some(value)
    }

    const fn merge(self) -> Merge {
        match self {
            Self::MemoryFree
            | Self::TemperatureLimit
            | Self::Margin
            | Self::MemoryTemperatureLimit
            | Self::MemoryMargin
            | Self::PowerLimit
            | Self::PcieGeneration
            | Self::PcieWidth => Merge::Least,
            Self::Throttle => Merge::Bits,
            Self::EccUncorrected
            | Self::RemappedRows
            | Self::RetiredPages
            | Self::PcieReplays
            | Self::NvlinkCrc
            | Self::NvlinkErrors => Merge::Sum,
            _ => Merge::Most,
        }
    }

    /// One value of two rows of one metric about one card: pods and parts of a card repeat what is about the card.
    pub(super) fn of_rows(self, one: f64, other: f64) -> f64 {
        match self.merge() {
            Merge::Most | Merge::Sum => one.max(other),
            Merge::Least => one.min(other),
            Merge::Bits => real(whole(one) | whole(other)),
        }
    }

    /// One value of two metrics that are about the same.
    fn of_metrics(self, one: f64, other: f64) -> f64 {
        if self.merge() == Merge::Sum { one + other } else { self.of_rows(one, other) }
    }
}

impl std::str::FromStr for Field {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, known)| *known == word).map(|(field, _)| *field);
        found.ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|(_, word)| *word).collect();
            format!("what a metric can be about: {}", words.join(", "))
        })
    }
}

/// Writes what was told about a card into it; each value by the number of its metric.
pub(super) fn fill(card: &mut Card, told: &[(Field, f64)]) {
    let get = |field: Field| {
        let values = told.iter().filter(|(other, _)| *other == field).map(|(_, value)| *value);
        values.reduce(|one, other| field.of_metrics(one, other))
    };
    let bytes = |field: Field| get(field).map(whole);
    let small = |field: Field| get(field).map(|value| u32::try_from(whole(value)).unwrap_or(u32::MAX));
    let minus = |limit: Option<f64>, value: Option<f64>| Some(limit? - value?);
    card.memory_used = bytes(Field::MemoryUsed);
    card.memory_free = bytes(Field::MemoryFree);
    let reserved = bytes(Field::MemoryReserved).unwrap_or(0);
    card.memory_total = bytes(Field::MemoryTotal).or_else(|| Some(card.memory_used? + card.memory_free? + reserved));
    card.utilisation = get(Field::Utilisation);
    card.temperature = get(Field::Temperature);
    card.margin = get(Field::Margin).or_else(|| minus(get(Field::TemperatureLimit), card.temperature));
    card.memory_temperature = get(Field::MemoryTemperature);
    card.memory_margin =
        get(Field::MemoryMargin).or_else(|| minus(get(Field::MemoryTemperatureLimit), card.memory_temperature));
    card.power = get(Field::Power);
    card.power_limit = get(Field::PowerLimit);
    card.throttle = bytes(Field::Throttle).map(Throttle);
    card.ecc_uncorrected = bytes(Field::EccUncorrected);
    card.remapped_rows = bytes(Field::RemappedRows);
    card.remap_pending = get(Field::RemapPending).map(|value| value > 0.0);
    card.remap_failed = get(Field::RemapFailed).map(|value| value > 0.0);
    card.retired_pages = bytes(Field::RetiredPages);
    card.recovery_action = bytes(Field::RecoveryAction).map(RecoveryAction::of);
    card.last_xid = small(Field::LastXid);
    card.pcie_replays = bytes(Field::PcieReplays);
    card.pcie_generation = small(Field::PcieGeneration);
    card.pcie_width = small(Field::PcieWidth);
    card.nvlink_crc = bytes(Field::NvlinkCrc);
    card.nvlink_errors = bytes(Field::NvlinkErrors);
}

/// The whole number of a value that is believed; below zero it is zero.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub(super) const fn whole(value: f64) -> u64 {
    value as u64
}

#[expect(clippy::cast_precision_loss, reason = "it came out of an f64")]
const fn real(bits: u64) -> f64 {
    bits as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_back_to_their_fields() {
        for (field, word) in Field::ALL {
            assert_eq!((word.parse(), field.as_str()), (Ok(field), word));
        }
        assert!("memory".parse::<Field>().is_err_and(|error| error.contains("memory_used, memory_free")));
    }

    #[test]
    fn what_cannot_be_is_not_known() {
        let impossible = [
            (Field::MemoryUsed, -1.0),
            (Field::MemoryTotal, 1e300),
            (Field::Utilisation, 65_535.0),
            (Field::Temperature, 65_535.0),
            (Field::Temperature, -273.0),
            (Field::Power, -1.0),
            (Field::PcieReplays, -1.0),
            (Field::PcieReplays, 4_294_967_295.0),
            (Field::PcieReplays, 18_446_744_073_709_551_615.0),
            (Field::PcieWidth, 0.0),
            (Field::LastXid, 1e9),
        ];
        for (field, value) in impossible {
            assert_eq!(field.believed(value), None, "{field:?} {value}");
        }
        for (field, value) in [(Field::PcieReplays, 4_294_967_296.0), (Field::Margin, -3.0), (Field::Throttle, 0.0)] {
            assert_eq!(field.believed(value), Some(value), "{field:?}");
        }
    }

    #[test]
    fn rows_are_merged_to_the_worse_and_metrics_add_up_where_they_count() {
        assert_eq!(Field::MemoryFree.of_rows(1.0, 2.0), 1.0);
        assert_eq!(Field::Throttle.of_rows(1.0, 8.0), 9.0);
        assert_eq!(Field::RetiredPages.of_rows(3.0, 3.0), 3.0);
        let mut card = Card::default();
        let told = [
            (Field::RetiredPages, 3.0),
            (Field::RetiredPages, 4.0),
            (Field::Temperature, 44.0),
            (Field::Temperature, 40.0),
            (Field::TemperatureLimit, 90.0),
            (Field::LastXid, 0.0),
            (Field::RecoveryAction, 9.0),
        ];
        fill(&mut card, &told);
        assert_eq!((card.retired_pages, card.temperature, card.margin), (Some(7), Some(44.0), Some(46.0)));
        assert_eq!((card.last_xid, card.recovery_action), (Some(0), Some(RecoveryAction::Other)));
        assert_eq!((card.memory_total, card.throttle, card.remap_failed), (None, None, None));
    }

    #[test]
    fn the_total_is_made_of_its_parts_where_it_is_not_told() {
        let mut card = Card::default();
        let parts = [(Field::MemoryUsed, 10.0), (Field::MemoryFree, 20.0), (Field::MemoryReserved, 2.0)];
        fill(&mut card, &parts);
        assert_eq!(card.memory_total, Some(32));
        fill(&mut card, &parts[..1]);
        assert_eq!((card.memory_total, card.memory_used), (None, Some(10)));
    }
}
