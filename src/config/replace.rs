//! Puts new contents in the place of a file in one step: whoever reads it finds the old ones or the new ones, whole.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// What the system refused, and why.
pub type Refusal = (&'static str, io::Error);

/// The folder of a file.
#[must_use]
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Replaces the file at `path`, which is no link; `before` is what is known of the one that is there: its owner stays.
///
/// # Errors
/// What the system refused; then the old file is there still.
pub fn replace(path: &Path, before: Option<&Metadata>, mode: u32, contents: &[u8]) -> Result<(), Refusal> {
    let failed = |what: &'static str| move |error: io::Error| (what, error);
    let folder = folder_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(".arriero-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(&folder)
        .map_err(failed("write a file beside"))?;
    if let Some(before) = before {
        let own = file.as_file().metadata().map_err(failed("read"))?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            // Whoever runs Arriero must still be able to read it.
            fchown(file.as_file(), Some(before.uid()), Some(before.gid())).map_err(failed("keep the owner of"))?;
        }
    }
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
    file.write_all(contents).map_err(failed("write"))?;
    file.as_file().sync_all().map_err(failed("write"))?;
    file.persist(path).map_err(|error| ("replace", error.error))?;
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed("write the folder of"))
}
