//! Which conversation a request goes on with, told by its beginning.
//!
//! A server keeps the prompt of each slot, so the next turn of a conversation is answered sooner where its last turn was.
//! Turns of a conversation begin alike; what tells conversations apart is the first message that is not the system's,
//! because system prompts are shared by all users of an application. The key is a hash of that message.
//!
//! This is a hint for the choice of a server and nothing else depends on it: what is not understood has no key. Only
//! the beginning of a body is looked at, as far as it has come.

/// Bytes of the first message that are hashed.
const HASHED: usize = 1024;
/// Messages that are looked at.
const MESSAGES: usize = 16;

/// The key of the conversation whose body begins like this: the first message of `messages` (or `input`, of
/// `/v1/responses`) whose role is neither `system` nor `developer`.
#[must_use]
pub fn key(beginning: &[u8]) -> Option<u64> {
    let mut reader = Reader { rest: beginning };
    reader.take(b'{')?;
    loop {
        let name = reader.string()?;
        reader.take(b':')?;
        if matches!(name, b"messages" | b"input") && reader.peek()? == b'[' {
            reader.take(b'[')?;
            return (0..MESSAGES).find_map(|_| reader.message()).flatten();
        }
        reader.skip()?;
        reader.take(b',')?;
    }
}

struct Reader<'r> {
    rest: &'r [u8],
}

impl<'r> Reader<'r> {
    fn peek(&mut self) -> Option<u8> {
        let start = self.rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        self.rest = &self.rest[start..];
        self.rest.first().copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        let found = self.peek()? == byte;
        found.then(|| self.rest = &self.rest[1..])
    }

    /// A string as it is written, without its quotes.
    fn string(&mut self) -> Option<&'r [u8]> {
        self.take(b'"')?;
        let mut end = 0;
        loop {
            end += memchr::memchr2(b'"', b'\\', self.rest.get(end..)?)?;
            if self.rest[end] == b'"' {
                let (text, rest) = self.rest.split_at(end);
                self.rest = &rest[1..];
                return Some(text);
            }
            end += 2;
        }
    }

    /// Any value; returns it as it is written.
    fn skip(&mut self) -> Option<&'r [u8]> {
        let first = self.peek()?;
        let start = self.rest;
        match first {
            b'"' => {
                self.string()?;
            }
            b'{' | b'[' => {
                let mut depth = 0_usize;
                loop {
                    match self.peek()? {
                        b'"' => {
                            self.string()?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    self.rest = &self.rest[1..];
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {
                let end = self.rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']'))?;
                self.rest = &self.rest[end..];
            }
        }
        Some(&start[..start.len() - self.rest.len()])
    }

    /// One message: its key, `Some(None)` where it has none and nothing follows, `None` where the next one counts.
    fn message(&mut self) -> Option<Option<u64>> {
        self.one_message().unwrap_or(Some(None))
    }

    fn one_message(&mut self) -> Option<Option<Option<u64>>> {
        self.take(b'{')?;
        let (mut shared, mut content) = (false, None);
        loop {
            let name = self.string()?;
            self.take(b':')?;
            if name == b"content" && self.peek()? == b'"' && !self.rest[1..].contains(&b'"') {
                // The text goes on behind what has come: its beginning will do, if there is enough of it.
                let text = self.rest.get(1..=HASHED)?;
                return Some((!shared).then(|| Some(hash(text))));
            }
            let value = self.skip()?;
            match name {
                b"role" => shared = matches!(value, b"\"system\"" | b"\"developer\""),
                b"content" => content = Some(value),
                _ => {}
            }
            match self.peek()? {
                b',' => self.take(b',')?,
                _ => break,
            }
        }
        self.take(b'}')?;
        if shared {
            // The next one.
            self.take(b',')?;
            return Some(None);
        }
        let text = content.map(|content| content.strip_prefix(b"\"").unwrap_or(content));
        Some(Some(text.map(|text| hash(&text[..text.len().min(HASHED)]))))
    }
}

/// FNV-1a: short, and the same in every process.
fn hash(bytes: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(bytes.strip_suffix(b"\"").unwrap_or(bytes));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(messages: &str) -> Option<u64> {
        key(format!(r#"{{"model":"m","options":{{"a":[1,{{"b":"]}}"}}]}},"messages":{messages},"stream":true}}"#)
            .as_bytes())
    }

    #[test]
    fn turns_of_a_conversation_have_one_key_and_system_prompts_do_not_matter() {
        let system = r#"{"role":"system","content":"be \"kind\""}"#;
        let first = r#"{"role":"user","content":"hello \\"}"#;
        let one = chat(&format!("[{system},{first}]"));
        assert!(one.is_some());
        assert_eq!(one, chat(&format!(r#"[{system},{first},{{"role":"assistant","content":"hi"}}]"#)));
        assert_eq!(one, chat(&format!("[{first}]")));
        assert_eq!(one, chat(r#"[{"content":"hello \\","role":"user"}]"#));
        assert_ne!(one, chat(r#"[{"role":"user","content":"hello"}]"#));
    }

    #[test]
    fn content_in_parts_and_input_have_a_key_too() {
        let parts = r#"[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"data:"}}]"#;
        assert!(chat(&format!(r#"[{{"role":"user","content":{parts}}}]"#)).is_some());
        assert!(key(br#"{"input":[{"role":"user","content":"x"}],"model":"m"}"#).is_some());
    }

    #[test]
    fn what_has_not_come_yet_has_a_key_when_there_is_enough_of_it() {
        let long = format!(r#"{{"messages":[{{"role":"user","content":"{}"#, "a".repeat(3000));
        let whole = format!(r#"{long}"}}]}}"#);
        assert_eq!(key(long.as_bytes()), key(whole.as_bytes()));
        assert!(key(long.as_bytes()).is_some());
        assert_eq!(key(&long.as_bytes()[..500]), None);
    }

    #[test]
    fn anything_else_has_none() {
        let others =
            ["", "{", "[]", r#"{"prompt":"x"}"#, r#"{"messages":[]}"#, r#"{"messages":"x"}"#, r#"{"input":"x"}"#];
        for text in others {
            assert_eq!(key(text.as_bytes()), None, "{text}");
        }
        assert_eq!(chat(r#"[{"role":"system","content":"x"}]"#), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(proptest::sample::select(b"{}[]\",:\\ am1".to_vec()), 0..200)) {
            let _ = key(&bytes);
            let mut chat = br#"{"messages":["#.to_vec();
            chat.extend(&bytes);
            let _ = key(&chat);
        }
    }
}
