//! Changes a keys file: the whole file is written anew beside the old one and takes its place in one step, so that
//! nobody ever reads half of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{KeyEntry, load};
use crate::config::diagnostic::Diagnostics;
use crate::config::replace::{folder_of, replace};

/// First line of a file that was written here.
const HEAD: &str =
    "# API keys of Arriero; only hashes of the secrets. `arriero key` writes this file anew and keeps no comments.\n";

/// Why a keys file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// What is there is not a keys file.
    #[error("{}", .0.render(false))]
    Invalid(Diagnostics),
    /// The system refused.
    #[error("cannot {what} `{path}`: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The change is not possible with this file.
    #[error("{0}")]
    Refused(String),
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited<T> {
    /// What the change gave back.
    pub value: T,
    /// Whether the file had comments, which are gone.
    pub lost_comments: bool,
}

/// Reads the keys file at `path`, lets `change` change its keys, and writes it. One edit at a time: others wait.
/// A file that is not there counts as one without keys when `create` is true. A new file has mode 0600; an old one
/// keeps its owner, its group, and the group's right to read.
///
/// # Errors
/// Why nothing was changed.
pub fn edit<T>(
    path: &Path,
    create: bool,
    change: impl FnOnce(&mut Vec<KeyEntry>) -> Result<T, String>,
) -> Result<Edited<T>, EditError> {
    // A link stays a link; what it leads to is replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = folder_of(&path);
    let failed = |what: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| EditError::System { what, path, error }
    };
    let lock = File::open(&folder).map_err(failed("open the folder", &folder))?;
    lock.lock().map_err(failed("lock the folder", &folder))?;
    let before = match fs::metadata(&path) {
        Ok(found) => Some(found),
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => None,
        // The reader says best what is wrong.
        Err(_) => {
            return Err(load(&path)
                .err()
                .map_or_else(|| EditError::Refused("try again".to_owned()), EditError::Invalid));
        }
    };
    let mut keys = match &before {
        Some(_) => load(&path).map_err(EditError::Invalid)?.keys,
        None => Vec::new(),
    };
    let lost_comments = before.is_some() && has_comments(&fs::read_to_string(&path).unwrap_or_default());
    let value = change(&mut keys).map_err(EditError::Refused)?;

    let text = render(&keys).map_err(|error| EditError::Refused(error.to_string()))?;
    let mode = before.as_ref().map_or(0o600, |before| before.mode() & 0o040 | 0o600);
    replace(&path, before.as_ref(), mode, text.as_bytes()).map_err(|(what, error)| failed(what, &path)(error))?;
    Ok(Edited { value, lost_comments })
}

/// Whether somebody wrote comments into a file.
fn has_comments(text: &str) -> bool {
    let text = text.strip_prefix(HEAD).unwrap_or(text);
    text.lines().any(|line| line.trim_start().starts_with('#') || line.contains(" #"))
}

/// The file with these keys. Texts are quoted as in JSON, which YAML reads as well.
fn render(keys: &[KeyEntry]) -> Result<String, serde_json::Error> {
    let mut text = format!("{HEAD}keys:{}\n", if keys.is_empty() { " []" } else { "" });
    for key in keys {
        let fields: serde_json::Map<_, _> = serde_json::from_value(serde_json::to_value(key)?)?;
        for (number, (name, value)) in fields.iter().enumerate() {
            text.push_str(if number == 0 { "  - " } else { "    " });
            text.push_str(&format!("{name}: {value}\n"));
        }
    }
    Ok(text)
}
