//! What the schedulers learned, kept in a file over restarts: `learned.json` in `server.data_dir`.
//!
//! The file is written as a whole beside its place and moved there, so that there is always a whole one. One that cannot
//! be read is as good as none: then the fleet is learned anew.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::snapshot::Snapshot;
use crate::policy::schedule::memory::Memory;

/// The file's name.
const FILE: &str = "learned.json";

/// The file.
#[derive(Debug)]
pub struct LearnedFile {
    path: PathBuf,
    /// What was written last.
    written: Mutex<String>,
}

type All = BTreeMap<String, Memory>;

impl LearnedFile {
    /// The file in this folder, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn in_folder(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { path: folder.join(FILE), written: Mutex::default() })
    }

    /// Tells the schedulers what the file knows.
    pub fn load(&self, snapshot: &Snapshot) {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "what was learned cannot be read");
                return;
            }
        };
        let all: All = match serde_json::from_str(&text) {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "what was learned is damaged and begins anew");
                return;
            }
        };
        for upstream in &snapshot.upstreams {
            if let Some(memory) = all.get(&upstream.name) {
                upstream.dispatcher.remember(memory);
            }
        }
        *self.written.lock() = text;
    }

    /// Writes what is known now, if it is something else than before.
    ///
    /// # Errors
    /// When it cannot be written; the file before stays.
    pub fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        let scheduled = snapshot.upstreams.iter().filter(|upstream| upstream.is_scheduled());
        let all: All = scheduled.map(|upstream| (upstream.name.clone(), upstream.dispatcher.memory())).collect();
        let text = serde_json::to_string_pretty(&all)?;
        let mut written = self.written.lock();
        if *written == text {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        *written = text;
        Ok(())
    }
}
