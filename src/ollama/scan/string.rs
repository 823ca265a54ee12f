//! A JSON string, read as its bytes arrive: decoded and kept, or only checked.
//!
//! The rules are those of Go's `encoding/json` (`scanner.go`, `decode.go`: `unquoteBytes`), because that is what
//! Ollama reads with: a raw control character and an unknown escape are refused, half a surrogate pair becomes
//! U+FFFD. In one thing it is stricter: bytes that are not UTF-8, which Go would replace, are refused.

use super::utf8::Utf8;

/// What one call of [`StringReader::feed`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// All bytes were taken and the string goes on.
    More,
    /// The closing quote was read; this many bytes were taken, the quote included.
    Closed(usize),
    /// A raw control character.
    Control,
    /// An escape that JSON does not have.
    Escape,
    /// Bytes that are not UTF-8.
    NotUtf8,
}

/// Reads one string at a time, and keeps no more than `cap` decoded bytes of it.
#[derive(Clone, Debug)]
pub(super) struct StringReader {
    text: Vec<u8>,
    cap: usize,
    overflowed: bool,
    escape: Escape,
    /// The first half of a surrogate pair, waiting for its second.
    high: Option<u16>,
    utf8: Utf8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    Unicode { digits: u8, unit: u16 },
}

impl StringReader {
    pub(super) fn new() -> StringReader {
        StringReader {
            text: Vec::new(),
            cap: 0,
            overflowed: false,
            escape: Escape::None,
            high: None,
            utf8: Utf8::default(),
        }
    }

    /// Begins a string, after its opening quote, of which at most `cap` decoded bytes are kept; 0 only checks it.
    pub(super) fn begin(&mut self, cap: usize) {
        self.text.clear();
        self.cap = cap;
        self.overflowed = false;
        self.escape = Escape::None;
        self.high = None;
        self.utf8 = Utf8::default();
    }

    /// Whether the string was longer than its cap.
    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The decoded bytes so far: UTF-8 once the string is closed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.text
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.text.capacity()
    }

    /// Takes bytes up to and including the closing quote.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut at = 0;
        if self.escape == Escape::None && self.utf8.is_whole() {
            // Most strings are plain to their end.
            let run = plain(bytes);
            if run > 0 {
                self.flush_high();
                self.keep(&bytes[..run]);
            }
            if bytes.get(run) == Some(&b'"') {
                self.flush_high();
                return Fed::Closed(run + 1);
            }
            at = run;
        }
        while let Some(&byte) = bytes.get(at) {
            match self.escape {
                Escape::None => {
                    let Some(run) = self.run(&bytes[at..]) else { return Fed::NotUtf8 };
                    if run > 0 {
                        self.flush_high();
                        self.keep(&bytes[at..at + run]);
                        at += run;
                        continue;
                    }
                    at += 1;
                    match byte {
                        b'"' => {
                            self.flush_high();
                            return Fed::Closed(at);
                        }
                        b'\\' => self.escape = Escape::Backslash,
                        _ => return Fed::Control,
                    }
                }
                Escape::Backslash => {
                    at += 1;
                    if byte == b'u' {
                        self.escape = Escape::Unicode { digits: 0, unit: 0 };
                        continue;
                    }
                    let Some(decoded) = simple_escape(byte) else { return Fed::Escape };
                    self.flush_high();
                    self.keep(&[decoded]);
                    self.escape = Escape::None;
                }
                Escape::Unicode { digits, unit } => {
                    at += 1;
                    let digit = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok());
                    let Some(digit) = digit else { return Fed::Escape };
                    let unit = unit << 4 | digit;
                    if digits == 3 {
                        self.keep_unit(unit);
                        self.escape = Escape::None;
                    } else {
                        self.escape = Escape::Unicode { digits: digits + 1, unit };
                    }
                }
            }
        }
        Fed::More
    }

    /// How many bytes from here on stand for themselves. `None`: they are not UTF-8.
    fn run(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.utf8.is_whole() {
                at += plain(&bytes[at..]);
            }
            let taken = self.utf8.read(&bytes[at..])?;
            at += taken;
            if taken == 0 || at == bytes.len() {
                return Some(at);
            }
        }
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
        if self.overflowed {
            return;
        }
        self.overflowed = self.text.len() + bytes.len() > self.cap;
        if !self.overflowed {
            self.text.extend_from_slice(bytes);
        }
    }
}

/// The character behind a backslash, if it is one of the eight.
fn simple_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// How many bytes in front are ASCII and mean nothing in a string: no quote, backslash or control character. This
/// is where a scan spends its time on an image, so it looks at eight bytes at once.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    // The high bit of each byte that is zero. A borrow can only add bits above a true one, and only the lowest counts.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let special = (word | control | quote | backslash) & HIGHS;
        if special != 0 {
            return number * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let special = |&byte: &u8| !(0x20..0x80).contains(&byte) || byte == b'"' || byte == b'\\';
    words.len() * 8 + rest.iter().position(special).unwrap_or(rest.len())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_look_finds_every_byte_that_means_something_at_every_place() {
        let special = |byte: u8| !(0x20..0x80).contains(&byte) || byte == b'"' || byte == b'\\';
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=0xff {
                    // Neighbours that differ by one are where a borrow could deceive.
                    for other in [b'a', b'#', b'!', b' ', b']', b'[', 0x7f] {
                        let mut bytes = vec![other; length];
                        bytes[at] = byte;
                        assert_eq!(plain(&bytes), if special(byte) { at } else { length }, "{bytes:?}");
                    }
                }
            }
        }
    }
}
