//! From the tree to a [`Config`](super::Config) or another type, with every wrong key and value reported and not only the first.
//!
//! serde stops at the first error. So the value in error is marked to be passed over and the tree is
//! read again, until it can be read or nothing is left. The result is `None` when what was passed over
//! was needed: then rules about the rest would only repeat the same mistake in other words.

use serde::Deserialize;

use super::codes;
use super::de::{DecodeError, Fault, NodeReader, one_of};
use super::source::Report;
use super::suggest;
use super::tree::{MAX_VALUES, Node, Step, Steps, Value};

/// Most times that the tree is read: small files show all their errors, huge ones stay quick.
fn rounds(tree: &Node<'_>) -> usize {
    (8 * MAX_VALUES / count(tree).max(1)).clamp(3, 100)
}

fn count(node: &Node<'_>) -> usize {
    1 + match &node.value {
        Value::Scalar(_) => 0,
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|entry| 1 + count(&entry.value)).sum(),
    }
}

/// Reads the tree as a `T`; errors go to the report. `whole` is false when the tree already has values to
/// be passed over.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(
    tree: &mut Node<'_>,
    mut whole: bool,
    report: &mut Report<'_>,
) -> Option<T> {
    for _ in 0..rounds(tree) {
        let error = match T::deserialize(NodeReader::new(tree)) {
            Ok(value) => return whole.then_some(value),
            Err(error) => error,
        };
        let steps = Steps(error.reversed.iter().rev().cloned().collect());
        let missing = matches!(error.fault, Fault::MissingKey(_));
        if !follows_from_earlier(&error, tree, &steps) {
            describe(error, &steps, report);
        }
        whole &= !missing && matches!(steps.0.last(), Some(Step::Key(_)));
        match tree.find_mut(&steps) {
            Some(node) if !steps.0.is_empty() && !node.skip => node.skip = true,
            _ => return None,
        }
    }
    None
}

/// Whether a key is missing only because its value was wrong or its name misspelt.
fn follows_from_earlier(error: &DecodeError, tree: &Node<'_>, steps: &Steps) -> bool {
    let (Fault::MissingKey(key), Some(Value::Map(entries))) = (&error.fault, tree.find(steps).map(|node| &node.value))
    else {
        return false;
    };
    entries
        .iter()
        .filter(|entry| entry.value.skip)
        .any(|entry| entry.key == *key || suggest::nearest(&entry.key, std::iter::once(*key)).is_some())
}

fn describe(error: DecodeError, steps: &Steps, report: &mut Report<'_>) {
    let here = if steps.0.is_empty() { "at the top level".to_owned() } else { format!("in `{steps}`") };
    let (code, message, hint) = match error.fault {
        Fault::Reference { typed, expected } => {
            let expected = if expected.is_empty() { "possible here".to_owned() } else { expected };
            (codes::INVALID_VALUE, format!("the value of `{typed}` is not {expected}"), None)
        }
        Fault::Custom(message) => (codes::INVALID_VALUE, message, None),
        Fault::WrongType { found, expected, quoted_number } => {
            let hint = match (found.as_str(), expected.as_str()) {
                (_, "a whole number") if quoted_number => Some("remove the quotes"),
                ("nothing", _) => Some("give the key a value, or remove it"),
                ("the text `yes`" | "the text `on`", "`true` or `false`") => Some("write `true`"),
                ("the text `no`" | "the text `off`", "`true` or `false`") => Some("write `false`"),
                _ => None,
            };
            (codes::WRONG_TYPE, format!("expected {expected}, found {found}"), hint.map(str::to_owned))
        }
        Fault::InvalidValue { found, expected } if expected == "a whole number" => {
            let message = format!("{found} is too small or too large for a whole number here");
            (codes::INVALID_VALUE, message, None)
        }
        Fault::InvalidValue { found, expected } => {
            (codes::INVALID_VALUE, format!("expected {expected}, found {found}"), None)
        }
        Fault::UnknownWord { word, known } => {
            let near = suggest::nearest(&word, known.iter().copied());
            let hint = near.map(|near| format!("did you mean `{near}`?"));
            (codes::INVALID_VALUE, format!("expected {}, found `{word}`", one_of(known)), hint)
        }
        Fault::UnknownKey { known } => {
            let Some(Step::Key(key)) = steps.0.last() else {
                return;
            };
            let around = Steps(steps.0[..steps.0.len() - 1].to_vec());
            let here = if around.0.is_empty() { "at the top level".to_owned() } else { format!("in `{around}`") };
            let hint = suggest::hint(key, known.iter().copied(), "keys");
            (codes::UNKNOWN_KEY, format!("unknown key `{key}` {here}"), Some(hint))
        }
        Fault::MissingKey(key) => (codes::MISSING_KEY, format!("the key `{key}` is missing {here}"), example(key)),
    };
    report.push(code, error.span, steps, message, hint);
}

fn example(key: &str) -> Option<String> {
    let line = match key {
        "version" => "version: 1",
        "listeners" => "listeners: [{ address: \"0.0.0.0:8080\" }]",
        "address" => "address: 0.0.0.0:8080",
        "upstream" => "upstream: NAME",
        "name" => "name: NAME",
        "kind" => "kind: ollama",
        "url" => "url: http://127.0.0.1:11434",
        _ => return None,
    };
    Some(format!("add `{line}`"))
}
