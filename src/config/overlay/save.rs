//! Writes an overlay into the text of its file, with everything else in it as it was: comments, order, spacing.
//!
//! Each edit is one splice of the text, at offsets that the parser gave; the text is parsed anew before the next one. What
//! stands in a list or mapping of its own lines gets lines, what stands in brackets stays in brackets. At the end the text
//! must say exactly what the overlay over the old text says. Where it does not (an edit inside an anchor that others use,
//! say), nothing is saved.

use serde_json::Value as Json;

use super::apply::{apply, is_called};
use super::json::to_json;
use super::text::{block_end, flow_end, flow_member_end, line_end, line_start, one_line, quoted};
use super::{Edit, Overlay, Step};
use crate::config::source::{Report, Source};
use crate::config::tree::{self, Entry, Node, Value};

/// Why an overlay was not written into the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSaved {
    /// The text is no YAML, or not one that is accepted.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    /// The edit has no form that leaves the rest of the file as it is.
    #[error(
        "`{0}` cannot be changed in the file without changing something else in it (an anchor, an alias or `<<`); edit the file by hand"
    )]
    Entangled(String),
}

/// The text with the edits in it.
///
/// # Errors
/// When the text cannot be read, or an edit cannot be made without changing something else.
pub fn save(text: &str, overlay: &Overlay) -> Result<String, NotSaved> {
    let (mark, body) = match text.strip_prefix('\u{feff}') {
        Some(body) => ("\u{feff}", body),
        None => ("", text),
    };
    let mut body = body.to_owned();
    for edit in overlay.edits() {
        let one: Overlay = std::iter::once(edit.clone()).collect();
        let wanted = wanted(&body, &one)?;
        let Some(wanted) = wanted else { continue };
        let tangled = || NotSaved::Entangled(edit.place.to_string());
        let next = splice(&body, edit)?.ok_or_else(tangled)?;
        if read(&next, to_json).ok().as_ref() != Some(&wanted) {
            return Err(tangled());
        }
        body = next;
    }
    Ok(format!("{mark}{body}"))
}

/// Parses a text for a moment.
fn read<T>(text: &str, look: impl FnOnce(&Node<'_>) -> T) -> Result<T, NotSaved> {
    let mut report = Report::new(Source::new("configuration", text));
    match tree::build(text, &mut report) {
        Some(root) => Ok(look(&root)),
        None => {
            let first = report.finish().into_iter().next().map(|found| found.message);
            Err(NotSaved::Unreadable(first.unwrap_or_default()))
        }
    }
}

/// What the text is to say; `None` when it says so already, or the edit has no place in it.
fn wanted(text: &str, overlay: &Overlay) -> Result<Option<Json>, NotSaved> {
    read(text, |root| {
        let mut changed = root.clone();
        let lost = apply(&mut changed, overlay);
        let (before, after) = (to_json(root), to_json(&changed));
        (lost.is_empty() && before != after).then_some(after)
    })
}

/// A piece of the text and what stands there instead.
struct Splice {
    from: usize,
    to: usize,
    text: String,
}

fn splice(text: &str, edit: &Edit) -> Result<Option<String>, NotSaved> {
    let found = read(text, |root| Surgeon { text }.cut(root, edit))?;
    Ok(found.filter(|cut| text.is_char_boundary(cut.from) && text.is_char_boundary(cut.to) && cut.from <= cut.to).map(
        |cut| {
            let mut next = String::with_capacity(text.len() + cut.text.len());
            next.push_str(&text[..cut.from]);
            next.push_str(&cut.text);
            next.push_str(&text[cut.to..]);
            next
        },
    ))
}

struct Surgeon<'t> {
    text: &'t str,
}

impl Surgeon<'_> {
    fn cut(&self, root: &Node<'_>, edit: &Edit) -> Option<Splice> {
        let mut node = root;
        let (mut parent, mut steps) = (None, edit.place.0.as_slice());
        // As far as the file goes.
        while let Some((step, rest)) = steps.split_first() {
            let Some(child) = child(node, step) else { break };
            parent = Some((node, step));
            node = child;
            steps = rest;
        }
        match (&edit.value, steps.split_first()) {
            (None, None) => self.remove(parent?.0, parent?.1, parent.and_then(|(_, step)| child(parent?.0, step))?),
            (None, Some(_)) => None,
            (Some(value), None) => self.replace(parent?.0, parent?.1, node, value),
            (Some(value), Some((step, rest))) => {
                let value = rest.iter().rev().fold(value.clone(), |inner, step| match step {
                    Step::Key(key) => Json::Object(std::iter::once((key.clone(), inner)).collect()),
                    Step::Item(_) => Json::Array(vec![inner]),
                });
                match (&node.value, step) {
                    (Value::Map(entries), Step::Key(key)) => self.insert_key(node, entries, key, &value),
                    (Value::List(items), Step::Item(_)) => self.append(parent, node, items, &value),
                    // A key without a value.
                    (Value::Scalar(scalar), step) if scalar.is_null() => {
                        let value = match step {
                            Step::Key(key) => Json::Object(std::iter::once((key.clone(), value)).collect()),
                            Step::Item(_) => Json::Array(vec![value]),
                        };
                        self.replace(parent?.0, parent?.1, node, &value)
                    }
                    _ => None,
                }
            }
        }
    }

    fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// Whether the list or mapping that begins here stands in brackets.
    fn is_flow(&self, node: &Node<'_>) -> bool {
        self.text[node.span.start as usize..].starts_with(['{', '['])
    }

    /// Column and offset of the line of what begins at `offset`, and what stands before it in that line.
    fn column(&self, offset: usize) -> (usize, &str) {
        let start = line_start(self.text, offset);
        (offset - start, &self.text[start..offset])
    }

    /// Puts `value` in the place of what is there.
    fn replace(&self, parent: &Node<'_>, step: &Step, node: &Node<'_>, value: &Json) -> Option<Splice> {
        let text = one_line(value);
        let (start, end) = (node.span.start as usize, node.span.end as usize);
        match &node.value {
            Value::Scalar(_) => {
                let entry = entry(parent, step);
                // The place of a value that is not there is that of its key.
                if let Some(entry) = entry.filter(|entry| entry.key_span == node.span) {
                    let colon = entry.key_span.end as usize;
                    let colon = colon + self.text[colon..].find(':')? + 1;
                    return Some(Splice { from: colon, to: colon, text: format!(" {text}") });
                }
                // A text of several lines is replaced with its lines.
                let to = start + self.text[start..end].trim_end().len();
                Some(Splice { from: start, to, text })
            }
            Value::List(_) | Value::Map(_) if self.is_flow(node) => {
                Some(Splice { from: start, to: flow_end(self.text, start)?, text })
            }
            Value::List(_) | Value::Map(_) => {
                let (from, indent, dashes) = match step {
                    Step::Key(_) => {
                        let entry = entry(parent, step)?;
                        let key = entry.key_span.start as usize;
                        let colon = entry.key_span.end as usize;
                        (colon + self.text[colon..].find(':')? + 1, self.column(key).0, true)
                    }
                    Step::Item(_) => {
                        let dash = self.dash_of(start)?;
                        (dash + 1, self.column(dash).0, false)
                    }
                };
                let to = block_end(self.text, from, indent, dashes);
                Some(Splice { from, to, text: format!(" {text}{}", self.newline()) })
            }
        }
    }

    /// Offset of the dash before a member of a list that begins at `start` of the same line.
    fn dash_of(&self, start: usize) -> Option<usize> {
        let (_, before) = self.column(start);
        let dash = before.trim_end().len().checked_sub(1)?;
        before[..=dash].ends_with('-').then(|| start - before.len() + dash)
    }

    fn remove(&self, parent: &Node<'_>, step: &Step, node: &Node<'_>) -> Option<Splice> {
        let is_last = match &parent.value {
            Value::Map(entries) => entries.len() == 1,
            Value::List(items) => items.len() == 1,
            Value::Scalar(_) => return None,
        };
        let begin = match step {
            Step::Key(_) => entry(parent, step)?.key_span.start as usize,
            Step::Item(_) => node.span.start as usize,
        };
        if self.is_flow(parent) {
            return self.remove_from_flow(parent, begin, is_last);
        }
        if is_last {
            return self.empty(parent, step, begin);
        }
        let (start, dashes) = match step {
            Step::Key(_) => (begin, true),
            Step::Item(_) => (self.dash_of(begin)?, false),
        };
        let (indent, before) = self.column(start);
        let end = block_end(self.text, start, indent, dashes);
        if before.trim().is_empty() {
            return Some(Splice { from: start - before.len(), to: end, text: String::new() });
        }
        // The first key of a member of a list: the next one moves up behind the dash.
        let rest = &self.text[end..];
        let next = end + (rest.len() - rest.trim_start_matches([' ', '\r', '\n']).len());
        Some(Splice { from: start, to: next, text: String::new() })
    }

    fn remove_from_flow(&self, parent: &Node<'_>, begin: usize, is_last: bool) -> Option<Splice> {
        let (end, comma) = flow_member_end(self.text, begin)?;
        if is_last {
            let open = parent.span.start as usize;
            return Some(Splice { from: open + 1, to: flow_end(self.text, open)? - 1, text: String::new() });
        }
        if comma {
            let rest = &self.text[end + 1..];
            let to = end + 1 + (rest.len() - rest.trim_start_matches(' ').len());
            return Some(Splice { from: begin, to, text: String::new() });
        }
        let from = self.text[..begin].trim_end().strip_suffix(',')?.len();
        let to = begin + self.text[begin..end].trim_end().len();
        Some(Splice { from, to, text: String::new() })
    }

    /// What is left when the only member of lines goes: a pair of brackets behind the key.
    fn empty(&self, parent: &Node<'_>, step: &Step, begin: usize) -> Option<Splice> {
        let (brackets, from, dashes) = match step {
            Step::Key(_) => ("{}", begin, true),
            Step::Item(_) => ("[]", self.dash_of(begin)?, false),
        };
        let (indent, before) = self.column(from);
        if !before.trim().is_empty() || parent.span.start as usize > begin {
            return None;
        }
        let to = block_end(self.text, from, indent, dashes);
        // The line of the key; comments between it and its only member stay.
        let begin = from - before.len();
        let mut key = begin;
        let colon = loop {
            key = line_start(self.text, key.checked_sub(1)?);
            let line = self.text[key..].lines().next().unwrap_or_default();
            let content = line.trim();
            if !content.is_empty() && !content.starts_with('#') {
                let line = line.find(" #").map_or(line, |comment| &line[..comment]);
                break key + line.trim_end().strip_suffix(':')?.len();
            }
        };
        let text = format!(": {brackets}{}", &self.text[colon + 1..begin]);
        Some(Splice { from: colon, to, text })
    }

    fn insert_key(&self, node: &Node<'_>, entries: &[Entry<'_>], key: &str, value: &Json) -> Option<Splice> {
        let text = format!("{}: {}", quoted(key), one_line(value));
        if self.is_flow(node) {
            return self.insert_into_flow(node, entries.is_empty(), &text);
        }
        // Entries that `<<` brought stand elsewhere, before this mapping.
        let own = entries.iter().map(|entry| entry.key_span.start).filter(|start| *start >= node.span.start);
        let last = own.clone().max()? as usize;
        let indent = self.column(own.min()? as usize).0;
        let end = block_end(self.text, last, indent, true);
        Some(self.new_line(end, indent, &text))
    }

    fn append(
        &self,
        parent: Option<(&Node<'_>, &Step)>,
        node: &Node<'_>,
        items: &[Node<'_>],
        value: &Json,
    ) -> Option<Splice> {
        if self.is_flow(node) {
            return self.insert_into_flow(node, items.is_empty(), &one_line(value));
        }
        let Some(last) = items.last() else {
            return self.replace(parent?.0, parent?.1, node, &Json::Array(vec![value.clone()]));
        };
        let dash = self.dash_of(last.span.start as usize)?;
        let indent = self.column(dash).0;
        let end = block_end(self.text, dash, indent, false);
        Some(self.new_line(end, indent, &format!("- {}", one_line(value))))
    }

    fn new_line(&self, at: usize, indent: usize, text: &str) -> Splice {
        let newline = self.newline();
        let before = if self.text[..at].ends_with('\n') || at == 0 { "" } else { newline };
        Splice { from: at, to: at, text: format!("{before}{}{text}{newline}", " ".repeat(indent)) }
    }

    fn insert_into_flow(&self, node: &Node<'_>, is_empty: bool, text: &str) -> Option<Splice> {
        let open = node.span.start as usize;
        let close = flow_end(self.text, open)? - 1;
        let inner = self.text[open + 1..close].trim_end();
        let at = open + 1 + inner.len();
        if is_empty {
            let space = if self.text[open..].starts_with('{') { " " } else { "" };
            return Some(Splice { from: open + 1, to: close, text: format!("{space}{text}{space}") });
        }
        // A comment at the end would swallow what follows it in its line.
        let last_line = &self.text[line_start(self.text, at)..at];
        if last_line.contains(" #") || last_line.trim_start().starts_with('#') {
            let from = line_end(self.text, at.saturating_sub(1)).min(close);
            let comma = if inner.ends_with(',') { "" } else { ", " };
            return Some(Splice { from, to: from, text: format!("{comma}{text}{}", self.newline()) });
        }
        let comma = if inner.ends_with(',') { " " } else { ", " };
        Some(Splice { from: at, to: at, text: format!("{comma}{text}") })
    }
}

fn child<'n, 'a>(node: &'n Node<'a>, step: &Step) -> Option<&'n Node<'a>> {
    match (&node.value, step) {
        (Value::Map(_), Step::Key(_)) => entry(node, step).map(|entry| &entry.value),
        (Value::List(items), Step::Item(name)) => items.iter().find(|item| is_called(item, name)),
        _ => None,
    }
}

fn entry<'n, 'a>(node: &'n Node<'a>, step: &Step) -> Option<&'n Entry<'a>> {
    match (&node.value, step) {
        (Value::Map(entries), Step::Key(key)) => entries.iter().find(|entry| entry.key == *key),
        _ => None,
    }
}
