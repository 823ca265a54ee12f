//! The field `Forwarded` (RFC 7239): elements divided by commas, pairs divided by semicolons, values with or
//! without quotes.

use std::collections::VecDeque;
use std::net::IpAddr;

use http::{HeaderMap, header};

use super::{Ambiguous, MAX_ENTRIES, address, is_https};

/// What one proxy told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// Whom it saw; `None` when it does not say, or says it by a name.
    pub(super) client: Option<IpAddr>,
    /// Whether it was spoken to over TLS.
    pub(super) tls: Option<bool>,
}

/// The last [`MAX_ENTRIES`] elements, the last one first.
///
/// A quote that a client leaves open would swallow what the proxy appended behind it, so it is an error wherever
/// it stands.
pub(super) fn last_elements(fields: &HeaderMap) -> Result<VecDeque<Element>, Ambiguous> {
    let mut last = VecDeque::with_capacity(MAX_ENTRIES);
    for value in fields.get_all(header::FORWARDED) {
        for element in split(value.as_bytes(), b',')? {
            if element.is_empty() {
                continue;
            }
            last.truncate(MAX_ENTRIES - 1);
            last.push_front(read(element)?);
        }
    }
    Ok(last)
}

fn read(element: &[u8]) -> Result<Element, Ambiguous> {
    let mut found = Element { client: None, tls: None };
    for pair in split(element, b';')? {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        if name.eq_ignore_ascii_case(b"for") {
            found.client = address(value);
        } else if name.eq_ignore_ascii_case(b"proto") {
            let plain = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            found.tls = is_https(plain);
        }
    }
    Ok(found)
}

/// The parts between separators that stand outside of quotes, without spaces around them.
fn split(text: &[u8], separator: u8) -> Result<Vec<&[u8]>, Ambiguous> {
    let (mut parts, mut begin, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if *byte == separator && !quoted => {
                parts.push(text[begin..at].trim_ascii());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(Ambiguous);
    }
    parts.push(text[begin..].trim_ascii());
    Ok(parts)
}
