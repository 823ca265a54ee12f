//! A YAML file as a tree of values that know where they stand.
//!
//! The problem: serde sees values without positions, and a reference such as `${PORT}` has to be
//! replaced after YAML has decided what is one string, and before types are read. So the parser's
//! events become a tree of our own; references are replaced in its scalars; a small serde reader
//! walks it. The events come from `granit-parser`, the parser beneath serde-saphyr, by its re-export:
//! serde-saphyr's own reader offers no step between parsing and typing. Only this folder knows either.
//!
//! Invariants: keys of a mapping are unique; aliases are expanded and `<<` is merged; depth, number of
//! values and expanded size are bounded, so a recursion over the tree is safe.

use std::borrow::Cow;
use std::fmt;

mod build;

pub(super) use build::build;

/// Deepest nesting of a file, aliases expanded.
pub(super) const MAX_DEPTH: usize = 64;

/// Most keys and values of a file, aliases expanded.
pub(super) const MAX_VALUES: usize = 250_000;

/// Most bytes of text in all values, aliases expanded.
pub(super) const MAX_TEXT: usize = 32 << 20;

/// A range of bytes of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// That of a value that stands in no file.
    pub(super) const ELSEWHERE: Self = Self { start: u32::MAX, end: u32::MAX };

    pub(super) fn new(start: usize, end: usize) -> Self {
        let narrow = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Self { start: narrow(start), end: narrow(end) }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) span: Span,
    /// Set once the value was found to be wrong: readers pass over it to find what else is wrong.
    pub(super) skip: bool,
    pub(super) value: Value<'a>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Scalar(Scalar<'a>),
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
}

/// A value that is neither list nor mapping.
#[derive(Clone, Debug)]
pub(super) struct Scalar<'a> {
    pub(super) text: Cow<'a, str>,
    /// Written without quotes.
    pub(super) plain: bool,
    /// What was typed, when references to variables were replaced: shown in place of `text`.
    pub(super) typed: Option<Cow<'a, str>>,
}

impl Scalar<'_> {
    /// Whether this is YAML's null. A replaced reference never is.
    pub(super) fn is_null(&self) -> bool {
        self.plain && self.typed.is_none() && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) key_span: Span,
    pub(super) value: Node<'a>,
}

impl<'a> Node<'a> {
    /// The value at `steps`, or `None`.
    pub(super) fn find(&self, steps: &Steps) -> Option<&Node<'a>> {
        steps.0.iter().try_fold(self, |node, step| node.child(step).map(|(_, child)| child))
    }

    /// The value at `steps`, or `None`.
    pub(super) fn find_mut(&mut self, steps: &Steps) -> Option<&mut Node<'a>> {
        steps.0.iter().try_fold(self, |node, step| match (&mut node.value, step) {
            (Value::List(items), Step::Index(index)) => items.get_mut(*index),
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.value)
            }
            _ => None,
        })
    }

    /// Where the value at `steps` stands, or the nearest thing around it that is in the file.
    pub(super) fn locate(&self, steps: &Steps, at_key: bool) -> Span {
        let mut node = self;
        let mut best = self.span;
        for (index, step) in steps.0.iter().enumerate() {
            let Some((key_span, child)) = node.child(step) else {
                break;
            };
            let last = index + 1 == steps.0.len();
            best = if last && !at_key { child.span } else { key_span.unwrap_or(child.span) };
            node = child;
        }
        best
    }

    fn child(&self, step: &Step) -> Option<(Option<Span>, &Node<'a>)> {
        match (&self.value, step) {
            (Value::List(items), Step::Index(index)) => items.get(*index).map(|item| (None, item)),
            (Value::Map(entries), Step::Key(key)) => {
                let entry = entries.iter().find(|entry| entry.key == *key)?;
                Some((Some(entry.key_span), &entry.value))
            }
            _ => None,
        }
    }
}

/// One step down the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root to a value; printed like `routes[2].upstream`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Steps(pub(super) Vec<Step>);

impl fmt::Display for Steps {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(number) => write!(formatter, "[{number}]")?,
                Step::Key(key) if is_simple(key) => {
                    let dot = if index > 0 { "." } else { "" };
                    write!(formatter, "{dot}{key}")?;
                }
                Step::Key(key) => write!(formatter, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

pub(super) fn is_simple(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

/// A way from the root that rules build without allocating; see [`Steps`].
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// The value of `name` in the mapping here.
    pub(super) fn key<'q>(&'q self, name: &'q str) -> Path<'q> {
        Path::Key(self, name)
    }

    /// The value at `index` of the list here.
    pub(super) fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }

    /// The same way, to be kept.
    pub(super) fn steps(&self) -> Steps {
        let mut steps = match self {
            Path::Root => return Steps::default(),
            Path::Key(parent, _) | Path::Index(parent, _) => parent.steps(),
        };
        steps.0.push(match self {
            Path::Key(_, name) => Step::Key((*name).to_owned()),
            Path::Index(_, index) => Step::Index(*index),
            Path::Root => return steps,
        });
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_printed_as_people_write_them() {
        let routes = Path::Root.key("routes");
        let route = routes.index(2);
        assert_eq!(route.key("upstream").steps().to_string(), "routes[2].upstream");
        let upstreams = Path::Root.key("upstreams");
        let upstream = upstreams.key("a.b");
        assert_eq!(upstream.key("kind").steps().to_string(), "upstreams[\"a.b\"].kind");
    }
}
