//! What the user typed: one YAML file, checked as far as it can be without a network.
//!
//! The problem: people edit this file by hand while requests run. A mistake must never take effect in
//! part, must be found before the swap, and must be shown where it stands, with what to do about it.
//!
//! States of a file: bytes → text (`source`) → tree with positions (`tree`) → references replaced
//! (`interpolate`) → [`Config`] (`de`, `decode`) → rules (`validate`) → [`Loaded`], or [`Diagnostics`].
//!
//! Invariants: reading ends whatever the path is; memory and time are bounded whatever the file is;
//! all errors of a stage are reported at once; the value of a variable is in no message.

use std::hash::Hasher;
use std::path::Path as FilePath;

mod address;
pub mod codes;
pub mod credentials;
mod de;
mod decode;
mod diagnostic;
mod diff;
mod interpolate;
pub mod keys;
pub mod overlay;
mod reference;
pub mod replace;
mod schema;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod tree;
pub mod types;
mod validate;

pub use address::{AdminAddress, HostPort, RedisUrl, ServerUrl, WebhookUrl};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use diff::restart_reasons;
pub use overlay::Overlay;
pub use reference::reference_yaml;
pub use schema::schema;
pub use source::MAX_BYTES;
pub use types::*;

/// A file that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What is probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Sixteen hexadecimal digits that change with any byte of the file, and with the overlay (FNV-1a).
    pub hash: String,
    /// What the file says as it is typed, without the overlay.
    pub file: serde_json::Value,
    /// The same with the overlay.
    pub written: serde_json::Value,
    /// Edits of the overlay that have no place in the file.
    pub lost: Vec<String>,
}

/// Where variables come from.
type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Reads and checks the file at `path` with `overlay` over it; `env` gives the values of variables.
///
/// # Errors
/// Everything that is wrong with the file, warnings included; at least one is an error.
pub fn load(path: &FilePath, overlay: &Overlay, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    let bytes = source::read(path)?;
    parse_bytes(&path.display().to_string(), &bytes, overlay, env)
}

/// The hash that [`Loaded`] would have for the file at `path`; `None` when it cannot be read.
#[must_use]
pub fn hash_of(path: &FilePath, overlay: &Overlay) -> Option<String> {
    source::read(path).ok().map(|bytes| hash(&bytes, overlay))
}

/// Checks `text`, called `name` in messages; `env` gives the values of variables.
///
/// # Errors
/// Everything that is wrong with the text, warnings included; at least one is an error.
pub fn parse(name: &str, text: &str, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    parse_with(name, text, &Overlay::default(), env)
}

/// Checks `text` with `overlay` over it.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(name: &str, text: &str, overlay: &Overlay, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    parse_bytes(name, text.as_bytes(), overlay, env)
}

fn parse_bytes(name: &str, bytes: &[u8], overlay: &Overlay, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    let text = source::text(name, bytes)?;
    let mut report = source::Report::new(source::Source::new(name, text));
    let checked = check(text, overlay, env, &mut report);
    let refused = report.has_errors();
    let found = report.finish();
    match checked {
        Some(checked) if !refused => Ok(Loaded {
            config: checked.config,
            warnings: found,
            hash: hash(bytes, overlay),
            file: checked.file,
            written: checked.written,
            lost: checked.lost,
        }),
        _ => Err(Diagnostics(found)),
    }
}

/// What came of a text.
struct Checked {
    config: Config,
    file: serde_json::Value,
    written: serde_json::Value,
    lost: Vec<String>,
}

fn check(text: &str, overlay: &Overlay, env: Env<'_>, report: &mut source::Report<'_>) -> Option<Checked> {
    let mut tree = tree::build(text, report)?;
    let file = overlay::to_json(&tree);
    let lost = overlay::apply(&mut tree, overlay);
    let written = if overlay.is_empty() { file.clone() } else { overlay::to_json(&tree) };
    let whole = interpolate::interpolate(&mut tree, env, report);
    let mut config: Config = decode::decode(&mut tree, whole, report)?;
    overlay::mark_servers(&mut config, &file, &written);
    validate::validate(&config, &tree, report);
    Some(Checked { config, file, written, lost })
}

fn hash(bytes: &[u8], overlay: &Overlay) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(bytes);
    if !overlay.is_empty() {
        let edits = serde_json::to_vec(overlay.edits()).unwrap_or_default();
        hasher.write(&edits);
    }
    format!("{:016x}", hasher.finish())
}

/// What a text says as it is typed, or what is wrong with it as YAML.
#[cfg(test)]
fn written(text: &str) -> Result<serde_json::Value, Diagnostics> {
    written_with(text, &Overlay::default())
}

/// The same with an overlay over it.
#[cfg(test)]
fn written_with(text: &str, overlay: &Overlay) -> Result<serde_json::Value, Diagnostics> {
    let mut report = source::Report::new(source::Source::new("test", text));
    match tree::build(text, &mut report) {
        Some(mut tree) => {
            overlay::apply(&mut tree, overlay);
            Ok(overlay::to_json(&tree))
        }
        None => Err(Diagnostics(report.finish())),
    }
}
