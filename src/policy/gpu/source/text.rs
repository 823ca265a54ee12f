//! Prometheus' text format, read as it comes in pieces.
//!
//! An exporter may say a million lines of which forty matter. So a line is looked at as soon as it is whole, by its name first,
//! and what is not wanted is passed over before anything of it is taken apart. Nothing is kept but the line that has begun.

use std::borrow::Cow;

/// Bytes of the longest line that is read; longer ones are passed over.
const LONGEST_LINE: usize = 64 << 10;
/// The last line of OpenMetrics.
const END_OF_ALL: &[u8] = b"# EOF";

/// A line that says a value.
#[derive(Debug, PartialEq)]
pub struct Sample<'l> {
    /// Name of the metric.
    pub name: &'l str,
    /// Names and values of its labels, in the order of the line.
    pub labels: Vec<(&'l str, Cow<'l, str>)>,
    /// The value; `None` where it is no finite number.
    pub value: Option<f64>,
}

impl Sample<'_> {
    /// The value of a label, unless it is empty: an empty label is one that is not there.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| *label == name)?;
        Some(found.1.trim()).filter(|value| !value.is_empty())
    }
}

/// Cuts what comes into lines.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// That line is too long, and its rest is passed over.
    too_long: bool,
}

impl Scanner {
    /// Takes in a piece and gives each line that it ends to `each`, without its end.
    pub fn feed(&mut self, mut piece: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            if self.too_long || self.begun.len() + line.len() > LONGEST_LINE {
                (self.too_long, self.begun) = (false, Vec::new());
            } else if self.begun.is_empty() {
                each(line);
            } else {
                self.begun.extend_from_slice(line);
                each(&self.begun);
                self.begun.clear();
            }
        }
        if self.begun.len() + piece.len() > LONGEST_LINE {
            (self.too_long, self.begun) = (true, Vec::new());
        } else if !self.too_long {
            self.begun.extend_from_slice(piece);
        }
    }

    /// Whether a line has begun whose end has not come. What ends so was cut off, perhaps in the middle of a number.
    /// The mark at the end of OpenMetrics is whole without one.
    #[must_use]
    pub fn is_inside_a_line(&self) -> bool {
        self.too_long || !(self.begun.is_empty() || self.begun == END_OF_ALL)
    }
}

/// The name of the metric that a line is about; `None` for comments and everything that is no line of this format.
#[must_use]
pub fn name(line: &[u8]) -> Option<&str> {
    let line = line.trim_ascii_start();
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    let end = line.iter().position(|byte| !is_part(byte)).unwrap_or(line.len());
    let name = std::str::from_utf8(&line[..end]).ok()?;
    (!name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit())).then_some(name)
}

/// Takes a line apart and gives it to `with`, if it says a value. Bytes that are not UTF-8 are replaced, time stamps and what
/// comes behind them are passed over.
pub fn take_apart<T>(line: &[u8], with: impl FnOnce(&Sample<'_>) -> T) -> Option<T> {
    let text = String::from_utf8_lossy(line.trim_ascii());
    let name = name(text.as_bytes())?;
    let rest = text[name.len()..].trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        None if rest.len() == text.len() - name.len() => return None,
        None => (Vec::new(), rest),
        Some(inside) => labels(inside)?,
    };
    let number = rest.split_ascii_whitespace().next()?;
    let value = number.parse::<f64>().ok()?;
    Some(with(&Sample { name, labels, value: value.is_finite().then_some(value) }))
}

/// Labels up to the closing brace, and what comes behind it.
type Labels<'l> = (Vec<(&'l str, Cow<'l, str>)>, &'l str);

fn labels(mut rest: &str) -> Option<Labels<'_>> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, behind) = rest.split_once('=')?;
        let (value, behind) = quoted(behind.trim_start().strip_prefix('"')?)?;
        labels.push((name.trim_end(), value));
        rest = behind;
    }
}

/// A label's value up to its closing quote, and what comes behind it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let plain = text.find(['"', '\\'])?;
    if text[plain..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..plain]), &text[plain + 1..]));
    }
    let mut value = text[..plain].to_owned();
    let mut characters = text[plain..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Cow::Owned(value), &text[plain + at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = (String, Vec<(String, String)>, Option<f64>);

    /// A line as it is taken apart.
    fn seen(line: &str) -> Option<Seen> {
        take_apart(line.as_bytes(), |sample| {
            let labels = sample.labels.iter().map(|(name, value)| ((*name).to_owned(), value.to_string()));
            (sample.name.to_owned(), labels.collect(), sample.value)
        })
    }

    fn labels(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn lines_are_read_as_exporters_write_them() {
        let spaced = labels(&[("gpu", "0"), ("UUID", "GPU-604ac76c")]);
        let escaped = labels(&[("a", "x\"y\\z\nw"), ("b", "")]);
        let cases: [(&str, &str, Vec<_>, Option<f64>); 8] = [
            ("DCGM_FI_DEV_SM_CLOCK{gpu=\"0\", UUID=\"GPU-604ac76c\"} 139", "DCGM_FI_DEV_SM_CLOCK", spaced, Some(139.0)),
            ("a{a=\"x\\\"y\\\\z\\nw\",b=\"\",} -1.5e3 1700000000000\r", "a", escaped, Some(-1500.0)),
            ("up 1", "up", vec![], Some(1.0)),
            ("up{} +Inf", "up", vec![], None),
            ("up { } NaN", "up", vec![], None),
            ("a{l=\"}{,= \"}7 # {trace=\"1\"} 2", "a", labels(&[("l", "}{,= ")]), Some(7.0)),
            ("big 1e999", "big", vec![], None),
            ("  up\t3", "up", vec![], Some(3.0)),
        ];
        for (line, name, labels, value) in cases {
            assert_eq!(seen(line), Some((name.to_owned(), labels, value)), "{line}");
        }
    }

    #[test]
    fn what_says_no_value_is_passed_over() {
        let none = [
            "",
            "# HELP up x",
            "# EOF",
            "up",
            "up{",
            "up{a}",
            "up{a=\"b}",
            "up{a=\"b\"}",
            "up x",
            "1up 1",
            "a-b 1",
            "é 1",
        ];
        for line in none {
            assert_eq!(seen(line), None, "{line}");
        }
        let odd = take_apart(b"up{a=\"\xff\xfe\"} 1", |sample| sample.label("a").map(ToOwned::to_owned));
        assert_eq!(odd, Some(Some("\u{fffd}\u{fffd}".to_owned())));
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_alone() {
        for piece in [1, 1000, 1 << 20] {
            let text = [b"a 1\n".to_vec(), vec![b'x'; LONGEST_LINE + 1], b"\nb 2\n".to_vec()].concat();
            let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
            for piece in text.chunks(piece) {
                scanner.feed(piece, |line| seen.push(line.to_vec()));
                assert!(scanner.begun.capacity() <= 2 * LONGEST_LINE);
            }
            assert_eq!(seen, [b"a 1", b"b 2"]);
            assert!(!scanner.is_inside_a_line());
        }
    }

    proptest::proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(text in "[ab\"{}\\\\\n]{0,60}", cuts in proptest::collection::vec(0_usize..9, 1..9)) {
            let whole: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\n').collect();
            let (last, lines) = whole.split_last().expect("there is always one");
            let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
            let (mut rest, mut cuts) = (text.as_bytes(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.len().min(cuts.next().map_or(1, |cut| cut + 1)));
                scanner.feed(piece, |line| seen.push(line.to_vec()));
                rest = behind;
            }
            proptest::prop_assert_eq!(seen, lines.iter().map(|line| line.to_vec()).collect::<Vec<_>>());
            proptest::prop_assert_eq!(scanner.is_inside_a_line(), !last.is_empty());
        }

        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            take_apart(&line, |_| ());
            take_apart(&[b"up{", line.as_slice()].concat(), |_| ());
        }
    }
}
