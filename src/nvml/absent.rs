//! Why the driver cannot be asked, and how to mend it.

use std::ffi::OsStr;

use nvml_wrapper::error::NvmlError;

use crate::policy::gpu::reading::Unread;

/// Why the driver cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// The library is not there, or is none.
    #[error(
        "NVIDIA's library cannot be loaded ({error}): install the driver; in a container give it the GPUs, with the \
         capability `utility`; or name the file with `--nvml-library`"
    )]
    NoLibrary {
        /// What the loader said; it names the file.
        error: String,
    },
    /// The library lacks what is needed of it.
    #[error("NVIDIA's library is too old or of another kind ({0}): use the one of the driver that runs")]
    Symbol(String),
    /// The kernel has no driver.
    #[error("NVIDIA's driver is not loaded: `modprobe nvidia`, and look at `dmesg` for why it was not")]
    DriverNotLoaded,
    /// The library is of another version than the driver.
    #[error("NVIDIA's library and the driver that runs are of different versions: boot the host after an update")]
    OtherVersion,
    /// This user may not ask.
    #[error("this user may not use NVIDIA's driver: check the mode of `/dev/nvidiactl` and `/dev/nvidia0`")]
    NoPermission,
    /// Something else.
    #[error("NVIDIA's driver cannot be used ({0}): `nvidia-smi` and `dmesg` may say more")]
    Other(String),
}

impl Absent {
    pub(super) fn new(name: &OsStr, error: NvmlError) -> Self {
        match error {
            NvmlError::LibloadingError(error) => {
                let (name, error) = (name.to_string_lossy(), error.to_string());
                Self::NoLibrary { error: if error.contains(&*name) { error } else { format!("{name}: {error}") } }
            }
            NvmlError::FailedToLoadSymbol(symbol) => Self::Symbol(symbol),
            NvmlError::FunctionNotFound => Self::Symbol(error.to_string()),
            NvmlError::DriverNotLoaded => Self::DriverNotLoaded,
            NvmlError::LibRmVersionMismatch => Self::OtherVersion,
            NvmlError::NoPermission => Self::NoPermission,
            other => Self::Other(other.to_string()),
        }
    }

    /// What it means for whoever wants a reading.
    #[must_use]
    pub const fn unread(&self) -> Unread {
        match self {
            Self::DriverNotLoaded | Self::OtherVersion | Self::Other(_) => Unread::DriverDown,
            Self::NoLibrary { .. } | Self::Symbol(_) | Self::NoPermission => Unread::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_speaks_against_the_driver_is_held_against_it() {
        let name = OsStr::new("l.so");
        for (error, unread) in [
            (NvmlError::DriverNotLoaded, Unread::DriverDown),
            (NvmlError::LibRmVersionMismatch, Unread::DriverDown),
            (NvmlError::Unknown, Unread::DriverDown),
            (NvmlError::NoPermission, Unread::Silent),
            (NvmlError::FailedToLoadSymbol("nvmlInit_v2".into()), Unread::Silent),
            (NvmlError::FunctionNotFound, Unread::Silent),
        ] {
            assert_eq!(Absent::new(name, error).unread(), unread);
        }
    }
}
