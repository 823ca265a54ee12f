//! Model affinity: whether only servers with the model in memory are asked.
//!
//! A server that has the model in memory answers at once; one that has it on disk must load it first, for
//! seconds to minutes, and may have to evict another to do so. The rule looks only at how many servers of
//! each sort may be chosen now, and names the sort; the balance rule then picks one of that sort.

/// Whether servers that have the model in memory come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Servers with the model in memory first, then those that have it on disk.
    #[default]
    PreferLoaded,
    /// Only servers with the model in memory.
    RequireLoaded,
    /// Memory or disk alike.
    Off,
}

/// The servers among which a balance rule may pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Those that have the model in memory.
    Loaded,
    /// Those that have the model, in memory or on disk.
    Available,
    /// None: some have the model on disk, but it must be in memory.
    NotLoaded,
    /// None: no server that has the model may be chosen.
    Nobody,
}

impl Affinity {
    /// Names the servers to pick from. Both numbers count only servers that may be chosen now; `available`
    /// includes the loaded ones.
    #[must_use]
    pub const fn tier(self, loaded: usize, available: usize) -> Tier {
        match (self, loaded, available) {
            (_, 0, 0) => Tier::Nobody,
            (Self::Off, ..) | (Self::PreferLoaded, 0, _) => Tier::Available,
            (Self::RequireLoaded, 0, _) => Tier::NotLoaded,
            (Self::PreferLoaded | Self::RequireLoaded, ..) => Tier::Loaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_servers_come_first() {
        assert_eq!(Affinity::PreferLoaded.tier(1, 3), Tier::Loaded);
        assert_eq!(Affinity::RequireLoaded.tier(1, 3), Tier::Loaded);
        assert_eq!(Affinity::Off.tier(1, 3), Tier::Available);
    }

    #[test]
    fn without_a_loaded_one_only_require_loaded_gives_up() {
        assert_eq!(Affinity::PreferLoaded.tier(0, 3), Tier::Available);
        assert_eq!(Affinity::RequireLoaded.tier(0, 3), Tier::NotLoaded);
        assert_eq!(Affinity::Off.tier(0, 3), Tier::Available);
    }

    #[test]
    fn without_any_server_there_is_nobody() {
        for affinity in [Affinity::PreferLoaded, Affinity::RequireLoaded, Affinity::Off] {
            assert_eq!(affinity.tier(0, 0), Tier::Nobody);
        }
    }
}
