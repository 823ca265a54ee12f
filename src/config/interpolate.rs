//! Replaces `${NAME}`, `${NAME:-default}` and `$$` in the scalars of the tree.
//!
//! It happens after YAML was parsed: a value with quotes, line breaks, `#` or `: ` stays one string.
//! A default may hold references itself; the value of a variable is taken as it is. Values of variables
//! are secrets: no message of this module or of a later one prints them (see [`Scalar::typed`]).

use std::borrow::Cow;

use super::codes::{self, Code};
use super::source::Report;
use super::tree::{Node, Scalar, Step, Steps, Value};

/// Looks up a variable.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// Deepest nesting of references in defaults.
const MAX_NESTING: usize = 8;

/// Replaces every reference below `root`, and tells whether all could be; others go to the report.
pub(super) fn interpolate(root: &mut Node<'_>, env: Env<'_>, report: &mut Report<'_>) -> bool {
    visit(root, &mut Steps::default(), env, report)
}

fn visit(node: &mut Node<'_>, steps: &mut Steps, env: Env<'_>, report: &mut Report<'_>) -> bool {
    let mut complete = true;
    match &mut node.value {
        Value::Scalar(scalar) if scalar.text.contains('$') => {
            let mut problems = Vec::new();
            let expanded = expand(&scalar.text, env, 0, &mut problems);
            for problem in problems {
                report.push(problem.code, Some(node.span), steps, problem.message, problem.hint);
                node.skip |= problem.code.id.starts_with('E');
            }
            complete = !node.skip;
            replace(scalar, expanded);
        }
        Value::Scalar(_) => {}
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                steps.0.push(Step::Index(index));
                complete &= visit(item, steps, env, report);
                steps.0.pop();
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                steps.0.push(Step::Key(entry.key.to_string()));
                complete &= visit(&mut entry.value, steps, env, report);
                steps.0.pop();
            }
        }
    }
    complete
}

fn replace(scalar: &mut Scalar<'_>, expanded: String) {
    if *scalar.text != expanded {
        scalar.typed = Some(std::mem::replace(&mut scalar.text, Cow::Owned(expanded)));
    }
}

/// Something wrong with a reference; never holds a value.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    code: Code,
    message: String,
    hint: Option<String>,
}

fn expand(text: &str, env: Env<'_>, nesting: usize, problems: &mut Vec<Problem>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some(length) = closing(after) else {
                problems.push(bad(format!("the reference `${{{}` has no closing `}}`", shorten(after))));
                return out;
            };
            reference(&after[..length], env, nesting, &mut out, problems);
            rest = &after[length + 1..];
        } else {
            out.push('$');
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            if is_name(name) {
                problems.push(Problem {
                    code: codes::NOT_EXPANDED,
                    message: format!("`${name}` without braces is not expanded"),
                    hint: Some(format!("write `${{{name}}}` for the variable, or `$${name}` for this text")),
                });
            }
        }
    }
    out.push_str(rest);
    out
}

/// Replaces what stands between `${` and `}`.
fn reference(inner: &str, env: Env<'_>, nesting: usize, out: &mut String, problems: &mut Vec<Problem>) {
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    let (name, after) = inner.split_at(end);
    if !is_name(name) {
        problems.push(bad(format!("`${{{}}}` does not name a variable", shorten(inner))));
        return;
    }
    let value = env(name);
    match after.strip_prefix(":-") {
        Some(_) if value.as_ref().is_some_and(|value| !value.is_empty()) => out.push_str(&value.unwrap_or_default()),
        Some(_) if nesting >= MAX_NESTING => {
            problems.push(bad(format!("the default of `${{{name}}}` is nested too deeply")));
        }
        Some(default) => out.push_str(&expand(default, env, nesting + 1, problems)),
        None if !after.is_empty() => {
            problems.push(bad(format!("`${{{}}}` is not a form of reference that Arriero knows", shorten(inner))));
        }
        None => match value {
            Some(value) => out.push_str(&value),
            None => problems.push(Problem {
                code: codes::VARIABLE_NOT_SET,
                message: format!("the variable of `${{{name}}}` is not set"),
                hint: Some(format!("set `{name}` in the environment, or give a default: `${{{name}:-value}}`")),
            }),
        },
    }
}

fn bad(message: String) -> Problem {
    let hint = "write `${NAME}` or `${NAME:-default}`, and `$$` for a dollar sign".to_owned();
    Problem { code: codes::BAD_REFERENCE, message, hint: Some(hint) }
}

/// Offset of the `}` that closes a reference whose `${` stands just before `text`.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut open = 1_usize;
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'$' if bytes.get(index + 1) == Some(&b'$') => index += 1,
            b'$' if bytes.get(index + 1) == Some(&b'{') => {
                open += 1;
                index += 1;
            }
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
        index += 1;
    }
    None
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The start of a text that was typed, short enough for a message.
fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= 40 { line.to_owned() } else { line.chars().take(40).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("\"}${A}: # \n$$".to_owned()),
            _ => None,
        }
    }

    fn expanded(text: &str) -> Result<String, String> {
        let mut problems = Vec::new();
        let out = expand(text, &env, 0, &mut problems);
        problems.into_iter().next().map_or(Ok(out), |problem| Err(format!("{}: {}", problem.code.id, problem.message)))
    }

    #[test]
    fn references_are_replaced() {
        let cases = [
            ("x${A}y${A}", "xalphayalpha"),
            ("${A:-b}", "alpha"),
            ("${B:-b}", "b"),
            ("${B:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-b}", "b"),
            ("${B:-${A}}", "alpha"),
            ("${B:-${C:-x}y}z", "xyz"),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("$$$${A}", "$${A}"),
            ("$$${A}", "$alpha"),
            ("${B:-http://127.0.0.1:11434}", "http://127.0.0.1:11434"),
            ("cost: 5$", "cost: 5$"),
            ("$5", "$5"),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_value_of_a_variable_is_not_expanded_again() {
        assert_eq!(expanded("<${TRICKY}>"), Ok("<\"}${A}: # \n$$>".to_owned()));
    }

    #[test]
    fn wrong_references_are_named() {
        let cases = [
            ("${B}", "E014: the variable of `${B}` is not set"),
            ("${A", "E015: the reference `${A` has no closing `}`"),
            ("${}", "E015: `${}` does not name a variable"),
            ("${1A}", "E015: `${1A}` does not name a variable"),
            ("${A:?x}", "E015: `${A:?x}` is not a form of reference that Arriero knows"),
            ("${ A }", "E015: `${ A }` does not name a variable"),
            ("$HOME/x", "W005: `$HOME` without braces is not expanded"),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text), Err(expected.to_owned()), "{text}");
        }
        let deep = "${B:-".repeat(20) + &"}".repeat(20);
        assert!(expanded(&deep).is_err_and(|message| message.contains("nested too deeply")));
    }
}
