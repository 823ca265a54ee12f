//! What is wrong with a file, where, and what to do about it.
//!
//! A diagnostic stands alone: it carries its line of the file, so that it can be printed, logged or sent
//! after the text is gone. It never carries the value of a variable: the excerpt is what was typed.

use std::fmt;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but it probably does not do what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code, listed in [`super::codes`].
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one sentence without a final period.
    pub message: String,
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 when the whole file is meant.
    pub column: usize,
    /// Number of characters meant, within the line.
    pub length: usize,
    /// What to do about it.
    pub hint: Option<String>,
    /// The value meant, such as `routes[2].upstream`; empty for the whole file.
    pub path: String,
    /// The line as it was typed, for the excerpt; absent when it is too long to show.
    #[serde(skip)]
    pub excerpt: Option<String>,
}

impl Diagnostic {
    /// The diagnostic as rustc would print it, without a final line break.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str()).id(self.code);
        let mut group = match &self.excerpt {
            Some(line) => {
                let from = byte_of(line, self.column.saturating_sub(1));
                let to = byte_of(line, self.column.saturating_sub(1) + self.length);
                let marked = AnnotationKind::Primary.span(from..to);
                title.element(
                    Snippet::source(line.as_str()).line_start(self.line).path(self.file.as_str()).annotation(marked),
                )
            }
            None if self.line > 0 => {
                title.element(Origin::path(self.file.as_str()).line(self.line).char_column(self.column))
            }
            None => title.element(Origin::path(self.file.as_str())),
        };
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }
}

/// One line for logs: `FILE:LINE:COLUMN: error[E010]: MESSAGE (help: HINT)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if self.line > 0 {
            write!(formatter, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(formatter, ": {severity}[{}]: {}", self.code, self.message)?;
        match &self.hint {
            Some(hint) => write!(formatter, " (help: {hint})"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a file, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// All of them as rustc would print them, with an empty line between two and a final line break.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for diagnostic in &self.0 {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&diagnostic.render(colour));
            text.push('\n');
        }
        text
    }

    /// An array of objects with the fields of [`Diagnostic`], for editors and scripts.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.0).unwrap_or_else(|_| serde_json::Value::Array(Vec::new()))
    }
}

/// One line for each, for logs.
impl fmt::Display for Diagnostics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            diagnostic.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Byte offset of the character `index` of `line`, or its end.
fn byte_of(line: &str, index: usize) -> usize {
    line.char_indices().nth(index).map_or(line.len(), |(byte, _)| byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostic {
        Diagnostic {
            code: "E010",
            severity: Severity::Error,
            message: "unknown key `upstram` in a route".to_owned(),
            file: "conf/arriero.yaml".to_owned(),
            line: 7,
            column: 5,
            length: 7,
            hint: Some("did you mean `upstream`?".to_owned()),
            path: "routes[0].upstram".to_owned(),
            excerpt: Some("    upstram: fleet".to_owned()),
        }
    }

    #[test]
    fn a_diagnostic_is_printed_as_rustc_would() {
        let expected = "\
error[E010]: unknown key `upstram` in a route
 --> conf/arriero.yaml:7:5
  |
7 |     upstram: fleet
  |     ^^^^^^^
  |
  = help: did you mean `upstream`?";
        assert_eq!(sample().render(false), expected);
        assert!(sample().render(true).contains("\u{1b}["));
    }

    #[test]
    fn without_an_excerpt_only_the_position_is_printed() {
        let mut diagnostic = sample();
        diagnostic.excerpt = None;
        assert!(diagnostic.render(false).contains("--> conf/arriero.yaml:7:5"));
        diagnostic.line = 0;
        assert!(diagnostic.render(false).contains("--> conf/arriero.yaml\n"));
    }

    #[test]
    fn a_log_line_has_position_code_and_hint() {
        let expected =
            "conf/arriero.yaml:7:5: error[E010]: unknown key `upstram` in a route (help: did you mean `upstream`?)";
        assert_eq!(Diagnostics(vec![sample()]).to_string(), expected);
    }

    #[test]
    fn json_is_an_array_of_objects() {
        let json = Diagnostics(vec![sample()]).to_json();
        assert_eq!(json[0]["code"], "E010");
        assert_eq!(json[0]["severity"], "error");
        assert_eq!(json[0]["line"], 7);
        assert_eq!(json[0]["path"], "routes[0].upstram");
        assert!(json[0].get("excerpt").is_none());
    }
}
