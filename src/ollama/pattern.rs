//! Globs over canonical model names, as they stand in the config: `llava*`, `*-vl*`, `ns/*`, `llama3`.
//!
//! `*` stands for any run of characters, `/` and `:` included; there is no other special character. A pattern
//! is made canonical like a name: `llava` means `llava:latest`, `LLaVA*` matches `llava:13b`, `*-vl` means
//! `*-vl:latest` (write `*-vl*` for any tag), `library/*` means every model without a namespace.
//!
//! A match costs at most one pass over the name: the text before the first star and after the last one is
//! compared, and each piece between is searched for once, from the left.

use std::fmt;

use memchr::memmem;

use super::name::ModelName;

/// One pattern of a `model: [...]` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPattern {
    written: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Literal(ModelName),
    Glob { before: String, between: Vec<String>, after: String, without_namespace: bool },
}

impl ModelPattern {
    /// Reads a pattern; `None` where a name would be refused too (empty, control characters, too long).
    pub fn parse(written: &str) -> Option<ModelPattern> {
        if !written.contains('*') {
            let kind = Kind::Literal(ModelName::parse(written)?);
            return Some(ModelPattern { written: written.to_owned(), kind });
        }
        if written.len() > super::name::MAX_NAME_BYTES || written.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        let lower = written.trim().to_ascii_lowercase();
        let path = lower.strip_prefix("registry.ollama.ai/").unwrap_or(&lower);
        let without_namespace = path.starts_with("library/");
        let path = path.strip_prefix("library/").unwrap_or(path);
        let last_segment = path.rsplit('/').next().unwrap_or(path);
        let tag = if last_segment.contains(':') || path.ends_with('*') { "" } else { ":latest" };
        let glob = format!("{path}{tag}");

        let mut pieces: Vec<String> = glob.split('*').map(str::to_owned).collect();
        let after = pieces.pop().unwrap_or_default();
        let before = if pieces.is_empty() { String::new() } else { pieces.remove(0) };
        pieces.retain(|piece| !piece.is_empty());
        let kind = Kind::Glob { before, between: pieces, after, without_namespace };
        Some(ModelPattern { written: written.to_owned(), kind })
    }

    /// Whether a canonical name ([`ModelName::as_str`], [`super::name::canonical`]) matches.
    pub fn matches(&self, canonical: &str) -> bool {
        match &self.kind {
            Kind::Literal(name) => name.as_str() == canonical,
            Kind::Glob { before, between, after, without_namespace } => {
                if *without_namespace && canonical.contains('/') {
                    return false;
                }
                let Some(rest) = canonical.strip_prefix(before.as_str()) else {
                    return false;
                };
                let Some(rest) = rest.strip_suffix(after.as_str()) else {
                    return false;
                };
                let mut rest = rest.as_bytes();
                for piece in between {
                    let Some(found) = memmem::find(rest, piece.as_bytes()) else {
                        return false;
                    };
                    rest = &rest[found + piece.len()..];
                }
                true
            }
        }
    }

    /// The one canonical name that this pattern stands for, where it has no star.
    pub fn is_literal(&self) -> Option<&str> {
        match &self.kind {
            Kind::Literal(name) => Some(name.as_str()),
            Kind::Glob { .. } => None,
        }
    }

    /// The pattern as it was written, for messages.
    pub fn as_written(&self) -> &str {
        &self.written
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        ModelPattern::parse(pattern).expect(pattern).matches(name)
    }

    #[test]
    fn a_pattern_without_a_star_is_one_model() {
        let pattern = ModelPattern::parse("LLaVA").expect("a pattern");
        assert_eq!(pattern.is_literal(), Some("llava:latest"));
        assert!(pattern.matches("llava:latest"));
        assert!(!pattern.matches("llava:13b"));
        assert_eq!(pattern.to_string(), "LLaVA");
    }

    #[test]
    fn stars_match_tags_namespaces_and_nothing() {
        assert!(matches("llava*", "llava:13b"));
        assert!(matches("llava*", "llava-llama3:latest"));
        assert!(!matches("llava*", "bakllava:latest"));
        assert!(matches("*-vl*", "qwen2.5-vl:7b"));
        assert!(matches("*-VL*", "ns/qwen-vl:latest"));
        assert!(matches("*-vl", "qwen-vl:latest"));
        assert!(!matches("*-vl", "qwen-vl:7b"));
        assert!(matches("*", "anything/at:all"));
        assert!(matches("ns/*", "ns/m:7b"));
        assert!(!matches("ns/*", "m:7b"));
        assert!(matches("*:cloud", "gpt-oss:cloud"));
        assert!(matches("a*b*c:1", "axxbyybc:1"));
        assert!(!matches("ab*ba:x", "aba:x"));
    }

    #[test]
    fn the_library_is_every_model_without_a_namespace() {
        assert!(matches("library/*", "m:7b"));
        assert!(matches("registry.ollama.ai/library/ll*", "llava:7b"));
        assert!(!matches("library/*", "ns/m:7b"));
        assert!(matches("registry.ollama.ai/ns/*", "ns/m:7b"));
    }

    #[test]
    fn a_pattern_that_could_be_no_name_is_refused() {
        assert_eq!(ModelPattern::parse(""), None);
        assert_eq!(ModelPattern::parse("a*\n"), None);
        assert_eq!(ModelPattern::parse(&"*".repeat(600)), None);
    }

    /// The textbook definition, exponential, for comparison.
    fn reference(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| reference(rest, &text[skip..])),
            Some((byte, rest)) => {
                text.split_first().is_some_and(|(first, text)| first == byte && reference(rest, text))
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_textbook_glob(front in "[ab*]{0,7}", text in "[ab]{0,10}") {
            let pattern = format!("{front}*:t");
            let name = format!("{text}:t");
            prop_assert_eq!(matches(&pattern, &name), reference(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
