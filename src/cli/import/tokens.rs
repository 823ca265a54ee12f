//! The words of an nginx configuration: quotes, escapes, comments, `;` and braces.
//!
//! A word may be quoted as a whole; a backslash takes the special meaning off the next character; `${name}` inside a
//! word is not a brace. Reading never fails half way: what cannot be a word is an error with its line.

/// Something of a file, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// Line, from 1.
    pub(super) line: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A word, its quotes and escapes resolved.
    Word(String),
    /// `{`
    Open,
    /// `}`
    Close,
    /// `;`
    End,
}

/// What is wrong, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) line: usize,
    pub(super) problem: &'static str,
}

/// Most tokens of one file.
const MAX_TOKENS: usize = 200_000;

/// Takes a text apart.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Broken> {
    let mut reader = Reader { rest: text.chars().peekable(), line: 1 };
    let mut found = Vec::new();
    while let Some(letter) = reader.rest.peek().copied() {
        let line = reader.line;
        let kind = match letter {
            _ if letter.is_whitespace() => {
                reader.next();
                continue;
            }
            '#' => {
                while reader.rest.peek().is_some_and(|letter| *letter != '\n') {
                    reader.next();
                }
                continue;
            }
            '{' => TokenKind::Open,
            '}' => TokenKind::Close,
            ';' => TokenKind::End,
            '"' | '\'' => TokenKind::Word(reader.quoted(letter)?),
            _ => TokenKind::Word(reader.plain()),
        };
        if !matches!(kind, TokenKind::Word(_)) {
            reader.next();
        }
        found.push(Token { kind, line });
        if found.len() > MAX_TOKENS {
            return Err(Broken { line, problem: "the file has more than 200,000 words" });
        }
    }
    Ok(found)
}

struct Reader<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let letter = self.rest.next();
        self.line += usize::from(letter == Some('\n'));
        letter
    }

    fn quoted(&mut self, quote: char) -> Result<String, Broken> {
        let line = self.line;
        self.next();
        let mut word = String::new();
        loop {
            match self.next() {
                None => return Err(Broken { line, problem: "a quote is not closed" }),
                Some('\\') => self.escaped(&mut word),
                Some(letter) if letter == quote => return Ok(word),
                Some(letter) => word.push(letter),
            }
        }
    }

    fn plain(&mut self) -> String {
        let mut word = String::new();
        while let Some(letter) = self.rest.peek().copied() {
            match letter {
                _ if letter.is_whitespace() => break,
                ';' => break,
                '{' if word.ends_with('$') => {
                    while let Some(letter) = self.next() {
                        word.push(letter);
                        if letter == '}' {
                            break;
                        }
                    }
                    continue;
                }
                '{' => break,
                '\\' => {
                    self.next();
                    self.escaped(&mut word);
                    continue;
                }
                _ => word.push(letter),
            }
            self.next();
        }
        word
    }

    /// What follows a backslash: nginx knows quotes, backslashes and three letters, and leaves the rest to regexes.
    fn escaped(&mut self, word: &mut String) {
        match self.next() {
            None => word.push('\\'),
            Some(letter @ ('"' | '\'' | '\\')) => word.push(letter),
            Some('n') => word.push('\n'),
            Some('r') => word.push('\r'),
            Some('t') => word.push('\t'),
            Some(letter) => word.extend(['\\', letter]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        let shown = |token: Token| match token.kind {
            TokenKind::Word(word) => format!("{}:{word}", token.line),
            TokenKind::Open => "{".to_owned(),
            TokenKind::Close => "}".to_owned(),
            TokenKind::End => ";".to_owned(),
        };
        tokens(text).unwrap_or_else(|broken| panic!("{broken:?}")).into_iter().map(shown).collect()
    }

    #[test]
    fn words_quotes_comments_and_escapes() {
        let text = "a  b;# no\nserver{listen 80;}\nx \"1; mode=block\" '$a \"b\"';";
        let expected = [
            "1:a",
            "1:b",
            ";",
            "2:server",
            "{",
            "2:listen",
            "2:80",
            ";",
            "}",
            "3:x",
            "3:1; mode=block",
            "3:$a \"b\"",
            ";",
        ];
        assert_eq!(words(text), expected);
        assert_eq!(words("return 200 \"ok\\n\";")[2], "1:ok\n");
        assert_eq!(words("~* \\.(js|css)$ {")[1..], ["1:\\.(js|css)$", "{"]);
        assert_eq!(words("a${b}c d#e;"), ["1:a${b}c", "1:d#e", ";"]);
        assert_eq!(words("''"), ["1:"]);
    }

    #[test]
    fn an_open_quote_is_told_with_its_line() {
        assert_eq!(tokens("a;\n\"b\nc").map_err(|broken| broken.line), Err(2));
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "[a-z {};#\"'\\\\$\n]{0,60}") {
            if let Ok(found) = tokens(&text) {
                let lines = text.matches('\n').count() + 1;
                prop_assert!(found.iter().all(|token| (1..=lines).contains(&token.line)));
                prop_assert!(found.len() <= text.len());
            }
        }
    }
}
