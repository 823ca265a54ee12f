//! Changes at run time, and writing them into the file.
//!
//! A change goes the whole way of a reload: laid over the file, checked, compiled, swapped. Only then it is kept in the
//! store, so that what is kept was in force. A change that could not be kept (a full disk) holds until the process ends,
//! and whoever made it is told.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Change, InForce, Refused, Reloader};
use crate::clock;
use crate::config;
use crate::config::overlay::{self, Edit, NotSaved};
use crate::config::replace::replace;
use crate::history::History;

/// What changes are kept under: all of them as one value, so that none is kept without the others.
const KIND: &str = "config";
const KEY: &str = "changes";
/// What is put behind the name of the file for the copy of what it was.
const BACKUP: &str = ".backup";

/// Why nothing outlives the process.
pub const NO_FOLDER: &str = "`server.data_dir` is not set, so it ends with the process";

/// What became of a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// The edits that were made; those that changed nothing are not among them.
    pub edits: Vec<Edit>,
    /// Hash of the configuration in force.
    pub hash: String,
    /// Why it does not outlive the process, if so.
    pub not_kept: Option<String>,
}

/// Why changes were not written into the file.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// There is no file.
    #[error("this configuration comes from the command line, not from a file")]
    NoFile,
    /// The file says something that is not in force.
    #[error("the file has changes that are not in force: reload first ({0})")]
    NotInForce(String),
    /// The text cannot be changed so.
    #[error(transparent)]
    Text(#[from] NotSaved),
    /// The system refused.
    #[error("cannot {what} `{path}`: {error}; nothing was changed")]
    System {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The process is stopping.
    #[error("the process is stopping, so nothing was changed")]
    Stopping,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The file.
    pub path: PathBuf,
    /// The copy of what it was; `None` when there was nothing to write.
    pub backup: Option<PathBuf>,
    /// Changes that stand in it now.
    pub changes: usize,
    /// Hash of the configuration in force.
    pub hash: String,
}

impl Reloader {
    /// Makes the edits that `plan` finds for what is in force; `who` is told with them. With `expected`, only if that is
    /// the hash of what is in force.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn change(
        &self,
        who: &str,
        expected: Option<&str>,
        plan: impl FnOnce(&InForce) -> Result<Vec<Edit>, Refused>,
    ) -> Result<Changed, Refused> {
        let mut current = self.current.lock();
        let Some(before) = current.as_ref() else { return Err(Refused::Stopping) };
        let hash = self.store.load().hash.clone();
        if expected.is_some_and(|expected| expected != hash) {
            return Err(Refused::Stale(hash));
        }
        let edits: Vec<Edit> = plan(before)?.into_iter().filter(|edit| !edit.is_in(&before.written)).collect();
        if edits.is_empty() {
            return Ok(Changed { edits, hash, not_kept: None });
        }
        let mut changes = before.changes.clone();
        let at = clock::unix_time().as_secs_f64();
        for edit in &edits {
            changes.retain(|change| !edit.place.holds(&change.edit.place));
            changes.push(Change { edit: edit.clone(), who: who.to_owned(), at });
        }
        self.lay(&mut current, changes)?;
        Ok(self.changed(&mut current, who, edits))
    }

    /// Takes changes back: the one at `place`, or all.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn revert(&self, who: &str, place: Option<&str>) -> Result<Changed, Refused> {
        let mut current = self.current.lock();
        let Some(before) = current.as_ref() else { return Err(Refused::Stopping) };
        let meant = |change: &Change| place.is_none_or(|place| change.edit.place.to_string() == place);
        let (back, stay): (Vec<Change>, Vec<Change>) = before.changes.iter().cloned().partition(meant);
        if let Some(place) = place.filter(|_| back.is_empty()) {
            return Err(Refused::NotPossible(format!("nothing was changed at run time at `{place}`")));
        }
        let edits: Vec<Edit> = back.into_iter().map(|change| change.edit).collect();
        if !edits.is_empty() {
            self.lay(&mut current, stay)?;
        }
        Ok(self.changed(&mut current, who, edits))
    }

    /// Puts the file in force with these changes over it, instead of those before.
    fn lay(&self, current: &mut Option<InForce>, changes: Vec<Change>) -> Result<(), Refused> {
        let Some(before) = current.as_mut() else { return Err(Refused::Stopping) };
        let old = std::mem::replace(&mut before.changes, changes);
        let result = self.apply(current).map(drop);
        if let (Err(_), Some(before)) = (&result, current.as_mut()) {
            before.changes = old;
        }
        result
    }

    /// Keeps and tells what was changed.
    fn changed(&self, current: &mut Option<InForce>, who: &str, edits: Vec<Edit>) -> Changed {
        let not_kept = self.keep(current, who);
        let hash = self.store.load().hash.clone();
        if !edits.is_empty() {
            tracing::info!(who, %hash, places = %places(&edits), "configuration changed at run time");
            self.metrics.reloaded("applied");
        }
        Changed { edits, hash, not_kept }
    }

    /// Keeps the changes that the file does not say by now, all in one step; tells why that failed.
    fn keep(&self, current: &mut Option<InForce>, who: &str) -> Option<String> {
        let InForce { changes, file, .. } = current.as_mut()?;
        changes.retain(|change| !change.edit.is_in(file));
        let value = serde_json::to_value(&*changes).unwrap_or_default();
        match self.history.keep(KIND, KEY, &value, who, clock::unix_time().as_secs_f64()) {
            Ok(()) => (!self.history.is_durable()).then(|| NO_FOLDER.to_owned()),
            Err(error) => {
                tracing::error!(%error, "a change of the configuration could not be kept and ends with the process");
                Some(error.to_string())
            }
        }
    }

    /// Writes the changes into the file, which keeps its comments, and a copy of what it was beside it.
    ///
    /// # Errors
    /// Why the file is as it was.
    pub fn save(&self, who: &str) -> Result<Saved, SaveError> {
        let mut current = self.current.lock();
        let Some(before) = current.as_mut() else { return Err(SaveError::Stopping) };
        let path = self.source.path().ok_or(SaveError::NoFile)?;
        // A link stays a link; what it leads to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let failed = |what: &'static str, path: &Path| {
            let path = path.display().to_string();
            move |error| SaveError::System { what, path, error }
        };
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let overlay = before.overlay();
        let hash = self.store.load().hash.clone();
        if config::hash_of(&path, &overlay).as_ref() != Some(&hash) {
            let why = self.status().error.unwrap_or_else(|| "it was changed a moment ago".to_owned());
            return Err(SaveError::NotInForce(why));
        }
        let next = overlay::save(&text, &overlay)?;
        if next == text {
            return Ok(Saved { path, backup: None, changes: 0, hash });
        }
        let meta = fs::metadata(&path).map_err(failed("read", &path))?;
        let backup = PathBuf::from(format!("{}{BACKUP}", path.display()));
        let mode = meta.mode() & 0o7777;
        replace(&backup, Some(&meta), mode, text.as_bytes()).map_err(|(what, error)| failed(what, &backup)(error))?;
        replace(&path, Some(&meta), mode, next.as_bytes()).map_err(|(what, error)| failed(what, &path)(error))?;
        let saved = std::mem::take(&mut before.changes);
        // The file says it now, so what is forgotten too late changes nothing.
        if let Err(refused) = self.apply(&mut current) {
            tracing::error!(error = %refused, "the file that was saved is not in force");
        }
        self.keep(&mut current, who);
        let hash = self.store.load().hash.clone();
        tracing::info!(path = %path.display(), changes = saved.len(), %hash, "changes were saved to the file");
        Ok(Saved { path, backup: Some(backup), changes: saved.len(), hash })
    }

    /// What is in force, for a look; `None` while the process stops.
    pub fn in_force<T>(&self, look: impl FnOnce(&InForce) -> T) -> Option<T> {
        self.current.lock().as_ref().map(look)
    }
}

fn places(edits: &[Edit]) -> String {
    edits.iter().map(|edit| edit.place.to_string()).collect::<Vec<_>>().join(", ")
}

/// The changes that were kept, for the start.
pub fn changes_kept(history: &History) -> Vec<Change> {
    let row = match history.kept(KIND) {
        Ok(rows) => rows.into_iter().find(|row| row.key == KEY),
        Err(error) => {
            tracing::error!(%error, "changes that were made at run time cannot be read and are left out");
            None
        }
    };
    let changes = row.map(|row| serde_json::from_value(row.value)).transpose();
    changes.map(Option::unwrap_or_default).unwrap_or_else(|error| {
        tracing::error!(%error, "changes that were made at run time are of an unknown form and are left out");
        Vec::new()
    })
}
