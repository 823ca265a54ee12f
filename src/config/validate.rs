//! Rules that types cannot express: names that exist, ranges, values that fit together.
//!
//! Invariants: every rule runs and pushes what it finds, none stops the others; a message never holds a
//! value that came out of a variable (`Rules::shown` gives the reference instead).

use super::codes::{self, Code};
use super::keys::KeysFile;
use super::source::Report;
use super::tree::{Node, Path, Scalar, Value};
use super::types::{Config, Timeouts};
use crate::units::{ByteSize, Duration};

mod access;
mod admin;
mod cache;
mod cluster;
mod content;
mod fleet;
mod gpu;
mod keys;
mod limits;
mod listeners;
mod models;
mod notifications;
mod process;
mod quotas;
mod recovery_action;
mod routes;
mod tls;
mod tracing;
mod upstreams;

/// Checks every rule; what is found goes to the report.
pub(super) fn validate(config: &Config, tree: &Node<'_>, report: &mut Report<'_>) {
    let mut rules = Rules { tree, report };
    if config.version != 1 {
        let hint = "this Arriero reads version 1: write `version: 1`";
        let message = format!("version {} of the format is not known", config.version);
        rules.value(codes::VERSION, &Path::Root.key("version"), message, hint);
    }
    listeners::check(config, &mut rules);
    routes::check(config, &mut rules);
    upstreams::check(config, &mut rules);
    process::check(config, &mut rules);
    notifications::check(config, &mut rules);
    tracing::check(config, &mut rules);
    access::check(config, &mut rules);
    quotas::check(config, &mut rules);
    cluster::check(config, &mut rules);
}

/// Checks the rules about a keys file.
pub(super) fn validate_keys(file: &KeysFile, tree: &Node<'_>, report: &mut Report<'_>) {
    keys::check(file, &mut Rules { tree, report });
}

/// What rules need: positions of values, and a place for what they find.
struct Rules<'r, 's, 't> {
    tree: &'t Node<'t>,
    report: &'r mut Report<'s>,
}

impl Rules<'_, '_, '_> {
    /// Something is wrong with the value at `path`.
    fn value(&mut self, code: Code, path: &Path<'_>, message: impl Into<String>, hint: impl IntoHint) {
        self.push(code, path, false, message.into(), hint);
    }

    /// Something is wrong with there being a value at `path`, or with what is missing in it.
    fn key(&mut self, code: Code, path: &Path<'_>, message: impl Into<String>, hint: impl IntoHint) {
        self.push(code, path, true, message.into(), hint);
    }

    fn push(&mut self, code: Code, path: &Path<'_>, at_key: bool, message: String, hint: impl IntoHint) {
        let steps = path.steps();
        let span = self.tree.locate(&steps, at_key);
        self.report.push(code, Some(span), &steps, message, hint.into_hint());
    }

    /// Whether the file has a value at `path`.
    fn given(&self, path: &Path<'_>) -> bool {
        self.tree.find(&path.steps()).is_some_and(|node| !node.skip)
    }

    /// Whether nothing in the mapping at `path` was passed over because of an error that is told already: else what
    /// seems to be missing in it may be there.
    fn is_whole(&self, path: &Path<'_>) -> bool {
        match self.tree.find(&path.steps()).map(|node| &node.value) {
            Some(Value::Map(entries)) => !entries.iter().any(|entry| entry.value.skip),
            _ => true,
        }
    }

    /// `value` in backticks, or the reference that it came out of.
    fn shown(&self, path: &Path<'_>, value: &str) -> String {
        let shown = match self.tree.find(&path.steps()).map(|node| &node.value) {
            Some(Value::Scalar(Scalar { typed: Some(typed), .. })) => typed,
            _ => value,
        };
        let cut: String = shown.lines().next().unwrap_or_default().chars().take(80).collect();
        if cut.len() == shown.len() { format!("`{cut}`") } else { format!("`{cut}…`") }
    }

    /// `why` as a hint, unless it may repeat a value that came out of a variable: then `instead`.
    fn why(&self, path: &Path<'_>, why: impl ToString, instead: &str) -> String {
        match self.tree.find(&path.steps()).map(|node| &node.value) {
            Some(Value::Scalar(Scalar { typed: Some(_), .. })) => instead.to_owned(),
            _ => why.to_string(),
        }
    }

    /// A duration that has no meaning when it is zero.
    fn not_zero(&mut self, path: &Path<'_>, duration: Duration, hint: &'static str) {
        if duration.0.is_zero() {
            self.value(codes::ZERO, path, "a duration of zero has no meaning here", hint);
        }
    }

    /// A size that has no meaning when it is zero.
    fn not_empty(&mut self, path: &Path<'_>, size: ByteSize, hint: &'static str) {
        if size.0 == 0 {
            self.value(codes::ZERO, path, "a size of zero has no meaning here", hint);
        }
    }

    /// A number from `from` to `to`.
    fn range(&mut self, path: &Path<'_>, number: u32, from: u32, to: u32) {
        if (from..=to).contains(&number) {
            return;
        }
        let shown = self.shown(path, &number.to_string());
        let message = if to == u32::MAX {
            format!("{shown} is too small: at least {from}")
        } else {
            format!("{shown} is out of range: from {from} to {to}")
        };
        self.value(codes::RANGE, path, message, ());
    }

    /// A name of a route, upstream or server: letters, digits, `_`, `.`, `-`.
    fn name(&mut self, path: &Path<'_>, name: &str, what: &str, at_key: bool) {
        let hint = "names are made of letters, digits, `_`, `.` and `-`";
        if name.is_empty() {
            self.push(codes::NAME, path, at_key, format!("the name of {what} is empty"), hint);
        } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')) {
            let shown = if at_key { format!("`{name}`") } else { self.shown(path, name) };
            self.push(codes::NAME, path, at_key, format!("{shown} cannot be the name of {what}"), hint);
        }
    }

    /// Time limits of a route or of the defaults.
    fn timeouts(&mut self, path: &Path<'_>, timeouts: &Timeouts) {
        let hint = "leave it out for the default";
        let limits = [
            ("connect", timeouts.connect, hint),
            ("tls", timeouts.tls, hint),
            ("first_byte", timeouts.first_byte, hint),
            ("read", timeouts.read, hint),
            ("write", timeouts.write, hint),
            ("upgrade", timeouts.upgrade, hint),
            ("request", timeouts.request, "leave it out for no limit"),
        ];
        for (key, limit, hint) in limits {
            if let Some(limit) = limit {
                self.not_zero(&path.key(key), limit, hint);
            }
        }
    }
}

/// A hint, or none.
trait IntoHint {
    fn into_hint(self) -> Option<String>;
}

impl IntoHint for () {
    fn into_hint(self) -> Option<String> {
        None
    }
}

impl IntoHint for &str {
    fn into_hint(self) -> Option<String> {
        Some(self.to_owned())
    }
}

impl IntoHint for String {
    fn into_hint(self) -> Option<String> {
        Some(self)
    }
}
