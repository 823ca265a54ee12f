//! The `combined` format of nginx, for tools that read its logs:
//! `ADDRESS - USER [TIME] "METHOD TARGET PROTOCOL" STATUS BYTES "REFERER" "AGENT"`.
//!
//! Two things differ from nginx on purpose: the target and the referer have no query, because queries hold secrets, and
//! the user is always `-`.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::access_log::Entry;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// The line of a request, without its end.
pub(super) fn line(entry: &Entry) -> Vec<u8> {
    let mut line = Vec::with_capacity(160);
    text(&mut line, &entry.client_ip);
    line.extend_from_slice(b" - - [");
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds of this century")]
    let at = OffsetDateTime::from_unix_timestamp(entry.ts as i64).ok();
    line.extend_from_slice(at.and_then(|at| at.format(TIME).ok()).unwrap_or_default().as_bytes());
    line.extend_from_slice(b"] \"");
    escape(&mut line, entry.method.as_bytes());
    line.push(b' ');
    escape(&mut line, entry.path.as_bytes());
    line.push(b' ');
    // As nginx writes it.
    line.extend_from_slice(if entry.protocol == "HTTP/2" { b"HTTP/2.0" } else { entry.protocol.as_bytes() });
    line.extend_from_slice(format!("\" {} {} \"", entry.status, entry.bytes_out).as_bytes());
    let referer = entry.referer.split(['?', '#']).next().unwrap_or_default();
    text(&mut line, referer);
    line.extend_from_slice(b"\" \"");
    text(&mut line, &entry.user_agent);
    line.push(b'"');
    line
}

/// A value, or `-` for none.
fn text(line: &mut Vec<u8>, value: &str) {
    escape(line, if value.is_empty() { b"-" } else { value.as_bytes() });
}

/// Quotes, backslashes, control characters and what is not ASCII become `\xXX`.
fn escape(line: &mut Vec<u8>, value: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                line.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => line.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            ts: 1_700_000_000.9,
            client_ip: "192.0.2.7".to_owned(),
            method: "POST".to_owned(),
            path: "/api/chat".to_owned(),
            protocol: "HTTP/1.1",
            status: 200,
            bytes_out: 42,
            ..Entry::default()
        }
    }

    fn written(entry: &Entry) -> String {
        String::from_utf8(line(entry)).unwrap()
    }

    #[test]
    fn a_line_is_as_nginx_writes_it() {
        let expected = r#"192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] "POST /api/chat HTTP/1.1" 200 42 "-" "-""#;
        assert_eq!(written(&entry()), expected);
        let more = Entry {
            protocol: "HTTP/2",
            referer: "https://a.example/x?token=1".to_owned(),
            user_agent: "curl/8".to_owned(),
            ..entry()
        };
        assert!(written(&more).ends_with(r#""POST /api/chat HTTP/2.0" 200 42 "https://a.example/x" "curl/8""#));
    }

    #[test]
    fn what_could_break_a_line_is_escaped_as_nginx_does_it() {
        let hostile = Entry { user_agent: "a\"b\\c\nd\u{7f}é\t".to_owned(), path: "/\r\n\"".to_owned(), ..entry() };
        let line = written(&hostile);
        assert!(line.ends_with(r#""a\x22b\x5Cc\x0Ad\x7F\xC3\xA9\x09""#), "{line}");
        assert!(line.contains(r#""POST /\x0D\x0A\x22 HTTP/1.1""#), "{line}");
        assert!(line.is_ascii() && !line.contains('\n'));
    }
}
