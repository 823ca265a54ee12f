//! API keys as a user's file has them.

use std::path::PathBuf;

use super::fleet::sha256;

/// A keys file in a folder of its own.
pub struct KeysFile {
    /// Where it is.
    pub path: PathBuf,
    _folder: tempfile::TempDir,
}

impl KeysFile {
    /// With these entries, each an id and more keys such as `scopes: [management]`.
    pub fn new(entries: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Self { path: folder.path().join("keys.yaml"), _folder: folder };
        file.write(entries);
        file
    }

    /// Replaces its entries.
    pub fn write(&self, entries: &[(&str, &str)]) {
        let line = |(id, more): &(&str, &str)| {
            let hash = sha256(secret(id).as_bytes());
            let comma = if more.is_empty() { "" } else { ", " };
            format!("  - {{ name: test, id: \"{id}\", hash: \"sha256:{hash}\"{comma}{more} }}\n")
        };
        let lines: String = entries.iter().map(line).collect();
        let list = if lines.is_empty() { "keys: []\n".to_owned() } else { format!("keys:\n{lines}") };
        super::replace(&self.path, &list);
    }

    /// The `auth` block that names it.
    pub fn yaml(&self) -> String {
        format!("auth: {{ keys_file: \"{}\" }}\n", self.path.display())
    }
}

/// The secret part of the key with this id.
pub fn secret(id: &str) -> String {
    sha256(format!("secret of {id}").as_bytes())
}

/// The key with this id, as its owner has it.
pub fn key(id: &str) -> String {
    format!("ak_{id}_{}", secret(id))
}

/// The field by which a client shows it.
pub fn bearer(id: &str) -> String {
    format!("Authorization: Bearer {}\r\n", key(id))
}
