//! Does the process come close to what the system gives it?
//!
//! # Problem
//!
//! A process that runs out of memory, disk or file descriptors fails in places that say nothing about why. The shares
//! that are used are held against thresholds, so that operators hear of it before.
//!
//! # Invariants
//!
//! - What could not be measured exceeds nothing.
//! - A threshold of 100 % is never exceeded.

/// So much of so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// What is used.
    pub used: u64,
    /// What there is.
    pub of: u64,
}

impl Share {
    /// From 0 to 1; 0 where there is nothing.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "shares are told in hundredths")]
    pub fn ratio(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.used.min(self.of) as f64 / self.of as f64 }
    }

    /// In hundredths.
    #[must_use]
    pub fn percent(self) -> f64 {
        self.ratio() * 100.0
    }

    /// What is left.
    #[must_use]
    pub const fn free(self) -> u64 {
        self.of.saturating_sub(self.used)
    }
}

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Memory, of the control group where it has a limit, else of the machine.
    Memory,
    /// A disk that is written to.
    Disk,
    /// Processor time of this process.
    Cpu,
    /// File descriptors.
    Files,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Disk, Self::Cpu, Self::Files];

    /// The word in configuration, metric and answer.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Cpu => "cpu",
            Self::Files => "files",
        }
    }
}

/// What is used at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Memory.
    pub memory: Option<Share>,
    /// The disks that are written to.
    pub disks: Vec<Share>,
    /// Processor time of this process, as a share of that of all its processors, from 0 to 1.
    pub cpu: Option<f64>,
    /// File descriptors.
    pub files: Option<Share>,
}

/// Hundredths above which somebody should hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Of the memory.
    pub memory: u8,
    /// Of each disk.
    pub disk: u8,
    /// Of the processor time.
    pub cpu: u8,
    /// Of the file descriptors.
    pub files: u8,
}

impl Thresholds {
    /// The threshold of a resource.
    #[must_use]
    pub const fn of(&self, resource: Resource) -> u8 {
        match resource {
            Resource::Memory => self.memory,
            Resource::Disk => self.disk,
            Resource::Cpu => self.cpu,
            Resource::Files => self.files,
        }
    }

    /// The resources of which more is used.
    #[must_use]
    pub fn exceeded(&self, usage: &Usage) -> Vec<Resource> {
        let is_over = |resource: &Resource| {
            let percent = usage.percent(*resource);
            percent.is_some_and(|percent| percent > f64::from(self.of(*resource)))
        };
        Resource::ALL.into_iter().filter(is_over).collect()
    }
}

impl Usage {
    /// Hundredths that are used, of disks those of the fullest; `None` where that could not be measured.
    #[must_use]
    pub fn percent(&self, resource: Resource) -> Option<f64> {
        match resource {
            Resource::Memory => self.memory.map(Share::percent),
            Resource::Disk => self.disks.iter().copied().map(Share::percent).max_by(f64::total_cmp),
            Resource::Cpu => self.cpu.map(|share| share.clamp(0.0, 1.0) * 100.0),
            Resource::Files => self.files.map(Share::percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { memory: 90, disk: 90, cpu: 95, files: 90 };

    #[test]
    fn what_is_above_its_threshold_is_told() {
        let share = |used| Share { used, of: 1000 };
        let usage = Usage {
            memory: Some(share(900)),
            disks: vec![share(10), share(901)],
            cpu: Some(0.96),
            files: Some(share(0)),
        };
        assert_eq!(THRESHOLDS.exceeded(&usage), [Resource::Disk, Resource::Cpu]);
        let usage = Usage { memory: Some(share(901)), files: Some(share(1000)), ..Usage::default() };
        assert_eq!(THRESHOLDS.exceeded(&usage), [Resource::Memory, Resource::Files]);
    }

    #[test]
    fn what_is_not_known_and_what_is_all_exceed_nothing() {
        assert_eq!(THRESHOLDS.exceeded(&Usage::default()), []);
        let all = Thresholds { memory: 100, disk: 100, cpu: 100, files: 100 };
        let share = Share { used: 7, of: 7 };
        let usage = Usage { memory: Some(share), disks: vec![share], cpu: Some(7.0), files: Some(share) };
        assert_eq!(all.exceeded(&usage), []);
        assert_eq!(Share { used: 3, of: 0 }.percent(), 0.0);
    }
}
