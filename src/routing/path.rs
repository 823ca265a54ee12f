//! The canonical form of a path: what our routes, and the server behind them, take it for.
//!
//! # Problem
//!
//! Servers decode a path before they look at it, merge its slashes and resolve its dots, each in its own way. To
//! Ollama (Go, gin) `/api%2Fpull` and `/%61pi/pull` are `/api/pull`, and `//api/pull` is redirected there. A rule
//! about `/api/pull` that is held against the raw bytes is passed by with one character.
//!
//! # Two levels
//!
//! [`safe`] is for every request, before a route is chosen. It refuses what could make our routes and a server
//! differ about *which* resource is meant: dot segments (`..;x` too), a backslash, and escapes of `/`, `\`, `.` and
//! NUL. All else passes, since a web application may need it (`%20`, `%C3%A9`, `;`, `//`). What it returns is for
//! *matching*: octets that need no escape are decoded, empty segments are dropped. What is *sent* to a server of
//! `kind: http` stays as the client wrote it.
//!
//! [`strict`] is for routes to servers with models, whose API has no odd path. It refuses whatever is not already
//! plain: every escape of an octet that is not RFC 3986's *unreserved*, `//`, `\`, `;`, control characters and what
//! is not ASCII. What it returns is matched *and* sent.
//!
//! One exception, in both: a model's name in `/v1/models/NAME` may have its `/` and `:` escaped, as openai-node
//! writes them. They stay escaped, and the name has no empty segment and no dot segment all the same.
//!
//! Paths are given without the query. They are case-sensitive, and nothing here makes them otherwise.

use std::borrow::Cow;

/// Below this a name may hold an escaped `/` or `:`.
const MODELS: &str = "/v1/models/";

/// Why a path is refused; each is answered 400 with the reason `bad_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathRefusal {
    /// Not `/` in front: `*`, an authority, nothing.
    #[error("the path does not begin with `/`")]
    Relative,
    /// A segment `.` or `..`, escaped or not.
    #[error("the path has a segment `.` or `..`")]
    DotSegment,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a `%` that is not followed by two hexadecimal digits")]
    BadEscape,
    /// An escape of an octet that has a meaning of its own.
    #[error("the path has an escaped character that may mean another path")]
    Escaped,
    /// A backslash, which some servers take for a slash.
    #[error("the path has a backslash")]
    Backslash,
    /// A control character, a space, `?`, `#`, or a byte that is not ASCII.
    #[error("the path has a character that must be escaped")]
    Unprintable,
    /// `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `;`, behind which some servers read parameters.
    #[error("the path has a `;`")]
    Parameter,
}

/// How much is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Safe,
    Strict,
}

/// The path by which a route is chosen, whatever the route is: see the module. To be matched, not to be sent.
///
/// # Errors
/// The first thing about it that could mean another path.
pub fn safe(path: &str) -> Result<Cow<'_, str>, PathRefusal> {
    canonical(path, Level::Safe)
}

/// The path of a request to a server with models: see the module. To be matched and sent.
///
/// # Errors
/// The first thing about it that is not plain.
pub fn strict(path: &str) -> Result<Cow<'_, str>, PathRefusal> {
    canonical(path, Level::Strict)
}

fn canonical(path: &str, level: Level) -> Result<Cow<'_, str>, PathRefusal> {
    if !path.starts_with('/') {
        return Err(PathRefusal::Relative);
    }
    let path = decode(path, level)?;
    for segment in path[1..].split('/') {
        // Some servers cut a segment off at its `;` before they resolve dots.
        if is_dots(segment.split(';').next().unwrap_or_default()) {
            return Err(PathRefusal::DotSegment);
        }
    }
    if !path.contains("//") {
        return Ok(path);
    }
    match level {
        Level::Strict => Err(PathRefusal::EmptySegment),
        Level::Safe => Ok(Cow::Owned(merge_slashes(&path))),
    }
}

/// Decodes the escapes of octets that need none, and refuses what the level does not allow.
fn decode(path: &str, level: Level) -> Result<Cow<'_, str>, PathRefusal> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(&byte) = path.as_bytes().get(at) {
        at += 1;
        match byte {
            b'%' => {
                let octet = escaped_octet(&path.as_bytes()[at..]).ok_or(PathRefusal::BadEscape)?;
                at += 2;
                if is_unreserved(octet) {
                    out.push_str(&path[copied..at - 3]);
                    out.push(char::from(octet));
                    copied = at;
                } else if is_in_name(octet, path) {
                    // Judged as a whole below.
                } else if octet == b'.' || level == Level::Strict || matches!(octet, 0 | b'/' | b'\\') {
                    return Err(PathRefusal::Escaped);
                }
            }
            b'\\' => return Err(PathRefusal::Backslash),
            b';' if level == Level::Strict => return Err(PathRefusal::Parameter),
            0..=b' ' | b'?' | b'#' | 0x7f.. => return Err(PathRefusal::Unprintable),
            _ => {}
        }
    }
    check_name(path)?;
    if copied == 0 {
        return Ok(Cow::Borrowed(path));
    }
    out.push_str(&path[copied..]);
    Ok(Cow::Owned(out))
}

/// The octet of the two digits behind a `%`.
fn escaped_octet(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(0)? << 4 | digit(1)?)
}

/// RFC 3986, 2.3, without the dot, which nobody has a reason to escape.
const fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'~')
}

/// Whether an escaped octet may stand in the path because it is part of a model's name. No escape can stand in
/// front of the name: the path begins with [`MODELS`] as it is.
fn is_in_name(octet: u8, path: &str) -> bool {
    matches!(octet, b'/' | b':') && path.starts_with(MODELS)
}

/// The segments of a model's name, with escaped slashes for slashes.
fn check_name(path: &str) -> Result<(), PathRefusal> {
    let Some(written) = path.strip_prefix(MODELS) else { return Ok(()) };
    let name = written.replace("%2f", "/").replace("%2F", "/");
    if name == written {
        return Ok(());
    }
    for segment in name.split('/') {
        if segment.is_empty() {
            return Err(PathRefusal::EmptySegment);
        }
        if is_dots(segment) {
            return Err(PathRefusal::DotSegment);
        }
    }
    Ok(())
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !out.ends_with('/') {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathRefusal as R;

    type Verdict = Result<&'static str, R>;

    /// Every line of `reliability.md`, section 1d, that is about the path, as both levels see it.
    const LIST: &[(&str, Verdict, Verdict)] = &[
        // Path, strict, safe.
        ("/api/pull", Ok("/api/pull"), Ok("/api/pull")),
        ("/api/pull/", Ok("/api/pull/"), Ok("/api/pull/")),
        ("/api/pull?", Err(R::Unprintable), Err(R::Unprintable)),
        ("/api/pull?x=/api/chat", Err(R::Unprintable), Err(R::Unprintable)),
        ("/api/pull#", Err(R::Unprintable), Err(R::Unprintable)),
        ("//api/pull", Err(R::EmptySegment), Ok("/api/pull")),
        ("/api//pull", Err(R::EmptySegment), Ok("/api/pull")),
        ("/api/pull//", Err(R::EmptySegment), Ok("/api/pull/")),
        ("/./api/pull", Err(R::DotSegment), Err(R::DotSegment)),
        ("/api/./pull", Err(R::DotSegment), Err(R::DotSegment)),
        ("/api/chat/../pull", Err(R::DotSegment), Err(R::DotSegment)),
        ("/api/pull/..", Err(R::DotSegment), Err(R::DotSegment)),
        ("/api/pull/.", Err(R::DotSegment), Err(R::DotSegment)),
        ("/api/%2e%2e/api/pull", Err(R::Escaped), Err(R::Escaped)),
        ("/api/.%2E/api/pull", Err(R::Escaped), Err(R::Escaped)),
        ("/api/chat/..%2fpull", Err(R::Escaped), Err(R::Escaped)),
        ("/api%2Fpull", Err(R::Escaped), Err(R::Escaped)),
        ("/api%2fpull", Err(R::Escaped), Err(R::Escaped)),
        ("/%61pi/pull", Ok("/api/pull"), Ok("/api/pull")),
        ("/api/%70ull", Ok("/api/pull"), Ok("/api/pull")),
        ("/%2561pi/pull", Err(R::Escaped), Ok("/%2561pi/pull")),
        ("/api%5Cpull", Err(R::Escaped), Err(R::Escaped)),
        ("/api\\pull", Err(R::Backslash), Err(R::Backslash)),
        ("/api/pull%00", Err(R::Escaped), Err(R::Escaped)),
        ("/api/pull%20", Err(R::Escaped), Ok("/api/pull%20")),
        ("/api/pull%0a", Err(R::Escaped), Ok("/api/pull%0a")),
        ("/api/pull%7F", Err(R::Escaped), Ok("/api/pull%7F")),
        ("/api/pull;a=b", Err(R::Parameter), Ok("/api/pull;a=b")),
        ("/api;x/pull", Err(R::Parameter), Ok("/api;x/pull")),
        ("/api/chat/..;/pull", Err(R::Parameter), Err(R::DotSegment)),
        ("/api/.;x/pull", Err(R::Parameter), Err(R::DotSegment)),
        ("/API/pull", Ok("/API/pull"), Ok("/API/pull")),
        ("/Api/Pull", Ok("/Api/Pull"), Ok("/Api/Pull")),
        ("/api/pull.", Ok("/api/pull."), Ok("/api/pull.")),
        ("/api/pull%ef%bc%8f", Err(R::Escaped), Ok("/api/pull%ef%bc%8f")),
        ("/api/%c0%afpull", Err(R::Escaped), Ok("/api/%c0%afpull")),
        ("/\u{ff41}pi/pull", Err(R::Unprintable), Err(R::Unprintable)),
        ("http://a.test/api/pull", Err(R::Relative), Err(R::Relative)),
        ("http://evil/api/pull", Err(R::Relative), Err(R::Relative)),
        ("*", Err(R::Relative), Err(R::Relative)),
        ("", Err(R::Relative), Err(R::Relative)),
        ("/debug/pprof/heap", Ok("/debug/pprof/heap"), Ok("/debug/pprof/heap")),
        ("/api/blobs/sha256:..%2f..%2fetc", Err(R::Escaped), Err(R::Escaped)),
        ("/api/delete", Ok("/api/delete"), Ok("/api/delete")),
        ("/api/pull%", Err(R::BadEscape), Err(R::BadEscape)),
        ("/api/pull%2", Err(R::BadEscape), Err(R::BadEscape)),
        ("/api/pull%zz", Err(R::BadEscape), Err(R::BadEscape)),
        ("/api/pull%+1", Err(R::BadEscape), Err(R::BadEscape)),
        ("/api/pull%\u{e9}1", Err(R::BadEscape), Err(R::BadEscape)),
        ("/api/pu ll", Err(R::Unprintable), Err(R::Unprintable)),
        ("/api/\0", Err(R::Unprintable), Err(R::Unprintable)),
        ("/api/\u{7f}", Err(R::Unprintable), Err(R::Unprintable)),
        ("/api/pull\t", Err(R::Unprintable), Err(R::Unprintable)),
    ];

    #[test]
    fn the_list_of_section_1d() {
        for (path, wanted, _) in LIST {
            assert_eq!(strict(path).as_deref(), wanted.as_deref(), "strict {path:?}");
        }
        for (path, _, wanted) in LIST {
            assert_eq!(safe(path).as_deref(), wanted.as_deref(), "safe {path:?}");
        }
    }

    #[test]
    fn what_a_web_application_needs_passes() {
        for path in [
            "/",
            "/a%20b",
            "/%C3%A9",
            "/a/",
            "/~x:y@z!$&'()*+,;=",
            "/a|b[1]{2}^`\"<>",
            "/...",
            "/.well-known/x",
            "/a..b",
            "/100%25",
        ] {
            assert_eq!(safe(path).as_deref(), Ok(path), "{path}");
            assert!(matches!(safe(path), Ok(Cow::Borrowed(_))), "{path}");
        }
        assert_eq!(safe("/a//b").as_deref(), Ok("/a/b"));
        assert_eq!(safe("///").as_deref(), Ok("/"));
        assert_eq!(safe("/%7Ex/%41%2D%5F").as_deref(), Ok("/~x/A-_"));
    }

    #[test]
    fn plain_paths_are_borrowed() {
        for path in ["/", "/api/chat", "/v1/models/llama3:8b", "/v1/models/Qwen/Qwen2.5-7B_x~y"] {
            assert!(matches!(strict(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn the_name_of_a_model_may_have_its_slashes_and_colons_escaped() {
        for path in ["/v1/models/ns%2Fm%3A7b", "/v1/models/ns%2fm", "/v1/models/a/b%3ac"] {
            assert_eq!(strict(path).as_deref(), Ok(path));
            assert_eq!(safe(path).as_deref(), Ok(path));
        }
        for (path, refusal) in [
            ("/v1/models/..%2Fm", R::DotSegment),
            ("/v1/models/a%2F..%2F..%2Fapi%2Fpull", R::DotSegment),
            ("/v1/models/a%2F.", R::DotSegment),
            ("/v1/models/%2Fm", R::EmptySegment),
            ("/v1/models/a%2F%2Fm", R::EmptySegment),
            ("/v1/models/a%2F", R::EmptySegment),
            ("/v1/models/a%2F%2e%2e", R::Escaped),
            ("/v1/models/a%5Cm", R::Escaped),
            ("/v1/models/a%00", R::Escaped),
            ("/v1/%6dodels/a%2Fm", R::Escaped),
            ("/v1/models%2Fa", R::Escaped),
        ] {
            assert_eq!(strict(path), Err(refusal), "{path}");
            assert_eq!(safe(path), Err(refusal), "{path}");
        }
        assert_eq!(strict("/v1/models/a%20b"), Err(R::Escaped));
        // Found by the fuzzer: what is merged into this prefix has no other rule than what was there.
        assert_eq!(safe("//v1/models/a%3F/").as_deref(), Ok("/v1/models/a%3F/"));
        assert_eq!(safe("/v1/models/a%3F/").as_deref(), Ok("/v1/models/a%3F/"));
    }

    proptest::proptest! {
        #[test]
        fn canonical_is_canonical(path in "/([a/.;%\\\\]|%2[0-9a-f]|%61|%2e|v1/models/|\u{e9}){0,12}") {
            for level in [safe, strict] {
                if let Ok(once) = level(&path) {
                    let twice = level(&once);
                    proptest::prop_assert_eq!(twice.as_deref(), Ok(once.as_ref()));
                    proptest::prop_assert!(once.starts_with('/') && !once.contains("//") && !once.contains("/../"));
                }
            }
            // Nothing that passes strictly is refused by the looser level, or matched as something else.
            if let Ok(strict) = strict(&path) {
                let safe = safe(&path);
                proptest::prop_assert_eq!(safe.as_deref(), Ok(strict.as_ref()));
            }
        }
    }
}
