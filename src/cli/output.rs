//! What the verbs write to standard output: for people, or JSON for scripts.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;
use time::OffsetDateTime;

use super::words;

/// How an answer is shown to people.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Whether there are colours.
    pub colour: bool,
    /// Columns of the terminal; `usize::MAX` where nobody would wrap a line.
    pub width: usize,
    /// The wall clock, for distances.
    pub now: OffsetDateTime,
}

impl Look {
    /// As standard output wants it: colours only on a terminal, and not where `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let out = io::stdout();
        let terminal = out.is_terminal();
        let size = terminal.then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
        Self { colour: terminal && has_colours(), width: width.unwrap_or(usize::MAX), now: words::now() }
    }
}

/// Whether the user wants colours, where there can be any.
pub fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// What a verb has to say, and how it ends.
#[derive(Debug, Default)]
pub struct Page {
    /// For people; whole lines.
    pub text: String,
    /// What is wrong, for standard error; the exit code is 1 then.
    pub wrong: Option<String>,
    /// Whether the exit code is 1 although nothing has to be said about it.
    pub is_bad: bool,
}

impl Page {
    /// A text.
    pub fn of(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// Writes text to standard output. A reader that has left wants nothing more: that is no error.
///
/// # Errors
/// When it cannot be written for another reason.
pub fn print(text: &str) -> Result<Reader, String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(format!("cannot write to standard output: {error}")),
    }
}

/// Whether somebody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// As far as is known.
    There,
    /// The pipe is closed.
    Gone,
}

/// An answer in JSON as it is: indented on a terminal, else on one line.
pub fn json(body: &[u8]) -> String {
    match serde_json::from_slice(body) {
        Ok(value) if io::stdout().is_terminal() => indented(&value),
        _ => one_line(body),
    }
}

/// On one line that ends.
pub fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end();
    if !text.contains('\n') {
        return format!("{text}\n");
    }
    // A line end can only stand between the parts of a document, never in a text.
    serde_json::from_str::<Value>(text).map_or_else(|_| format!("{text}\n"), |value| format!("{value}\n"))
}

/// Indented, and with nothing that a terminal obeys.
pub fn indented(value: &Value) -> String {
    let text = format!("{value:#}");
    let mut shown = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c != '\n' && words::is_obeyed(c) {
            // All of them are in the basic plane: one escape says each.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown.push('\n');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_on_a_terminal_means_the_same_and_cannot_speak_to_it() {
        let value = serde_json::json!({ "name": "\u{1b}[2J\u{9b}\u{202e}\u{7f}", "n": 1 });
        let told = indented(&value);
        assert!(told.chars().all(|c| c == '\n' || !words::is_obeyed(c)), "{told:?}");
        assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), value);
    }

    #[test]
    fn json_for_scripts_is_one_line() {
        assert_eq!(one_line(b"{\"a\":1.50}"), "{\"a\":1.50}\n");
        assert_eq!(one_line(b"{\n  \"a\": [1,\n2]\n}\n"), "{\"a\":[1,2]}\n");
    }
}
