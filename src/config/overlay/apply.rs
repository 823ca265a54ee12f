//! Lays an overlay over the tree of a file.

use super::json::{to_entry, to_json, to_node};
use super::{Edit, Overlay, Step, name_of};
use crate::config::tree::{Node, Span, Value};

/// Makes the edits; answers which had no place in the file.
pub(in crate::config) fn apply(root: &mut Node<'_>, overlay: &Overlay) -> Vec<String> {
    overlay.edits().iter().filter(|edit| !make(root, edit)).map(|edit| edit.place.to_string()).collect()
}

/// Whether the edit had a place.
fn make(root: &mut Node<'_>, edit: &Edit) -> bool {
    let Some((last, way)) = edit.place.0.split_last() else { return false };
    let Some(parent) = descend(root, way, last, edit.value.is_some()) else { return false };
    match (&mut parent.value, last) {
        (Value::Map(entries), Step::Key(key)) => {
            let known = entries.iter().position(|entry| entry.key == *key);
            match (known, &edit.value) {
                (Some(index), Some(value)) => entries[index].value = to_node(value),
                (None, Some(value)) => entries.push(to_entry(key, to_node(value))),
                (Some(index), None) => drop(entries.remove(index)),
                (None, None) => return false,
            }
        }
        (Value::List(items), Step::Item(name)) => {
            let known = items.iter().position(|item| is_called(item, name));
            match (known, &edit.value) {
                (Some(index), Some(value)) => items[index] = to_node(value),
                (None, Some(value)) => items.push(to_node(value)),
                (Some(index), None) => drop(items.remove(index)),
                (None, None) => return false,
            }
        }
        _ => return false,
    }
    true
}

/// The value that has the last step; mappings and lists on the way that are not there are made where something is to be
/// set. A member of a list is never made: what it is would be unknown.
fn descend<'n, 'a>(root: &'n mut Node<'a>, way: &[Step], last: &Step, create: bool) -> Option<&'n mut Node<'a>> {
    let mut node = root;
    for (index, step) in way.iter().enumerate() {
        let next = way.get(index + 1).unwrap_or(last);
        node = match (&mut node.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                let known = entries.iter().position(|entry| entry.key == *key);
                let place = match known {
                    Some(place) => place,
                    None if create => {
                        entries.push(to_entry(key, empty(next)));
                        entries.len() - 1
                    }
                    None => return None,
                };
                &mut entries[place].value
            }
            (Value::List(items), Step::Item(name)) => items.iter_mut().find(|item| is_called(item, name))?,
            _ => return None,
        };
        if create && matches!(&node.value, Value::Scalar(scalar) if scalar.is_null()) {
            *node = empty(next);
        }
    }
    Some(node)
}

fn empty(for_step: &Step) -> Node<'static> {
    let value = match for_step {
        Step::Key(_) => Value::Map(Vec::new()),
        Step::Item(_) => Value::List(Vec::new()),
    };
    Node { span: Span::ELSEWHERE, skip: false, value }
}

/// Whether a member of a list has this name.
pub(super) fn is_called(item: &Node<'_>, name: &str) -> bool {
    name_of(&to_json(item)) == Some(name)
}
