//! What NVIDIA's driver says about the cards of this host.
//!
//! # Problem
//!
//! The driver knows first when a card is hot, broken or gone. It is asked through NVML, a library that comes with the driver:
//! it may be missing, older or newer than what we know, and answer with sentinels. A card that is dying makes calls hang
//! in the kernel, where nothing ends them.
//!
//! # Shape
//!
//! - [`Nvml`] loads the library at run time, by its name or from a path, and makes a [`Reading`] of one round of calls.
//!   [`absent`] says why it cannot, and how to mend it.
//! - [`values`] turns what is not supported, and the sentinels, into absence.
//! - [`events`] has the driver tell its errors (Xid) as they come, and keeps them for a day.
//! - [`watcher`] does all of it in a thread of its own, and publishes the last reading.
//!
//! # Invariants
//!
//! - Nothing is changed on a card; every call is a query.
//! - Whoever looks at the last reading never waits for the driver. A thread that is stuck in it is seen by its lateness.
//! - A card that is gone keeps its identity, as long as it was seen once.

mod absent;
mod card;
mod events;
mod values;
mod watcher;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use nvml_wrapper::Nvml as Library;
use nvml_wrapper::error::NvmlError;

use crate::policy::gpu::reading::{Card, Reading, Unread};
use card::Identity;

pub use absent::Absent;
pub use watcher::{Look, Settings, Watcher};

/// The library's name, as the driver's packages install it.
const NAME: &str = "libnvidia-ml.so.1";
/// What changes with every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// NVIDIA's library, ready to be asked.
pub struct Nvml {
    library: Arc<Library>,
    /// Cards by their number, as they were when they could be asked.
    known: Vec<Option<Identity>>,
    boot_id: Option<String>,
    driver: Option<String>,
}

impl Nvml {
    /// Loads the library from where the system looks for it, and starts it. It blocks; with cards that nobody uses it may take
    /// seconds for each.
    ///
    /// # Errors
    /// When there is no library, or it cannot work; the text says how to mend it.
    pub fn open() -> Result<Self, Absent> {
        Self::load(OsStr::new(NAME))
    }

    /// The same with a library at a path.
    ///
    /// # Errors
    /// As [`Nvml::open`].
    pub fn open_at(path: &Path) -> Result<Self, Absent> {
        Self::load(path.as_os_str())
    }

    fn load(name: &OsStr) -> Result<Self, Absent> {
        let library = Library::builder().lib_path(name).init().map_err(|error| Absent::new(name, error))?;
        if library.lib().nvmlShutdown.is_err() {
            // Whoever drops it would call what is not there.
            std::mem::forget(library);
            return Err(Absent::Symbol("nvmlShutdown is missing".to_owned()));
        }
        let driver = library.sys_driver_version().ok();
        let boot_id = std::fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().to_owned());
        Ok(Self { library: Arc::new(library), known: Vec::new(), boot_id, driver })
    }

    /// Asks about all cards. It blocks as long as the driver does.
    ///
    /// # Errors
    /// When the driver can no longer be used.
    pub fn read(&mut self) -> Result<Reading, Unread> {
        self.read_by_steps(&|| {})
    }

    /// The same; `step` is called before each card.
    fn read_by_steps(&mut self, step: &dyn Fn()) -> Result<Reading, Unread> {
        step();
        let count = self.library.device_count().map_err(|error| unread(&error))?;
        self.known.resize(usize::try_from(count).unwrap_or_default(), None);
        let mut cards = Vec::with_capacity(self.known.len());
        for (index, known) in (0..count).zip(&mut self.known) {
            step();
            match self.library.device_by_index(index) {
                Ok(device) => card::read(&device, index, known, &mut cards),
                Err(NvmlError::Uninitialized | NvmlError::DriverNotLoaded) => return Err(Unread::DriverDown),
                Err(error) => cards.push(card::silent(index, known.as_ref(), card::fault(&error))),
            }
        }
        forget_doubles(&mut cards);
        Ok(Reading { cards, boot_id: self.boot_id.clone(), driver: self.driver.clone() })
    }

    /// Goes on with what another one knew, where the host has as many cards as it had.
    fn remember(&mut self, before: Vec<Option<Identity>>) {
        if self.library.device_count().is_ok_and(|count| usize::try_from(count) == Ok(before.len())) {
            self.known = before;
        }
    }
}

/// Numbers may have moved while a card was away: what another card says of itself is right.
fn forget_doubles(cards: &mut [Card]) {
    for at in 0..cards.len() {
        let is_double = cards[at].fault.is_some()
            && cards[at].uuid.is_some()
            && cards.iter().enumerate().any(|(other, card)| other != at && card.uuid == cards[at].uuid);
        if is_double {
            (cards[at].uuid, cards[at].name) = (None, None);
        }
    }
}

/// What it means that the library as a whole does not answer.
fn unread(error: &NvmlError) -> Unread {
    match error {
        NvmlError::FailedToLoadSymbol(_) | NvmlError::NoPermission => Unread::Silent,
        _ => Unread::DriverDown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::gpu::reading::CardFault;

    #[test]
    fn a_card_that_is_gone_does_not_keep_an_identity_that_another_one_has() {
        let card = |uuid: &str, fault| Card { uuid: Some(uuid.to_owned()), fault, ..Card::default() };
        let mut cards = [card("a", None), card("a", Some(CardFault::Lost)), card("b", Some(CardFault::Lost))];
        forget_doubles(&mut cards);
        let uuids: Vec<_> = cards.iter().map(|card| card.uuid.as_deref()).collect();
        assert_eq!(uuids, [Some("a"), None, Some("b")]);
    }

    #[test]
    fn a_path_without_a_library_says_so() {
        let absent = Nvml::open_at(Path::new("/nowhere/libnvidia-ml.so.1")).err().expect("absent");
        assert!(matches!(absent, Absent::NoLibrary { .. }), "{absent}");
        assert!(absent.to_string().contains("/nowhere/libnvidia-ml.so.1"), "{absent}");
        assert_eq!(absent.unread(), Unread::Silent);
    }
}
