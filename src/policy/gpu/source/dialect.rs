//! Which exporter it is, told by the names of its metrics, and what all of them have in common.

use super::field::Field;
use super::table::{Key, Table};
use super::text::Sample;
use super::{amd, dcgm, nvidia_smi, own};

/// An exporter whose metrics are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Arriero's own.
    Own,
    /// NVIDIA's `dcgm-exporter`.
    Dcgm,
    /// `nvidia_gpu_exporter` by utkuozdemir.
    NvidiaSmi,
    /// AMD's `device-metrics-exporter`.
    Amd,
}

/// What a metric says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Says {
    /// A number about a card, in a unit that is so many of ours.
    Value(Field, f64),
    /// That there is a card; its labels say more.
    Card,
    /// When an error came, in seconds since 1970; a label says which.
    XidTime,
    /// Bytes that a process has; a label says which.
    Process,
    /// Whether the exporter could ask, as the number of an error.
    ExitCode,
    /// Whether the exporter could ask, as 1 or 0.
    Success,
    /// Whether our agent has a reading, as 1 or 0; a label says why not.
    Readable,
    /// The version of the driver, in a label.
    Driver,
    /// Whether something is a reason for low clocks, as 1 or 0; a label says what.
    Reason,
    /// 1 for what must be done with a card, in a label.
    Action,
    /// 1 for why a card cannot be asked, in a label.
    Fault,
}

/// A metric of a dialect.
pub(super) type Rule = (&'static str, Says);

impl Dialect {
    /// All of them. Where an answer has the metrics of several, the first one counts: they are about the same cards.
    pub const ALL: [Self; 4] = [Self::Own, Self::Dcgm, Self::NvidiaSmi, Self::Amd];

    /// The exporter's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "arriero",
            Self::Dcgm => "dcgm-exporter",
            Self::NvidiaSmi => "nvidia_gpu_exporter",
            Self::Amd => "device-metrics-exporter",
        }
    }

    /// Its metrics.
    pub(super) const fn rules(self) -> &'static [Rule] {
        match self {
            Self::Own => own::RULES,
            Self::Dcgm => dcgm::RULES,
            Self::NvidiaSmi => nvidia_smi::RULES,
            Self::Amd => amd::RULES,
        }
    }

    /// The value of a row, if it is one.
    pub(super) fn value(self, sample: &Sample<'_>) -> Option<f64> {
        sample.value.filter(|value| self != Self::Dcgm || !dcgm::is_blank(*value))
    }

    /// Which card a row is about.
    pub(super) fn key<'r>(self, sample: &'r Sample<'_>) -> Key<'r> {
        match self {
            Self::Own => own::key(sample),
            Self::Dcgm => dcgm::key(sample),
            Self::NvidiaSmi => nvidia_smi::key(sample),
            Self::Amd => amd::key(sample),
        }
    }

    /// Notes what the labels of a row say about the card and the host.
    pub(super) fn labels(self, sample: &Sample<'_>, key: Key<'_>, table: &mut Table) {
        let (name, driver) = match self {
            Self::Own => (sample.label("name"), sample.label("driver")),
            Self::Dcgm => (sample.label("modelName"), sample.label("DCGM_FI_DRIVER_VERSION")),
            Self::NvidiaSmi => (sample.label("name"), sample.label("driver_version")),
            Self::Amd => (amd::model(sample), sample.label("driver_version")),
        };
        table.card(key, name);
        table.driver(driver);
    }
}

/// A number in a label.
pub(super) fn number(sample: &Sample<'_>, label: &str) -> Option<u32> {
    sample.label(label)?.parse().ok()
}
