//! Where the store is, how it is opened, and what becomes of a file that cannot be used.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use time::OffsetDateTime;
use time::macros::format_description;

use super::HistoryError;
use super::rescue;
use super::schema::{self, Version};
use crate::clock;
use crate::telemetry::metrics::Metrics;

/// The file's name.
const FILE: &str = "arriero.db";
/// How long one connection waits for another, of this process or of the one before it.
const PATIENCE: Duration = Duration::from_secs(5);
/// A file up to this size is read through when it is opened; damage in a longer one shows when it is met.
const CHECKED: u64 = 128 << 20;
/// Files that may turn out to be unusable in one go.
const TRIES: usize = 4;

/// Where the store is.
pub(super) enum Place {
    /// The file, and those that were set aside and not looked through yet.
    File(PathBuf, Mutex<Vec<PathBuf>>),
    /// A name that no other store of this process has.
    Memory(String),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Reading.
    Read,
    /// Writing what may be lost with the power.
    Write,
    /// Writing what may not.
    Durable,
}

/// Which file it is, whatever its name: device and number.
pub(super) type FileId = (u64, u64);

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => write!(formatter, "{}", path.display()),
            Self::Memory(_) => formatter.write_str("memory"),
        }
    }
}

impl Place {
    /// Whether it outlives the process.
    pub(super) const fn is_file(&self) -> bool {
        matches!(self, Self::File(..))
    }

    /// The place in this folder, which is made if it is not there; in memory without one.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub(super) fn of(folder: Option<&Path>) -> Result<Self, HistoryError> {
        static STORES: AtomicU64 = AtomicU64::new(0);
        let Some(folder) = folder else {
            let number = STORES.fetch_add(1, Ordering::Relaxed);
            return Ok(Self::Memory(format!("file:/arriero-{number}?vfs=memdb")));
        };
        let refused = |error| HistoryError::Folder { path: folder.display().to_string(), error };
        fs::create_dir_all(folder).map_err(refused)?;
        match tempfile::tempfile_in(folder) {
            Ok(_) => {}
            // It can be written again when somebody has made room.
            Err(error) if is_full(&error) => tracing::error!(%error, folder = %folder.display(), "the disk is full"),
            Err(error) => return Err(refused(error)),
        }
        Ok(Self::File(folder.join(FILE), Mutex::default()))
    }

    /// Opens for writing and makes the tables; what is unusable is set aside. `None` when it cannot be opened now.
    ///
    /// # Errors
    /// When there is no store in memory: then nothing works.
    pub(super) fn open(&self, metrics: &Metrics) -> Result<Option<Connection>, HistoryError> {
        for _ in 0..TRIES {
            let id = self.file_id();
            match self.try_open() {
                Ok(Opened::Ready(connection)) => {
                    self.rescue(&connection);
                    return Ok(Some(connection));
                }
                Ok(Opened::Unusable(why)) => self.set_aside(id, &why, metrics),
                Err(error) if is_damage(&error) => self.set_aside(id, &error.to_string(), metrics),
                Err(error) if matches!(self, Self::Memory(_)) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, path = ?self, "the history cannot be opened now and is tried again");
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn try_open(&self) -> rusqlite::Result<Opened> {
        let mut connection = self.connect(Mode::Write)?;
        let there = if let Self::File(path, _) = self { fs::metadata(path).map_or(0, |meta| meta.len()) } else { 0 };
        if there > 0 && there <= CHECKED {
            let told: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if told != "ok" {
                return Ok(Opened::Unusable(told));
            }
        }
        if matches!(self, Self::File(..)) {
            connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
        }
        match schema::migrate(&mut connection)? {
            Version::Ready => Ok(Opened::Ready(connection)),
            Version::Later(version) => Ok(Opened::Unusable(format!("a later Arriero wrote it (version {version})"))),
        }
    }

    /// A connection. One that only reads finds a file that is there.
    pub(super) fn connect(&self, mode: Mode) -> rusqlite::Result<Connection> {
        let write = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX
            | match (self, mode) {
                (Self::File(..), Mode::Read) => OpenFlags::SQLITE_OPEN_READ_ONLY,
                (Self::File(..), _) => write,
                (Self::Memory(_), _) => write | OpenFlags::SQLITE_OPEN_URI,
            };
        let connection = match self {
            Self::File(path, _) => Connection::open_with_flags(path, flags)?,
            Self::Memory(name) => Connection::open_with_flags(name, flags)?,
        };
        connection.busy_timeout(PATIENCE)?;
        let synchronous = if mode == Mode::Durable { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "query_only", mode == Mode::Read)?;
        Ok(connection)
    }

    /// The file that has its name now.
    pub(super) fn file_id(&self) -> Option<FileId> {
        let Self::File(path, _) = self else { return None };
        fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
    }

    /// Renames a file that cannot be used, unless another process did so already.
    pub(super) fn set_aside(&self, id: Option<FileId>, why: &str, metrics: &Metrics) {
        let Self::File(path, all_aside) = self else { return };
        if self.file_id() != id {
            return;
        }
        let now = OffsetDateTime::from_unix_timestamp(clock::unix_seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let stamp = now.format(format).unwrap_or_default();
        let aside = (0..1000).map(|number: u32| {
            let more = if number == 0 { String::new() } else { format!("-{number}") };
            with_end(path, &format!(".damaged-{stamp}{more}"))
        });
        let Some(aside) = aside.into_iter().find(|aside| !aside.exists()) else { return };
        metrics.history.damaged.inc();
        tracing::error!(
            path = %path.display(), why, moved_to = %aside.display(),
            "the history is damaged: it is moved aside and begins anew"
        );
        // The log goes first: a new file must not find that of the old one.
        for end in ["-wal", "-shm", ""] {
            match fs::rename(with_end(path, end), with_end(&aside, end)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%error, path = %path.display(), "the damaged history cannot be moved");
                }
                _ => {}
            }
        }
        all_aside.lock().push(aside);
    }

    /// Takes what must not be lost out of files that were set aside.
    fn rescue(&self, connection: &Connection) {
        let Self::File(_, all_aside) = self else { return };
        for aside in std::mem::take(&mut *all_aside.lock()) {
            match rescue::rescue(&aside, connection) {
                Ok(rows) => tracing::info!(rows, from = %aside.display(), "what operators keep was taken over"),
                Err(error) => {
                    let from = aside.display();
                    tracing::error!(%error, %from, "what operators keep cannot all be read from the damaged history");
                }
            }
        }
    }
}

enum Opened {
    Ready(Connection),
    Unusable(String),
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// Whether a file is not what it should be.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
