//! A JSON string, decoded as its bytes arrive.
//!
//! Go's `encoding/json` (`decode.go`, `unquoteBytes`) is what Ollama reads with, so its leniencies are kept: a
//! lone surrogate escape becomes U+FFFD, and so do bytes that are not UTF-8. Its refusals are kept too: a raw
//! control character, an unknown escape.

use memchr::memchr2;

/// What one call of [`StringReader::feed`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// All bytes were taken and the string goes on.
    More,
    /// The closing quote was read; this many bytes were taken, the quote included.
    Closed(usize),
    /// Not a JSON string.
    Bad,
}

/// Decodes one string at a time into a buffer that never grows past `cap`.
#[derive(Clone, Debug)]
pub(super) struct StringReader {
    text: Vec<u8>,
    cap: usize,
    overflowed: bool,
    escape: Escape,
    /// The first half of a surrogate pair, waiting for its second.
    high: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    Unicode { digits: u8, unit: u16 },
}

impl StringReader {
    pub(super) fn new() -> StringReader {
        StringReader { text: Vec::new(), cap: 0, overflowed: false, escape: Escape::None, high: None }
    }

    /// Begins a string, after its opening quote, of which at most `cap` decoded bytes are kept.
    pub(super) fn begin(&mut self, cap: usize) {
        self.text.clear();
        self.cap = cap;
        self.overflowed = false;
        self.escape = Escape::None;
        self.high = None;
    }

    /// Whether the string was longer than its cap.
    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The decoded bytes so far; they may hold invalid UTF-8 if the client sent it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// Takes bytes up to and including the closing quote.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.escape {
                Escape::None => {
                    let rest = &bytes[at..];
                    let plain = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    if plain > 0 {
                        let run = &rest[..plain];
                        if run.iter().any(|&byte| byte < 0x20) {
                            return Fed::Bad;
                        }
                        self.flush_high();
                        self.keep(run);
                        at += plain;
                    } else if byte == b'"' {
                        self.flush_high();
                        return Fed::Closed(at + 1);
                    } else {
                        self.escape = Escape::Backslash;
                        at += 1;
                    }
                }
                Escape::Backslash => {
                    let decoded = match byte {
                        b'"' | b'\\' | b'/' => byte,
                        b'b' => 0x08,
                        b'f' => 0x0c,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'u' => {
                            self.escape = Escape::Unicode { digits: 0, unit: 0 };
                            at += 1;
                            continue;
                        }
                        _ => return Fed::Bad,
                    };
                    self.flush_high();
                    self.keep(&[decoded]);
                    self.escape = Escape::None;
                    at += 1;
                }
                Escape::Unicode { digits, unit } => {
                    let digit = match byte {
                        b'0'..=b'9' => byte - b'0',
                        b'a'..=b'f' => byte - b'a' + 10,
                        b'A'..=b'F' => byte - b'A' + 10,
                        _ => return Fed::Bad,
                    };
                    let unit = unit << 4 | u16::from(digit);
                    if digits == 3 {
                        self.keep_unit(unit);
                        self.escape = Escape::None;
                    } else {
                        self.escape = Escape::Unicode { digits: digits + 1, unit };
                    }
                    at += 1;
                }
            }
        }
        Fed::More
    }

    /// One `\uXXXX`, which may be half of a pair.
    fn keep_unit(&mut self, unit: u16) {
        if let (Some(high), 0xdc00..=0xdfff) = (self.high, unit) {
            self.high = None;
            let code = 0x1_0000 + ((u32::from(high) - 0xd800) << 10) + (u32::from(unit) - 0xdc00);
            self.keep_char(char::from_u32(code));
            return;
        }
        self.flush_high();
        if (0xd800..=0xdbff).contains(&unit) {
            self.high = Some(unit);
        } else {
            self.keep_char(char::from_u32(u32::from(unit)));
        }
    }

    fn flush_high(&mut self) {
        if self.high.take().is_some() {
            self.keep_char(None);
        }
    }

    fn keep_char(&mut self, character: Option<char>) {
        let mut buffer = [0; 4];
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        self.keep(character.encode_utf8(&mut buffer).as_bytes());
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.overflowed || self.text.len() + bytes.len() > self.cap {
            self.overflowed = true;
        } else {
            self.text.extend_from_slice(bytes);
        }
    }
}

/// Whether a key of the client's is, to Go, this field: `encoding/json` (`fold.go`, `foldName`) folds ASCII case,
/// and the two letters whose folding leaves ASCII, `ſ` (U+017F) for `s` and `K` (U+212A, the Kelvin sign) for `k`.
pub(super) fn is_key(written: &[u8], field: &str) -> bool {
    // Each folded letter is at most three bytes long; a longer key is another one.
    if written.len() > field.len() * 3 {
        return false;
    }
    if written.is_ascii() {
        return written.eq_ignore_ascii_case(field.as_bytes());
    }
    let Ok(written) = std::str::from_utf8(written) else {
        return false;
    };
    let folded = written.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    });
    folded.eq(field.chars())
}
