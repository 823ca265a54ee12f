//! From the parser's events to the tree, with every budget.
//!
//! No recursion: open lists and mappings are frames on a stack, so that a file nested a hundred
//! thousand deep is refused and not fatal. An alias is paid for before it is copied.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span as EventSpan};

use super::{Entry, MAX_DEPTH, MAX_TEXT, MAX_VALUES, Node, Scalar, Span, Steps, Value};
use crate::config::codes::{self, Code};
use crate::config::source::Report;

/// Builds the tree of `text`; `None` when the report has an error that stops here.
pub(in crate::config) fn build<'a>(text: &'a str, report: &mut Report<'_>) -> Option<Node<'a>> {
    let mut builder = Builder::new(report);
    for next in Parser::new_from_str(text) {
        let step = match next {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => Err(syntax(&error, text, builder.report)),
        };
        if let Err(stop) = step {
            report.push(stop.code, Some(stop.span), &Steps::default(), stop.message, stop.hint);
            return None;
        }
    }
    let root = builder.root;
    let empty = root.as_ref().is_none_or(|node| matches!(&node.value, Value::Scalar(scalar) if scalar.is_null()));
    if empty {
        let hint = Some("`arriero init` prints one to start from".to_owned());
        report.push(codes::EMPTY, None, &Steps::default(), "the file holds no settings", hint);
        return None;
    }
    root
}

/// Why building stops.
struct Stop {
    code: Code,
    span: Span,
    message: String,
    hint: Option<String>,
}

impl Stop {
    fn new(code: Code, span: Span, message: impl Into<String>, hint: Option<&str>) -> Self {
        Self { code, span, message: message.into(), hint: hint.map(str::to_owned) }
    }
}

fn syntax(error: &ScanError, text: &str, report: &Report<'_>) -> Stop {
    let offset = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let span = Span::new(offset, offset + 1);
    let line = report.source.line(report.source.line_of(offset));
    let info = error.info();
    if info.contains("nesting") || info.contains("recursion") {
        return too_deep(span);
    }
    let hint = if line.contains("${") {
        Some("inside `[ ]` and `{ }` a value with `${…}` needs quotes: `\"${NAME}\"`")
    } else if line.trim_start_matches(' ').starts_with('\t') {
        Some("indent with spaces, not tabs")
    } else {
        None
    };
    Stop::new(codes::SYNTAX, span, format!("this is not valid YAML: {}", info.trim_end_matches('.')), hint)
}

fn too_deep(span: Span) -> Stop {
    Stop::new(codes::TOO_COMPLEX, span, format!("the file is nested deeper than {MAX_DEPTH} levels"), None)
}

/// How much a value counts against the budgets.
#[derive(Clone, Copy, Default)]
struct Weight {
    values: usize,
    text: usize,
    height: usize,
}

impl Weight {
    fn add(&mut self, child: Self) {
        self.values += child.values;
        self.text += child.text;
        self.height = self.height.max(child.height + 1);
    }
}

/// A list or mapping that is not closed yet.
struct Frame<'a> {
    node: Node<'a>,
    anchor: usize,
    weight: Weight,
    /// The key whose value comes next.
    key: Option<(Cow<'a, str>, Span)>,
    /// Keys so far, with the offset of each.
    seen: HashMap<Cow<'a, str>, u32>,
}

struct Builder<'a, 'r, 's> {
    report: &'r mut Report<'s>,
    stack: Vec<Frame<'a>>,
    anchors: HashMap<usize, (Node<'a>, Weight)>,
    spent: Weight,
    root: Option<Node<'a>>,
    documents: usize,
}

impl<'a, 'r, 's> Builder<'a, 'r, 's> {
    fn new(report: &'r mut Report<'s>) -> Self {
        let (stack, anchors) = (Vec::new(), HashMap::new());
        Self { report, stack, anchors, spent: Weight::default(), root: None, documents: 0 }
    }

    fn take(&mut self, event: Event<'a>, at: &EventSpan) -> Result<(), Stop> {
        let range = at.byte_range().unwrap_or_default();
        let span = Span::new(range.start, range.end);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "the file holds more than one YAML document";
                    return Err(Stop::new(codes::YAML_FEATURE, span, message, Some("remove the second `---`")));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), at, span)?;
                let weight = Weight { values: 1, text: text.len(), height: 0 };
                self.spend(weight, span)?;
                let plain = style == ScalarStyle::Plain;
                let value = Value::Scalar(Scalar { text, plain, typed: None });
                self.close(Node { span, skip: false, value }, anchor, weight)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), at, span)?;
                self.open(Value::List(Vec::new()), anchor, span)
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), at, span)?;
                self.open(Value::Map(Vec::new()), anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Ok(()),
        }
    }

    fn spend(&mut self, weight: Weight, span: Span) -> Result<(), Stop> {
        self.spent.values = self.spent.values.saturating_add(weight.values);
        self.spent.text = self.spent.text.saturating_add(weight.text);
        if self.spent.values > MAX_VALUES {
            let message = format!("the file has more than {MAX_VALUES} keys and values, aliases expanded");
            return Err(Stop::new(codes::TOO_COMPLEX, span, message, None));
        }
        if self.spent.text > MAX_TEXT {
            let message = "the file has more than 32 MiB of text, aliases expanded";
            return Err(Stop::new(codes::TOO_COMPLEX, span, message, None));
        }
        Ok(())
    }

    fn open(&mut self, value: Value<'a>, anchor: usize, span: Span) -> Result<(), Stop> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(span));
        }
        if self.expects_key() {
            let message = "a key must be a word, not a list or mapping";
            let hint = Some("a text that starts with `{` or `[` needs quotes");
            return Err(Stop::new(codes::YAML_FEATURE, span, message, hint));
        }
        let weight = Weight { values: 1, ..Weight::default() };
        self.spend(weight, span)?;
        let node = Node { span, skip: false, value };
        self.stack.push(Frame { node, anchor, weight, key: None, seen: HashMap::new() });
        Ok(())
    }

    fn expects_key(&self) -> bool {
        self.stack.last().is_some_and(|frame| matches!(frame.node.value, Value::Map(_)) && frame.key.is_none())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(mut frame) = self.stack.pop() else {
            return Ok(());
        };
        if let Value::Map(entries) = &mut frame.node.value {
            merge(entries)?;
        }
        self.close(frame.node, frame.anchor, frame.weight)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        if self.expects_key() {
            return Err(Stop::new(codes::YAML_FEATURE, span, "an alias cannot be a key", None));
        }
        let Some(weight) = self.anchors.get(&anchor).map(|(_, weight)| *weight) else {
            return Err(Stop::new(codes::YAML_FEATURE, span, "an alias stands inside its own anchor", None));
        };
        if self.stack.len() + weight.height > MAX_DEPTH {
            return Err(too_deep(span));
        }
        // Paid before it is copied: an alias bomb stops here, with nothing allocated.
        self.spend(weight, span)?;
        let copy = self.anchors.get(&anchor).map(|(node, _)| node.clone());
        copy.map_or(Ok(()), |node| self.close(node, 0, weight))
    }

    /// Hands a finished value to the frame around it.
    fn close(&mut self, node: Node<'a>, anchor: usize, weight: Weight) -> Result<(), Stop> {
        if anchor > 0 {
            self.spend(weight, node.span)?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.weight.add(weight);
        match (&mut frame.node.value, frame.key.take()) {
            (Value::List(items), _) => items.push(node),
            (Value::Map(entries), Some((key, key_span))) => {
                if let Some(first) = frame.seen.get(&key) {
                    let line = self.report.source.line_of(*first as usize);
                    let message = format!("the key `{key}` stands twice in this mapping");
                    let hint = Some(format!("the first is in line {line}: remove one of them"));
                    self.report.push(codes::DUPLICATE_KEY, Some(key_span), &Steps::default(), message, hint);
                } else {
                    let mut value = node;
                    if matches!(&value.value, Value::Scalar(scalar) if scalar.plain) && span_is_empty(value.span) {
                        // Nothing stands after the key: what is wrong with it is shown at the key.
                        value.span = key_span;
                    }
                    frame.seen.insert(key.clone(), key_span.start);
                    entries.push(Entry { key, key_span, value });
                }
            }
            (Value::Map(_), None) => match node.value {
                Value::Scalar(scalar) => frame.key = Some((scalar.text, node.span)),
                _ => return Err(Stop::new(codes::YAML_FEATURE, node.span, "a key must be a word", None)),
            },
            (Value::Scalar(_), _) => {}
        }
        Ok(())
    }
}

fn span_is_empty(span: Span) -> bool {
    span.start >= span.end
}

fn refuse_tag(tagged: bool, at: &EventSpan, span: Span) -> Result<(), Stop> {
    if !tagged {
        return Ok(());
    }
    let range = at.tag_span().and_then(|tag| tag.byte_range());
    let span = range.map_or(span, |range| Span::new(range.start, range.end));
    let hint = "remove the tag; a text that starts with `!` needs quotes";
    Err(Stop::new(codes::YAML_FEATURE, span, "YAML tags are not accepted", Some(hint)))
}

/// Replaces `<<` by the entries of its mapping, or of each mapping of its list; keys that are there win.
fn merge(entries: &mut Vec<Entry<'_>>) -> Result<(), Stop> {
    let Some(index) = entries.iter().position(|entry| entry.key == "<<") else {
        return Ok(());
    };
    let merged = entries.remove(index);
    let sources = match merged.value.value {
        Value::List(items) => items,
        _ => vec![merged.value],
    };
    for source in sources {
        let Value::Map(more) = source.value else {
            let message = "`<<` takes a mapping or a list of mappings";
            return Err(Stop::new(codes::YAML_FEATURE, source.span, message, Some("write it like `<<: *name`")));
        };
        let known: HashSet<String> = entries.iter().map(|entry| entry.key.to_string()).collect();
        entries.extend(more.into_iter().filter(|entry| !known.contains(&*entry.key)));
    }
    Ok(())
}
