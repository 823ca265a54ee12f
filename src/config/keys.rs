//! The keys file: who has an API key, and what for. Only hashes of the secrets stand in it.
//!
//! It is a file of its own because it changes for other reasons, by other hands and at other times than the
//! configuration: a key is revoked in a hurry. It is read like the configuration, with positions and hints, but
//! nothing in it is replaced by variables.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path as FilePath;
use std::str::FromStr;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::overlay::Overlay;
use super::source::{self, Report, Source};
use super::{codes, decode, hash, tree, validate};
use crate::policy::api_key::Digest;
use crate::policy::auth;
use crate::units::Count;

mod edit;

pub use edit::{EditError, Edited, edit};

/// A whole keys file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// The keys; several may have the same name, so that one can be replaced without a gap.
    pub keys: Vec<KeyEntry>,
}

/// One key.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Whose it is: letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Which it is: eight hexadecimal digits, unique.
    pub id: String,
    /// What is kept of its secret.
    #[serde(deserialize_with = "from_text", serialize_with = "to_text")]
    pub hash: Digest,
    /// What it may be used for.
    #[serde(default = "KeyEntry::default_scopes")]
    pub scopes: Vec<KeyScope>,
    /// Models that it may be used for, with `*` for any characters; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Tokens that it may use of quotas, in the place of their `limit`, by the names of the quotas.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<String, Count>,
    /// From when on it is not valid any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

impl KeyEntry {
    fn default_scopes() -> Vec<KeyScope> {
        vec![KeyScope::Inference]
    }
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyScope {
    /// Asking models, and lists of them.
    Inference,
    /// Changing what a server has, on routes with `management: allow`.
    Management,
}

impl From<KeyScope> for auth::Scope {
    fn from(scope: KeyScope) -> Self {
        match scope {
            KeyScope::Inference => Self::Inference,
            KeyScope::Management => Self::Management,
        }
    }
}

/// A moment, in seconds since 1970; written as in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// A text is not a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a time with its zone, such as `2027-01-31T00:00:00Z`")]
pub struct NotATimestamp;

impl FromStr for Timestamp {
    type Err = NotATimestamp;

    fn from_str(text: &str) -> Result<Self, NotATimestamp> {
        OffsetDateTime::parse(text, &Rfc3339).map(|time| Self(time.unix_timestamp())).map_err(|_| NotATimestamp)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|time| time.format(&Rfc3339).ok());
        // Beyond the year 9999 there is no such text.
        formatter.write_str(text.as_deref().unwrap_or("9999-12-31T23:59:59Z"))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        to_text(self, serializer)
    }
}

fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(TextVisitor(PhantomData))
}

fn to_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Reads a value out of a text, while its place is still known.
struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// A keys file that may be used.
#[derive(Clone, Debug)]
pub struct LoadedKeys {
    /// The keys, in the order of the file.
    pub keys: Vec<KeyEntry>,
    /// Changes with any byte of the file.
    pub hash: String,
}

/// Reads and checks the keys file at `path`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &FilePath) -> Result<LoadedKeys, Diagnostics> {
    let name = path.display().to_string();
    let read = source::read(path).and_then(|bytes| parse(&name, &bytes));
    read.map_err(|mut found| {
        for one in &mut found.0 {
            if one.code == codes::EMPTY.id || (one.code == codes::UNREADABLE.id && !path.exists()) {
                one.hint =
                    Some(format!("`arriero key new NAME --file {name}` makes one; `keys: []` is one without keys"));
            }
        }
        found
    })
}

/// Checks the keys file at `path` beside a configuration that names it. One that is not there is a warning: the
/// machine where a configuration is checked need not be the one where it runs.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(path: &FilePath) -> Result<Vec<Diagnostic>, Diagnostics> {
    let found = match load(path) {
        Ok(_) => return Ok(Vec::new()),
        Err(found) if path.exists() => return Err(found),
        Err(found) => found.0,
    };
    let code = codes::NO_KEYS_FILE;
    Ok(found.into_iter().map(|one| Diagnostic { code: code.id, severity: code.severity(), ..one }).collect())
}

fn parse(name: &str, bytes: &[u8]) -> Result<LoadedKeys, Diagnostics> {
    let text = source::text(name, bytes)?;
    let mut report = Report::new(Source::new(name, text));
    let file = read(text, &mut report);
    let refused = report.has_errors();
    match file {
        Some(file) if !refused => Ok(LoadedKeys { keys: file.keys, hash: hash(bytes, &Overlay::default()) }),
        _ => Err(Diagnostics(report.finish())),
    }
}

fn read(text: &str, report: &mut Report<'_>) -> Option<KeysFile> {
    let mut tree = tree::build(text, report)?;
    let file: KeysFile = decode::decode(&mut tree, true, report)?;
    validate::validate_keys(&file, &tree, report);
    Some(file)
}

#[cfg(test)]
mod tests;
