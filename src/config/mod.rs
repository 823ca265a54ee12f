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
mod reference;
mod schema;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod tree;
pub mod types;
mod validate;

pub use address::{AdminAddress, HostPort, ServerUrl, WebhookUrl};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use diff::restart_reasons;
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
    /// Sixteen hexadecimal digits that change with any byte of the file (FNV-1a).
    pub hash: String,
}

/// Reads and checks the file at `path`; `env` gives the values of variables.
///
/// # Errors
/// Everything that is wrong with the file, warnings included; at least one is an error.
pub fn load(path: &FilePath, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    let bytes = source::read(path)?;
    parse_bytes(&path.display().to_string(), &bytes, env)
}

/// The hash that [`Loaded`] would have for the file at `path`; `None` when it cannot be read.
#[must_use]
pub fn hash_of(path: &FilePath) -> Option<String> {
    source::read(path).ok().map(|bytes| hash(&bytes))
}

/// Checks `text`, called `name` in messages; `env` gives the values of variables.
///
/// # Errors
/// Everything that is wrong with the text, warnings included; at least one is an error.
pub fn parse(name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    parse_bytes(name, text.as_bytes(), env)
}

fn parse_bytes(name: &str, bytes: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Diagnostics> {
    let text = source::text(name, bytes)?;
    let mut report = source::Report::new(source::Source::new(name, text));
    let config = check(text, env, &mut report);
    let refused = report.has_errors();
    let found = report.finish();
    match config {
        Some(config) if !refused => Ok(Loaded { config, warnings: found, hash: hash(bytes) }),
        _ => Err(Diagnostics(found)),
    }
}

fn check(text: &str, env: &dyn Fn(&str) -> Option<String>, report: &mut source::Report<'_>) -> Option<Config> {
    let mut tree = tree::build(text, report)?;
    let whole = interpolate::interpolate(&mut tree, env, report);
    let config = decode::decode(&mut tree, whole, report)?;
    validate::validate(&config, &tree, report);
    Some(config)
}

fn hash(bytes: &[u8]) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish())
}
