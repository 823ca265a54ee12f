//! Rules over the raw bytes of an HTTP/1 request head, before any parser normalises them.
//!
//! Proxies and servers disagree about malformed heads, and every disagreement is a way to smuggle a
//! request past one of them. So a head is either plain or refused: one way to say where the body
//! ends, one Host, CRLF line ends, no folding, no control characters. Pingora then parses what is
//! left; by that time nothing ambiguous remains.
//!
//! Sources: RFC 9112 (message syntax), RFC 9110 5.5 (field values), and the requests of the attack
//! corpus that the tests name. Some rules are stricter than the RFC on purpose: bare LF, identical
//! duplicate Content-Length, and `Connection` nominating an end-to-end field are refused.

use http::{HeaderMap, Method};
use memchr::memchr;

/// Where the request body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// This many bytes follow.
    Length(u64),
    /// Chunks follow (RFC 9112 7.1).
    Chunked,
    /// A WebSocket handshake: whatever follows belongs to the upgraded protocol.
    Upgrade,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the request line and all fields.
    pub bytes: usize,
    /// Number of fields.
    pub fields: usize,
    /// Bytes of the request target.
    pub target: usize,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Status to answer.
    pub status: u16,
    /// What is wrong, for the log and the answer.
    pub what: &'static str,
}

const fn bad(what: &'static str) -> Violation {
    Violation { status: 400, what }
}

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 3.4), up to where an HTTP/1 head would end.
pub const H2_PREFACE_HEAD: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Looks for the end of the head; `from` is where an earlier look stopped.
///
/// Returns the length of the head with its empty line, or `None` when more bytes are needed.
pub fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    // To prepare a search for all four costs more than to look at each line of most heads.
    let mut at = from.saturating_sub(3).min(bytes.len());
    while let Some(found) = memchr(b'\r', &bytes[at..]) {
        at += found;
        if bytes[at..].starts_with(b"\r\n\r\n") {
            return Some(at + 4);
        }
        at += 1;
    }
    None
}

/// Refuses early what can no longer become a good head, so that nobody waits for its end.
///
/// # Errors
/// When a bare LF or a NUL is there already.
pub fn check_partial(bytes: &[u8]) -> Result<(), Violation> {
    let mut at = 0;
    while let Some(found) = memchr(b'\n', &bytes[at..]) {
        let lf = at + found;
        if lf == 0 || bytes[lf - 1] != b'\r' {
            return Err(bad("bare LF in the request head"));
        }
        at = lf + 1;
    }
    Ok(())
}

/// Checks a whole head (with its empty line) and says how the body is framed.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(head: &[u8], limits: HeadLimits) -> Result<Framing, Violation> {
    if head.len() > limits.bytes {
        return Err(Violation { status: 431, what: "request head too large" });
    }
    let lines = head.strip_suffix(b"\r\n\r\n").ok_or(bad("request head without an end"))?;
    let (request_line, mut rest) = match memchr(b'\r', lines) {
        Some(at) if lines.get(at + 1) == Some(&b'\n') => (&lines[..at], &lines[at + 2..]),
        Some(_) => return Err(bad("malformed request line")),
        None => (lines, &lines[lines.len()..]),
    };
    let (http_10, authority) = check_request_line(request_line, limits)?;
    let mut facts = Facts { authority, ..Facts::default() };
    let mut fields = 0;
    while !rest.is_empty() {
        let line = match memchr(b'\r', rest) {
            Some(at) if rest.get(at + 1) == Some(&b'\n') => {
                let line = &rest[..at];
                rest = &rest[at + 2..];
                if rest.is_empty() {
                    return Err(bad("empty header line"));
                }
                line
            }
            Some(_) => return Err(bad("bare CR in a header field")),
            None => std::mem::take(&mut rest),
        };
        fields += 1;
        if fields > limits.fields {
            return Err(Violation { status: 431, what: "too many header fields" });
        }
        facts.field(line)?;
    }
    facts.framing(http_10)
}

/// Returns whether the version is HTTP/1.0, and the authority of a target that is a URL.
fn check_request_line(line: &[u8], limits: HeadLimits) -> Result<(bool, Option<&[u8]>), Violation> {
    let space = memchr(b' ', line).ok_or(bad("malformed request line"))?;
    let (method, rest) = (&line[..space], &line[space + 1..]);
    let space = memchr(b' ', rest).ok_or(bad("malformed request line"))?;
    let (target, version) = (&rest[..space], &rest[space + 1..]);
    let http_10 = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(bad("unsupported HTTP version or malformed request line")),
    };
    check_method(method)?;
    if target.len() > limits.target {
        return Err(Violation { status: 414, what: "request target too long" });
    }
    let authority =
        [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| target.strip_prefix(scheme)).map(|rest| {
            let end = rest.iter().position(|&b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            &rest[..end]
        });
    if authority.is_none() && target.first() != Some(&b'/') {
        return Err(bad("request target is neither a path nor a URL"));
    }
    if target.iter().any(|&b| b <= b' ' || b >= 0x7f || b == b'#') {
        return Err(bad("forbidden byte in the request target"));
    }
    Ok((http_10, authority))
}

fn check_method(method: &[u8]) -> Result<(), Violation> {
    if method.is_empty() || !method.iter().all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_')) {
        return Err(bad("malformed method"));
    }
    if matches!(method, b"CONNECT" | b"TRACE") {
        return Err(Violation { status: 405, what: "method not allowed" });
    }
    Ok(())
}

/// Checks the head of an HTTP/2 request, which has been taken apart already, by the same rules. `authority` is that of
/// the pseudo-header field.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_parts(method: &Method, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Violation> {
    check_method(method.as_str().as_bytes())?;
    let mut facts = Facts::default();
    if let Some(authority) = authority {
        facts.host(authority.as_bytes())?;
        facts.authority = Some(authority.as_bytes());
        facts.host = false;
    }
    for (name, value) in headers {
        facts.pair(name.as_str().as_bytes(), value.as_bytes())?;
    }
    if facts.chunked {
        return Err(bad("Transfer-Encoding in HTTP/2"));
    }
    facts.host |= authority.is_some();
    facts.framing(false).map(drop)
}

/// What the fields say about the message as a whole.
#[derive(Default)]
struct Facts<'a> {
    /// Of a target that is a URL.
    authority: Option<&'a [u8]>,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    websocket: bool,
    connection_upgrade: bool,
}

impl Facts<'_> {
    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let colon = memchr(b':', line).ok_or(bad("header field without a colon"))?;
        self.pair(&line[..colon], &line[colon + 1..])
    }

    fn pair(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
            return Err(bad("malformed header field name"));
        }
        if value.iter().any(|&b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(bad("control character in a header field"));
        }
        if memchr(b'_', name).is_some() {
            return check_underscore(name);
        }
        let value = trim(value);
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if value.eq_ignore_ascii_case(b"100-continue") {
                    Ok(())
                } else {
                    Err(Violation { status: 417, what: "unknown expectation" })
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.websocket = value.eq_ignore_ascii_case(b"websocket");
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Violation> {
        if std::mem::replace(&mut self.host, true) {
            return Err(bad("more than one Host field"));
        }
        let known = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'~');
        if value.is_empty() || !value.iter().all(known) {
            return Err(bad("malformed Host field"));
        }
        if self.authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(value)) {
            return Err(bad("the request target names another host than the Host field"));
        }
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.length.is_some() {
            return Err(bad("more than one Content-Length"));
        }
        if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
            return Err(bad("malformed Content-Length"));
        }
        let number = value.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        self.length = Some(number);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Violation> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(bad("Transfer-Encoding other than one `chunked`"));
        }
        self.chunked = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Violation> {
        for token in value.split(|&b| b == b',').map(trim).filter(|token| !token.is_empty()) {
            let name: String = token.iter().map(|&b| char::from(b.to_ascii_lowercase())).collect();
            if name == "upgrade" {
                self.connection_upgrade = true;
            } else if carries_meaning(&name) {
                return Err(bad("Connection nominates an end-to-end field"));
            }
        }
        Ok(())
    }

    fn framing(&self, http_10: bool) -> Result<Framing, Violation> {
        if !self.host && !http_10 {
            return Err(bad("no Host field"));
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
            (true, None) if http_10 => Err(bad("Transfer-Encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(0) | None) if self.websocket && self.connection_upgrade => Ok(Framing::Upgrade),
            (false, Some(0) | None) => Ok(Framing::None),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }
}

/// Fields written with `_` reach CGI-like servers as if written with `-`; those that carry meaning
/// for us must not come in by that door.
fn check_underscore(name: &[u8]) -> Result<(), Violation> {
    let dashed: String =
        name.iter().map(|&b| if b == b'_' { '-' } else { char::from(b.to_ascii_lowercase()) }).collect();
    if carries_meaning(&dashed) || matches!(dashed.as_str(), "connection" | "upgrade" | "te" | "trailer") {
        return Err(bad("header field name with an underscore that imitates another"));
    }
    Ok(())
}

/// Whether somebody behind us may decide by a field, so that a client must not be able to hide or forge it.
fn carries_meaning(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "transfer-encoding",
        "host",
        "authorization",
        "forwarded",
        "via",
        "expect",
        "cookie",
        "origin",
        "range",
        "date",
    ];
    const PREFIXES: [&str; 6] = ["content-", "x-forwarded", "x-real", "x-request", "x-api", "sec-"];
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.starts_with("proxy-") && name != "proxy-connection"
}

/// RFC 9110 5.6.2.
const fn is_token(b: u8) -> bool {
    matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~')
}

/// Without the optional white space of RFC 9110 5.6.3.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 32 << 10, fields: 100, target: 8 << 10 };

    fn verdict(head: &str) -> Result<Framing, u16> {
        check(head.as_bytes(), LIMITS).map_err(|violation| violation.status)
    }

    fn with_fields(fields: &str) -> Result<Framing, u16> {
        verdict(&format!("POST /api/chat HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n"))
    }

    #[test]
    fn plain_heads_pass_with_their_framing() {
        assert_eq!(verdict("GET /api/tags HTTP/1.1\r\nHost: a.test\r\n\r\n"), Ok(Framing::None));
        assert_eq!(verdict("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::None));
        assert_eq!(with_fields("Content-Length: 010"), Ok(Framing::Length(10)));
        assert_eq!(with_fields("Content-Length:\t5"), Ok(Framing::Length(5)));
        assert_eq!(with_fields("Content-Length: 0"), Ok(Framing::None));
        assert_eq!(with_fields("transfer-encoding:\tChunked "), Ok(Framing::Chunked));
        assert_eq!(with_fields("Connection: keep-alive, Upgrade\r\nUpgrade: websocket"), Ok(Framing::Upgrade));
        assert_eq!(with_fields("Connection: Upgrade\r\nUpgrade: h2c"), Ok(Framing::None));
        assert_eq!(with_fields("Expect: 100-continue\r\nContent-Length: 2"), Ok(Framing::Length(2)));
        assert_eq!(with_fields("my_own_field: 1"), Ok(Framing::None));
        assert_eq!(verdict("GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"), Ok(Framing::None));
        assert_eq!(verdict("GET http://b.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"), Err(400));
        assert_eq!(with_fields("Connection: keep-alive, X-Hop\r\nX-Hop: 1"), Ok(Framing::None));
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 1\r\nContent-Length: 0",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 0, 1",
            "Content-Length: +1",
            "Content-Length: 0x1",
            "Content-Length: 1_0",
            "Content-Length: ",
            "Content-Length: 18446744073709551617",
            "Content-Length 5",
            "Content-Length: \x0b5",
            "Content_Length: 5\r\nContent-Length: 0",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: \u{a0}chunked",
            "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding: chunked;foo=bar",
            "X: y\rTransfer-Encoding: chunked",
            "X: y\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(with_fields(fields), Err(400), "{fields:?}");
        }
        assert_eq!(verdict("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(400));
    }

    #[test]
    fn malformed_request_lines_are_refused() {
        for line in [
            "GET /api/tags",
            "GET /api/tags HTTP/2.0",
            "GET  /x HTTP/1.1",
            "get / HTTP/1.1",
            "G=\"x\" / HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /\0 HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET /\u{e4} HTTP/1.1",
            "GET x HTTP/1.1",
            " / HTTP/1.1",
        ] {
            assert_eq!(verdict(&format!("{line}\r\nHost: a\r\n\r\n")), Err(400), "{line:?}");
        }
        assert_eq!(verdict("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(405));
        assert_eq!(verdict("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), Err(405));
        assert_eq!(verdict(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000))), Err(414));
    }

    #[test]
    fn malformed_fields_are_refused() {
        for fields in [
            "foo",
            ": x",
            "a b: c",
            "X: a\0b",
            "X: a\rb",
            "X: a\r\n b",
            "\u{ef}oo: bar",
            "Host: b.test",
            "Connection: close, Authorization",
            "Connection: X-Forwarded-For",
            "X_Forwarded_For: 1.1.1.1",
        ] {
            assert_eq!(with_fields(fields), Err(400), "{fields:?}");
        }
        assert_eq!(with_fields("Expect: 200-ok"), Err(417));
        for host in ["a@b", "a/x", "a, b", "", "a b"] {
            assert_eq!(verdict(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Err(400), "{host:?}");
        }
        assert_eq!(verdict("GET / HTTP/1.1\r\nX: y\r\n\r\n"), Err(400));
        let many = (0..101).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
        assert_eq!(with_fields(many.trim_end()), Err(431));
        assert_eq!(with_fields(&format!("X: {}", "a".repeat(40_000))), Err(431));
    }

    #[test]
    fn the_end_is_found_at_every_split() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        let end = head.len() - 4;
        for cut in 0..head.len() {
            let found = find_end(&head[..cut], 0).or_else(|| find_end(head, cut));
            assert_eq!(found, Some(end), "cut at {cut}");
        }
    }

    #[test]
    fn a_bare_line_feed_is_refused_before_the_end() {
        assert!(check_partial(b"GET / HTTP/1.1\r\nHost").is_ok());
        assert!(check_partial(b"GET / HTTP/1.1\nHost").is_err());
    }
}
