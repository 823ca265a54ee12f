//! Text in which `*` stands for any characters, also none.
//!
//! There is no other special character and no escape: model names, host names and most header values have no
//! asterisk. A match takes time in proportion to the text, whatever the pattern, for the text comes from clients.

use memchr::memmem::Finder;

/// A pattern with `*`, prepared for matching.
#[derive(Clone, Debug)]
pub struct Glob {
    /// What stands before the first `*`; everything if there is none.
    start: Box<[u8]>,
    /// What follows the first `*`; `None` if there is none.
    rest: Option<Rest>,
}

#[derive(Clone, Debug)]
struct Rest {
    /// The texts between two `*`, in their order; none is empty.
    middle: Box<[Finder<'static>]>,
    /// What stands behind the last `*`.
    end: Box<[u8]>,
}

impl Glob {
    /// Prepares a pattern. Every text is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let Some((start, rest)) = pattern.split_once('*') else {
            return Self { start: pattern.as_bytes().into(), rest: None };
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle = middle.split('*').filter(|text| !text.is_empty());
        Self {
            start: start.as_bytes().into(),
            rest: Some(Rest {
                middle: middle.map(|text| Finder::new(text.as_bytes()).into_owned()).collect(),
                end: end.as_bytes().into(),
            }),
        }
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let Some(rest) = &self.rest else {
            return *text == *self.start;
        };
        let Some(text) = text.strip_prefix(&*self.start) else { return false };
        let Some(mut text) = text.strip_suffix(&*rest.end) else { return false };
        // The leftmost place for each is never worse than another: it leaves the most for the next.
        for finder in &rest.middle {
            let Some(place) = finder.find(text) else { return false };
            text = &text[place + finder.needle().len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).matches(text.as_bytes())
    }

    #[test]
    fn without_an_asterisk_only_the_same_text_matches() {
        assert!(matches("llava:latest", "llava:latest"));
        assert!(!matches("llava", "llava:latest"));
        assert!(matches("", ""));
        assert!(!matches("", "a"));
    }

    #[test]
    fn an_asterisk_stands_for_any_characters() {
        assert!(matches("*", ""));
        assert!(matches("llava*", "llava"));
        assert!(matches("*-vl*", "qwen3-vl:8b"));
        assert!(!matches("*-vl*", "qwen3:8b"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b*c", "a-b-c-d"));
    }

    #[test]
    fn start_and_end_do_not_share_characters() {
        assert!(!matches("aba*aba", "aba"));
        assert!(!matches("aba*aba", "ababa"));
        assert!(matches("aba*aba", "abaaba"));
        assert!(!matches("a*b*b", "ab"));
    }

    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skipped| naive(rest, &text[skipped..])),
            ([first, rest @ ..], [letter, others @ ..]) => first == letter && naive(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
