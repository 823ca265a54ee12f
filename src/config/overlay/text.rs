//! Where things end in a YAML text, and how a value is written in one line.
//!
//! Only what is needed to change a file that was parsed already: offsets come from the parser, and whatever is done with
//! them is checked by parsing the outcome.

use serde_json::Value as Json;

/// Offset of the first byte of the line that holds `offset`.
pub(super) fn line_start(text: &str, offset: usize) -> usize {
    text[..offset].rfind('\n').map_or(0, |at| at + 1)
}

/// Offset behind the line break of the line that holds `offset`.
pub(super) fn line_end(text: &str, offset: usize) -> usize {
    text[offset..].find('\n').map_or(text.len(), |at| offset + at + 1)
}

/// Offset behind the list or mapping in brackets that begins at `start`.
pub(super) fn flow_end(text: &str, start: usize) -> Option<usize> {
    Some(flow_scan(text, start + 1)?.0 + 1)
}

/// Offset of the comma or the bracket behind the member that begins at `start`, and whether it is a comma.
pub(super) fn flow_member_end(text: &str, start: usize) -> Option<(usize, bool)> {
    let mut rest = start;
    let (end, first_comma) = flow_scan(text, start)?;
    if let Some(comma) = first_comma {
        rest = comma;
    }
    Some(if rest == start { (end, false) } else { (rest, true) })
}

/// Reads from inside a pair of brackets to where it closes; answers the offset of that bracket and of the first comma at
/// the same depth.
fn flow_scan(text: &str, start: usize) -> Option<(usize, Option<usize>)> {
    let bytes = text.as_bytes();
    let (mut depth, mut at, mut comma) = (0_usize, start, None);
    // Whether a quote here begins a quoted text, and is not part of a plain one.
    let mut fresh = true;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' if fresh => at = double_quoted_end(bytes, at)?,
            b'\'' if fresh => at = single_quoted_end(bytes, at)?,
            b'#' if at == 0 || bytes[at - 1].is_ascii_whitespace() => at = line_end(text, at) - 1,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some((at, comma)),
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 && comma.is_none() => comma = Some(at),
            _ => {}
        }
        fresh = match byte {
            b'{' | b'[' | b',' | b':' => true,
            other => fresh && other.is_ascii_whitespace(),
        };
        at += 1;
    }
    None
}

fn double_quoted_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn single_quoted_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match (bytes.get(at)?, bytes.get(at + 1)) {
            (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return Some(at),
            _ => at += 1,
        }
    }
}

/// Offset behind the lines of a key or dash in column `indent` of the line that holds `start`: its own line, and what is
/// indented more. `dashes` says that lists in the same column belong to it.
pub(super) fn block_end(text: &str, start: usize, indent: usize, dashes: bool) -> usize {
    let mut end = line_end(text, start);
    let mut next = end;
    while next < text.len() {
        let after = line_end(text, next);
        let line = text[next..after].trim_end();
        let column = line.len() - line.trim_start().len();
        let content = &line[column..];
        let is_dash = content == "-" || content.starts_with("- ");
        let belongs = column > indent || (dashes && column == indent && is_dash);
        if content.is_empty() || (content.starts_with('#') && !belongs) {
            // Belongs to whatever follows.
        } else if belongs {
            end = after;
        } else {
            break;
        }
        next = after;
    }
    end
}

/// The value in one line, as it may stand in brackets.
pub(super) fn one_line(value: &Json) -> String {
    match value {
        Json::String(text) => quoted(text),
        Json::Array(items) => format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        Json::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Json::Object(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, value)| format!("{}: {}", quoted(key), one_line(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text, in quotes where YAML might read something else. JSON's quoted texts are YAML's.
pub(super) fn quoted(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_');
    let is_other = text.parse::<f64>().is_ok()
        || text.starts_with("0x")
        || text.starts_with("0o")
        || ["true", "false", "null", "yes", "no", "on", "y", "n"].iter().any(|word| text.eq_ignore_ascii_case(word));
    if begins && text.chars().all(word) && !is_other {
        text.to_owned()
    } else {
        Json::String(text.to_owned()).to_string()
    }
}
